// Marks on the selected target: points that add (+) or take away (−), a box, and the keyboard's crosshair.

import { SVG } from "./shared/targets.js";

const RADIUS = 7; // screen pixels
const GLYPH = 3.5;

// Draw marks into a group of an SVG in image pixels; `scale`: image pixels per screen pixel.
export function drawMarks(group, { points, boxes, aim, size: [width, height] }, scale) {
  const nodes = boxes.map(([x, y, w, h]) => shape("rect", "box", { x, y, width: w, height: h }));
  if (aim) {
    const [x, y] = aim;
    const lines = `M0 ${y}H${width}M${x} 0V${height}`;
    nodes.push(shape("path", "aim under", { d: lines }), shape("path", "aim", { d: lines }));
  }
  for (const [x, y, positive, waits] of points) {
    const kind = `${positive ? "plus" : "minus"}${waits ? " waits" : ""}`;
    const glyph = GLYPH * scale;
    const lines = `M${x - glyph} ${y}h${2 * glyph}${positive ? `M${x} ${y - glyph}v${2 * glyph}` : ""}`;
    nodes.push(shape("circle", `point ${kind}`, { cx: x, cy: y, r: RADIUS * scale }), shape("path", "glyph", { d: lines }));
  }
  group.replaceChildren(...nodes);
}

function shape(tag, name, attributes) {
  const node = document.createElementNS(SVG, tag);
  node.setAttribute("class", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}
