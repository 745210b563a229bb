// The editor of a workflow: form and JSON show the same definition, whichever is typed in; the server checks it as it is
// typed and draws its graph.

import { read, lineOf } from "./json-places.js";
import { NodeForm } from "./node-form.js";

const PAUSE_MS = 350;

const editor = document.getElementById("editor");
const publisher = document.getElementById("publisher");
const checker = document.getElementById("checker");
const code = document.getElementById("dsl");
const problem = document.getElementById("json-problem");
const name = document.getElementById("field-name");
const unsaved = document.getElementById("unsaved");
const about = JSON.parse(editor.dataset.form);
const form = new NodeForm(document.getElementById("node-form"), about, formChanged);
let places = new Map();
let saved = { name: name.value, code: code.value };
let leaving = false;
let checking = null;
let reading = null;

function isDirty() {
  return name.value !== saved.name || code.value !== saved.code;
}

function showDirty() {
  unsaved.textContent = isDirty() ? unsaved.dataset.unsaved : "";
}

// The form was changed: write the JSON anew.
function formChanged() {
  code.value = JSON.stringify(form.definition, null, 2);
  places = read(code.value).places;
  tell("");
  check();
}

// The JSON was changed: build the form anew, where it can be read.
function codeChanged() {
  let found;
  try {
    found = read(code.value);
    if (found.value === null || typeof found.value !== "object" || Array.isArray(found.value)) throw { at: 0 };
  } catch (wrong) {
    const { line, column } = lineOf(code.value, wrong.at ?? 0);
    tell(about.words.json_wrong.replace("{line}", line).replace("{column}", column));
    return;
  }
  places = found.places;
  tell("");
  form.show(found.value);
  check();
}

function tell(text) {
  problem.textContent = text;
  code.setAttribute("aria-invalid", String(text !== ""));
  form.root.inert = text !== "";
  form.root.classList.toggle("stale", text !== "");
}

function check() {
  showDirty();
  clearTimeout(checking);
  checking = setTimeout(() => window.htmx.trigger(checker, "check"), PAUSE_MS);
}

checker.addEventListener("htmx:configRequest", (event) => {
  event.detail.parameters.dsl = code.value;
});
// What is published is what is written here.
publisher.addEventListener("htmx:configRequest", (event) => {
  event.detail.parameters.version = document.getElementById("draft-version").value;
  event.detail.parameters.name = name.value;
  event.detail.parameters.dsl = code.value;
});
publisher.addEventListener("htmx:beforeOnLoad", (event) => {
  leaving = event.detail.xhr.status === 200;
});

code.addEventListener("input", () => {
  showDirty();
  clearTimeout(reading);
  reading = setTimeout(codeChanged, 200);
});
name.addEventListener("input", showDirty);

document.addEventListener("htmx:afterSettle", () => {
  const answered = document.getElementById("check");
  if (!answered) return;
  const errors = JSON.parse(answered.dataset.errors);
  if (problem.textContent === "") form.mark(errors);
  document.getElementById("graph").classList.toggle("stale", Object.keys(errors).length > 0);
});

editor.addEventListener("htmx:afterRequest", (event) => {
  if (event.target !== editor || !event.detail.successful) return;
  saved = event.detail.requestConfig.sent ?? saved;
  document.getElementById("workflow-name").textContent = saved.name;
  showDirty();
});
editor.addEventListener("htmx:configRequest", (event) => {
  if (event.target === editor) event.detail.sent = { name: name.value, code: code.value };
});

// Where something is wrong: the field where there is one, and the place in the JSON.
document.addEventListener("click", (event) => {
  const path = event.target.closest("#check [data-path]")?.dataset.path.replace(/^dsl\./, "");
  if (path === undefined) return;
  let part = path;
  while (part && !places.has(part)) part = part.slice(0, Math.max(part.lastIndexOf("."), 0));
  const [from, to] = places.get(part) ?? [0, 0];
  code.setSelectionRange(from, to);
  code.scrollTop = (lineOf(code.value, from).line - 3) * parseFloat(getComputedStyle(code).lineHeight);
  const control = form.find(path);
  for (let card = control?.closest("details"); card; card = card.parentElement.closest("details")) card.open = true;
  (control ?? code).focus();
});

document.getElementById("graph").addEventListener("click", (event) => {
  const id = event.target.closest("[data-graph-node]")?.dataset.graphNode;
  const card = id && form.root.querySelector(`[data-node="${CSS.escape(id)}"]`);
  if (!card) return;
  card.open = true;
  card.querySelector("input, select, textarea").focus();
});

addEventListener("beforeunload", (event) => {
  if (isDirty() && !leaving) event.preventDefault();
});

codeChanged();
