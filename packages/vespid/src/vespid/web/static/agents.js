// Agents: the dialog of a pairing, and tags that are edited by keyboard.

const OWN = /Win/.test(navigator.platform) ? "windows-x64" : /Mac/.test(navigator.platform) ? "darwin-arm64" : "linux-x64";

function choose(dialog, id) {
  dialog.querySelectorAll("[data-way]").forEach((way) => (way.hidden = way.dataset.way !== id));
}

function open(dialog) {
  const own = dialog.querySelector(`input[name="way"][value="${OWN}"]`);
  if (own) {
    own.checked = true;
    choose(dialog, OWN);
  }
  // A token is not left behind in a page that nobody looks at.
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("change", (event) => choose(dialog, event.target.value));
  dialog.showModal();
}

document.addEventListener("htmx:afterSwap", (event) => {
  const dialog = document.getElementById("pair-dialog");
  if (dialog && !dialog.open) open(dialog);
  // What was swapped took the focus along: on to the next tag.
  if (event.target.matches("[data-tags]")) document.getElementById(event.target.id)?.querySelector("input")?.focus();
});

document.addEventListener("htmx:afterRequest", (event) => event.target.closest("#revoke")?.close());

document.addEventListener("keydown", (event) => {
  if (event.key !== "Backspace" || !event.target.matches(".chip-add input") || event.target.value) return;
  const removes = event.target.closest("[data-tags]").querySelectorAll("[data-remove]");
  removes[removes.length - 1]?.focus();
});

document.addEventListener("input", (event) => {
  const wanted = event.target.dataset.mustBe;
  if (wanted === undefined) return;
  const same = event.target.value.trim() === wanted.trim();
  event.target.setCustomValidity(same ? "" : event.target.dataset.otherwise);
});

// A link to /agents#pair begins at once.
if (location.hash === "#pair") {
  history.replaceState(null, "", location.pathname + location.search);
  addEventListener("load", () => document.getElementById("pair").click());
}
