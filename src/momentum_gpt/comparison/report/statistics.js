// The numbers behind the figures: means, intervals, interpolation, smoothing. Nothing here draws.
"use strict";

function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

// Half the 95% interval of a mean by Student's t; null for a single value.
// quantiles[n] is that of n values.
function marginOfMean(values, quantiles) {
  if (values.length < 2) return null;
  const middle = mean(values);
  const squares = values.map((value) => (value - middle) ** 2);
  const variance = (mean(squares) * values.length) / (values.length - 1);
  return quantiles[values.length] * Math.sqrt(variance / values.length);
}

// The mean of each value and those before it: a point never depends on what comes later.
function trailingMeans(values, width) {
  let sum = 0;
  return values.map((value, place) => {
    sum += value;
    if (place >= width) sum -= values[place - width];
    return sum / Math.min(width, place + 1);
  });
}

// The value at x on the line through the points; null outside of them. xs ascend.
function interpolate(xs, ys, x) {
  if (!xs.length || x < xs[0] || x > xs[xs.length - 1]) return null;
  let low = 0;
  let high = xs.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle] <= x) low = middle;
    else high = middle;
  }
  if (xs[high] === xs[low]) return ys[high];
  const share = (x - xs[low]) / (xs[high] - xs[low]);
  return ys[low] + share * (ys[high] - ys[low]);
}

// Round numbers between two ends: multiples of 1, 2 or 5 times a power of ten.
function roundTicks(low, high, wanted) {
  const rough = (high - low) / wanted;
  if (!(rough > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const ticks = [];
  for (let number = Math.ceil(low / step); number * step <= high + step * 1e-9; number += 1) {
    ticks.push(number * step);
  }
  return ticks;
}

// The powers of ten between two ends, and 2 and 5 times them where there are few.
function logTicks(low, high) {
  const decades = Math.log10(high / low);
  if (decades < 0.7) return roundTicks(low, high, 5);
  const factors = decades > 2.5 ? [1] : [1, 2, 5];
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power += 1) {
    ticks.push(...factors.map((factor) => factor * 10 ** power));
  }
  return ticks.filter((tick) => tick >= low && tick <= high);
}
