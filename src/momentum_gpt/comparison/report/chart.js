// One figure as SVG: axes, areas, lines, points, names at the ends of lines, and a readout.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const COLOURS = 7;
const LETTER = 7.2; // pixels of a letter, at most on the average
const DASHES = ["", "7 4", "2 3", "9 3 2 3"];
const MARKERS = [
  "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0",
  "M-3.6,-3.6h7.2v7.2h-7.2z",
  "M0,-4.8L4.6,3.6H-4.6z",
  "M0,-5L5,0L0,5L-5,0z",
  "M0,4.8L4.6,-3.6H-4.6z",
  "M-4.4,-1.6H-1.6V-4.4H1.6V-1.6H4.4V1.6H1.6V4.4H-1.6V1.6H-4.4z",
];

// A line through points of several groups.
const PLAIN = { colour: "var(--muted)", dash: "" };

// A group has a colour, a dash and a marker; no two of the first 84 groups have the same three.
function look(group) {
  return {
    colour: `var(--colour-${group % COLOURS})`,
    dash: DASHES[Math.floor(group / COLOURS) % DASHES.length],
    marker: MARKERS[group % MARKERS.length],
  };
}

function element(name, attributes = {}, parent = null, text = null) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

// A number for a reader: 1.3M, 5.2e18, 0.031.
function short(value) {
  const size = Math.abs(value);
  if (size >= 1e15) return value.toExponential(1).replace("e+", "e").replace(".0e", "e");
  for (const [unit, suffix] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]]) {
    if (size >= unit) return `${Number((value / unit).toPrecision(3))}${suffix}`;
  }
  return String(Number(value.toPrecision(4)));
}

function seconds(value) {
  if (value >= 172800) return `${Number((value / 86400).toPrecision(3))} d`;
  if (value >= 7200) return `${Number((value / 3600).toPrecision(3))} h`;
  if (value >= 120) return `${Number((value / 60).toPrecision(3))} min`;
  return `${Number(value.toPrecision(3))} s`;
}

// A scale from values to pixels. kind: linear | log | category.
function scaleOf(kind, domain, range) {
  const bend = kind === "log" ? Math.log : (value) => value;
  const [low, high] = domain.map(bend);
  const length = high - low || 1;
  const at = (value) => range[0] + ((bend(value) - low) / length) * (range[1] - range[0]);
  return { at, domain, kind };
}

function extent(values, kind) {
  const usable = values.filter((value) => Number.isFinite(value) && (kind !== "log" || value > 0));
  if (!usable.length) return kind === "log" ? [1, 10] : [0, 1];
  const low = usable.reduce((least, value) => Math.min(least, value));
  const high = usable.reduce((most, value) => Math.max(most, value));
  return [low, high];
}

// Room above and below, so that no line runs along the frame.
function padded([low, high], kind) {
  if (kind === "log") {
    const room = Math.max((high / low) ** 0.06, 1.002);
    return [low / room, high * room];
  }
  const room = (high - low) * 0.06 || Math.abs(high) * 0.05 || 1;
  return [low - room, high + room];
}

function pathOf(points, x, y) {
  const places = points.map(([px, py]) => `${x.at(px).toFixed(1)},${y.at(py).toFixed(1)}`);
  return places.length ? `M${places.join("L")}` : "";
}

function areaOf(points, x, y) {
  const upper = points.map(([px, , high]) => [px, high]);
  const lower = points.map(([px, low]) => [px, low]).reverse();
  return `${pathOf([...upper, ...lower], x, y)}Z`;
}

// Moves names apart until none covers another; wanted is sorted from top to bottom.
function spread(wanted, height, top, bottom) {
  const places = [...wanted];
  for (let number = 1; number < places.length; number += 1) {
    places[number] = Math.max(places[number], places[number - 1] + height);
  }
  const over = places.length ? places[places.length - 1] - bottom : 0;
  if (over > 0) {
    places[places.length - 1] -= over;
    for (let number = places.length - 2; number >= 0; number -= 1) {
      places[number] = Math.min(places[number], places[number + 1] - height);
    }
  }
  return places.map((place) => Math.max(place, top));
}

/* Draws a figure into a box, as wide as the box.

   spec: {label, height, x, y, areas, lines, points, rule}
     x, y: {kind, label, format, ticks, names}, and for y `values` that the axis must hold
     areas: [{group, points: [[x, low, high]], pale, loose}]
       the axes need not hold a loose one
     lines: [{group, name, points: [[x, y, margin]], faint, marked, plain}]
       a name is written at the line's end; a plain line belongs to no group
     points: [{group, x, y, low, high, faint, hollow}]
     rule: a value of y with a horizontal line
   zoom: [x, x] or null; onZoom is called with the new one. */
function drawChart(box, spec, zoom, onZoom) {
  const width = box.clientWidth;
  if (!width) return;
  const frame = frameOf(spec, width);
  const scales = scalesOf(spec, frame, zoom);

  const svg = element("svg", {
    viewBox: `0 0 ${width} ${frame.height}`,
    width,
    height: frame.height,
    role: "img",
    tabindex: "0",
    "aria-label": spec.label,
  });
  drawAxes(svg, spec, frame, scales);
  drawMarks(svg, spec, frame, scales);
  drawNames(svg, spec, frame, scales);
  addReadout(box, svg, spec, frame, scales);
  addZoom(svg, spec, frame, scales, zoom, onZoom);

  const hadFocus = box.contains(document.activeElement);
  box.querySelector("svg")?.remove();
  box.prepend(svg);
  if (hadFocus) svg.focus({ preventScroll: true });
}

function frameOf(spec, width) {
  const narrow = width < 480;
  const names = spec.lines.filter((line) => line.name).map((line) => line.name.length);
  const longest = names.length ? Math.max(...names) : 0;
  const right = longest ? Math.min(longest * LETTER + 22, narrow ? 118 : 190) : 14;
  const height = spec.height || (narrow ? 250 : 300);
  const labels = spec.y.names ? Math.max(...spec.y.names.map((name) => name.length)) : 0;
  const left = labels ? Math.min(labels * LETTER + 14, narrow ? 110 : 190) : 54;
  return { width, height, left, right, top: 12, bottom: 42, narrow };
}

function scalesOf(spec, frame, zoom) {
  const [from, to] = zoom || [spec.fitFrom ?? -Infinity, Infinity];
  const inside = (px) => px >= from && px <= to;
  const xs = [];
  const ys = [...(spec.y.values || [])];
  for (const area of spec.areas) {
    if (area.loose) continue;
    for (const [px, low, high] of area.points) if (inside(px)) ys.push(low, high);
  }
  for (const line of spec.lines) {
    for (const [px, py] of line.points) {
      xs.push(px);
      if (inside(px)) ys.push(py);
    }
  }
  for (const point of spec.points) {
    xs.push(point.x);
    if (inside(point.x)) ys.push(point.y, point.low ?? point.y, point.high ?? point.y);
  }
  const { kind: xKind } = spec.x;
  const { kind: yKind } = spec.y;
  const xDomain = zoom || spec.x.domain || extent(xs, xKind);
  const yDomain = spec.y.domain || padded(extent(ys, yKind), yKind);
  return {
    x: scaleOf(xKind, xDomain, [frame.left, frame.width - frame.right]),
    y: scaleOf(yKind, yDomain, [frame.height - frame.bottom, frame.top]),
  };
}

function drawAxes(svg, spec, frame, { x, y }) {
  const axes = element("g", { class: "axes", "aria-hidden": "true" }, svg);
  const [left, right] = [frame.left, frame.width - frame.right];
  const bottom = frame.height - frame.bottom;

  for (const tick of ticksOf(spec.y, y.domain, 5)) {
    const place = y.at(tick);
    element("line", { class: "grid", x1: left, x2: right, y1: place, y2: place }, axes);
    const name = spec.y.names && clipped(spec.y.names[tick], (left - 10) / LETTER);
    const text = name || spec.y.format(tick);
    element("text", { x: left - 8, y: place + 4, "text-anchor": "end" }, axes, text);
  }

  let free = -Infinity;
  for (const tick of ticksOf(spec.x, x.domain, frame.narrow ? 3 : 6)) {
    const place = x.at(tick);
    const text = spec.x.names ? spec.x.names[tick] : spec.x.format(tick);
    const half = (text.length * LETTER) / 2;
    element("line", { class: "tick", x1: place, x2: place, y1: bottom, y2: bottom + 4 }, axes);
    if (place - half < free) continue; // it would cover the one before
    element("text", { x: place, y: bottom + 17, "text-anchor": "middle" }, axes, text);
    free = place + half + 6;
  }
  element("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }, axes);
  const title = { class: "x-title", x: left, y: frame.height - 6 };
  element("text", title, axes, spec.x.label);

  if (spec.rule !== undefined) {
    const place = y.at(spec.rule);
    element("line", { class: "rule", x1: left, x2: right, y1: place, y2: place }, axes);
  }
}

function ticksOf(axis, domain, wanted) {
  const [low, high] = [Math.min(...domain), Math.max(...domain)];
  const inside = (tick) => tick >= low && tick <= high;
  if (axis.ticks) return axis.ticks.filter(inside);
  return axis.kind === "log" ? logTicks(low, high) : roundTicks(low, high, wanted);
}

let clips = 0;

function drawMarks(svg, spec, frame, { x, y }) {
  clips += 1;
  const clip = element("clipPath", { id: `clip-${clips}` }, svg);
  const plot = {
    x: frame.left - 6,
    y: frame.top - 6,
    width: Math.max(0, frame.width - frame.left - frame.right + 12),
    height: frame.height - frame.top - frame.bottom + 12,
  };
  element("rect", plot, clip);

  const shape = `url(#clip-${clips})`;
  const marks = element("g", { "clip-path": shape, "aria-hidden": "true" }, svg);
  const shown = ([px, py]) =>
    (x.kind !== "log" || px > 0) && (y.kind !== "log" || py > 0) && Number.isFinite(py);
  for (const area of spec.areas) {
    const { colour } = look(area.group);
    const points = area.points.filter(shown);
    if (!points.length) continue;
    const d = areaOf(points, x, y);
    const kind = area.pale ? "area pale" : "area";
    element("path", { class: kind, style: `--mark: ${colour}`, d }, marks);
  }
  for (const line of spec.lines) drawLine(marks, line, line.points.filter(shown), x, y);
  for (const point of spec.points) drawPoint(marks, point, x, y);
}

function drawLine(marks, line, points, x, y) {
  const { colour, dash, marker } = line.plain ? PLAIN : look(line.group);
  const style = `--mark: ${colour}`;
  const kind = line.faint ? "line faint" : "line";
  const d = pathOf(points, x, y);
  element("path", { class: kind, style, d, "stroke-dasharray": dash }, marks);
  if (line.faint || line.plain) return;

  const ends = line.marked ? points : points.slice(-1);
  for (const [px, py] of ends) {
    const place = `translate(${x.at(px).toFixed(1)},${y.at(py).toFixed(1)})`;
    element("path", { class: "marker", style, d: marker, transform: place }, marks);
  }
}

function drawPoint(marks, point, x, y) {
  const { colour, marker } = look(point.group);
  const style = `--mark: ${colour}`;
  const [px, py] = [x.at(point.x), y.at(point.y)];
  if (point.low !== undefined && point.low !== null) {
    const ends = { x1: px, x2: px, y1: y.at(point.low), y2: y.at(point.high) };
    element("line", { class: "whisker", style, ...ends }, marks);
  }
  const kind = ["marker", point.faint && "faint", point.hollow && "hollow"].filter(Boolean);
  const place = `translate(${px.toFixed(1)},${py.toFixed(1)})`;
  element("path", { class: kind.join(" "), style, d: marker, transform: place }, marks);
}

function clipped(text, letters) {
  const most = Math.max(4, Math.floor(letters));
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}

// The names of lines beside their ends, as many as there is room for.
function drawNames(svg, spec, frame, { x, y }) {
  const height = 15;
  const bottom = frame.height - frame.bottom;
  const inside = ([px]) => px >= x.domain[0] && px <= x.domain[1];
  const named = [];
  for (const line of spec.lines) {
    const last = line.name && line.points.filter(inside).pop();
    if (last) named.push({ line, wanted: y.at(last[1]), from: x.at(last[0]) });
  }
  const room = Math.floor((bottom - frame.top) / height);
  named.sort((one, other) => one.wanted - other.wanted);
  const chosen = named.slice(0, room);
  const places = spread(chosen.map((name) => name.wanted), height, frame.top + 4, bottom);

  const names = element("g", { class: "names", "aria-hidden": "true" }, svg);
  chosen.forEach(({ line, wanted, from }, number) => {
    const { colour } = line.plain ? PLAIN : look(line.group);
    const left = frame.width - frame.right + 16;
    const d = `M${from + 5},${wanted}L${left - 4},${places[number]}`;
    element("path", { class: "leader", style: `--mark: ${colour}`, d }, names);
    const text = clipped(line.name, (frame.right - 16) / LETTER);
    const label = element("text", { x: left, y: places[number] + 4 }, names, text);
    element("title", {}, label, line.name);
  });
}

// What the pointer, or the arrow keys, point at: the values of all named lines at one place.
function addReadout(box, svg, spec, frame, { x, y }) {
  const readout = box.querySelector(".readout");
  const cursor = element("line", { class: "cursor", y1: frame.top, "aria-hidden": "true" }, svg);
  cursor.setAttribute("y2", frame.height - frame.bottom);
  const xs = [...new Set(readable(spec).flatMap((line) => line.points.map(([px]) => px)))];
  const places = xs.filter((px) => px >= x.domain[0] && px <= x.domain[1]);
  places.sort((one, other) => one - other);
  if (!places.length) return;
  let current = places.length - 1;

  const show = (number) => {
    current = Math.max(0, Math.min(places.length - 1, number));
    const px = x.at(places[current]);
    cursor.setAttribute("x1", px);
    cursor.setAttribute("x2", px);
    svg.classList.add("read");
    readout.replaceChildren(...readoutRows(spec, places[current]));
    readout.hidden = false;
    const onRight = px > frame.width / 2;
    readout.style.left = onRight ? "auto" : `${px + 12}px`;
    readout.style.right = onRight ? `${frame.width - px + 12}px` : "auto";
  };
  const hide = () => {
    svg.classList.remove("read");
    readout.hidden = true;
  };

  svg.addEventListener("pointermove", (event) => {
    const { left, width } = svg.getBoundingClientRect();
    const pointed = ((event.clientX - left) / width) * frame.width;
    show(nearest(places.map(x.at), pointed));
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
    if (event.key === "Escape") hide();
    if (!(event.key in steps)) return;
    event.preventDefault();
    show(current + steps[event.key]);
  });
}

function readable(spec) {
  return spec.lines.filter((line) => line.name);
}

function nearest(values, wanted) {
  let best = 0;
  values.forEach((value, number) => {
    if (Math.abs(value - wanted) < Math.abs(values[best] - wanted)) best = number;
  });
  return best;
}

function readoutRows(spec, px) {
  const head = document.createElement("b");
  head.textContent = spec.x.names ? spec.x.names[px] : spec.x.format(px);
  const rows = [head];
  for (const line of readable(spec).slice(0, 12)) {
    const xs = line.points.map(([at]) => at);
    if (!xs.length || px > xs[xs.length - 1] || px < xs[0]) continue;
    const point = line.points[nearest(xs, px)];
    const row = document.createElement("span");
    row.style.setProperty("--mark", (line.plain ? PLAIN : look(line.group)).colour);
    row.textContent = `${line.name} ${spec.y.format(point[1])}`;
    if (point[2]) row.textContent += ` ± ${spec.y.format(point[2])}`;
    rows.push(row);
  }
  return rows;
}

// Drag across a part of the figure to see it alone; a double click or Escape shows all again.
function addZoom(svg, spec, frame, { x }, zoom, onZoom) {
  if (x.kind === "category" || !onZoom) return;
  const limits = [frame.left, frame.width - frame.right];
  const place = (event) => {
    const { left } = svg.getBoundingClientRect();
    return Math.max(limits[0], Math.min(limits[1], event.clientX - left));
  };
  const value = (pixel) => {
    const share = (pixel - limits[0]) / (limits[1] - limits[0]);
    const [low, high] = x.domain;
    return x.kind === "log" ? low * (high / low) ** share : low + share * (high - low);
  };

  let start = null;
  let band = null;
  svg.addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "mouse" || event.button !== 0) return;
    start = place(event);
    const height = frame.height - frame.top - frame.bottom;
    band = element("rect", { class: "zoom", y: frame.top, height, width: 0 }, svg);
    svg.setPointerCapture(event.pointerId);
  });
  svg.addEventListener("pointermove", (event) => {
    if (start === null) return;
    band.setAttribute("x", Math.min(start, place(event)));
    band.setAttribute("width", Math.abs(place(event) - start));
  });
  svg.addEventListener("pointerup", (event) => {
    if (start === null) return;
    const ends = [start, place(event)].sort((one, other) => one - other);
    start = null;
    band.remove();
    if (ends[1] - ends[0] > 8) onZoom(ends.map(value));
  });
  svg.addEventListener("dblclick", () => onZoom(null));
  svg.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && zoom) onZoom(null);
  });
}
