// A record's picture and words, in which each target has one colour: mask, phrase and row of the list light up together.

import { reason } from "./api.js";

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

function element(tag, { parent, text, ...rest } = {}) {
  const made = Object.assign(document.createElement(tag), rest);
  if (text !== undefined) made.textContent = text;
  parent?.append(made);
  return made;
}

// `made` stands for a target: pointing at it outlines the target, clicking lights it up.
function standFor(made, target, { targets, choose, point }) {
  made.dataset.target = target;
  made.style.setProperty("--colour", targets[target].colour);
  made.style.setProperty("--ink-on-colour", targets[target].ink);
  made.setAttribute("role", "button");
  made.addEventListener("click", () => choose(target));
  made.addEventListener("pointerenter", () => point(target));
  made.addEventListener("pointerleave", () => point(null));
  return made;
}

function reachable(made, target, { choose }) {
  made.tabIndex = 0;
  made.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    choose(target);
  });
  return made;
}

export function draw(record, does) {
  const hands = { ...does, targets: record.targets };
  drawAnswer(record, hands);
  drawTargets(record, hands);
  drawMasks(record, hands);
}

function drawAnswer({ pieces }, hands) {
  $("answer").replaceChildren();
  for (const { text, target } of pieces) {
    if (target === null) {
      $("answer").append(text);
      continue;
    }
    const phrase = element("span", { className: "phrase", text, parent: $("answer") });
    reachable(standFor(phrase, target, hands), target, hands);
    element("sup", { className: "swatch", text: target + 1, parent: phrase });
  }
}

function drawTargets({ targets }, hands) {
  $("targets").replaceChildren();
  targets.forEach(({ category, description, share, error, named, path }, i) => {
    const row = standFor(element("li", { className: "target", parent: $("targets") }), i, hands);
    element("span", { className: "swatch", text: i + 1, parent: row });
    element("span", { text: description, parent: row });
    element("small", { text: `${category} · ${percent(share)}`, parent: row });
    const faults = [error, !error && !path && "Its mask is empty.", !named && "The answer has other words before its mask."];
    for (const text of faults.filter(Boolean)) element("span", { className: "wrong", text, parent: row });
  });
}

const percent = (share) => (share > 0 && share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`);

function drawMasks({ image, targets }, hands) {
  $("masks").setAttribute("viewBox", `0 0 ${image.width} ${image.height}`);
  // Small things lie on large ones, so that the pointer gets at both.
  const order = targets.map((_, i) => i).sort((a, b) => targets[b].share - targets[a].share);
  const paths = order.map((target) => {
    const mask = document.createElementNS(SVG, "path");
    mask.setAttribute("class", "mask");
    mask.setAttribute("d", targets[target].path);
    mask.setAttribute("aria-label", targets[target].description);
    return standFor(mask, target, hands);
  });
  $("masks").replaceChildren(...paths);
  $("frame").style.setProperty("--ratio", image.width / image.height);
}

export async function showPicture({ record_id: id, image }) {
  const address = `/api/photographs/${id.split("/").map(encodeURIComponent).join("/")}`;
  const picture = $("photograph");
  $("picture-error").hidden = true;
  picture.alt = image.file_name;
  picture.onerror = async () => {
    const why = await fetch(address).then(reason, (error) => error.message);
    if (picture.getAttribute("src") !== address) return; // another one by now
    $("picture-error").textContent = why;
    $("picture-error").hidden = false;
  };
  picture.src = address;
}

export function light(target) {
  $("masks").classList.toggle("chosen", target !== null);
  mark("lit", target);
  for (const one of document.querySelectorAll("[data-target]")) {
    one.setAttribute("aria-pressed", Number(one.dataset.target) === target);
  }
}

export const point = (target) => mark("pointed", target);

function mark(name, target) {
  for (const one of document.querySelectorAll("[data-target]")) {
    one.classList.toggle(name, Number(one.dataset.target) === target);
  }
}
