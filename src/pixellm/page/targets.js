// Shared by all pages: a target has one colour, and all elements that stand for it are highlighted together.

export const SVG = "http://www.w3.org/2000/svg";

export function element(tag, { parent, text, ...rest } = {}) {
  const node = Object.assign(document.createElement(tag), rest);
  if (text !== undefined) node.textContent = text;
  parent?.append(node);
  return node;
}

// Let a node stand for a target: hovering outlines the target, clicking highlights it.
export function standFor(node, target, { targets, choose, point }) {
  node.dataset.target = target;
  node.style.setProperty("--colour", targets[target].colour);
  node.style.setProperty("--ink-on-colour", targets[target].ink);
  node.setAttribute("role", "button");
  node.addEventListener("click", () => choose(target));
  node.addEventListener("pointerenter", () => point(target));
  node.addEventListener("pointerleave", () => point(null));
  return node;
}

// Make a node usable by keyboard.
export function reachable(node, target, { choose }) {
  node.tabIndex = 0;
  node.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    choose(target);
  });
  return node;
}

export function maskOf(target, path, label, handlers) {
  const mask = document.createElementNS(SVG, "path");
  mask.setAttribute("class", "mask");
  mask.setAttribute("d", path);
  mask.setAttribute("aria-label", label);
  return standFor(mask, target, handlers);
}

// Mark one target (null: none) as `lit` or `pointed` in all its nodes.
export function mark(name, target, within = document) {
  for (const node of within.querySelectorAll("[data-target]")) {
    const marked = Number(node.dataset.target) === target;
    node.classList.toggle(name, marked);
    if (name === "lit") node.setAttribute("aria-pressed", marked);
  }
}
