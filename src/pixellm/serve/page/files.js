// Downloads: the image with masks, cut-outs, COCO JSON. Made in the browser, so that hidden masks are left out.

import { decode } from "./masks.js";
import { isShown } from "./view.js";

const kept = (entry, lit) => entry.targets.filter((target, i) => isShown(target) && (lit === null || lit === i));
const stem = (name) => name.replace(/\.[^.]*$/, "") || "image";

// The image at its own size; `scale`: image pixels per screen pixel.
export async function overlay(entry, lit, { mode, opacity, scale, background }) {
  const { canvas, context } = await drawn(entry.image);
  const targets = kept(entry, lit).filter(({ path }) => path);
  if (mode === "cutout") await coverOutside(context, targets, opacity, background);
  context.lineWidth = (mode === "contour" ? 2.5 : 1.5) * scale;
  context.lineJoin = "round";
  for (const { path, colour } of mode === "cutout" ? [] : targets) {
    const shape = new Path2D(path);
    context.fillStyle = context.strokeStyle = colour;
    context.globalAlpha = opacity;
    if (mode === "fill") context.fill(shape, "evenodd");
    context.globalAlpha = 1;
    context.stroke(shape);
  }
  return save(await png(canvas), `${stem(entry.image.name)}-answer.png`);
}

async function coverOutside(context, targets, opacity, background) {
  const { width, height } = context.canvas;
  const cover = new OffscreenCanvas(width, height).getContext("2d");
  cover.fillStyle = background;
  cover.fillRect(0, 0, width, height);
  cover.globalCompositeOperation = "destination-out";
  for (const { path } of targets) cover.fill(new Path2D(path), "evenodd");
  context.globalAlpha = opacity;
  context.drawImage(cover.canvas, 0, 0);
  context.globalAlpha = 1;
}

// One file for each mask: its box, transparent outside the mask.
export async function cutouts(entry, lit) {
  const { context } = await drawn(entry.image);
  for (const target of kept(entry, lit).filter(({ box }) => box)) {
    const [x, y, width, height] = target.box;
    const pixels = context.getImageData(x, y, width, height);
    const mask = decode(target.segmentation);
    for (let row = 0; row < height; row++) {
      for (let column = 0; column < width; column++) {
        if (!mask.bits[(x + column) * mask.height + y + row]) pixels.data[4 * (row * width + column) + 3] = 0;
      }
    }
    const cut = new OffscreenCanvas(width, height);
    cut.getContext("2d").putImageData(pixels, 0, 0);
    const number = entry.targets.indexOf(target) + 1;
    const words = target.phrase.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 40);
    save(await png(cut), [stem(entry.image.name), number, words].filter(Boolean).join("-") + ".png");
  }
}

// The COCO file that /v1/segment returns.
export function coco(entry, lit) {
  const targets = kept(entry, lit);
  const names = [...new Set(targets.map(categoryOf))];
  const annotations = targets.map((target, i) => ({
    id: i + 1,
    image_id: 1,
    category_id: names.indexOf(categoryOf(target)) + 1,
    segmentation: target.segmentation,
    area: target.area,
    bbox: target.box ?? [0, 0, 0, 0],
    iscrowd: 0,
    phrase: target.phrase,
    answer_id: "1",
    score: target.confidence,
  }));
  const { name, width, height } = entry.image;
  const file = {
    info: { description: entry.text },
    images: [{ id: 1, width, height, file_name: name }],
    annotations,
    categories: names.map((name, i) => ({ id: i + 1, name, supercategory: "" })),
    licenses: [],
  };
  save(new Blob([JSON.stringify(file)], { type: "application/json" }), `${stem(name)}-coco.json`);
}

// Category of a phrase: lower case, without an article (as export/answers.py).
function categoryOf({ phrase }) {
  const words = phrase.toLowerCase().split(/\s+/).filter(Boolean).join(" ");
  return words.replace(/^(?:(?:the|an?) )+(?=\S)/, "").replace(/^[ .,;:!?"']+|[ .,;:!?"']+$/g, "") || "object";
}

async function drawn({ url, width, height }) {
  const image = new Image();
  image.src = url;
  await image.decode();
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0, width, height);
  return { canvas, context };
}

const png = (canvas) => canvas.convertToBlob({ type: "image/png" });

function save(blob, name) {
  const url = URL.createObjectURL(blob);
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
