// The page's requests, answered by a worker of this browser instead of the server; exports as `../api.js`.

export class KeyRequired extends Error {} // never here
export const setKey = () => {};

let image = null; // that the worker has
let progress = "Loading the model …";
let fault = null; // why the model is not there
let onMessage = () => {}; // of the running question
const worker = start();

function start() {
  if (typeof WebAssembly === "undefined" || typeof Worker === "undefined") {
    fault = "This browser has no WebAssembly, or it is switched off. Take a current Chrome, Firefox, Edge or Safari, or use `pixellm web`.";
    return null;
  }
  const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  worker.onmessage = ({ data }) => {
    if (data.progress) progress = data.progress;
    else if (data.ready) progress = "";
    else if (data.error && progress) fault = data.error; // still loading
    onMessage(data);
  };
  worker.onerror = (event) => {
    fault = event.message || "A file of the page is missing, or this browser can't read it. Start `pixellm web --local` again, or take a current browser.";
    onMessage({ error: fault });
  };
  return worker;
}

export async function about() {
  const response = await fetch("web/about.json").catch(() => null);
  if (!response?.ok) throw new Error("The server does not answer. Is it still running?");
  const found = await response.json();
  worker?.postMessage({ load: found.files });
  return found;
}

export const takesPrompts = async () => false; // the graph of corrections is not in the browser

// What is still missing before questions are answered; empty: nothing.
export async function loading() {
  if (fault) throw new Error(fault);
  return progress;
}

// As in `../api.js`; `messages` are those of OpenAI's chat.
export async function ask(_model, { blob }, messages, signal, onDelta) {
  if (fault) throw new Error(fault);
  if (blob !== image) worker.postMessage({ image: blob });
  image = blob;
  const history = [];
  for (let at = 0; at + 1 < messages.length; at += 2) {
    const { content: text, targets } = messages[at + 1];
    history.push({ question: messages[at].content, text, spans: targets.map(({ span }) => span) });
  }
  const stop = () => worker.postMessage({ stop: true });
  signal.addEventListener("abort", stop);
  try {
    await new Promise((resolve, reject) => {
      onMessage = ({ delta, done, error }) => {
        if (delta && !signal.aborted) onDelta(delta);
        if (done) resolve();
        if (error) reject(new Error(error));
      };
      worker.postMessage({ ask: { question: messages.at(-1).content, history } });
    });
  } finally {
    onMessage = () => {};
    signal.removeEventListener("abort", stop);
  }
  if (signal.aborted) throw new DOMException("Stopped.", "AbortError");
}
