// A conversation over the gateway's client socket. Events come in the order of their seq, each once; after a lost
// connection the session is joined again behind the last one. What was typed meanwhile is sent then, under its own key,
// so that it is said once however often it is sent.

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 15000;
const EARLIER = 200;
const ATTACHMENT_MAX_CHARS = 100000;

const root = document.querySelector("[data-chat]");
const texts = JSON.parse(root.dataset.texts);
// Names of machines by id, where the visitor may know them.
const hosts = JSON.parse(root.dataset.hosts);
const log = root.querySelector("[data-chat-log]");
const form = root.querySelector("[data-chat-form]");
const input = form.querySelector("textarea");
const files = root.querySelector("[data-chat-files]");
const cancel = root.querySelector("[data-chat-cancel]");
const earlier = root.querySelector("[data-chat-earlier]");
const lostNotice = root.querySelector("[data-chat-lost]");
const host = document.querySelector("[data-host]");
const sessionId = root.dataset.session;
const org = document.body.dataset.org;

const chat = {
  socket: null,
  wait: FIRST_WAIT_MS,
  // Of what is shown: the first and the last event's seq.
  firstSeq: 0,
  lastSeq: 0,
  joined: false,
  // Messages that are not known to be committed: key → {message, attachments, element}.
  unsent: new Map(),
  // Messages that have no answer yet, by their seq.
  open: new Set(),
  // The answer that is being told: {element, text}.
  draft: null,
  attachments: [],
};

// ---------------------------------------------------------------- the socket

function connect() {
  const url = new URL(root.dataset.socket);
  url.searchParams.set("orgId", org);
  const socket = new WebSocket(url);
  chat.socket = socket;
  chat.joined = false;
  socket.addEventListener("open", () => {
    tell({ type: "client_hello", clientVersion: "pages" });
    tell({ type: "session_join", sessionId, ...(chat.lastSeq ? { afterSeq: chat.lastSeq } : {}) });
  });
  socket.addEventListener("message", (message) => hear(JSON.parse(message.data)));
  socket.addEventListener("close", (close) => {
    if (chat.socket !== socket) return;
    chat.joined = false;
    if (close.code === 4403) {
      lost(texts.not_yours);
      return;
    }
    lost(texts.lost);
    setTimeout(connect, chat.wait * (0.5 + Math.random()));
    chat.wait = Math.min(chat.wait * 2, LONGEST_WAIT_MS);
  });
}

function lost(text) {
  lostNotice.textContent = text ?? "";
  lostNotice.hidden = !text;
}

function tell(frame) {
  if (chat.socket?.readyState === WebSocket.OPEN) chat.socket.send(JSON.stringify(frame));
}

function hear(frame) {
  if (frame.sessionId && frame.sessionId !== sessionId) return;
  switch (frame.type) {
    case "session_ack":
      if (!chat.joined) joined();
      break;
    case "session_state":
      showHost(frame);
      break;
    case "session_event_v2":
      if (frame.seq > chat.lastSeq) {
        chat.lastSeq = frame.seq;
        chat.firstSeq ||= frame.seq;
        earlier.hidden = chat.firstSeq <= 1;
        atEnd(() => showEvent(frame));
      }
      break;
    case "agent_delta":
      atEnd(() => delta(frame));
      break;
    case "session_error":
      // A turn's failure has an event of its own; this is what concerns the socket, or what was refused.
      if (frame.code === "SESSION_BUSY" || frame.code === "BAD_REQUEST" || frame.code === "SESSION_NOT_FOUND") refused(frame);
      break;
  }
}

function joined() {
  chat.joined = true;
  chat.wait = FIRST_WAIT_MS;
  lost("");
  // The text so far of a running turn comes anew.
  endDraft();
  for (const [key, said] of chat.unsent) send(key, said);
}

function send(key, { message, attachments }) {
  tell({ type: "session_send", sessionId, message, idempotencyKey: key, ...(attachments.length ? { attachments } : {}) });
}

// ---------------------------------------------------------------- what is shown

function element(kind, className, text) {
  const made = document.createElement(kind);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// Adds to the log; who reads further up stays there.
function atEnd(show) {
  const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  show();
  if (follows) log.scrollTop = log.scrollHeight;
}

function put(made, before = null) {
  log.insertBefore(made, before);
  return made;
}

function bubble(who, text, at) {
  const made = element("article", `bubble bubble-${who}`);
  const head = element("header", "bubble-head", texts[who]);
  if (at) {
    const time = element("time", "", "");
    time.setAttribute("datetime", at);
    time.dataset.moment = "";
    time.dataset.relative = "";
    head.append(" ", time);
  }
  made.append(head, element("div", "bubble-text", text));
  return made;
}

function folded(title, body) {
  const made = element("details", "chat-tool");
  made.append(element("summary", "", title), element("pre", "", body));
  made.querySelector("pre").tabIndex = 0;
  return made;
}

function note(text, kind = "") {
  return element("p", `chat-note ${kind}`, text);
}

// One event as elements; null for what is not shown. Payloads are anybody's: only text is made of them.
function drawn(event) {
  const payload = event.payload ?? {};
  switch (event.eventType) {
    case "user_message": {
      const made = bubble("you", String(payload.message ?? ""), event.createdAt);
      for (const file of payload.attachments ?? []) made.append(element("div", "tag", String(file.name)));
      return made;
    }
    case "agent_final":
      return bubble("agent", String(payload.message ?? ""), event.createdAt);
    case "agent_message":
      return bubble("agent", String(payload.message ?? payload.content ?? JSON.stringify(payload)), event.createdAt);
    case "tool_call":
    case "tool_result": {
      // What a host tells of a tool is within.
      const inner = payload.data ?? payload;
      const name = String(inner.tool ?? payload.message ?? "");
      const title = fill(event.eventType === "tool_call" ? texts.tool_call : inner.isError ? texts.tool_failed : texts.tool_result, { name });
      return folded(title, JSON.stringify(inner, null, 2));
    }
    case "error":
      return note(`${payload.code ?? ""} ${payload.message ?? ""}`.trim(), "chat-note-bad");
    case "agent_handoff":
      return note(fill(texts.handoff, { from: payload.from ?? "main", to: payload.to ?? "main" }));
    case "system":
      return system(payload);
    default:
      return null;
  }
}

function system(payload) {
  switch (payload.action) {
    case "session_executor_failover":
      return note(fill(texts.failover, { from: hostName(payload.from), to: hostName(payload.to) }), "chat-note-wait");
    case "turn_restarted":
      return note(texts.restarted, "chat-note-wait");
    case "waiting":
      return note(String(payload.reason).startsWith("NONE_") ? texts.away : texts.waiting, "chat-note-wait");
    case "session_reset":
      return note(payload.mode === "clear_history" ? texts.cleared : texts.reset);
    default:
      return note(String(payload.action ?? ""));
  }
}

function showEvent(event) {
  const payload = event.payload ?? {};
  if (event.eventType === "user_message") {
    chat.open.add(event.seq);
    // The same message, as it was shown when it was typed.
    for (const [key, said] of chat.unsent) {
      if (said.message !== payload.message) continue;
      chat.unsent.delete(key);
      said.element.remove();
      break;
    }
  }
  if (event.eventType === "agent_final" || event.eventType === "error") {
    endDraft();
    answered(event);
  }
  if (payload.action === "session_executor_failover" || payload.action === "turn_restarted") endDraft();
  const made = drawn(event);
  if (made) put(made, firstUnsent());
  busy();
}

function answered(event) {
  const seq = event.payload?.userEventSeq;
  if (seq) chat.open.delete(seq);
  // Turns answer in the order of their messages.
  else for (const first of chat.open) return chat.open.delete(first);
}

function firstUnsent() {
  for (const said of chat.unsent.values()) return said.element;
  return null;
}

function delta({ content }) {
  if (!chat.draft) {
    chat.draft = { element: bubble("agent", ""), text: "" };
    chat.draft.element.classList.add("bubble-draft");
    put(chat.draft.element, firstUnsent());
  }
  chat.draft.text += content;
  chat.draft.element.querySelector(".bubble-text").textContent = chat.draft.text;
}

function endDraft() {
  chat.draft?.element.remove();
  chat.draft = null;
}

function refused(frame) {
  for (const [key, said] of chat.unsent) {
    chat.unsent.delete(key);
    said.element.remove();
    if (!input.value) input.value = said.message;
    break;
  }
  atEnd(() => put(note(`${frame.code} ${frame.message}`, "chat-note-bad")));
}

function busy() {
  cancel.hidden = chat.open.size === 0 && chat.unsent.size === 0;
}

function showHost(state) {
  host.textContent = state.pinnedExecutorId
    ? fill(texts.lives_on, { host: hostName({ executorId: state.pinnedExecutorId, pool: state.pinnedExecutorPool }) })
    : texts.lives_nowhere;
  host.classList.toggle("badge-online", Boolean(state.pinnedExecutorId));
}

function hostName(end) {
  if (!end?.executorId) return "–";
  return hosts[end.executorId] ?? `${end.pool ?? ""} ${String(end.executorId).slice(-8)}`.trim();
}

function fill(text, values) {
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

async function showEarlier() {
  const before = chat.firstSeq;
  const from = Math.max(0, before - 1 - EARLIER);
  const found = [];
  let after = from;
  while (after < before - 1) {
    const answer = await fetch(`/v1/orgs/${org}/sessions/${sessionId}/events?afterSeq=${after}&limit=200`, { headers: { "X-Org-Id": org } });
    if (!answer.ok) return;
    const { events } = await answer.json();
    if (!events.length) break;
    found.push(...events.filter((event) => event.seq < before));
    after = events.at(-1).seq;
  }
  chat.firstSeq = from + 1;
  earlier.hidden = chat.firstSeq <= 1;
  const top = log.firstChild;
  const height = log.scrollHeight;
  for (const event of found) {
    const made = drawn(event);
    if (made) put(made, top);
  }
  log.scrollTop += log.scrollHeight - height;
}

// ---------------------------------------------------------------- what people do

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const message = input.value.trim();
  if (!message) return;
  const said = { message, attachments: chat.attachments, element: bubble("you", message) };
  said.element.classList.add("bubble-unsent");
  const key = crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`;
  chat.unsent.set(key, said);
  put(said.element);
  log.scrollTop = log.scrollHeight;
  if (chat.joined) send(key, said);
  input.value = "";
  chat.attachments = [];
  files.replaceChildren();
  busy();
});

input.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    form.requestSubmit();
  }
});

form.querySelector("[data-chat-attach]").addEventListener("change", async (event) => {
  for (const file of event.target.files) {
    const text = await file.text();
    const isText = !text.includes("\u0000") && !text.includes("\ufffd");
    if (!isText || text.length > ATTACHMENT_MAX_CHARS) {
      atEnd(() => put(note(fill(texts.not_attached, { name: file.name }), "chat-note-bad")));
      continue;
    }
    chat.attachments.push({ name: file.name.slice(0, 200), mimeType: file.type || "text/plain", contentText: text });
    files.append(element("li", "tag", file.name));
  }
  event.target.value = "";
});

cancel.addEventListener("click", () => tell({ type: "session_cancel", sessionId }));
earlier.addEventListener("click", showEarlier);
document.querySelectorAll("[data-chat-reset]").forEach((button) =>
  button.addEventListener("click", () => tell({ type: "session_reset_agent", sessionId, mode: button.dataset.chatReset })),
);

connect();
