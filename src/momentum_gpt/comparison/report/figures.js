// From the data of the page, and the state of its switches, to what `drawChart` draws.
"use strict";

const PROGRESS = {
  tokens: { label: "tokens trained on", format: short },
  flops: { label: "training FLOPs, matrix products", format: short },
  time: { label: "time in training steps, without evaluations", format: seconds },
};

// The tokens of a run as the horizontal axis counts them.
function progress(run, tokens, axis) {
  if (axis === "flops") return run.flops_per_token && tokens * run.flops_per_token;
  if (axis === "time") return interpolate(run.clock.tokens, run.clock.seconds, tokens);
  return tokens;
}

function tickNumber(value) {
  return String(Number(value.toPrecision(4)));
}

function percent(value) {
  return `${Number((value * 100).toPrecision(3))}%`;
}

const UNITS = { accuracy: percent, "tokens per second": short };

function axisOfY(figure, page, extra = {}) {
  const kind = page.logY && figure.positive ? "log" : "linear";
  return { kind, label: figure.unit, format: UNITS[figure.unit] || tickNumber, ...extra };
}

// The groups with a run that is shown, and those of its series.
function shownGroups(figure, page) {
  const found = [];
  page.data.groups.forEach((group, place) => {
    const series = figure.series.filter(
      (one) => page.data.runs[one.run].group === place && !page.hidden.has(one.run),
    );
    if (series.length) found.push({ group, place, series });
  });
  return found;
}

// How many readings a point of a curve is the mean of.
function smoothingWidth(points, page) {
  const dense = points > 50;
  return dense ? Math.max(1, Math.round(points * page.smoothing)) : 1;
}

// A run's curve on the chosen axis: {bin, x, y, low, high} for each point.
function pointsOf(series, page) {
  const run = page.data.runs[series.run];
  const width = smoothingWidth(series.y.length, page);
  const ys = trailingMeans(series.y, width);
  const points = [];
  series.bin.forEach((bin, place) => {
    const x = progress(run, series.tokens[place], page.axis);
    if (x === null || (page.logX && x <= 0)) return;
    points.push({ bin, x, y: ys[place], low: series.low[place], high: series.high[place] });
  });
  return points;
}

// The mean over curves where all of them have a point, and half its interval.
function meanCurve(curves, page) {
  const byBin = new Map();
  for (const point of curves.flat()) {
    if (!byBin.has(point.bin)) byBin.set(point.bin, []);
    byBin.get(point.bin).push(point);
  }
  const found = [];
  for (const points of byBin.values()) {
    if (points.length < curves.length) continue;
    const ys = points.map((point) => point.y);
    const margin = marginOfMean(ys, page.data.student);
    found.push([mean(points.map((point) => point.x)), mean(ys), margin]);
  }
  return found.sort((one, other) => one[0] - other[0]);
}

// The least and the greatest of all curves at each place: [x, low, high].
function envelopeOf(curves) {
  const byBin = new Map();
  for (const { bin, x, y, low, high } of curves.flat()) {
    const ends = byBin.get(bin) || [x, y, y];
    byBin.set(bin, [ends[0], Math.min(ends[1], low ?? y), Math.max(ends[2], high ?? y)]);
  }
  return [...byBin.values()].sort((one, other) => one[0] - other[0]);
}

function bandOf(curve) {
  return curve.filter((point) => point[2] !== null).map(([x, y, half]) => [x, y - half, y + half]);
}

function emptySpec(figure, x, y) {
  const label = `${figure.title}, ${figure.unit}. Arrow keys read values.`;
  return { label, x, y, areas: [], lines: [], points: [] };
}

function progressAxis(page) {
  return { kind: page.logX ? "log" : "linear", ...PROGRESS[page.axis] };
}

function curveSpec(figure, page) {
  const x = page.data.progress
    ? { kind: page.logX ? "log" : "linear", label: page.data.progress, format: short }
    : progressAxis(page);
  const range = figure.range && { domain: figure.range };
  const spec = emptySpec(figure, x, axisOfY(figure, page, range));
  let end = 0;
  for (const { group, place, series } of shownGroups(figure, page)) {
    const curves = series.map((one) => pointsOf(one, page));
    const middle = meanCurve(curves, page);
    const marked = middle.length <= 12;
    spec.lines.push({ group: place, name: group.label, points: middle, marked });
    spec.areas.push({ group: place, points: bandOf(middle) });
    if (series.length === 1 || figure.envelope) {
      spec.areas.push({ group: place, loose: figure.fit, pale: true, points: envelopeOf(curves) });
    }
    for (const points of curves) {
      end = Math.max(end, ...points.slice(-1).map((point) => point.x));
      if (curves.length === 1) continue;
      const pairs = points.map((point) => [point.x, point.y]);
      spec.lines.unshift({ group: place, faint: true, points: pairs });
    }
    spec.points.push(...afterwards(series, place, page));
  }
  // The fall of the first steps would press everything else together.
  if (figure.fit && !page.logX) spec.fitFrom = end * 0.1;
  return spec;
}

// What was measured after the training, on a larger sample.
function afterwards(series, place, page) {
  return series
    .filter((one) => one.after)
    .map(({ run, after }) => ({
      group: place,
      hollow: true,
      x: progress(page.data.runs[run], after.tokens, page.axis),
      y: after.value,
      low: after.margin === null ? null : after.value - after.margin,
      high: after.margin === null ? null : after.value + after.margin,
    }))
    .filter((point) => point.x !== null);
}

// Each run minus the baseline's run of the same seed, at the same place of the horizontal axis.
function differenceSpec(figure, page) {
  const spec = emptySpec(figure, progressAxis(page), axisOfY(figure, page, { values: [0] }));
  spec.rule = 0;
  const groups = shownGroups(figure, page);
  const baseline = groups.find(({ place }) => place === 0);
  if (!baseline) return spec;
  const ofSeed = new Map(baseline.series.map((one) => [page.data.runs[one.run].seed, one]));

  let end = 0;
  for (const { group, place, series } of groups) {
    if (place === 0) continue;
    const pairs = series.filter((one) => ofSeed.has(page.data.runs[one.run].seed));
    if (!pairs.length) continue;
    const gaps = pairs.map((one) =>
      gapOf(pointsOf(one, page), pointsOf(ofSeed.get(page.data.runs[one.run].seed), page)),
    );
    const middle = meanCurve(gaps, page);
    const marked = middle.length <= 12;
    spec.lines.push({ group: place, name: group.label, points: middle, marked });
    spec.areas.push({ group: place, points: bandOf(middle) });
    end = Math.max(end, ...middle.slice(-1).map(([at]) => at));
  }
  if (!page.logX) spec.fitFrom = end * 0.1;
  return spec;
}

function gapOf(points, baseline) {
  const xs = baseline.map((point) => point.x);
  const ys = baseline.map((point) => point.y);
  const gaps = [];
  for (const { bin, x, y } of points) {
    const other = interpolate(xs, ys, x);
    if (other !== null) gaps.push({ bin, x, y: y - other });
  }
  return gaps;
}

// Final values at a few places: positions, context lengths, numbers of demonstrations.
function ladderSpec(figure, page) {
  const all = [...new Set(figure.series.flatMap((one) => one.x))].sort((one, two) => one - two);
  // Equal steps between places that double, and between 0 and the first of them.
  const names = all.map(String);
  const domain = [-0.3, all.length - 0.7];
  const x = { kind: "category", label: figure.x, names, ticks: all.map((_, at) => at), domain };
  const spec = emptySpec(figure, x, axisOfY(figure, page));
  for (const { group, place, series } of shownGroups(figure, page)) {
    const curves = series.map((one) =>
      one.x.map((value, at) => ({ bin: value, x: all.indexOf(value), y: one.y[at] })),
    );
    const middle = meanCurve(curves, page);
    spec.lines.push({ group: place, name: group.label, points: middle, marked: true });
    spec.areas.push({ group: place, points: bandOf(middle) });
  }
  return spec;
}

// The final loss against the decay: a point for each variant, a line for each kind of attention.
function decaySpec(figure, page) {
  const x = { kind: "linear", label: figure.x, format: tickNumber };
  const spec = emptySpec(figure, x, axisOfY(figure, page));
  const families = new Map();
  for (const { group, place, series } of shownGroups(figure, page)) {
    const values = series.map((one) => one.y);
    const middle = mean(values);
    const half = marginOfMean(values, page.data.student);
    for (const y of values) {
      if (values.length > 1) spec.points.push({ group: place, faint: true, x: group.decay, y });
    }
    const ends = half === null ? {} : { low: middle - half, high: middle + half };
    spec.points.push({ group: place, x: group.decay, y: middle, ...ends });
    for (const family of group.families) {
      if (!families.has(family)) families.set(family, []);
      families.get(family).push([group.decay, middle, half]);
    }
  }
  for (const [name, points] of families) {
    points.sort((one, other) => one[0] - other[0]);
    spec.lines.push({ plain: true, name, points });
  }
  return spec;
}

// Documents by their difference to the baseline, each the mean over the pairs that are shown.
function documentsSpec(figure, page) {
  const label = "documents, in the order of their difference";
  const x = { kind: "linear", label, format: percent };
  const spec = emptySpec(figure, x, axisOfY(figure, page, { values: [0] }));
  spec.rule = 0;
  const groups = shownGroups(figure, page);
  for (const { group, place, series } of groups) {
    const pairs = series.filter((one) => !page.hidden.has(one.baseline));
    if (!pairs.length) continue;
    const means = pairs[0].y.map((_, at) => mean(pairs.map((pair) => pair.y[at])));
    means.sort((one, other) => one - other);
    const points = means.map((value, at) => [(at + 0.5) / means.length, value]);
    spec.lines.push({ group: place, name: group.label, points });
  }
  return spec;
}

// One row for each group, one point for each run.
function stripSpec(figure, page) {
  const groups = shownGroups(figure, page);
  const names = groups.map(({ group }) => group.label);
  const x = { kind: "linear", label: figure.unit, format: UNITS[figure.unit] || tickNumber };
  const ticks = names.map((_, at) => at);
  const y = { kind: "category", names, ticks, domain: [names.length - 0.5, -0.5] };
  const spec = emptySpec(figure, x, y);
  groups.forEach(({ place, series }, row) => {
    for (const one of series) spec.points.push({ group: place, x: one.y, y: row });
  });
  spec.height = 90 + 30 * groups.length;
  x.domain = padded(extent([0, ...spec.points.map((point) => point.x)], "linear"), "linear");
  x.domain[0] = 0;
  return spec;
}

const SPECS = {
  curve: curveSpec,
  difference: differenceSpec,
  ladder: ladderSpec,
  decay: decaySpec,
  documents: documentsSpec,
  strip: stripSpec,
};
