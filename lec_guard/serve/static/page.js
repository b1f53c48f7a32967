// Keys and refreshing. Every page works without it.
"use strict";

const page = document.body.dataset.page;
const loaded = performance.now();
const SETTLE_MS = 600; // A key that is still held from the page before decides nothing here.

const help = document.getElementById("help");
if (help) help.hidden = false;

const follow = (selector) => document.querySelector(selector)?.click();

function choose(step) {
  const links = [...document.querySelectorAll(".items .excerpt a")];
  const at = links.indexOf(document.activeElement);
  const next = at < 0 ? (step > 0 ? 0 : links.length - 1) : Math.min(links.length - 1, Math.max(0, at + step));
  links[next]?.focus();
}

function startEdit() {
  const edit = document.getElementById("edit");
  if (!edit) return;
  edit.open = true;
  document.getElementById("edited").focus();
}

const toggleHelp = () => { if (help) help.open = !help.open; };
const keys = {
  queue: { j: () => choose(1), k: () => choose(-1), "?": toggleHelp },
  item: {
    j: () => follow("a[rel=next]"),
    k: () => follow("a[rel=prev]"),
    a: () => follow("#approve"),
    e: startEdit,
    r: () => document.getElementById("reason")?.focus(),
    u: () => follow("header nav a"),
    "?": toggleHelp,
  },
}[page] ?? {};

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select");
  if (typing) {
    if (event.key === "Escape") typing.blur();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && typing.matches("textarea:not([readonly])")) {
      typing.form.requestSubmit();
    }
    return;
  }
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (performance.now() - loaded < SETTLE_MS) return;
  if (!Object.hasOwn(keys, event.key)) return;
  event.preventDefault();
  keys[event.key]();
});

// One form, once: a second click would be told that the item is decided.
document.addEventListener("submit", (event) => {
  if (event.target.dataset.sent) event.preventDefault();
  event.target.dataset.sent = "yes";
});
window.addEventListener("pageshow", () => {
  for (const form of document.forms) delete form.dataset.sent;
});

const seconds = Number(document.body.dataset.refresh);
if (seconds) {
  setInterval(() => {
    const busy = document.activeElement !== document.body || String(document.getSelection()) || help?.open;
    if (!document.hidden && !busy) location.reload();
  }, seconds * 1000);
}
