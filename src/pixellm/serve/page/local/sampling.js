// Choice of the next token: the most probable one, after the model's guards against repetition (`pixellm.runtime.sampling`).

// `scores` (V,) are changed; `ids` are the row's so far, without image tokens.
export function nextToken(scores, ids, { repetition_penalty: penalty = 1, no_repeat_ngram_size: size = 0 }) {
  if (penalty !== 1) for (const id of new Set(ids)) scores[id] *= scores[id] < 0 ? penalty : 1 / penalty;
  if (size) for (const id of repeating(ids, size)) scores[id] = -Infinity;
  let best = 0;
  for (let id = 1; id < scores.length; id++) if (scores[id] > scores[best]) best = id;
  return best;
}

// The tokens that would complete a run of `size` tokens which `ids` has already.
function repeating(ids, size) {
  const last = ids.length - size + 1; // where the run that is being written starts
  const found = [];
  for (let start = 0; start < last; start++) {
    let same = 0;
    while (same < size - 1 && ids[start + same] === ids[last + same]) same++;
    if (same === size - 1) found.push(ids[start + size - 1]);
  }
  return found;
}
