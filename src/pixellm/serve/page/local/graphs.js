// The exported graphs by onnxruntime-web (`pixellm.runtime.session`).
// Shapes: W ids of a step · P keys so far · D language model's width · V vocabulary

import * as ort from "../npm/ort.wasm.min.mjs";
import { IMAGE_TOKEN_ID } from "./prompts.js";
import { UNPACKED, unpacked } from "./weights.js";

const MOST_THREADS = 8;
const WEIGHTS = "weights.bin"; // as the graphs name it
const ERRORS_ONLY = 3;
const MASKED = -3.4028234663852886e38; // least fp32

// Browsers give threads only to pages that are isolated from other origins, as the headers of our server ask for.
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(MOST_THREADS, navigator.hardwareConcurrency) : 1;

const floats = (values, dims) => new ort.Tensor("float32", values, dims);
const integers = (values, dims) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), dims);

export class Graphs {
  // `read(name)` gives a file of the model as bytes; `onStage` gets what is being done.
  static async load(manifest, read, onStage) {
    const [encode, masks] = [await read("encode.onnx"), await read("masks.onnx")];
    const plain = manifest.precision === "float32";
    const language = await read(plain ? "language.onnx" : "language.unpacked.onnx");
    const weights = { path: WEIGHTS, data: await read(WEIGHTS) };
    const open = (graph, externalData) => ort.InferenceSession.create(graph, { externalData, logSeverityLevel: ERRORS_ONLY });
    onStage("Preparing the language model …");
    await new Promise((done) => setTimeout(done)); // lets the message out
    const matrices = plain ? [] : [{ path: UNPACKED, data: unpacked(weights.data, manifest.tensors) }];
    const sessions = { language: await open(language, [weights, ...matrices]) };
    matrices.length = 0; // half a gigabyte
    onStage("Preparing the vision encoder …");
    sessions.encode = await open(encode, [weights]);
    sessions.masks = await open(masks, [weights]);
    return new Graphs(manifest, sessions);
  }

  constructor(manifest, { encode, language, masks }) {
    Object.assign(this, { manifest, encoder: encode, language, decoder: masks });
    this.layers = Array.from({ length: 2 * manifest.num_layers }, (_, i) => i);
  }

  // The tensors of an image by name, of fp32 pixels (3, S, S) and its size [h, w] in the square.
  async encode({ pixels, hw }) {
    const side = Math.sqrt(pixels.length / 3);
    const resized_hw = integers(hw, [1, 2]);
    const tensors = await results(this.encoder, { pixel_values: floats(pixels, [1, 3, side, side]), resized_hw });
    const named = this.manifest.image_tensors.map((name, i) => [name, tensors[i]]);
    return { resized_hw, ...Object.fromEntries(named) };
  }

  // The logits (side, side) of a group's states (G, D), and its presence score, or undefined.
  async masks(states, image) {
    const { width, mask_inputs: names } = this.manifest;
    const feeds = Object.fromEntries(names.map((name) => [name, image[name]]));
    const [logits, presence] = await results(this.decoder, { states: floats(states, [states.length / width, width]), ...feeds });
    return { logits: logits.data, side: logits.dims.at(-1), presence: presence?.data[0] };
  }

  emptyCache() {
    const { num_heads: heads, head_dim: width } = this.manifest;
    return this.layers.map(() => floats(new Float32Array(0), [1, heads, 0, width]));
  }

  // Run the language model on `ids` (W), after `earlier` ids; `valid` (P + W): which keys are seen; `position`: of the first id.
  // Returns the logits (V) after the last id, what the codebook reads (W, D), and the cache with the step's keys and values.
  async step({ ids, earlier, valid, position }, image, cache) {
    const { lookback, width, codebook_ids: group } = this.manifest;
    const before = Array.from({ length: lookback }, (_, i) => earlier[earlier.length - lookback + i] ?? IMAGE_TOKEN_ID);
    const shown = ids.includes(IMAGE_TOKEN_ID);
    const feeds = {
      input_ids: integers(ids, [1, ids.length]),
      earlier_ids: integers(before, [1, lookback]),
      image_tokens: shown ? image.tokens : floats(new Float32Array(width), [1, 1, width]),
      conditioning: image.conditioning ?? floats(new Float32Array(1), [1, 1]),
      bias: floats(biasOf(valid, ids.length), [1, 1, ids.length, valid.length]),
      position_ids: integers(ids.map((_, i) => position + i), [1, ids.length]),
      last: integers([ids.length - 1], [1]),
      ...Object.fromEntries(this.layers.map((i) => [`past.${i}`, cache[i]])),
    };
    const [logits, codebook, ...present] = await results(this.language, feeds);
    return { logits: logits.data, inputs: codebook.data, cache: present };
  }
}

// The outputs of a session in their order; inputs that its graph does not read are left out.
async function results(session, feeds) {
  const found = await session.run(Object.fromEntries(session.inputNames.map((name) => [name, feeds[name]])));
  return session.outputNames.map((name) => found[name]);
}

// What is added to the scores of attention: 0 for keys that are valid and not later, (W, P + W).
function biasOf(valid, count) {
  const past = valid.length - count;
  const bias = new Float32Array(count * valid.length);
  for (let row = 0; row < count; row++) {
    for (let key = 0; key < valid.length; key++) if (!valid[key] || key > past + row) bias[row * valid.length + key] = MASKED;
  }
  return bias;
}
