// Image → the square that the vision encoder reads: longest side to S, normalised, padded right and bottom with 0.
// In the fixed-point numbers of Pillow's `resize` with BILINEAR, whose pixels the model gets elsewhere (docs/decisions/local-page.md).

const BITS = 22; // of Pillow's fixed-point weights

// RGBA bytes of an image → {pixels: fp32 (3, S, S), hw: its size [h, w] in the square}.
export function letterbox({ data, width, height }, { image_size: size, image_mean: mean, image_std: std }) {
  const scale = size / Math.max(height, width);
  const [h, w] = [height, width].map((side) => Math.max(1, Math.floor(side * scale + 0.5)));
  const wide = w === width ? data : resized(data, { lines: height, line: 4 * width, step: 4, from: width, to: w });
  const small = h === height ? wide : resized(wide, { lines: w, line: 4, step: 4 * w, from: height, to: h });
  const pixels = new Float32Array(3 * size * size);
  for (let channel = 0; channel < 3; channel++) {
    const values = normalised(mean[channel], std[channel]);
    for (let y = 0; y < h; y++) {
      for (let x = 0; x < w; x++) pixels[(channel * size + y) * size + x] = values[small[4 * (y * w + x) + channel]];
    }
  }
  return { pixels, hw: [h, w] };
}

// The fp32 values of 0..255, rounded after each operation as NumPy does it.
function normalised(mean, std) {
  const { fround } = Math;
  return Float32Array.from({ length: 256 }, (_, value) => fround(fround(value / 255) - fround(mean)) / fround(std));
}

// Resize `lines` lines of RGBA pixels; `line`, `step`: bytes between lines, and between the pixels of one.
function resized(data, { lines, line, step, from, to }) {
  const across = step === 4; // lines are rows, else columns, which stay interleaved
  const out = new Uint8ClampedArray(4 * lines * to);
  const [outLine, outStep] = across ? [4 * to, 4] : [line, step];
  weights(from, to).forEach(({ first, taps }, position) => {
    for (let number = 0; number < lines; number++) {
      for (let channel = 0; channel < 3; channel++) {
        let sum = 1 << (BITS - 1);
        let at = number * line + first * step + channel;
        for (const weight of taps) {
          sum += weight * data[at];
          at += step;
        }
        out[number * outLine + position * outStep + channel] = sum >> BITS;
      }
    }
  });
  return out;
}

// For each output position its first input and the fixed-point weights from there on: a triangle as wide as an output.
function weights(from, to) {
  const scale = from / to;
  const support = Math.max(scale, 1);
  return Array.from({ length: to }, (_, position) => {
    const centre = (position + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const end = Math.min(from, Math.trunc(centre + support + 0.5));
    const taps = [];
    for (let at = first; at < end; at++) taps.push(Math.max(0, 1 - Math.abs((at - centre + 0.5) * (1 / support))));
    const total = taps.reduce((sum, weight) => sum + weight, 0);
    return { first, taps: Int32Array.from(taps, (weight) => Math.trunc(0.5 + (weight / total) * (1 << BITS))) };
  });
}
