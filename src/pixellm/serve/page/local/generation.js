// Greedy decoding with a KV cache (`pixellm.runtime.generation`): the image is encoded once, a codebook group is one step.

import { IMAGE_TOKEN_ID } from "./prompts.js";
import { nextToken } from "./sampling.js";

const MAX_NEW_TOKENS = 256; // as `pixellm.sampling.Sampling`

// System text and image, which all questions on the image share.
export async function encodePrefix(graphs, square, ids) {
  const image = await graphs.encode(square);
  const shown = Array.from(image.token_valid.data);
  const valid = ids.map((id) => (id === IMAGE_TOKEN_ID ? Boolean(shown.shift()) : true));
  const { cache } = await graphs.step({ ids, earlier: [], valid, position: 0 }, image, graphs.emptyCache());
  return { image, cache, valid, textIds: ids.filter((id) => id !== IMAGE_TOKEN_ID) };
}

// Yield the steps of an answer, {ids, states, reason}: `states` (G, D) of a codebook group, else null; `reason` of the
// last step is "stop" or "length".
export async function* decode(graphs, prefix, prompt, endId) {
  const { codebook_ids: group, width, own_state: ownState, default_sampling: sampling } = graphs.manifest;
  const budget = sampling.max_new_tokens ?? MAX_NEW_TOKENS;
  const ids = [...prefix.textIds, ...prompt];
  let { cache, valid } = prefix;
  let [pending, lastInput, generated] = [prompt, null, 0];
  for (;;) {
    const earlier = ids.slice(0, ids.length - pending.length);
    const position = valid.length;
    valid = [...valid, ...pending.map(() => true)];
    const step = await graphs.step({ ids: pending, earlier, valid, position }, prefix.image, cache);
    cache = step.cache;
    const spent = generated >= budget;
    if (pending === group) {
      yield { ids: group, states: ownState ? step.inputs : shifted(step.inputs, lastInput), reason: spent ? "length" : undefined };
      if (spent) return;
    }
    lastInput = step.inputs.slice(-width);
    for (const id of group.slice(1)) step.logits[id] = -Infinity; // only a group's first token is ever chosen
    const token = nextToken(step.logits, ids, sampling);
    pending = token === group[0] ? group : [token];
    ids.push(...pending);
    generated += pending.length;
    if (pending === group) continue; // it is read first
    const reason = token === endId ? "stop" : generated >= budget ? "length" : undefined;
    yield { ids: token === endId ? [] : pending, states: null, reason };
    if (reason) return;
  }
}

// The states of the tokens before those of `inputs` (G, D).
function shifted(inputs, last) {
  const states = new Float32Array(inputs.length);
  states.set(last);
  states.set(inputs.subarray(0, inputs.length - last.length), last.length);
  return states;
}
