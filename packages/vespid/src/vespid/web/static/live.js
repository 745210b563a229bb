// Server-sent events over fetch, so that headers can be sent along; one place for all that lives on a page.
// A lost connection is made again, behind the last event that was heard; the page says so meanwhile.

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 15000;
// The server says something every 15 s.
const SILENCE_MS = 40000;

const lost = new Set();

function show() {
  const state = document.querySelector("[data-live-state]");
  if (!state) return;
  state.hidden = lost.size === 0;
  state.textContent = lost.size === 0 ? "" : state.dataset.lost;
}

// `follow(path, hear)`: calls hear({id, event, data}) for each event until the answer is 204, `hear` answers false, or
// the returned function is called. `after` is the id behind which it begins.
export function follow(path, hear, { after = "" } = {}) {
  const me = { lastId: String(after), aborter: null, over: false, wait: FIRST_WAIT_MS };
  const end = () => {
    me.over = true;
    me.aborter?.abort();
    lost.delete(me);
    show();
  };
  run(me, path, hear).finally(end);
  return end;
}

async function run(me, path, hear) {
  while (!me.over) {
    try {
      if ((await connect(me, path, hear)) === "over") return;
    } catch (error) {
      if (error.refused) throw error;
    }
    if (me.over) return;
    lost.add(me);
    show();
    // Spread, so that a restarted server is not met by everybody at once.
    await new Promise((done) => setTimeout(done, me.wait * (0.5 + Math.random())));
    me.wait = Math.min(me.wait * 2, LONGEST_WAIT_MS);
  }
}

async function connect(me, path, hear) {
  me.aborter = new AbortController();
  const headers = { "X-Org-Id": document.body.dataset.org, Accept: "text/event-stream" };
  if (me.lastId) headers["Last-Event-ID"] = me.lastId;
  const answer = await fetch(path, { headers, signal: me.aborter.signal, cache: "no-store" });
  if (answer.status === 204) return "over";
  if (answer.status === 401) location.reload();
  if (answer.status >= 400 && answer.status < 500) throw Object.assign(new Error(`${path}: ${answer.status}`), { refused: true });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  lost.delete(me);
  show();
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  let silence = null;
  try {
    for (;;) {
      clearTimeout(silence);
      silence = setTimeout(() => me.aborter.abort(), SILENCE_MS);
      const { value, done } = await reader.read();
      if (done) return "lost";
      me.wait = FIRST_WAIT_MS;
      text += value;
      let end;
      while ((end = text.indexOf("\n\n")) >= 0) {
        const event = parse(text.slice(0, end));
        text = text.slice(end + 2);
        if (event.id) me.lastId = event.id;
        if (event.data && hear(event) === false) return "over";
      }
    }
  } finally {
    clearTimeout(silence);
  }
}

function parse(block) {
  const event = { id: "", event: "message", data: "" };
  for (const line of block.split("\n")) {
    if (line.startsWith("id: ")) event.id = line.slice(4);
    else if (line.startsWith("event: ")) event.event = line.slice(7);
    else if (line.startsWith("data: ")) event.data += (event.data && "\n") + line.slice(6);
  }
  return event;
}

// Elements with data-live="agents runs …" are told to refresh (an HTMX trigger) when one of these has changed. They wait
// while somebody types in them.
const dirty = new Set();

function refresh(element) {
  if (element.contains(document.activeElement) && document.activeElement.matches("input, textarea, select")) {
    dirty.add(element);
    return;
  }
  dirty.delete(element);
  window.htmx.trigger(element, "refresh");
}

function hint({ event }) {
  for (const element of document.querySelectorAll("[data-live]")) {
    // After a time without connection anything may have changed.
    if (event === "hello" ? hint.connected : element.dataset.live.split(" ").includes(event)) soon(element);
  }
  hint.connected = true;
}

// Many hints in a row are one refresh.
const waiting = new Map();
function soon(element) {
  if (waiting.has(element)) return;
  waiting.set(element, setTimeout(() => {
    waiting.delete(element);
    if (element.isConnected) refresh(element);
  }, 250));
}

document.addEventListener("focusout", () => setTimeout(() => {
  for (const element of dirty) if (element.isConnected) refresh(element);
}));

addEventListener("DOMContentLoaded", () => {
  const org = document.body.dataset.org;
  if (org && document.querySelector("[data-live]")) follow(`/v1/orgs/${org}/stream`, hint);
});
