// The page of `pixellm web`: a photograph, questions on it, and the answers' masks.

import * as api from "./api.js";
import * as files from "./files.js";
import { decode, outline } from "./masks.js";
import { element, mark } from "./shared/targets.js";
import { drawEntry, drawMasks, drawPhotograph, frameOf, light } from "./view.js";

const $ = (id) => document.getElementById(id);
const THEMES = ["auto", "light", "dark"];
const MODES = ["fill", "contour", "cutout"];

let about; // what the server says of itself
let photo = null; // that further questions are on
const entries = []; // all that was asked, the oldest first
let shown = null; // the entry whose masks lie on the picture
let lit = null; // number of its target that is lit up
let asking = null; // AbortController of the answer that is being written
const opacity = { fill: 45, contour: 100, cutout: 85 };

function notice(text = "") {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

const act = (step) => async (...given) => {
  notice();
  try {
    await step(...given);
  } catch (error) {
    notice(error.message);
  }
};

// --- the photograph ---

async function take(blob, name, suggestion = "") {
  const url = URL.createObjectURL(blob);
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
  } catch {
    URL.revokeObjectURL(url);
    throw new Error(`Expected an image that a browser can show (JPEG, PNG, WebP, GIF, AVIF), got ${name}. Choose another file.`);
  }
  photo = { blob, url, name, suggestion, width: image.naturalWidth, height: image.naturalHeight };
  $("welcome").hidden = true;
  $("work").hidden = $("open").hidden = false;
  show(null);
  drawPhotograph(photo);
  suggest();
  if (matchMedia("(pointer: fine)").matches) $("question").focus(); // elsewhere a keyboard would cover the picture
}

async function takeExample({ name, question }) {
  const response = await fetch(`web/examples/${name}.png`).catch(() => null);
  if (!response?.ok) throw new Error("The server does not answer. Is it still running?");
  await take(await response.blob(), `${name}.png`, question);
}

function takeFile(list) {
  const file = [...list].find(({ type }) => type.startsWith("image/")) ?? list[0];
  return file && take(file, file.name || "image.png");
}

function suggest() {
  const asked = entries.some((entry) => entry.photo === photo);
  const fresh = photo.suggestion && !asked;
  $("follow-label").hidden = !asked;
  $("suggestions").replaceChildren();
  if (!fresh) return;
  const chip = element("button", { type: "button", text: photo.suggestion, parent: $("suggestions") });
  chip.addEventListener("click", act(() => ask(photo.suggestion)));
}

// --- questions ---

// Earlier questions on the same photograph. Masks that were left out are not told of.
function history() {
  if (!$("follow").checked) return [];
  const earlier = entries.filter((entry) => entry.photo === photo && entry.state === "done" && entry.text);
  return earlier.slice(1 - about.max_turns || earlier.length).flatMap(({ question, text, targets }) => [
    { role: "user", content: question },
    { role: "assistant", content: text, targets: targets.filter((one) => !one.removed).map(({ span }) => ({ span })) },
  ]);
}

async function ask(question) {
  if (asking || !photo || !question.trim()) return;
  const messages = [...history(), { role: "user", content: question }];
  const entry = { photo, question, text: "", targets: [], state: "writing" };
  entry.article = frameOf(entry, entries.at(-1), () => show(entry));
  entries.push(entry);
  $("question").value = "";
  suggest();
  show(entry);
  asking = new AbortController();
  busy(true);
  try {
    await api.ask(about.model, photo, messages, asking.signal, (piece) => hear(entry, piece));
    entry.state = "done";
  } catch (error) {
    entry.state = error.name === "AbortError" ? "stopped" : "failed";
    entry.error = error.message;
    if (entry.state === "failed") $("question").value ||= question;
    if (error instanceof api.KeyWanted) $("locked").showModal();
  } finally {
    asking = null;
    busy(false);
    redraw(entry);
  }
}

function hear(entry, { content = "", targets = [], finish_reason: reason }) {
  entry.text += content;
  entry.reason = reason;
  for (const target of targets) {
    const mask = decode(target.segmentation);
    const colours = about.colours[entry.targets.length % about.colours.length];
    const share = target.area / (mask.width * mask.height);
    entry.targets.push({ ...target, ...colours, share, path: outline(mask), removed: false });
  }
  redraw(entry, targets.length > 0);
}

function busy(on) {
  $("ask").hidden = on;
  $("stop").hidden = !on;
}

// --- what is shown ---

function redraw(entry, masksToo = true) {
  drawEntry(entry, handsOf(entry));
  if (entry === shown) {
    if (masksToo) drawMasks(entry.targets, handsOf(entry));
    light(entry, lit);
    $("tools").hidden = !entry.targets.length;
  }
  if (entry === entries.at(-1)) entry.article.scrollIntoView({ block: "nearest" });
}

function handsOf(entry) {
  const within = () => [entry.article, ...(entry === shown ? [$("shapes")] : [])];
  return {
    targets: entry.targets,
    choose: (target) => choose(entry, target),
    point: (target) => within().forEach((part) => mark("pointed", target, part)),
    remove: (target) => remove(entry, target),
  };
}

function show(entry) {
  if (shown) light(shown, null);
  shown?.article.classList.remove("shown");
  [shown, lit] = [entry, null];
  light(null, null);
  $("shapes").replaceChildren();
  $("tools").hidden = true;
  if (!entry) return;
  entry.article.classList.add("shown");
  if (entry.photo !== photo) {
    photo = entry.photo;
    suggest();
  }
  drawPhotograph(photo);
  redraw(entry);
}

function choose(entry, target) {
  const again = entry === shown && lit === target;
  if (entry !== shown) show(entry);
  lit = again || entry.targets[target]?.removed ? null : target;
  light(entry, lit);
}

function remove(entry, target) {
  const one = entry.targets[target];
  one.removed = !one.removed;
  if (entry === shown && lit === target) lit = null;
  redraw(entry);
}

function setMode(mode) {
  document.querySelector(`[name="mode"][value="${mode}"]`).checked = true;
  for (const one of MODES) $("masks").classList.toggle(one, one === mode);
  $("opacity").disabled = mode === "contour";
  $("opacity").value = opacity[mode];
  setOpacity();
}

const mode = () => document.querySelector('[name="mode"]:checked').value;

function setOpacity() {
  opacity[mode()] = Number($("opacity").value);
  $("masks").style.setProperty("--opacity", opacity[mode()] / 100);
}

function setTheme(theme) {
  localStorage.setItem("pixellm-theme", theme);
  document.documentElement.dataset.theme = theme;
  $("theme").textContent = `Theme: ${theme}`;
}

// --- hands on the page ---

const save = (write) => act(() => write(shown, lit));
const asSeen = () => ({
  mode: mode(),
  opacity: opacity[mode()] / 100,
  scale: photo.width / $("frame").clientWidth,
  ground: getComputedStyle($("cover")).fill,
});

function listen() {
  for (const id of ["drop", "open"]) $(id).addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", act(async () => {
    await takeFile($("file").files).finally(() => ($("file").value = "")); // the same file may be taken again
  }));
  window.addEventListener("dragover", (event) => event.preventDefault());
  window.addEventListener("drop", (event) => (event.preventDefault(), act(takeFile)(event.dataTransfer.files)));
  window.addEventListener("paste", (event) => event.clipboardData.files.length && act(takeFile)(event.clipboardData.files));
  $("form").addEventListener("submit", (event) => (event.preventDefault(), act(ask)($("question").value)));
  $("stop").addEventListener("click", () => asking?.abort());
  $("key-form").addEventListener("submit", () => {
    api.setKey($("key").value);
    if ($("question").value) act(ask)($("question").value);
  });
  $("modes").addEventListener("change", () => setMode(mode()));
  $("opacity").addEventListener("input", setOpacity);
  $("masks").addEventListener("click", (event) => event.target === $("masks") && shown && choose(shown, lit));
  $("save-picture").addEventListener("click", save((entry, one) => files.picture(entry, one, asSeen())));
  $("save-cutouts").addEventListener("click", save(files.cutouts));
  $("save-coco").addEventListener("click", save(files.coco));
  $("theme").addEventListener("click", () => {
    setTheme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length]);
  });
  document.addEventListener("keydown", onKey);
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || $("locked").open) return;
  if (event.target === $("question")) return onKeyInQuestion(event);
  if (event.key === "Escape" && asking) return asking.abort();
  if (event.target.matches("input") || $("work").hidden) return;
  const key = event.key.toLowerCase();
  const step = { arrowup: -1, arrowdown: 1 }[key];
  if (key === "/") $("question").focus();
  else if (key === "m") setMode(MODES[(MODES.indexOf(mode()) + 1) % MODES.length]);
  else if (!shown) return;
  else if (step) show(entries[entries.indexOf(shown) + step] ?? shown);
  else if (key === "escape" && lit !== null) choose(shown, lit);
  else if (/^[1-9]$/.test(key) && shown.targets[key - 1]) choose(shown, key - 1);
  else if ((key === "delete" || key === "backspace") && lit !== null) remove(shown, lit);
  else return;
  event.preventDefault();
}

// Enter asks; in an empty field the arrow brings the last question back.
function onKeyInQuestion(event) {
  if (event.key === "Escape") asking ? asking.abort() : $("question").blur();
  else if (event.key === "Enter" && !event.shiftKey) $("form").requestSubmit();
  else if (event.key === "ArrowUp" && !$("question").value && entries.length) $("question").value = entries.at(-1).question;
  else return;
  event.preventDefault();
}

// --- start ---

async function waitForModel() {
  while (!(await api.ready())) {
    $("state").textContent = "The model is being loaded; questions wait for it.";
    await new Promise((done) => setTimeout(done, 1000));
  }
  $("state").textContent = "";
}

async function start() {
  setTheme(localStorage.getItem("pixellm-theme") ?? "auto");
  listen();
  about = await api.about();
  opacity.fill = Math.round(100 * about.opacity);
  setMode("fill");
  $("model").textContent = about.model;
  $("question").maxLength = about.max_question_chars;
  for (const example of about.examples) {
    const button = element("button", { type: "button", parent: element("li", { parent: $("examples") }) });
    element("img", { src: `web/examples/${example.name}.jpg`, alt: "", parent: button });
    element("span", { text: example.caption, parent: button });
    button.addEventListener("click", act(() => takeExample(example)));
  }
  await waitForModel();
}

act(start)();
