// What all pages have in common: each target has one colour, and whatever stands for it lights up together.

export const SVG = "http://www.w3.org/2000/svg";

export function element(tag, { parent, text, ...rest } = {}) {
  const made = Object.assign(document.createElement(tag), rest);
  if (text !== undefined) made.textContent = text;
  parent?.append(made);
  return made;
}

// `made` stands for a target: pointing at it outlines the target, clicking lights it up.
export function standFor(made, target, { targets, choose, point }) {
  made.dataset.target = target;
  made.style.setProperty("--colour", targets[target].colour);
  made.style.setProperty("--ink-on-colour", targets[target].ink);
  made.setAttribute("role", "button");
  made.addEventListener("click", () => choose(target));
  made.addEventListener("pointerenter", () => point(target));
  made.addEventListener("pointerleave", () => point(null));
  return made;
}

// With the keyboard, too.
export function reachable(made, target, { choose }) {
  made.tabIndex = 0;
  made.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    choose(target);
  });
  return made;
}

export function maskOf(target, path, label, hands) {
  const mask = document.createElementNS(SVG, "path");
  mask.setAttribute("class", "mask");
  mask.setAttribute("d", path);
  mask.setAttribute("aria-label", label);
  return standFor(mask, target, hands);
}

// One target (null: none) is `lit` or `pointed` at, wherever it stands.
export function mark(name, target, within = document) {
  for (const one of within.querySelectorAll("[data-target]")) {
    const chosen = Number(one.dataset.target) === target;
    one.classList.toggle(name, chosen);
    if (name === "lit") one.setAttribute("aria-pressed", chosen);
  }
}
