// Mask logits of the square → a mask at image size as COCO RLE, one column at a time (`pixellm.imaging.postprocess`).

import { encode } from "../masks.js";

const SLACK = 1e-6; // relative: an interpolated logit may leave the range of its neighbours by roundings of fp32
const MIN_PEAK = 1e-3; // a mask that is nowhere as probable is empty, whatever the share

// Input positions below and above each of the first `count` outputs, and their weights.
function tapsOf(size, newSize, count = newSize) {
  const { fround, min, max } = Math;
  const scale = fround(size / newSize);
  return Array.from({ length: count }, (_, position) => {
    const centre = max(fround(scale * (position + 0.5) - 0.5), 0);
    const lower = min(Math.trunc(centre), size - 1);
    const weight = min(fround(centre - lower), 1);
    return { lower, upper: min(lower + 1, size - 1), below: fround(1 - weight), above: weight };
  });
}

// Interpolate (size, K) along the first axis: (taps, K). One rounding after the second product, as torch does it.
function interpolate(values, width, taps, out = new Float32Array(taps.length * width)) {
  taps.forEach(({ lower, upper, below, above }, row) => {
    for (let at = 0; at < width; at++) {
      out[row * width + at] = values[lower * width + at] * below + Math.fround(values[upper * width + at] * above);
    }
  });
  return out;
}

function transposed(values, width) {
  const height = values.length / width;
  return Float32Array.from(values, (_, at) => values[(at % height) * width + Math.floor(at / height)]);
}

// A mask of logits, fp32 (side, side), as {segmentation, area, box: [x, y, width, height] or null, score}.
// `resized`: [h, w] of the image in the square, `original`: its own; `peakShare` as in Python, or null.
export function binarize(logits, side, resized, [height, width], peakShare) {
  const size = Math.max(...resized);
  const wide = interpolate(transposed(logits, side), side, tapsOf(side, size, resized[1])); // (w, side)
  const square = interpolate(transposed(wide, side), resized[1], tapsOf(side, size, resized[0])); // (h, w)
  const columns = new Columns(transposed(square, resized[1]), resized, [height, width]);
  const threshold = peakShare === null ? 0 : thresholdOf(columns, width, peakShare);
  const found = { height, width, runs: [], end: 0, area: 0, total: 0, box: [width, height, 0, 0] };
  for (let x = 0; x < width; x++) {
    if (columns.highest(x) > threshold - SLACK * Math.abs(threshold)) addColumn(found, columns.at(x), x, threshold);
  }
  if (found.end < height * width) found.runs.push(height * width - found.end);
  const [left, top, right, bottom] = found.box;
  return {
    segmentation: { size: [height, width], counts: encode(found.runs) },
    area: found.area,
    box: found.area ? [left, top, right - left, bottom - top] : null,
    score: found.total / Math.max(1, found.area),
  };
}

// The columns of the logits at image size, made when they are read, of those at the encoder's (w, h).
class Columns {
  constructor(square, [h, w], [height, width]) {
    Object.assign(this, { square, h, across: tapsOf(w, width), down: tapsOf(h, height) });
    this.short = new Float32Array(h);
    this.long = new Float32Array(height);
  }

  shortAt(x) {
    return interpolate(this.square, this.h, [this.across[x]], this.short);
  }

  highest(x) {
    return this.shortAt(x).reduce((a, b) => Math.max(a, b));
  }

  // A column; the next call overwrites it.
  at(x) {
    return interpolate(this.shortAt(x), 1, this.down, this.long);
  }
}

const sigmoid = (value) => 1 / (1 + Math.exp(-value));

// The logit of `peakShare` of the highest probability, at most 0.
function thresholdOf(columns, width, peakShare) {
  let peak = -Infinity;
  for (let x = 0; x < width; x++) {
    const highest = columns.highest(x);
    if (highest + SLACK * Math.abs(highest) > peak) peak = columns.at(x).reduce((a, b) => Math.max(a, b), peak);
  }
  if (sigmoid(peak) < MIN_PEAK) return 0;
  const share = sigmoid(peak) * peakShare;
  return Math.fround(Math.min(0, Math.log(share / (1 - share))));
}

// Append the runs of a column: `runs` alternate between outside and inside, counted down the columns.
function addColumn(found, column, x, threshold) {
  const { height } = found;
  for (let y = 0; y < height; y++) {
    if (!(column[y] > threshold)) continue;
    const start = y;
    for (; y < height && column[y] > threshold; y++) found.total += sigmoid(column[y]);
    const [begin, end] = [x * height + start, x * height + y];
    if (begin === found.end && found.runs.length) found.runs[found.runs.length - 1] += end - begin;
    else found.runs.push(begin - found.end, end - begin);
    found.end = end;
    found.area += end - begin;
    found.box = [Math.min(found.box[0], x), Math.min(found.box[1], start), x + 1, Math.max(found.box[3], y)];
  }
}
