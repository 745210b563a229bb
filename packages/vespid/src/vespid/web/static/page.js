// What every page can do: menus, dialogs, copying, notices, moments in the visitor's own time, countdowns.

const language = document.documentElement.lang;
const relative = new Intl.RelativeTimeFormat(language, { numeric: "auto" });
const absolute = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "medium" });
const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];

function moment(element) {
  const at = new Date(element.getAttribute("datetime"));
  if (Number.isNaN(at.getTime())) return;
  const exact = absolute.format(at);
  if (!("relative" in element.dataset)) {
    element.textContent = exact;
    return;
  }
  const seconds = (at - Date.now()) / 1000;
  const [unit, size] = UNITS.find(([, size]) => Math.abs(seconds) >= size) ?? ["second", 1];
  const text = relative.format(Math.round(seconds / size), unit);
  if (element.textContent !== text) element.textContent = text;
  element.title = exact;
}

// <span data-countdown="2026-01-02T…" data-over="text when it is over">: the time that is left, as 14:59 or 23:59:59.
function countdown(element) {
  const left = Math.ceil((new Date(element.dataset.countdown) - Date.now()) / 1000);
  const two = (number) => String(number).padStart(2, "0");
  const hours = Math.floor(left / 3600);
  const clock = `${hours ? `${hours}:${two(Math.floor(left / 60) % 60)}` : Math.floor(left / 60)}:${two(left % 60)}`;
  element.textContent = left > 0 ? clock : element.dataset.over;
  element.classList.toggle("wrong", left <= 0);
}

function times(within = document) {
  within.querySelectorAll("time[data-moment]").forEach(moment);
  within.querySelectorAll("[data-countdown]").forEach(countdown);
}

function closeMenus(except) {
  document.querySelectorAll("details[data-menu][open]").forEach((menu) => {
    if (menu !== except) menu.open = false;
  });
}

function decorate(notice) {
  if (notice.querySelector(".close")) return;
  const close = document.createElement("button");
  close.type = "button";
  close.className = "close";
  close.textContent = "×";
  close.setAttribute("aria-label", document.getElementById("notices").dataset.close);
  close.addEventListener("click", () => notice.remove());
  notice.append(close);
}

function notify(text) {
  const notice = document.createElement("div");
  notice.className = "notice notice-good";
  notice.textContent = text;
  decorate(notice);
  document.getElementById("notices").append(notice);
  setTimeout(() => notice.remove(), 6000);
}

async function copy(button) {
  const text = button.closest(".copyable").querySelector("code").textContent;
  const was = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without https there is no clipboard: mark the text, so that a key copies it.
    getSelection().selectAllChildren(button.closest(".copyable").querySelector("code"));
    return;
  }
  button.textContent = "✓";
  setTimeout(() => (button.textContent = was), 1500);
}

document.addEventListener("click", (event) => {
  closeMenus(event.target.closest("details[data-menu]"));
  const copying = event.target.closest("[data-copy]");
  if (copying) copy(copying);
  // <button data-dialog="id"> opens a dialog, <button data-close> closes the one it is in.
  const opening = event.target.closest("[data-dialog]");
  if (opening) document.getElementById(opening.dataset.dialog).showModal();
  if (event.target.closest("[data-close]")) event.target.closest("dialog")?.close();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") closeMenus(null);
});
// Forms that are sent as soon as something is chosen: <form data-autosubmit>.
document.addEventListener("change", (event) => event.target.closest("form[data-autosubmit]")?.requestSubmit());
// What is read anew keeps what was opened in it, and the place of the keyboard.
const NAMES = ["id", "href", "hx-post"];
let kept = null;
document.addEventListener("htmx:beforeSwap", ({ detail: { target } }) => {
  const active = target.contains(document.activeElement) ? document.activeElement : null;
  const name = active && NAMES.find((name) => active.getAttribute(name));
  kept = {
    opened: [...target.querySelectorAll("details[open][id]")].map((details) => details.id),
    focus: name ? `[${name}="${CSS.escape(active.getAttribute(name))}"]` : "",
  };
});
document.addEventListener("htmx:afterSwap", () => {
  kept?.opened.forEach((id) => document.getElementById(id)?.setAttribute("open", ""));
  if (kept?.focus && document.activeElement === document.body) document.querySelector(kept.focus)?.focus({ preventScroll: true });
  kept = null;
});
document.addEventListener("notice", (event) => {
  for (const text of event.detail.value ?? [event.detail]) notify(text);
});
document.addEventListener("htmx:afterSettle", () => {
  times();
  document.querySelectorAll("#notices .notice").forEach(decorate);
});

times();
setInterval(times, 1000);
