// The frame: which page, the way between them, the keys.
import { render } from "./vendor/preact.mjs";
import { useEffect, useRef, useState } from "./vendor/hooks.mjs";
import { begin, events, onKey, signOut } from "./api.mjs";
import { Health } from "./health.mjs";
import { History } from "./history.mjs";
import { Now } from "./now.mjs";
import { Clients } from "./peers.mjs";
import { Flows, Questions } from "./records.mjs";
import { Lists, Rules } from "./rules.mjs";
import { dismiss, open, set, state, useStore } from "./store.mjs";
import { Badge, Dialog, html, tone } from "./ui.mjs";
import { Why } from "./why.mjs";

// pages are [name in the address, title, page, picture, whether it is shown].
const pages = [
  ["now", "Now", Now, "M4 13h3l3-8 4 14 3-6h3"],
  ["flows", "Flows", Flows, "M4 7h13l-3-3M20 17H7l3 3"],
  ["questions", "Questions", Questions, "M9 9a3 3 0 1 1 4.5 2.6c-1 .6-1.5 1.2-1.5 2.4M12 18v.5M12 3a9 9 0 1 1 0 18 9 9 0 0 1 0-18"],
  ["why", "Why", Why, "M5 5h5v5H5zM14 14h5v5h-5zM7.500 10v4a2.500 2.500 0 0 0 2.500 2.500h4"],
  ["rules", "Rules", Rules, "M9 6h11M9 12h11M9 18h11M4 6h1M4 12h1M4 18h1"],
  ["lists", "Lists", Lists, "M6 3h9l4 4v14H6zM15 3v4h4M9 12h7M9 16h7"],
  ["clients", "Clients", Clients, "M5 4h9v16H5zM17 9h3v11h-3M9 17h1", (o) => o.peers || o["history/records"]],
  ["history", "History", History, "M4 20V10M10 20V4M16 20v-7M21 20H3", (o) => o["history/records"]],
  ["health", "Health", Health, "M12 20s-8-4.600-8-10a4.500 4.500 0 0 1 8-2.800A4.500 4.500 0 0 1 20 10c0 5.400-8 10-8 10"],
];

function route() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  return { name: pages.some(([n]) => n === path) ? path : "now", params: new URLSearchParams(query || "") };
}

const themes = ["auto", "light", "dark"];
function setTheme(theme) {
  localStorage.setItem("penstock-theme", theme);
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  set({ theme });
}

const keys = [
  ["j, k", "next and previous row"], ["Enter", "why?"], ["a", "allow the row's host for 1 hour"], ["A", "allow it …"], ["b", "block it …"], ["x", "end the flow"],
  ["/", "filter"], ["Esc", "leave the filter, the row or the dialog"], ["g, then a letter", "go to a page: n for Now, f for Flows, q for Questions, w for Why, r for Rules, l for Lists, c for Clients, h for History"], ["t", "light, dark, or as the system"], ["?", "this help"],
];
const Help = () => html`<${Dialog} title="Keys and filters">
  <dl class="keys">${keys.map(([k, what]) => html`<div><dt><kbd>${k}</kbd></dt><dd>${what}</dd></div>`)}</dl>
  <h3>Filters</h3>
  <p>Words and <code>field:value</code> must all hold; a minus before one says that it must not: <code>host:example rule:lan -client:ana blocked</code>.</p>
  <p class="soft">Fields are host, client, src, dst, rule, category, via, verdict, proto, program, source, reason, type, answer, upstream, cache and id. Words are blocked, allowed, dropped, direct, live, tcp, udp and icmp. A word alone is sought in host, client, destination, rule and category.</p>
<//>`;

const help = () => open(() => html`<${Help} />`);
const nextTheme = () => setTheme(themes[(themes.indexOf(state.theme) + 1) % 3]);

const Icon = ({ d }) => html`<svg viewBox="0 0 24 24" width="18" height="18" aria-hidden="true" fill="none" stroke="currentColor" stroke-width="1.8" stroke-linecap="round" stroke-linejoin="round"><path d=${d} /></svg>`;

function Frame() {
  const s = useStore();
  const [at, setAt] = useState(route());
  const main = useRef(null);
  useEffect(() => {
    let page = at.name;
    const change = async () => {
      if (location.hash.startsWith("#t=")) await begin(); // another link in the same tab
      const next = route();
      setAt(next);
      if (next.name !== page) {
        page = next.name;
        main.current?.scrollTo(0, 0);
        main.current?.focus({ preventScroll: true });
        document.querySelector(`nav a[aria-current]`)?.scrollIntoView({ block: "nearest", inline: "center" });
      }
    };
    addEventListener("hashchange", change);
    return () => removeEventListener("hashchange", change);
  }, []);
  const [, title, Page] = pages.find(([n]) => n === at.name);
  useEffect(() => { document.title = `${title} – penstock`; }, [title]);
  const st = s.status;
  return html`
    <a class="skip" href="#main" onClick=${(e) => { e.preventDefault(); main.current.focus(); }}>Skip to the page</a>
    <aside class="side">
      <div class="brand"><img src="/assets/icon.svg" alt="" width="22" height="22" /><b>penstock</b>${st && html`<${Badge} tone=${st.pausedUntil ? "warn" : tone(st.state, st.degraded)}>${st.pausedUntil ? "paused" : st.degraded ? "degraded" : st.state}<//>`}</div>
      <nav aria-label="Pages">${pages.filter(([, , , , shown]) => !shown || shown(s.offers)).map(([name, title, , d]) => html`<a key=${name} href=${"#/" + name} aria-current=${name === at.name ? "page" : undefined}><${Icon} d=${d} /><span>${name === "clients" && s.offers.peers ? "Peers" : title}</span></a>`)}</nav>
      <div class="foot">
        ${s.readOnly && html`<span class="tag">read only</span>`}
        <button type="button" class="quiet" onClick=${nextTheme}>Theme: ${s.theme}</button>
        <button type="button" class="quiet" onClick=${help}>Keys <kbd>?</kbd></button>
        <button type="button" class="quiet" onClick=${signOut}>Sign out</button>
        <span class="soft small cut" title=${s.version}>${s.version}</span>
      </div>
    </aside>
    <main id="main" ref=${main} tabindex="-1" class=${["flows", "questions"].includes(at.name) ? "filled" : ""}>
      ${!s.connected && html`<p class="problem offline" role="alert">Not connected to penstock. What is shown may be old. The page tries again by itself.</p>`}
      <${Page} key=${at.name} params=${at.params} theme=${nextTheme} help=${help} />
    </main>`;
}

function App() {
  const s = useStore();
  if (s.phase === "opening") return html`<main class="alone" aria-busy="true"></main>`;
  if (s.phase === "locked") return html`<main class="alone"><h1>Open the console with: <code>penstock console</code></h1>${s.why && html`<p class="problem" role="alert">${s.why}</p>`}</main>`;
  return html`<${Frame} />
    ${s.dialog?.()}
    <div class="notes" role="status" aria-live="polite">${s.notes.map((n) => html`<p key=${n.id} class=${n.bad ? "note bad" : "note"}><span class="grow">${n.text}</span><button type="button" class="icon" aria-label="Dismiss" onClick=${() => dismiss(n.id)}>✕</button></p>`)}</div>`;
}

let leap = 0; // when g was pressed
addEventListener("keydown", (e) => {
  if (state.phase !== "open" || state.dialog || e.ctrlKey || e.metaKey || e.altKey) return;
  const grid = document.querySelector("[data-keys]");
  if (e.target.closest?.("input, select, textarea, [role=menu]")) {
    if (e.key === "Escape") {
      e.target.blur();
      grid?.focus();
    } else if (e.key === "Enter" && e.target.matches("[data-search]") && grid) {
      grid.focus();
    }
    return;
  }
  const pageOf = { n: "now", f: "flows", q: "questions", w: "why", r: "rules", l: "lists", c: "clients", h: "history" }[e.key];
  if (Date.now() - leap < 1000 && pageOf) {
    location.hash = "#/" + pageOf;
  } else if (e.key === "/") {
    const search = document.querySelector("[data-search]");
    search?.focus();
    search?.select();
  } else if (e.key === "?") {
    help();
  } else if (e.key === "t") {
    nextTheme();
  } else if (e.key === "g") {
    leap = Date.now();
    return;
  } else if (grid && !grid.contains(e.target) && ["j", "k", "Enter", "Escape", "a", "A", "b", "x", "w"].includes(e.key) && !e.target.closest("a, button")) {
    grid.focus();
    grid.dispatchEvent(new KeyboardEvent("keydown", { key: e.key, bubbles: true, cancelable: true }));
  } else {
    return;
  }
  leap = 0;
  e.preventDefault();
});

async function start() {
  setTheme(localStorage.getItem("penstock-theme") || "auto");
  render(html`<${App} />`, document.getElementById("app"));
  await enter();
}

// enter comes in with a link, or with the session that this browser has.
async function enter() {
  for (let wait = 500; state.phase === "opening"; wait = Math.min(2 * wait, 5000)) {
    try {
      await begin();
    } catch {
      await new Promise((done) => setTimeout(done, wait)); // penstock does not answer yet
    }
  }
  run();
}

let running = false;

// run does what goes on for as long as there is a session.
async function run() {
  if (running) return;
  running = true;
  while (state.phase === "open") await events();
  running = false;
}

// unlock opens a locked page.
async function unlock() {
  if (state.phase !== "locked") return;
  set({ phase: "opening" });
  await enter();
}

onKey(unlock);
addEventListener("hashchange", () => location.hash.startsWith("#t=") && unlock());
start();
