// Swaps what the server sends, keeps the reader's focus, and rests when nobody looks.
const main = document.getElementById("main");
const live = document.getElementById("live");
const liveText = document.getElementById("live-text");
const stale = document.getElementById("stale");
const announce = document.getElementById("announce");
const pauseButton = document.getElementById("pause");
const LINES_KEPT = 2000;
const POLL = Number(main.dataset.poll || 0) * 1000;

document.documentElement.classList.add("js");

// --- the reader's own time zone, so that the server can write local times

const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
const secure = location.protocol === "https:" ? "; secure" : "";
if (zone && !document.cookie.split("; ").includes(`zone=${encodeURIComponent(zone)}`)) {
  document.cookie = `zone=${encodeURIComponent(zone)}; path=/; max-age=31536000; samesite=lax${secure}`;
}

// --- making one tree look like another, touching only what differs

const keyOf = (node) => (node.nodeType === Node.ELEMENT_NODE ? node.id || node.dataset.key || "" : "");

export function morph(now, next) {
  if (now.nodeType !== next.nodeType || now.nodeName !== next.nodeName || keyOf(now) !== keyOf(next)) {
    now.replaceWith(next);
    return;
  }
  if (now.nodeType !== Node.ELEMENT_NODE) {
    if (now.nodeValue !== next.nodeValue) now.nodeValue = next.nodeValue;
    return;
  }
  if (now.hasAttribute("data-keep") || now.isEqualNode(next)) return;
  for (const { name } of [...now.attributes]) {
    if (!next.hasAttribute(name) && name !== "open") now.removeAttribute(name); // what the reader opened stays open
  }
  for (const { name, value } of next.attributes) {
    if (now.getAttribute(name) !== value) now.setAttribute(name, value);
  }
  const keyed = new Map([...now.children].filter(keyOf).map((child) => [keyOf(child), child]));
  let cursor = now.firstChild;
  for (const child of [...next.childNodes]) {
    const key = keyOf(child);
    const match = key ? keyed.get(key) : cursor && !keyOf(cursor) ? cursor : null;
    if (!match) {
      now.insertBefore(child, cursor);
      continue;
    }
    if (match === cursor) cursor = cursor.nextSibling;
    else now.insertBefore(match, cursor);
    morph(match, child);
  }
  while (cursor) {
    const left = cursor;
    cursor = cursor.nextSibling;
    left.remove();
  }
}

function swap(fragments) {
  for (const [id, html] of Object.entries(fragments)) {
    const place = document.getElementById(id);
    if (!place) continue;
    const template = document.createElement("template");
    template.innerHTML = html;
    const next = template.content.firstElementChild;
    if (next) morph(place, next);
  }
  costs();
}

// --- how fresh the page is

let paused = false;
let lostAt = 0;

function fresh(text) {
  lostAt = 0;
  if (!live) return;
  live.dataset.state = "live";
  if (text) liveText.textContent = `Live · ${text}`;
  stale.hidden = true;
  main.classList.remove("stalling");
}

function lost() {
  lostAt ||= Date.now();
}

setInterval(() => {
  if (!lostAt || paused || !live) return;
  const seconds = Math.round((Date.now() - lostAt) / 1000);
  if (seconds < 3) return; // the usual reconnection
  live.dataset.state = "lost";
  liveText.textContent = "Not live";
  stale.textContent = `Live feed lost ${seconds} s ago; numbers may be old.`;
  stale.hidden = false;
  main.classList.add("stalling");
}, 1000);

// --- the stream: overview, one lease and its log

let source = null;

function connect() {
  if (source || paused || document.hidden || !main.dataset.stream) return;
  const url = new URL(main.dataset.stream, location.href);
  const log = document.getElementById("log");
  if (log) url.searchParams.set("after", log.dataset.last);
  source = new EventSource(url);
  source.addEventListener("tick", (event) => fresh(JSON.parse(event.data).text));
  source.addEventListener("swap", (event) => swap(JSON.parse(event.data)));
  source.addEventListener("lines", (event) => lines(JSON.parse(event.data)));
  source.addEventListener("say", (event) => {
    announce.textContent = JSON.parse(event.data).text;
  });
  source.addEventListener("over", disconnect); // nothing more will change
  source.addEventListener("open", () => fresh(""));
  source.addEventListener("error", () => {
    lost();
    if (source && source.readyState === EventSource.CLOSED) {
      disconnect();
      setTimeout(connect, 5000);
    }
  });
}

function disconnect() {
  if (source) source.close();
  source = null;
}

function lines(list) {
  const log = document.getElementById("log");
  if (!log || !list.length) return;
  log.querySelector(".none")?.remove();
  for (const { seq, at, clock, source: from, line } of list) {
    if (Number(seq) <= Number(log.dataset.last)) continue;
    log.dataset.last = seq;
    const row = document.createElement("div");
    row.className = "line";
    const time = document.createElement("time");
    time.dateTime = at;
    time.textContent = clock;
    const who = document.createElement("span");
    who.className = "source";
    who.textContent = from;
    row.append(time, " ", who, ` ${line}`); // text only, whatever the node wrote
    log.append(row);
  }
  while (log.childElementCount > LINES_KEPT) log.firstElementChild.remove();
  follow();
}

function follow() {
  const log = document.getElementById("log");
  if (log && document.getElementById("follow")?.checked) log.scrollTop = log.scrollHeight;
}

// --- lists: asked every few seconds, answered with 304 while nothing changed

let etag = "";
let asking = false;

async function poll(force) {
  if (asking || (!force && (paused || document.hidden))) return;
  asking = true;
  try {
    const headers = { accept: "text/html" };
    if (etag) headers["if-none-match"] = etag;
    const answer = await fetch(location.href, { headers, cache: "no-store", redirect: "error" });
    if (answer.status === 200) {
      etag = answer.headers.get("etag") || "";
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const next = page.getElementById("main");
      next.classList.remove("stalling");
      morph(main, next);
      costs();
      fresh(`updated ${page.getElementById("live-text")?.textContent.replace("as of ", "") ?? ""}`);
    } else if (answer.status === 304) {
      fresh("");
    } else {
      lost();
    }
  } catch {
    lost();
  } finally {
    asking = false;
  }
}

// --- costs go on counting between two words of the server

let costsAt = performance.now();
const still = matchMedia("(prefers-reduced-motion: reduce)");

function costs() {
  costsAt = performance.now();
}

setInterval(() => {
  if (paused || lostAt || document.hidden || still.matches) return;
  for (const cost of document.querySelectorAll("[data-rate]")) {
    if (cost.dataset.shown !== cost.dataset.amount) {
      cost.dataset.shown = cost.dataset.amount;
      cost.began = performance.now();
    }
    const hours = (performance.now() - (cost.began ?? costsAt)) / 3_600_000;
    const amount = Number(cost.dataset.amount) + hours * Number(cost.dataset.rate);
    cost.textContent = cost.dataset.form.replace("#", amount.toFixed(4));
  }
}, 1000);

// --- pause, copy, keys

function pause(on) {
  paused = on;
  pauseButton?.setAttribute("aria-pressed", String(on));
  if (pauseButton) pauseButton.textContent = on ? "Resume updates" : "Pause updates";
  document.body.classList.toggle("paused", on);
  if (on) {
    disconnect();
    if (live) live.dataset.state = "still";
    if (liveText) liveText.textContent = "Paused";
    if (stale) stale.hidden = true;
  } else {
    refresh();
  }
}

function refresh() {
  if (main.dataset.stream) {
    disconnect();
    connect();
  } else if (POLL) {
    poll(true);
  }
}

async function copy(button) {
  const said = button.textContent;
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
    button.textContent = "Copied";
  } catch {
    const code = button.parentElement.querySelector("code");
    if (code) getSelection().selectAllChildren(code);
    button.textContent = "Selected";
  }
  setTimeout(() => (button.textContent = said), 1500);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy]");
  if (button) copy(button);
  for (const open of document.querySelectorAll("details.menu[open]")) {
    if (!open.contains(event.target)) open.open = false;
  }
});
pauseButton?.addEventListener("click", () => pause(!paused));
document.getElementById("follow")?.addEventListener("change", follow);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) disconnect(); // six connections to a host are all a browser has
  else if (!paused) refresh();
});
addEventListener("pagehide", disconnect);
addEventListener("pageshow", connect);

let chord = false;

function step(by) {
  const rows = [...main.querySelectorAll("a.row")];
  if (!rows.length) return;
  const at = rows.indexOf(document.activeElement);
  rows[at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(Math.max(at + by, 0), rows.length - 1)].focus();
}

const keys = {
  "?": () => document.getElementById("keys")?.showModal(),
  "/": () => document.getElementById("filter")?.focus(),
  j: () => step(1),
  k: () => step(-1),
  c: () => (main.querySelector("[data-copy]") ?? document.querySelector("[data-copy-main]"))?.click(),
  r: refresh,
  p: () => live && pause(!paused),
  g: () => {
    chord = true;
    setTimeout(() => (chord = false), 1200);
  },
};

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    for (const open of document.querySelectorAll("details.menu[open], details.action[open]")) {
      open.open = false;
      open.querySelector("summary").focus();
    }
  }
  if (document.body.dataset.keys !== "on" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, textarea, select, dialog[open]")) return;
  if (chord) {
    chord = false;
    const link = document.querySelector(`[data-go="${CSS.escape(event.key)}"]`);
    if (link) {
      event.preventDefault();
      link.click();
    }
    return;
  }
  if (Object.hasOwn(keys, event.key)) {
    event.preventDefault();
    keys[event.key]();
  }
});

follow();
connect();
if (POLL) {
  fresh(liveText?.textContent.replace("as of", "updated") ?? "");
  setInterval(() => poll(false), POLL);
}
