// Questions with their answers, and the image with the masks of the current one. Model output is only set as text.

import { SVG, element, maskOf, mark, reachable, standFor } from "./shared/targets.js";

const $ = (id) => document.getElementById(id);

// A target is shown unless the user removed its mask, or its score is below the page's minimum.
export const isShown = ({ removed, weak }) => !removed && !weak;

// Split an answer at its spans: {text, target}, target null between phrases. Spans count code points.
export function pieces(text, targets) {
  const letters = Array.from(text);
  const runs = [];
  let at = 0;
  const order = targets.map((_, i) => i).filter((i) => !targets[i].weak && targets[i].span).sort((a, b) => targets[a].span[0] - targets[b].span[0]);
  for (const target of order) {
    const [start, end] = targets[target].span.map((edge) => Math.max(edge, at)); // of two masks with the same phrase, the first gets it
    runs.push({ text: letters.slice(at, start).join(""), target: null });
    runs.push({ text: letters.slice(start, end).join(""), target });
    at = end;
  }
  runs.push({ text: letters.slice(at).join(""), target: null });
  return runs.filter(({ text, target }) => text || target !== null);
}

// Add an entry to the conversation.
export function frameOf(entry, previous, show) {
  const article = element("article", { className: "entry", parent: $("entries") });
  if (previous?.image !== entry.image) {
    element("img", { className: "thumbnail", src: entry.image.url, alt: entry.image.name, parent: article });
  }
  const question = element("button", { type: "button", className: "asked", text: entry.question, parent: article });
  question.title = "Show this answer's masks";
  question.addEventListener("click", show);
  element("p", { className: "answer", parent: article });
  element("ol", { className: "targets", parent: article });
  element("p", { className: "remark", parent: article });
  return article;
}

export function drawEntry(entry, handlers) {
  const [answer, list, remark] = [".answer", ".targets", ".remark"].map((name) => entry.article.querySelector(name));
  drawAnswer(entry, answer, handlers);
  list.replaceChildren(...entry.targets.flatMap((target, i) => (target.weak ? [] : [row(target, i, handlers)])));
  remark.textContent = remarkOn(entry);
  remark.classList.toggle("error", entry.state === "failed");
  entry.article.setAttribute("aria-busy", entry.state === "writing");
}

function drawAnswer(entry, answer, handlers) {
  const parts = pieces(entry.text, entry.targets).map(({ text, target }) => {
    if (target === null) return text;
    const phrase = element("span", { className: "phrase", text });
    phrase.classList.toggle("removed", entry.targets[target].removed);
    element("sup", { className: "swatch", text: target + 1, parent: phrase });
    return reachable(standFor(phrase, target, handlers), target, handlers);
  });
  answer.replaceChildren(...parts);
}

function remarkOn({ state, error, targets, reason }) {
  if (state === "failed") return error;
  if (state === "stopped") return "Stopped.";
  if (state === "writing") return "";
  if (reason === "length") return "The answer was cut off at the maximum number of tokens.";
  const hidden = targets.filter(({ weak }) => weak).length;
  if (hidden) return `${hidden} of ${targets.length} masks hidden: below the minimum score.`;
  return targets.length ? "" : "This answer has no masks.";
}

function row(target, i, handlers) {
  const node = standFor(element("li", { className: "target" }), i, handlers);
  node.classList.toggle("removed", target.removed);
  element("span", { className: "swatch", text: i + 1, parent: node });
  element("span", { className: "words", text: target.phrase || "(no words)", parent: node });
  const share = target.area ? `${percent(target.share)} of the image` : "empty";
  const kind = target.presence === undefined ? "score" : "presence";
  const state = target.added ? "added" : target.corrected ? "corrected" : `${kind} ${percent(target.confidence)}`;
  element("small", { text: `${share} · ${state}`, parent: node });
  const out = element("button", { type: "button", className: "out", text: target.removed ? "↺" : "✕", parent: node });
  out.title = target.removed ? "Restore this mask" : "Remove this mask";
  out.setAttribute("aria-label", `${out.title}: ${target.phrase}`);
  out.addEventListener("click", (event) => {
    event.stopPropagation();
    handlers.remove(i);
  });
  return node;
}

const percent = (share) => (share > 0 && share < 0.01 ? "< 1 %" : `${Math.round(100 * share)} %`);

export function drawImage({ url, name, width, height }) {
  $("image").src = url;
  $("image").alt = name;
  $("frame").style.setProperty("--ratio", width / height);
  $("masks").setAttribute("viewBox", `0 0 ${width} ${height}`);
}

// Small masks lie on large ones, so that the pointer reaches both.
export function drawMasks(targets, handlers) {
  const order = targets.map((_, i) => i).filter((i) => targets[i].path && isShown(targets[i]));
  order.sort((a, b) => targets[b].area - targets[a].area);
  const shapes = order.map((i) => reachable(maskOf(i, targets[i].path, targets[i].phrase, handlers), i, handlers));
  $("shapes").replaceChildren(...shapes);
}

// Highlight one target of an entry; a cut-out then shows it alone.
export function light(entry, lit) {
  $("masks").classList.toggle("chosen", lit !== null);
  mark("lit", lit, $("shapes"));
  if (!entry) return $("holes").replaceChildren();
  mark("lit", lit, entry.article);
  const open = entry.targets.filter((target, i) => target.path && isShown(target) && (lit === null || lit === i));
  const holes = open.map(({ path }) => {
    const hole = document.createElementNS(SVG, "path");
    hole.setAttribute("d", path);
    return hole;
  });
  $("holes").replaceChildren(...holes);
}
