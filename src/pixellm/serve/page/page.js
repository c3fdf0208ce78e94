// The page of `pixellm web`: an image, questions about it, the answers' masks, and their corrections.

import * as api from "./api.js";
import * as files from "./files.js";
import { createCorrection } from "./correct.js";
import { encode, shapeOf } from "./masks.js";
import { element, mark } from "./shared/targets.js";
import { drawEntry, drawMasks, drawImage, frameOf, isShown, light } from "./view.js";

const $ = (id) => document.getElementById(id);
const THEMES = ["auto", "light", "dark"];
const LOADING_EVERY = 500; // milliseconds
const MODES = ["fill", "contour", "cutout"];

let about; // the server's configuration
let current = null; // the image that questions are about
const entries = []; // all questions, oldest first
let shown = null; // the entry whose masks are shown
let lit = null; // index of its highlighted target
let asking = null; // AbortController of the running request
let correction; // of the highlighted target
const opacity = { fill: 45, contour: 100, cutout: 85 };
let least = 0; // masks with a lower score, in percent, are hidden

function notice(text = "") {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

const act = (step) => async (...values) => {
  notice();
  try {
    await step(...values);
  } catch (error) {
    notice(error.message);
  }
};

// --- image ---

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
  current = { blob, url, name, suggestion, width: image.naturalWidth, height: image.naturalHeight };
  $("welcome").hidden = true;
  $("work").hidden = $("open").hidden = false;
  show(null);
  drawImage(current);
  suggest();
  if (matchMedia("(pointer: fine)").matches) $("question").focus(); // on touch screens a keyboard would cover the image
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
  const asked = entries.some((entry) => entry.image === current);
  const fresh = current.suggestion && !asked;
  $("follow-label").hidden = !asked;
  $("suggestions").replaceChildren();
  if (!fresh) return;
  const chip = element("button", { type: "button", text: current.suggestion, parent: $("suggestions") });
  chip.addEventListener("click", act(() => ask(current.suggestion)));
}

// --- questions ---

// Earlier turns on the same image, without removed and hidden masks.
function history() {
  if (!$("follow").checked) return [];
  const earlier = entries.filter((entry) => entry.image === current && entry.state === "done" && entry.text);
  return earlier.slice(1 - about.max_turns || earlier.length).flatMap(turn);
}

const turn = ({ question, text, targets }) => [
  { role: "user", content: question },
  { role: "assistant", content: text, targets: targets.filter((target) => isShown(target) && target.span).map(({ span }) => ({ span })) },
];

// Ask a follow-up to an answer; returns the first target of the new answer.
async function askAgain(entry, words, signal) {
  const found = [];
  const messages = [...turn(entry), { role: "user", content: words }];
  await api.ask(about.model, entry.image, messages, signal, ({ targets = [] }) => found.push(...targets));
  if (!found.length) throw new Error("The answer to that has no mask. Say it in other words, or click.");
  return found[0];
}

async function ask(question) {
  if (asking || !current || !question.trim()) return;
  const messages = [...history(), { role: "user", content: question }];
  const entry = { image: current, question, text: "", targets: [], steps: [], undone: [], state: "writing" };
  entry.article = frameOf(entry, entries.at(-1), () => show(entry));
  entries.push(entry);
  $("question").value = "";
  suggest();
  show(entry);
  asking = new AbortController();
  busy(true);
  try {
    await api.ask(about.model, current, messages, asking.signal, (delta) => append(entry, delta));
    entry.state = "done";
  } catch (error) {
    entry.state = error.name === "AbortError" ? "stopped" : "failed";
    entry.error = error.message;
    if (entry.state === "failed") $("question").value ||= question;
    if (error instanceof api.KeyRequired) $("key-dialog").showModal();
  } finally {
    asking = null;
    busy(false);
    redraw(entry);
  }
}

function append(entry, { content = "", targets = [], finish_reason: reason }) {
  entry.text += content;
  entry.reason = reason;
  for (const target of targets) {
    const confidence = target.presence ?? target.score;
    put(entry, { ...target, confidence, weak: isWeak({ confidence }) });
  }
  redraw(entry, targets.length > 0);
}

function put(entry, target) {
  const colours = about.colours[entry.targets.length % about.colours.length];
  entry.targets.push({ ...target, ...colours, ...shapeOf(target), removed: false });
}

// Add a target that the answer lacks, with an empty mask to be corrected; the text has no span for it.
function addTarget(entry, phrase) {
  const { width, height } = entry.image;
  const segmentation = { size: [height, width], counts: encode([width * height]) };
  put(entry, { phrase, span: null, segmentation, area: 0, box: null, confidence: 1, weak: false, corrected: true, added: true });
  redraw(entry);
  choose(entry, entry.targets.length - 1);
}

function busy(on) {
  $("ask").hidden = on;
  $("stop").hidden = !on;
}

// --- masks ---

function redraw(entry, masksToo = true) {
  drawEntry(entry, handlersOf(entry));
  if (entry === shown) {
    if (masksToo) drawMasks(entry.targets, handlersOf(entry));
    highlight(entry, lit);
    $("tools").hidden = !entry.targets.length;
  }
  if (entry === entries.at(-1) && !correction.active()) entry.article.scrollIntoView({ block: "nearest" });
}

function handlersOf(entry) {
  const within = () => [entry.article, ...(entry === shown ? [$("shapes")] : [])];
  return {
    targets: entry.targets,
    choose: (target) => choose(entry, target),
    point: (target) => within().forEach((part) => mark("pointed", target, part)),
    remove: (target) => remove(entry, target),
  };
}

function show(entry) {
  if (shown) highlight(shown, null);
  shown?.article.classList.remove("shown");
  [shown, lit] = [entry, null];
  highlight(null, null);
  $("shapes").replaceChildren();
  $("tools").hidden = true;
  if (!entry) return;
  entry.article.classList.add("shown");
  if (entry.image !== current) {
    current = entry.image;
    suggest();
  }
  drawImage(current);
  redraw(entry);
}

function choose(entry, target) {
  const again = entry === shown && lit === target;
  if (entry !== shown) show(entry);
  const left = lit;
  lit = again || (entry.targets[target] && !isShown(entry.targets[target])) ? null : target;
  highlight(entry, lit);
  if (correction.active()) $("masks").focus({ preventScroll: true });
  else if (document.activeElement === $("masks")) entry.article.querySelector(`.phrase[data-target="${left}"]`)?.focus();
}

// Highlight one target of an entry, which may then be corrected.
function highlight(entry, target) {
  light(entry, target);
  correction.select(entry, target);
}

function remove(entry, target) {
  const { removed } = entry.targets[target];
  entry.targets[target].removed = !removed;
  if (entry === shown && lit === target) lit = null;
  redraw(entry);
}

function setMode(mode) {
  document.querySelector(`[name="mode"][value="${mode}"]`).checked = true;
  for (const name of MODES) $("masks").classList.toggle(name, name === mode);
  $("opacity").disabled = mode === "contour";
  $("opacity").value = opacity[mode];
  setOpacity();
}

const mode = () => document.querySelector('[name="mode"]:checked').value;

function setOpacity() {
  opacity[mode()] = Number($("opacity").value);
  $("masks").style.setProperty("--opacity", opacity[mode()] / 100);
}

// What a user has corrected is not hidden by its score.
const isWeak = ({ confidence, corrected }) => !corrected && 100 * confidence < least;

function setLeast(percent) {
  least = percent;
  $("least-shown").textContent = `${least} %`;
  for (const entry of entries) {
    for (const target of entry.targets) target.weak = isWeak(target);
    if (entry === shown && entry.targets[lit]?.weak) lit = null;
    drawEntry(entry, handlersOf(entry));
  }
  if (shown) redraw(shown);
}

function setTheme(theme) {
  localStorage.setItem("pixellm-theme", theme);
  document.documentElement.dataset.theme = theme;
  $("theme").textContent = `Theme: ${theme}`;
}

// --- input ---

const save = (write) => act(() => write(shown, lit));
const view = () => ({
  mode: mode(),
  opacity: opacity[mode()] / 100,
  scale: current.width / $("frame").clientWidth,
  background: getComputedStyle($("cover")).fill,
});

function listen() {
  for (const id of ["drop", "open"]) $(id).addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", act(async () => {
    await takeFile($("file").files).finally(() => ($("file").value = "")); // lets the same file be chosen again
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
  $("least").addEventListener("input", () => setLeast(Number($("least").value)));
  $("masks").addEventListener("click", (event) => event.target === $("masks") && shown && choose(shown, lit));
  $("save-image").addEventListener("click", save((entry, target) => files.overlay(entry, target, view())));
  $("save-cutouts").addEventListener("click", save(files.cutouts));
  $("save-coco").addEventListener("click", save(files.coco));
  $("theme").addEventListener("click", () => {
    setTheme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length]);
  });
  document.addEventListener("keydown", onKey);
}

function onKey(event) {
  if (event.defaultPrevented) return; // a mask or phrase has handled it
  if (!event.isComposing && !$("key-dialog").open && correction.onKey(event)) return event.preventDefault();
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || $("key-dialog").open) return;
  if (event.target === $("question")) return onKeyInQuestion(event);
  if (event.key === "Escape" && asking) return asking.abort();
  if (event.target.matches("input") || $("work").hidden) return;
  const key = event.key.toLowerCase();
  const step = { arrowup: -1, arrowdown: 1 }[key];
  if (key === "/") $("question").focus();
  else if (key === "m") setMode(MODES[(MODES.indexOf(mode()) + 1) % MODES.length]);
  else if (!shown) return;
  else if (key === "arrowleft" || key === "arrowright") focusMask(key === "arrowleft" ? -1 : 1);
  else if (step) show(entries[entries.indexOf(shown) + step] ?? shown);
  else if (key === "escape" && lit !== null) choose(shown, lit);
  else if (/^[1-9]$/.test(key) && shown.targets[key - 1]) choose(shown, key - 1);
  else if ((key === "delete" || key === "backspace") && lit !== null) remove(shown, lit);
  else return;
  event.preventDefault();
}

// Move the focus from mask to mask, in the order of the answer.
function focusMask(step) {
  const order = [...$("shapes").children].sort((a, b) => a.dataset.target - b.dataset.target);
  const at = order.indexOf(document.activeElement);
  order.at(at < 0 ? Math.min(step, 0) : (at + step) % order.length)?.focus();
}

// Enter asks; ↑ in an empty field recalls the last question.
function onKeyInQuestion(event) {
  if (event.key === "Escape") asking ? asking.abort() : $("question").blur();
  else if (event.key === "Enter" && !event.shiftKey) $("form").requestSubmit();
  else if (event.key === "ArrowUp" && !$("question").value && entries.length) $("question").value = entries.at(-1).question;
  else return;
  event.preventDefault();
}

// --- start ---

async function waitForModel() {
  while (($("state").textContent = await api.loading())) await new Promise((done) => setTimeout(done, LOADING_EVERY));
}

// Each state of a correction takes the place of the one before.
async function keep({ image, steps, targets, text }, index) {
  const first = steps.find((step) => step.index === index)?.before ?? targets[index];
  const before = first.added ? null : first.segmentation; // the model gave none
  if (about.corrections && targets[index].phrase) await api.keep(image, targets[index], before, text);
}

async function start() {
  setTheme(localStorage.getItem("pixellm-theme") ?? "auto");
  correction = createCorrection({
    act,
    ask: askAgain,
    addTarget,
    changed(entry, index) {
      for (const target of entry.targets) target.weak = isWeak(target);
      redraw(entry);
      act(keep)(entry, index);
    },
    deselect: () => shown && lit !== null && choose(shown, lit),
  });
  listen();
  about = await api.about();
  opacity.fill = Math.round(100 * about.opacity);
  $("least").value = Math.round(100 * about.min_score);
  setLeast(Number($("least").value));
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
  correction.enable(await api.takesPrompts());
}

act(start)();
