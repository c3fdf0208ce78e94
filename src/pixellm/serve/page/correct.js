// Corrections of the selected target. Every step replaces one target of an entry; undo and redo exchange them again.
//
// click, drag, crosshair → mark → POST /v1/refine with all marks of the target → step; words → question → step

import * as api from "./api.js";
import { decode, shapeOf } from "./masks.js";
import { drawMarks } from "./marks.js";

const $ = (id) => document.getElementById(id);
const DRAG = 6; // screen pixels that make a box of a click
const ARROW = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const COARSE = 40; // steps of the crosshair across the image's longer side; with Shift
const FINE = 400;
const NO_MARKS = { points: [], box: null };

// `changed(entry, index)`: a target is another one; `deselect()`; `act`: reports errors; `ask(entry, words, signal)` → target;
// `addTarget(entry, phrase)`: add one with an empty mask and select it.
export function createCorrection({ changed, deselect, act, ask, addTarget }) {
  let available = false;
  let entry = null; // the shown entry
  let index = null; // of its selected target
  let aim = null; // the keyboard's crosshair, in image pixels
  let press = null; // of the pointer
  const queue = []; // marks that wait for the one before: {entry, index, point, box, words}
  let running = null; // AbortController

  const active = () => available && index !== null;
  const target = () => entry.targets[index];
  const scale = () => entry.image.width / $("frame").clientWidth;
  const name = () => target().phrase || `mask ${index + 1}`;
  const say = (text) => ($("said").textContent = text);

  function select(shown, lit) {
    const isNew = shown !== entry || lit !== index;
    if (isNew) aim = press = null;
    [entry, index] = [shown, lit];
    if (isNew && active()) say(`Correcting ${name()}. Arrow keys move a crosshair, Enter adds, Shift and Enter takes away.`);
    draw();
  }

  // --- steps ---

  function add(mark) {
    queue.push({ entry, index, ...mark });
    draw();
    if (!running) act(work)();
  }

  async function work() {
    try {
      while (queue.length) await correct(queue[0]);
    } catch (error) {
      if (error.name !== "AbortError") throw error;
    } finally {
      queue.length = 0;
      running = null;
      draw();
    }
  }

  async function correct({ entry, index, point, box, words }) {
    running = new AbortController();
    draw();
    const before = entry.targets[index];
    const { points, box: earlier } = before.marks ?? NO_MARKS;
    const marks = words ? NO_MARKS : { points: point ? [...points, point] : points, box: box ?? earlier };
    const asked = words ? ask(entry, words, running.signal) : api.refine(entry.image, before, marks, running.signal);
    const { segmentation, area, box: around, score } = await asked;
    const found = { segmentation, area, box: around, score, ...shapeOf({ segmentation, area }), marks, corrected: true };
    entry.steps.push({ index, before, after: { ...before, ...found } });
    entry.undone.length = 0;
    queue.shift();
    put(entry, index, entry.steps.at(-1).after);
  }

  function put(entry, index, state) {
    const { removed } = entry.targets[index]; // which is no step
    entry.targets[index] = { ...state, removed };
    changed(entry, index);
    const { area, share, phrase } = state;
    say(`${phrase || `Mask ${index + 1}`}: ${area ? `${(100 * share).toFixed(1)} % of the image` : "empty"}.`);
  }

  function move(from, to, side) {
    if (running) return cancel();
    const step = entry?.[from].pop();
    if (!step) return;
    entry[to].push(step);
    put(entry, step.index, step[side]);
    draw();
  }

  const undo = () => move("steps", "undone", "before");
  const redo = () => move("undone", "steps", "after");

  function cancel() {
    queue.length = 0;
    running?.abort();
  }

  // --- drawing ---

  function draw() {
    const on = active();
    $("correct").hidden = !available || !entry;
    $("correct-hint").textContent = entry?.targets.length ? "Click a mask or phrase to correct it, or name what has none:" : "Name what has no mask, then mark it:";
    $("masks").classList.toggle("correcting", on);
    $("correct").setAttribute("aria-busy", Boolean(running));
    $("correct").classList.toggle("selected", on);
    $("undo").disabled = !running && !entry?.steps.length;
    $("redo").disabled = Boolean(running) || !entry?.undone.length;
    $("correct-name").textContent = on ? name() : "";
    $("correct-number").textContent = on ? index + 1 : "";
    if (on) {
      $("correct").style.setProperty("--colour", target().colour);
      $("correct").style.setProperty("--ink-on-colour", target().ink);
    }
    if (!entry) return $("marks").replaceChildren();
    const { points, box } = (on && target().marks) || NO_MARKS;
    const waiting = queue.filter((mark) => mark.entry === entry && mark.index === index);
    const boxes = [waiting.findLast((mark) => mark.box)?.box ?? box, press?.box].filter(Boolean);
    const marks = on ? [...points, ...waiting.filter(({ point }) => point).map(({ point }) => [...point, true])] : [];
    const size = [entry.image.width, entry.image.height];
    drawMarks($("marks"), { points: marks, boxes: on ? boxes : [], aim: on && aim, size }, scale());
  }

  // --- pointer ---

  // A point of the screen in image pixels, inside the image.
  function place({ clientX, clientY }) {
    const { left, top, width, height } = $("masks").getBoundingClientRect();
    const inside = (share, size) => Math.round(Math.min(Math.max(share, 0), 1) * size * 10) / 10;
    return [inside((clientX - left) / width, entry.image.width), inside((clientY - top) / height, entry.image.height)];
  }

  const takesAway = ({ button, altKey, ctrlKey }) => button === 2 || altKey || ctrlKey || $("less").ariaPressed === "true";

  function onDown(event) {
    if (!active() || event.button === 1 || !event.isPrimary) return;
    $("masks").setPointerCapture(event.pointerId);
    press = { from: place(event), x: event.clientX, y: event.clientY, less: takesAway(event), box: null };
    aim = null;
  }

  function onMove(event) {
    if (!press || (!press.box && Math.hypot(event.clientX - press.x, event.clientY - press.y) < DRAG)) return;
    const [[x, y], [left, top]] = [place(event), press.from];
    press.box = [Math.min(x, left), Math.min(y, top), Math.abs(x - left), Math.abs(y - top)];
    draw();
  }

  function onUp() {
    if (!press) return;
    const { box, from, less } = press;
    press = null;
    if (!box) add({ point: [...from, less ? 0 : 1] });
    else if (box[2] >= 1 && box[3] >= 1) add({ box });
    else draw();
  }

  function stop() {
    press = null;
    draw();
  }

  // --- keyboard ---

  // Returns whether the key was for a correction.
  function onKey(event) {
    const key = event.key.toLowerCase();
    if (event.target.matches("input, textarea") || !available) return false;
    if (event.ctrlKey || event.metaKey) {
      if (key === "z") event.shiftKey ? redo() : undo();
      else if (key === "y") redo();
      else return false;
      return true;
    }
    if (!active() || !(event.target === document.body || $("frame").contains(event.target))) return false;
    if (ARROW[event.key]) return moveAim(ARROW[event.key], event.shiftKey ? FINE : COARSE);
    if (event.key === "Enter") return aim ? add({ point: [...aim, event.shiftKey || event.altKey ? 0 : 1] }) ?? true : moveAim([0, 0], 1);
    if (event.key !== "Escape" || !(press || running || aim)) return false;
    [press, aim] = [null, null];
    cancel();
    draw();
    return true;
  }

  function moveAim([dx, dy], steps) {
    const { width, height } = entry.image;
    const [x, y, w, h] = target().box ?? [0, 0, width, height];
    const step = Math.max(width, height) / steps;
    const within = (value, size) => Math.round(Math.min(Math.max(value, 0), size) * 10) / 10;
    aim = aim ? [within(aim[0] + dx * step, width), within(aim[1] + dy * step, height)] : [x + w / 2, y + h / 2];
    const { bits } = decode(target().segmentation);
    const on = bits[Math.min(Math.floor(aim[0]), width - 1) * height + Math.min(Math.floor(aim[1]), height - 1)];
    say(`${Math.round((100 * aim[0]) / width)} %, ${Math.round((100 * aim[1]) / height)} %: ${on ? "on" : "off"} the mask`);
    draw();
    return true;
  }

  function listen() {
    const masks = $("masks");
    masks.addEventListener("pointerdown", onDown);
    masks.addEventListener("pointermove", onMove);
    masks.addEventListener("pointerup", onUp);
    masks.addEventListener("pointercancel", stop);
    masks.addEventListener("contextmenu", (event) => active() && event.preventDefault());
    masks.addEventListener("click", (event) => active() && event.stopImmediatePropagation(), true);
    $("undo").addEventListener("click", undo);
    $("redo").addEventListener("click", redo);
    $("done").addEventListener("click", deselect);
    $("less").addEventListener("click", () => ($("less").ariaPressed = String($("less").ariaPressed !== "true")));
    $("add-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const phrase = $("add").value.trim();
      $("add").value = "";
      if (phrase) addTarget(entry, phrase);
    });
    $("say-form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (active() && $("say").value.trim()) add({ words: $("say").value });
      $("say").value = "";
    });
    new ResizeObserver(draw).observe($("frame"));
  }

  listen();
  return { select, onKey, active, enable: (on) => ((available = on), draw()) };
}
