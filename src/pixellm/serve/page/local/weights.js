// Matrices of the weights file that are blocks of integers → fp32, one after another in the manifest's order
// (`pixellm.graphs.browser`): onnxruntime-web is a tenth as fast with the blocks.

const BLOCK = 32; // integers that share a scale
export const UNPACKED = "unpacked.bin"; // as the graph names it

// `weights`: bytes of the weights file, `tensors`: of the manifest.
export function unpacked(weights, tensors) {
  const packed = tensors.filter(({ kind }) => kind.startsWith("blocks"));
  const scales = new Map(tensors.filter(({ kind }) => kind.startsWith("scales")).map((tensor) => [tensor.source, tensor]));
  const matrices = new Float32Array(packed.reduce((sum, { shape: [rows, blocks] }) => sum + rows * blocks * BLOCK, 0));
  let at = 0;
  for (const { kind, source, offset, shape: [rows, blocks] } of packed) {
    const [bits, count] = [Number(kind.at(-1)), rows * blocks];
    const own = new Float32Array(weights.buffer, scales.get(source).offset, count);
    const bytes = weights.subarray(offset, offset + (count * BLOCK * bits) / 8);
    const out = matrices.subarray(at, at + count * BLOCK);
    (bits === 8 ? unpackBytes : unpackHalves)(bytes, own, out);
    at += out.length;
  }
  return new Uint8Array(matrices.buffer);
}

function unpackBytes(bytes, scales, out) {
  for (let at = 0; at < out.length; at++) out[at] = (bytes[at] - 128) * scales[at >> 5];
}

// Two integers a byte, the lower one first.
function unpackHalves(bytes, scales, out) {
  for (let at = 0; at < out.length; at += 2) {
    const [byte, scale] = [bytes[at >> 1], scales[at >> 5]];
    out[at] = ((byte & 15) - 8) * scale;
    out[at + 1] = ((byte >> 4) - 8) * scale;
  }
}
