// Worker with the model, so that the page stays responsive.
// In: {load} file sizes, {image} a Blob, {ask: {question, history}}, {stop}. Out: {progress}, {ready}, {delta}, {done}, {error}.

import { reader } from "./files.js";
import { Model } from "./model.js";
import { pixelsOf } from "./pixels.js";

const OUT_OF_MEMORY = /memory|bad_alloc|allocation failed|Aborted\(/i;

let model = null;
let image = null; // what questions are about
let encoded = null; // the image that the model has
let stopped = false;

const steps = {
  async load(sizes) {
    const onProgress = (text) => postMessage({ progress: text });
    model = await Model.load(reader(sizes, onProgress), onProgress);
    postMessage({ ready: true });
  },
  image: async (blob) => (image = blob),
  async ask({ question, history }) {
    if (!model) throw new Error("The model could not be loaded. Reload the page.");
    if (encoded !== image) {
      encoded = null;
      await model.setImage(await pixelsOf(image));
      encoded = image;
    }
    for await (const delta of model.ask(question, history)) {
      postMessage({ delta });
      await new Promise((done) => setTimeout(done)); // lets {stop} arrive
      if (stopped) break;
    }
    postMessage({ done: true });
  },
};

function explained(error) {
  const text = String(error?.message ?? error);
  if (!(error instanceof RangeError) && !OUT_OF_MEMORY.test(text)) return text;
  return "This browser has too little memory for the model, which needs about 1.5 GB. Close other tabs and programs, then reload the page.";
}

let queue = Promise.resolve(); // one step after another
onmessage = ({ data }) => {
  if ("stop" in data) return (stopped = true);
  const [[name, value]] = Object.entries(data);
  if (name === "ask") stopped = false;
  queue = queue.then(() => steps[name](value)).catch((error) => postMessage({ error: explained(error) }));
};
