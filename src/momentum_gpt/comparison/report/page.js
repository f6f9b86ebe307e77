// The page: its figures, its switches, and what changes while runs go on.
"use strict";

const page = {
  data: null,
  hidden: new Set(), // numbers of the runs that are switched off
  zooms: new Map(), // id of a figure -> [x, x]
  axis: "tokens",
  logX: false,
  logY: false,
  smoothing: 0,
};

function make(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function readData(source) {
  page.data = JSON.parse(source.getElementById("data").textContent);
}

// A figure's box with its title, made once; what is drawn in it changes.
function boxOf(figure) {
  const id = `figure-${figure.id}`;
  const found = document.getElementById(id);
  if (found) return found.querySelector(".chart");
  const titles = make("figcaption", {}, make("h2", {}, figure.title));
  titles.append(make("p", { class: "unit" }, figure.unit));
  if (page.data.caution) titles.append(make("p", { class: "caution" }, page.data.caution));
  const readout = make("div", { class: "readout", role: "status" });
  readout.hidden = true;
  const chart = make("div", { class: "chart" }, readout);
  const note = make("p", { class: "note" });
  const kind = figure.wide ? "wide" : "";
  const box = make("figure", { id, class: kind }, titles, chart, note);
  document.getElementById("figures").append(box);
  new ResizeObserver(() => drawFigure(figure.id)).observe(chart);
  return chart;
}

function drawFigure(id) {
  const figure = page.data.figures.find((one) => one.id === id);
  if (!figure) return;
  const chart = boxOf(figure);
  const spec = SPECS[figure.kind](figure, page);
  const zoom = page.zooms.get(id) || null;
  chart.parentElement.querySelector(".note").textContent = noteOf(figure);
  drawChart(chart, spec, zoom, (chosen) => {
    page.zooms.set(id, chosen);
    drawFigure(id);
  });
}

function noteOf(figure) {
  const notes = [figure.note];
  const longest = Math.max(0, ...figure.series.map((one) => one.y.length || 0));
  const width = figure.kind === "curve" ? smoothingWidth(longest, page) : 1;
  if (width > 1) {
    const share = percent(page.smoothing);
    notes.push(`Smoothed: each point is the mean of the last ${share} of the run.`);
  }
  return notes.filter(Boolean).join(" ");
}

function drawAll() {
  for (const figure of page.data.figures) drawFigure(figure.id);
}

// The list of variants: a box for each, and one for each of its runs.
function listRuns() {
  const list = document.getElementById("runs");
  const open = new Set([...list.querySelectorAll("details[open]")].map((one) => one.dataset.group));
  list.replaceChildren(
    ...page.data.groups.map((group, place) => {
      const runs = page.data.runs.flatMap((run, at) => (run.group === place ? [at] : []));
      const item = make("li", {}, groupSwitch(group, place, runs));
      if (runs.length > 1) item.append(runSwitches(runs, place, open.has(String(place))));
      return item;
    }),
  );
}

function groupSwitch(group, place, runs) {
  const box = make("input", { type: "checkbox", "data-group": place });
  const shown = runs.filter((run) => !page.hidden.has(run)).length;
  box.checked = shown > 0;
  box.indeterminate = shown > 0 && shown < runs.length;
  box.addEventListener("change", () => setShown(runs, box.checked));
  const name = make("span", { class: "name" }, group.label);
  const size = runs.length > 1 ? `${runs.length} seeds` : page.data.runs[runs[0]].name;
  return make("label", {}, box, chip(place), name, make("span", { class: "muted" }, size));
}

function runSwitches(runs, place, isOpen) {
  const details = make("details", { "data-group": place }, make("summary", {}, "runs"));
  details.open = isOpen;
  for (const run of runs) {
    const box = make("input", { type: "checkbox", "data-run": run });
    box.checked = !page.hidden.has(run);
    box.addEventListener("change", () => setShown([run], box.checked));
    details.append(make("label", {}, box, page.data.runs[run].name));
  }
  return details;
}

// A piece of a group's line, with its marker.
function chip(place) {
  const { colour, dash, marker } = look(place);
  const svg = element("svg", { class: "chip", viewBox: "0 0 30 12", "aria-hidden": "true" });
  const style = `--mark: ${colour}`;
  element("path", { class: "line", style, d: "M1,6H29", "stroke-dasharray": dash }, svg);
  element("path", { class: "marker", style, d: marker, transform: "translate(15,6)" }, svg);
  return svg;
}

function setShown(runs, isShown) {
  const focused = document.activeElement?.dataset;
  for (const run of runs) {
    if (isShown) page.hidden.delete(run);
    else page.hidden.add(run);
  }
  listRuns();
  if (focused?.run) document.querySelector(`input[data-run="${focused.run}"]`)?.focus();
  else if (focused?.group) document.querySelector(`input[data-group="${focused.group}"]`)?.focus();
  drawAll();
}

function readSwitches() {
  const chosen = new FormData(document.getElementById("switches"));
  const axis = chosen.get("axis");
  const logX = chosen.has("log-x");
  if (axis !== page.axis || logX !== page.logX) page.zooms.clear();
  page.axis = axis;
  page.logX = logX;
  page.logY = chosen.has("log-y");
  page.smoothing = Number(chosen.get("smoothing"));
}

function listenToSwitches() {
  const switches = document.getElementById("switches");
  switches.addEventListener("submit", (event) => event.preventDefault());
  switches.addEventListener("change", () => {
    readSwitches();
    drawAll();
  });
}

// Chips stand in the tables, too.
function markRows() {
  for (const cell of document.querySelectorAll("[data-mark]")) {
    cell.replaceChildren(chip(Number(cell.dataset.mark)));
  }
}

function showData() {
  const known = new Set(page.data.figures.map((figure) => `figure-${figure.id}`));
  for (const box of document.querySelectorAll("#figures > figure")) {
    if (!known.has(box.id)) box.remove();
  }
  listRuns();
  markRows();
  drawAll();
}

// While runs go on, the server says when something is new. The switches stay as they are.
let refreshing = false;
let isOutdated = false;

async function refresh() {
  isOutdated = true;
  if (refreshing) return; // once more after this time
  refreshing = true;
  while (isOutdated) {
    isOutdated = false;
    await takeOver().catch(() => {}); // the connection says when the server is gone
  }
  refreshing = false;
}

async function takeOver() {
  const answer = await fetch(window.location.href, { cache: "no-store" });
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  const names = page.data.runs.map((run) => run.name);
  readData(fresh);
  followHidden(names);
  for (const part of document.querySelectorAll("[data-live]")) {
    const newer = fresh.getElementById(part.id);
    if (newer && newer.innerHTML !== part.innerHTML) part.innerHTML = newer.innerHTML;
  }
  document.title = fresh.title;
  showData();
}

// Runs have other numbers once another one has begun.
function followHidden(names) {
  const hidden = new Set([...page.hidden].map((run) => names[run]));
  page.hidden = new Set(page.data.runs.flatMap((run, at) => (hidden.has(run.name) ? [at] : [])));
}

function follow() {
  const state = document.getElementById("state");
  const changes = new EventSource("changes");
  changes.addEventListener("open", () => {
    state.textContent = "live";
    refresh();
  });
  changes.addEventListener("message", refresh);
  changes.addEventListener("error", () => {
    state.textContent = "not connected: the dashboard has stopped";
  });
}

readData(document);
listenToSwitches();
readSwitches();
showData();
window.addEventListener("beforeprint", drawAll);
if ("live" in document.body.dataset) follow();
