"use strict";
// Keeps a page fresh and pleasant by keyboard. Everything works without it.

const main = document.getElementById("main");
const news = document.getElementById("news");

// ---- Refresh: fetch the page again, replace only what changed.

// Attributes that belong to the reader.
const KEPT = { DETAILS: "open" };

function sameKind(a, b) {
  return a.nodeType === b.nodeType && a.nodeName === b.nodeName && keyOf(a) === keyOf(b);
}

function keyOf(node) {
  return node.nodeType === Node.ELEMENT_NODE ? node.getAttribute("data-key") ?? node.id : "";
}

function isBeingFilledIn(element) {
  return element.matches("form") && (element.contains(document.activeElement) || element.dataset.touched === "true");
}

function update(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeType !== Node.ELEMENT_NODE) {
    old.nodeValue = fresh.nodeValue;
    return;
  }
  if (isBeingFilledIn(old)) return;
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && KEPT[old.nodeName] !== name) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (KEPT[old.nodeName] !== name && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  updateChildren(old, fresh);
}

function updateChildren(old, fresh) {
  const keyed = new Map();
  for (const child of old.childNodes) if (keyOf(child)) keyed.set(keyOf(child), child);
  let place = old.firstChild;
  for (const wanted of [...fresh.childNodes]) {
    const key = keyOf(wanted);
    const known = key ? keyed.get(key) : place && !keyOf(place) ? place : null;
    if (known && sameKind(known, wanted)) {
      if (known === place) place = place.nextSibling;
      else old.insertBefore(known, place);
      update(known, wanted);
    } else {
      old.insertBefore(document.importNode(wanted, true), place);
      if (place && !key && !keyOf(place)) {
        const gone = place;
        place = place.nextSibling;
        gone.remove();
      }
    }
  }
  while (place) {
    const gone = place;
    place = place.nextSibling;
    gone.remove();
  }
}

// Where the reader is: what has the focus, or else the first row on the screen.
function anchor() {
  const focused = document.activeElement;
  const isInside = focused && focused !== document.body && focused !== main && main.contains(focused);
  const element = isInside ? focused : [...main.querySelectorAll("tr[data-key]")].find((row) => row.getBoundingClientRect().top >= 0);
  return { element, top: element?.getBoundingClientRect().top, focused: isInside ? focused : null };
}

function restore({ element, top, focused }) {
  if (focused?.isConnected && document.activeElement !== focused) focused.focus({ preventScroll: true });
  if (element?.isConnected && window.scrollY > 0) window.scrollBy(0, element.getBoundingClientRect().top - top);
}

function show(text) {
  const fresh = new DOMParser().parseFromString(text, "text/html");
  const content = fresh.getElementById("main");
  if (!content) return;
  const place = anchor();
  updateChildren(main, content);
  const [top, freshTop] = [document.querySelector("header.top"), fresh.querySelector("header.top")];
  if (top && freshTop) update(top, freshTop);
  if (document.title !== fresh.title) document.title = fresh.title;
  restore(place);
}

let shown = null;

async function refresh() {
  try {
    // The browser asks with the entity tag, and the server answers with a line if nothing changed.
    const response = await fetch(location.href, { cache: "no-cache", signal: AbortSignal.timeout(20000) });
    const text = await response.text();
    if (!response.ok) throw new Error(response.statusText);
    if (text !== shown) show(text);
    shown = text;
    if (news) news.textContent = "";
  } catch {
    if (news) news.textContent = news.dataset.lost;
  }
}

async function keepFresh(seconds) {
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
    // A page in the background costs nothing.
    if (document.hidden) await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
    await refresh();
  }
}

if (main?.dataset.refresh) keepFresh(Number(main.dataset.refresh));
if (main?.dataset.reload) setTimeout(() => location.reload(), Number(main.dataset.reload) * 1000);

// ---- Forms: a choice takes effect at once, empty fields do not show in the address.

document.addEventListener("input", (event) => {
  const form = event.target.form;
  if (form) form.dataset.touched = "true";
});

document.addEventListener("change", (event) => {
  const form = event.target.form;
  if (form?.hasAttribute("data-submits")) form.requestSubmit();
});

document.addEventListener("submit", (event) => {
  for (const field of event.target.elements) if (field.value === "" && field.name) field.disabled = true;
});

// Coming back from the next page: fields are to be used again.
window.addEventListener("pageshow", () => {
  for (const field of document.querySelectorAll("form :disabled")) field.disabled = false;
});

// ---- Keyboard: / searches; arrow keys and j, k go along the rows of a table; Escape leaves a field.

function isTyping(element) {
  return element.matches("input, select, textarea") || element.isContentEditable;
}

function rowLink(row) {
  return row.querySelector("th a, td a");
}

function moveBy(step) {
  const links = [...main.querySelectorAll("table.rows tbody tr")].map(rowLink).filter(Boolean);
  const current = links.findIndex((link) => link.closest("tr").contains(document.activeElement));
  const next = current < 0 ? (step > 0 ? 0 : links.length - 1) : current + step;
  const link = links[next];
  if (!link) return false;
  link.focus();
  link.scrollIntoView({ block: "nearest" });
  return true;
}

const STEPS = { j: 1, k: -1, ArrowDown: 1, ArrowUp: -1 };

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const target = event.target instanceof Element ? event.target : document.body;
  if (event.key === "Escape" && isTyping(target)) return target.blur();
  if (isTyping(target)) return;
  if (event.key === "/") {
    const search = main?.querySelector('input[type="search"]');
    if (!search) return;
    event.preventDefault();
    search.focus();
    return search.select();
  }
  const step = STEPS[event.key];
  // Arrow keys scroll as always, unless a row has the focus.
  if (!step || (event.key.startsWith("Arrow") && !target.closest("table.rows tbody"))) return;
  if (moveBy(step)) event.preventDefault();
});

// ---- Commands to copy.

document.addEventListener("click", async (event) => {
  const button = event.target instanceof Element ? event.target.closest("button[data-copies]") : null;
  if (!button) return;
  const text = document.getElementById(button.dataset.copies)?.textContent ?? "";
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = button.dataset.done;
  } catch {
    // Not allowed, for example over plain HTTP: select it, so that it can be copied by hand.
    const range = document.createRange();
    range.selectNodeContents(document.getElementById(button.dataset.copies));
    getSelection().removeAllRanges();
    getSelection().addRange(range);
  }
});
