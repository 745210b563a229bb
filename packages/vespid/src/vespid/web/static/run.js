// A run's page: follows the run's stream and shows it as a timeline, as output of its nodes, and as events. What the
// stream does not tell (where nodes are, until when they wait) is asked of the page again when something decisive happened.

import { follow } from "./live.js";
import { Terminal } from "./ansi.js";
import { RUN_ENDS, Timeline, duration } from "./timeline.js";

const EVENTS_MAX = 2000;
const OUTPUT = new Set(["stdout", "stderr", "text_delta"]);
const clock = new Intl.DateTimeFormat(document.documentElement.lang, { timeStyle: "medium" });

const section = document.getElementById("timeline");
const state = document.getElementById("run-state");
const words = JSON.parse(section.dataset.words);
const timeline = new Timeline(Date.parse(section.dataset.created));
// The server's clock and this one need not agree.
const ahead = Date.parse(section.dataset.now) - Date.now();
const rows = new Map([...section.querySelectorAll("[data-node]")].map((row) => [row.dataset.node, { row, terminal: null, expected: {} }]));

function now() {
  return timeline.ended ?? Date.now() + ahead;
}

function say(key, values = {}) {
  return Object.entries(values).reduce((text, [name, value]) => text.replace(`{${name}}`, value), words[key] ?? key);
}

function make(tag, className, text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

// --- nodes

function showNode(id) {
  const held = rows.get(id);
  const node = timeline.nodes.get(id);
  if (!held || !node) return;
  const { row } = held;
  row.dataset.status = node.status;
  const shown = [make("span", `badge badge-${node.status}`, say(`node_status.${node.status}`))];
  if (node.reason) shown.push(make("small", "tl-reason", ` ${say(`timeline.reason_${node.reason}`)}`));
  if (node.error) shown.push(make("code", "tl-error", node.error));
  if (node.tries > 1) shown.push(make("small", "", say("timeline.tries", { n: node.tries })));
  row.querySelector(".tl-state").replaceChildren(...shown.flatMap((part, at) => (at ? [" ", part] : [part])));
  showTime(id);
}

function showTime(id) {
  const { row } = rows.get(id) ?? {};
  const node = timeline.nodes.get(id);
  if (!row || !node) return;
  row.querySelector(".tl-took").textContent = duration(timeline.took(node, now()));
  timeline.draw(row.querySelector(".tl-bar"), node, now());
}

function showPlaces() {
  const facts = document.getElementById("run-facts");
  const places = JSON.parse(facts.dataset.places);
  for (const [id, { row }] of rows) row.querySelector(".tl-where").textContent = places[id] ?? "";
  const isOver = Object.values(RUN_ENDS).includes(facts.dataset.status);
  for (const retry of section.querySelectorAll(".tl-retry")) retry.hidden = !isOver;
}

// --- output

function terminalOf(id) {
  const held = rows.get(id);
  if (!held || held.terminal) return held?.terminal;
  const place = held.row.querySelector(".tl-terminal");
  const cut = make("p", "about");
  cut.hidden = true;
  const screen = make("div", "terminal");
  screen.tabIndex = 0;
  screen.setAttribute("role", "log");
  screen.setAttribute("aria-live", "off");
  screen.setAttribute("aria-label", say("timeline.output_of", { node: id }));
  const label = make("label", "tl-follow");
  const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: true });
  label.append(box, ` ${say("timeline.follow")}`);
  // Who scrolls up wants to read; who scrolls to the end wants to follow.
  screen.addEventListener("scroll", () => {
    const atEnd = screen.scrollHeight - screen.scrollTop - screen.clientHeight < 24;
    if (!held.scrolling) box.checked = atEnd;
    held.scrolling = false;
  });
  box.addEventListener("change", () => toEnd(held));
  place.replaceChildren(label, cut, screen);
  held.screen = screen;
  held.box = box;
  held.terminal = new Terminal(screen, (characters) => {
    cut.hidden = false;
    cut.textContent = say("timeline.cut", { n: characters });
  });
  // The first output opens its node, unless somebody reads another one.
  if (!section.querySelector("details[open]")) held.row.querySelector("details").open = true;
  return held.terminal;
}

function toEnd(held) {
  if (!held.box.checked || held.screen.scrollHeight <= held.screen.clientHeight) return;
  held.scrolling = held.screen.scrollTop + held.screen.clientHeight < held.screen.scrollHeight - 1;
  held.screen.scrollTop = held.screen.scrollHeight;
}

const toFollow = new Set();

function output(event) {
  const terminal = terminalOf(event.nodeId);
  if (!terminal) return;
  const held = rows.get(event.nodeId);
  const kind = event.message;
  const piece = event.payload?.payload;
  if (event.payload?.truncated || typeof piece?.text !== "string") {
    terminal.note(say("timeline.piece_cut", { n: event.payload?.originalLength ?? "?" }));
    return;
  }
  if (typeof piece.offset === "number") {
    const expected = held.expected[kind] ?? 0;
    if (piece.offset > expected) terminal.note(say("timeline.gap", { n: piece.offset - expected }));
    held.expected[kind] = piece.offset + [...piece.text].length;
  }
  terminal.write(piece.text, kind === "stderr" ? "stderr" : "stdout");
  if (toFollow.size === 0) requestAnimationFrame(() => {
    for (const each of toFollow) toEnd(each);
    toFollow.clear();
  });
  toFollow.add(held);
}

function again(id) {
  const held = rows.get(id);
  if (!held) return;
  held.expected = {};
  held.terminal?.note(say("timeline.next_try"));
}

// --- events

const list = document.getElementById("events");
const cutNote = document.getElementById("events-cut");
const filters = { node: document.getElementById("events-node"), level: document.getElementById("events-level"), kind: document.getElementById("events-kind") };
const events = [];
let eventsCut = 0;

function kindOf(event) {
  return event.eventType === "remote_event" ? (event.message ?? "remote_event") : event.eventType;
}

function isShown(event) {
  const kind = kindOf(event);
  if (filters.node.value && filters.node.value !== event.nodeId) return false;
  if (filters.level.value && filters.level.value !== event.level) return false;
  if (filters.kind.value === "-output") return !OUTPUT.has(kind);
  return !filters.kind.value || filters.kind.value === kind;
}

function eventItem(event) {
  const item = make("li", `event event-${event.level}`);
  const at = new Date(event.createdAt);
  const time = make("time", "event-time", clock.format(at));
  time.dateTime = event.createdAt;
  const kind = kindOf(event);
  item.append(time, make("code", "event-node", event.nodeId ?? ""), make("span", "event-kind", words[`event_kinds.${kind}`] ?? kind));
  if (event.message && event.message !== kind) item.append(make("span", "event-message", event.message));
  if (event.payload !== null) {
    const details = document.createElement("details");
    details.append(make("summary", "", say("timeline.details")));
    details.addEventListener("toggle", () => {
      if (details.open && details.children.length === 1) details.append(make("pre", "", JSON.stringify(event.payload, null, 2)));
    });
    item.append(details);
  }
  return item;
}

function addEvent(event) {
  events.push(event);
  if (events.length > EVENTS_MAX) {
    const gone = events.shift();
    eventsCut += 1;
    if (isShown(gone)) list.firstChild?.remove();
    cutNote.hidden = false;
    cutNote.textContent = say("timeline.events_cut", { n: eventsCut });
  }
  const kind = kindOf(event);
  if (![...filters.kind.options].some((option) => option.value === kind)) {
    filters.kind.append(new Option(words[`event_kinds.${kind}`] ?? kind, kind));
  }
  if (!isShown(event)) return;
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  list.append(eventItem(event));
  if (atEnd) list.scrollTop = list.scrollHeight;
}

for (const filter of Object.values(filters)) {
  filter.addEventListener("change", () => {
    list.replaceChildren(...events.filter(isShown).map(eventItem));
    list.scrollTop = list.scrollHeight;
  });
}

// --- the stream

let asked = null;

function askState(wait = 250) {
  if (asked !== null) return;
  asked = setTimeout(() => {
    asked = null;
    window.htmx.trigger(state, "refresh");
  }, wait);
}

document.addEventListener("htmx:afterSettle", (event) => {
  if (event.target === state || state.contains(event.target)) showPlaces();
});

follow(section.dataset.stream, ({ data }) => {
  const event = JSON.parse(data);
  const at = Date.parse(event.createdAt);
  addEvent(event);
  if (event.eventType === "remote_event") {
    if (OUTPUT.has(event.message) || event.payload?.truncated) output(event);
    // It works, so it is somewhere.
    if (!rows.get(event.nodeId)?.row.querySelector(".tl-where").textContent) askState(1000);
    return true;
  }
  if (event.eventType === "node_retried") again(event.nodeId);
  if (timeline.hear(event, at)) showNode(event.nodeId);
  askState();
  if (event.eventType in RUN_ENDS) {
    for (const id of timeline.nodes.keys()) showNode(id);
    return false;
  }
  return true;
});

setInterval(() => {
  if (timeline.ended !== null) return;
  for (const id of timeline.nodes.keys()) showTime(id);
}, 500);
