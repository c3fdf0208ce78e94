// Page of `pixellm muse review`. Texts of a record are only ever set as text, never as HTML.

import { api } from "./api.js";
import { draw, light, point, showImage } from "./drawing.js";
import { closeForm, editing, openForm, readForm, showFormError } from "./form.js";

const $ = (id) => document.getElementById(id);
const VERDICTS = { keep: "kept", reject: "rejected" };

let record = null; // on display
let lit = null; // number of the highlighted target
const decided = []; // verdicts of this session, to be undone: {id, before}

// Steps run one after another, whatever the speed of keys: each sees what the one before has changed.
let queue = Promise.resolve();
const act = (step) => (queue = queue.then(step).catch((error) => notice(error.message, true)));

function notice(text, wrong = false) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
  $("notice").classList.toggle("error", wrong);
}

function choose(target) {
  lit = lit === target ? null : target;
  light(lit);
}

function show(next) {
  const other = record?.record_id !== next.record_id;
  record = next;
  if (other) lit = null;
  closeForm();
  $("record").hidden = $("actions").hidden = false;
  $("number").textContent = `${record.number.toLocaleString()} of ${record.counts.all.toLocaleString()} · ${record.record_id}`;
  $("verdict").textContent = VERDICTS[record.verdict] ?? "undecided";
  $("verdict").className = `badge ${record.verdict ?? ""}`;
  $("edited").hidden = !record.edited;
  $("synthetic").hidden = !record.provenance.synthetic;
  $("question").textContent = record.question;
  $("file").textContent = record.image.file_name;
  $("provenance").textContent = ["engine", "model", "prompt"].map((key) => record.provenance[key]).join(" · ");
  draw(record, { choose, point });
  light(lit);
  if (other) {
    showImage(record);
    window.scrollTo(0, 0);
  }
  showCounts(record.counts);
  remember();
}

function showCounts({ all, undecided, keep, reject }) {
  $("progress").max = all;
  $("progress").value = all - undecided;
  const share = `${(all - undecided).toLocaleString()} of ${all.toLocaleString()} decided`;
  $("counts").textContent = `${share} · ${keep.toLocaleString()} kept · ${reject.toLocaleString()} rejected`;
}

// The address names the record and the filter, so that a reload comes back to both.
function remember() {
  history.replaceState(null, "", `?show=${$("show").value}#${path(record.record_id)}`);
}

async function go(step, quiet = false) {
  const next = await find($("show").value, record?.record_id, step);
  if (next) show(next);
  else if (!quiet) notice(step > 0 ? "That was the last one." : "That was the first one.");
  return next;
}

async function find(kind, beside, step) {
  const query = new URLSearchParams({ show: kind, step });
  if (beside) query.set("beside", beside);
  return api("GET", `find?${query}`, { missing: null });
}

async function decide(verdict) {
  const { record_id: id, verdict: before } = record;
  const now = await api("PUT", `verdicts/${path(id)}`, { body: { verdict } });
  decided.push({ id, before });
  $("undo").disabled = false;
  show(now);
  const more = await go(1, true);
  notice(`${id} ${VERDICTS[verdict]}.${more ? "" : " That was the last one."}`);
}

async function undo() {
  const last = decided.pop();
  $("undo").disabled = !decided.length;
  if (!last) return;
  show(await api("PUT", `verdicts/${path(last.id)}`, { body: { verdict: last.before } }));
  notice(`${last.id} is ${VERDICTS[last.before] ?? "undecided"} again.`);
}

// Decisions before an edit can't be undone past it: that would throw the edit away.
function forget(id) {
  for (let i = decided.length - 1; i >= 0; i--) if (decided[i].id === id) decided.splice(i, 1);
  $("undo").disabled = !decided.length;
}

async function save() {
  try {
    const now = await api("PUT", `records/${path(record.record_id)}`, { body: readForm() });
    forget(now.record_id);
    show(now);
    notice(`${now.record_id} saved and kept.`);
  } catch (error) {
    showFormError(error.message);
  }
}

async function restore() {
  const now = await api("PUT", `verdicts/${path(record.record_id)}`, { body: { verdict: null } });
  forget(now.record_id);
  show(now);
  notice(`${now.record_id} is as it was generated, and undecided.`);
}

async function filter() {
  const kind = $("show").value;
  if (kind === "all" || (record.verdict ?? "undecided") === kind) return remember();
  const next = (await find(kind, record.record_id, 1)) ?? (await find(kind, null, 1));
  if (!next) return notice(`There are no ${$("show").selectedOptions[0].text} records.`);
  show(next);
}

async function start() {
  const filter = new URLSearchParams(location.search).get("show");
  if ([...$("show").options].some((option) => option.value === filter)) $("show").value = filter;
  const named = location.hash ? await api("GET", `records/${location.hash.slice(1)}`, { missing: null }) : null;
  const kind = $("show").value === "all" ? "undecided" : $("show").value;
  show(named ?? (await find(kind, null, 1)) ?? (await find("all", null, 1)));
}

const path = (id) => id.split("/").map(encodeURIComponent).join("/");
const quietly = (step) => () => act(() => (notice(""), step()));
const ACTIONS = {
  previous: quietly(() => go(-1)),
  next: quietly(() => go(1)),
  keep: quietly(() => decide("keep")),
  reject: quietly(() => decide("reject")),
  edit: quietly(() => openForm(record)),
  undo: quietly(undo),
  cancel: quietly(closeForm),
  restore: quietly(restore),
  toggle: () => $("toggle").setAttribute("aria-pressed", !$("masks").classList.toggle("off")),
};
const KEYS = { ArrowLeft: "previous", p: "previous", ArrowRight: "next", n: "next", k: "keep", r: "reject", e: "edit", u: "undo", m: "toggle" };

for (const [id, action] of Object.entries(ACTIONS)) $(id).addEventListener("click", action);
$("show").addEventListener("change", quietly(filter));
$("form").addEventListener("submit", (event) => (event.preventDefault(), act(save)));
$("masks").addEventListener("click", (event) => event.target === $("masks") && choose(null));

document.addEventListener("keydown", (event) => {
  if (editing()) {
    if (event.key === "Escape") ACTIONS.cancel();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) act(save);
    return;
  }
  if (!record || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select")) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (key === "Escape") choose(null);
  if (/^[1-9]$/.test(key) && record.targets[key - 1]) choose(key - 1);
  const name = KEYS[key];
  if (!name || (event.repeat && ["keep", "reject", "undo"].includes(name))) return; // a resting finger decides nothing
  event.preventDefault();
  $(name).click();
});

window.addEventListener("beforeunload", (event) => editing() && event.preventDefault());
act(start);
