// Image and texts of a record, with one colour for each target: mask, phrase and row of the list are highlighted together.

import { reason } from "./api.js";
import { element, mark, maskOf, reachable, standFor } from "./shared/targets.js";

const $ = (id) => document.getElementById(id);
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
    const issues = [error, !error && !path && "Its mask is empty.", !named && "The answer has other words before its mask."];
    for (const text of issues.filter(Boolean)) element("span", { className: "wrong", text, parent: row });
  });
}

const percent = (share) => (share > 0 && share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`);

function drawMasks({ image, targets }, hands) {
  $("masks").setAttribute("viewBox", `0 0 ${image.width} ${image.height}`);
  // Small masks lie on large ones, so that the pointer reaches both.
  const order = targets.map((_, i) => i).sort((a, b) => targets[b].share - targets[a].share);
  const paths = order.map((i) => maskOf(i, targets[i].path, targets[i].description, hands));
  $("masks").replaceChildren(...paths);
  $("frame").style.setProperty("--ratio", image.width / image.height);
}

export async function showImage({ record_id: id, image }) {
  const address = `/api/images/${id.split("/").map(encodeURIComponent).join("/")}`;
  const view = $("image");
  $("image-error").hidden = true;
  view.alt = image.file_name;
  view.onerror = async () => {
    const why = await fetch(address).then(reason, (error) => error.message);
    if (view.getAttribute("src") !== address) return; // another record by now
    $("image-error").textContent = why;
    $("image-error").hidden = false;
  };
  view.src = address;
}

export function light(target) {
  $("masks").classList.toggle("chosen", target !== null);
  mark("lit", target);
}

export const point = (target) => mark("pointed", target);
