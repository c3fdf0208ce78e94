// Requests to the server, through the same API that programs use.

const KEY = "pixellm-key";

export const setKey = (key) => sessionStorage.setItem(KEY, key);
export class KeyRequired extends Error {}

export async function about() {
  const response = await request("web/about.json");
  return response.json();
}

// Whether the loaded model corrects masks.
export const takesPrompts = async () => (await about()).takes_prompts;

// What is still missing before questions are answered; empty: nothing.
export async function loading() {
  const { ok } = await fetch("readyz").catch(() => ({ ok: false }));
  return ok ? "" : "The model is loading; questions wait for it.";
}

// Ask a question about an image; `onDelta` gets each delta: {content, targets}, and {finish_reason} at the end.
// All targets are asked for: the page itself hides those below its minimum score.
export async function ask(model, { blob, name }, messages, signal, onDelta) {
  const response = await post("v1/chat/completions", { blob, name }, { model, messages, stream: true, min_score: 0 }, signal);
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const { error, choices } = JSON.parse(data);
    if (error) throw new Error(sentence(error.message));
    for (const { delta, finish_reason } of choices) onDelta({ ...delta, finish_reason });
  }
  throw new Error("The connection broke before the answer was complete. Ask again.");
}

// Correct the mask of a target by all of its marks: {points: [[x, y, label]], box: [x, y, width, height] or null}.
export async function refine(image, { segmentation }, marks, signal) {
  const response = await post("v1/refine", image, { target: { segmentation }, ...marks }, signal);
  return response.json();
}

// Have the server keep a corrected mask as training data; `before` is the mask that the model gave, or null.
export function keep(image, { phrase, segmentation }, before, answer) {
  const fields = { phrase, segmentation, before, answer, tool: "pixellm web" };
  return post("v1/corrections", image, fields);
}

function post(address, { blob, name }, fields, signal) {
  const body = new FormData();
  body.set("image", blob, name);
  body.set("request", JSON.stringify(fields));
  const key = sessionStorage.getItem(KEY);
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  return request(address, { method: "POST", body, headers, signal });
}

async function request(address, options) {
  let response;
  try {
    response = await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is it still running?");
  }
  if (response.ok) return response;
  const { error } = await response.json().catch(() => ({}));
  const Kind = response.status === 401 ? KeyRequired : Error;
  throw new Kind(sentence(error?.message ?? `The server answers with status ${response.status}.`));
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch((error) => {
      if (error.name === "AbortError") throw error;
      return { done: true };
    });
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) if (block.startsWith("data: ")) yield block.slice(6);
  }
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);
