// A question with its answer, and the picture of the one that is shown. What a model says is only ever set as text.

import { SVG, element, maskOf, mark, reachable, standFor } from "./shared/targets.js";

const $ = (id) => document.getElementById(id);

// The answer cut at its spans: {text, target}, target null for what stands between. Spans count code points.
export function pieces(text, targets) {
  const letters = Array.from(text);
  const found = [];
  let at = 0;
  const order = targets.map((_, i) => i).sort((a, b) => targets[a].span[0] - targets[b].span[0]);
  for (const target of order) {
    const [start, end] = targets[target].span.map((edge) => Math.max(edge, at)); // of two masks of a phrase, one has it
    found.push({ text: letters.slice(at, start).join(""), target: null });
    found.push({ text: letters.slice(start, end).join(""), target });
    at = end;
  }
  found.push({ text: letters.slice(at).join(""), target: null });
  return found.filter(({ text, target }) => text || target !== null);
}

// Where an entry stands in the conversation.
export function frameOf(entry, previous, show) {
  const article = element("article", { className: "entry", parent: $("entries") });
  if (previous?.photo !== entry.photo) {
    element("img", { className: "thumbnail", src: entry.photo.url, alt: entry.photo.name, parent: article });
  }
  const question = element("button", { type: "button", className: "asked", text: entry.question, parent: article });
  question.title = "Show this answer's masks";
  question.addEventListener("click", show);
  element("p", { className: "answer", parent: article });
  element("ol", { className: "targets", parent: article });
  element("p", { className: "remark", parent: article });
  return article;
}

export function drawEntry(entry, hands) {
  const [answer, list, remark] = [".answer", ".targets", ".remark"].map((name) => entry.article.querySelector(name));
  drawAnswer(entry, answer, hands);
  list.replaceChildren(...entry.targets.map((target, i) => row(target, i, hands)));
  remark.textContent = remarkOn(entry);
  remark.classList.toggle("error", entry.state === "failed");
  entry.article.setAttribute("aria-busy", entry.state === "writing");
}

function drawAnswer(entry, answer, hands) {
  const parts = pieces(entry.text, entry.targets).map(({ text, target }) => {
    if (target === null) return text;
    const phrase = element("span", { className: "phrase", text });
    phrase.classList.toggle("removed", entry.targets[target].removed);
    element("sup", { className: "swatch", text: target + 1, parent: phrase });
    return reachable(standFor(phrase, target, hands), target, hands);
  });
  answer.replaceChildren(...parts);
}

function remarkOn({ state, error, targets, reason }) {
  if (state === "failed") return error;
  if (state === "stopped") return "Stopped.";
  if (state === "writing") return "";
  if (reason === "length") return "The answer was cut off: it had reached the most tokens that an answer may have.";
  return targets.length ? "" : "Nothing was masked in this answer.";
}

function row(target, i, hands) {
  const made = standFor(element("li", { className: "target" }), i, hands);
  made.classList.toggle("removed", target.removed);
  element("span", { className: "swatch", text: i + 1, parent: made });
  element("span", { className: "words", text: target.phrase || "(no words)", parent: made });
  const share = target.area ? `${percent(target.share)} of the image` : "empty";
  element("small", { text: `${share} · ${percent(target.score)} sure`, parent: made });
  const out = element("button", { type: "button", className: "out", text: target.removed ? "↺" : "✕", parent: made });
  out.title = target.removed ? "Put this mask back" : "Leave this mask out";
  out.setAttribute("aria-label", `${out.title}: ${target.phrase}`);
  out.addEventListener("click", (event) => {
    event.stopPropagation();
    hands.remove(i);
  });
  return made;
}

const percent = (share) => (share > 0 && share < 0.01 ? "< 1 %" : `${Math.round(100 * share)} %`);

export function drawPhotograph({ url, name, width, height }) {
  $("photograph").src = url;
  $("photograph").alt = name;
  $("frame").style.setProperty("--ratio", width / height);
  $("masks").setAttribute("viewBox", `0 0 ${width} ${height}`);
}

// Small things lie on large ones, so that the pointer gets at both.
export function drawMasks(targets, hands) {
  const order = targets.map((_, i) => i).filter((i) => targets[i].path && !targets[i].removed);
  order.sort((a, b) => targets[b].area - targets[a].area);
  const shapes = order.map((i) => reachable(maskOf(i, targets[i].path, targets[i].phrase, hands), i, hands));
  $("shapes").replaceChildren(...shapes);
}

// One target of an entry lights up; in a cut-out, it alone is uncovered.
export function light(entry, lit) {
  $("masks").classList.toggle("chosen", lit !== null);
  mark("lit", lit, $("shapes"));
  if (!entry) return $("holes").replaceChildren();
  mark("lit", lit, entry.article);
  const open = entry.targets.filter((one, i) => one.path && !one.removed && (lit === null || lit === i));
  const holes = open.map(({ path }) => {
    const hole = document.createElementNS(SVG, "path");
    hole.setAttribute("d", path);
    return hole;
  });
  $("holes").replaceChildren(...holes);
}
