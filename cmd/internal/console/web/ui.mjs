// The small parts of which the pages are made.
import { h } from "./vendor/preact.mjs";
import { useCallback, useEffect, useLayoutEffect, useReducer, useRef, useState } from "./vendor/hooks.mjs";
import htm from "./vendor/htm.mjs";
import { NotOffered, call } from "./api.mjs";
import { note, open, set, state, useStore } from "./store.mjs";
import * as text from "./text.mjs";

export const html = htm.bind(h);

// One clock for all times that are shown.
const ticking = new Set();
setInterval(() => {
  if (!document.hidden) for (const f of [...ticking]) f();
}, 1000);

export function useTick() {
  const [, again] = useReducer((n) => n + 1, 0);
  useEffect(() => {
    ticking.add(again);
    return () => ticking.delete(again);
  }, []);
  return Date.now();
}

// Ago is a time as people say it, with the exact one beside it.
export function Ago({ at }) {
  const now = useTick();
  const t = typeof at === "string" ? text.ms(at) : at;
  if (!t) return html`<span class="soft">never</span>`;
  return html`<time datetime=${new Date(t).toISOString()} title=${new Date(t).toLocaleString()}>${text.ago(t, now)}</time>`;
}

// Host is a name that a stranger chose: text, from left to right, with nothing hidden in it.
export function Host({ name, strong }) {
  const shown = text.plain(name);
  return html`<bdi dir="ltr" class=${"host" + (strong ? " strong" : "")} title=${shown}>${shown}</bdi>`;
}

const tones = { connected: "ok", active: "ok", ok: "ok", up: "ok", open: "info", idle: "quiet", quiesced: "quiet", "not checked": "quiet", used: "quiet" };
const glyphs = { ok: "●", warn: "▲", bad: "■", quiet: "○", info: "◆" };

export const tone = (word, degraded) => (degraded ? "warn" : tones[word] || (["down", "blocked", "fault", "expired", "disabled"].includes(word) ? "bad" : "warn"));

// Badge says a state with a colour, a shape and a word.
export function Badge({ tone: t, children }) {
  return html`<span class=${"badge " + t}><span aria-hidden="true">${glyphs[t]}</span>${children}</span>`;
}

export function Verdict({ of: r }) {
  const t = text.isBlocked(r.verdict) ? "bad" : r.verdict === "via" ? "info" : "ok";
  return html`<${Badge} tone=${t}>${text.way(r.verdict, r.via)}<//>`;
}

// act does something that changes penstock, and says what came of it.
export async function act(doing, done) {
  try {
    const out = await doing();
    if (done) note(typeof done === "function" ? done(out) : done);
    return out;
  } catch (err) {
    note(err.message, true);
    return undefined;
  }
}

// Do is a button that changes something: it is not there for who may only read, and waits for its answer.
export function Do({ run, class: kind = "", children, ...rest }) {
  const [busy, setBusy] = useState(false);
  const here = useRef(true);
  useEffect(() => () => { here.current = false; }, []);
  if (useStore().readOnly) return null;
  const click = async (e) => {
    e.stopPropagation();
    setBusy(true);
    try {
      await run();
    } finally {
      if (here.current) setBusy(false);
    }
  };
  return html`<button type="button" class=${"button " + kind} disabled=${busy} aria-busy=${busy} onClick=${click} ...${rest}>${children}</button>`;
}

// useCall is the answer of a call, asked again every so often, and when the function again is called.
export function useCall(name, body = {}, every = 0) {
  const [out, setOut] = useState({ data: null, error: "", missing: false, loading: true });
  const what = JSON.stringify(body);
  const again = useRef(null);
  useEffect(() => {
    const quit = new AbortController();
    let timer;
    const ask = async () => {
      clearTimeout(timer);
      try {
        const data = await call(name, body, quit.signal);
        if (!quit.signal.aborted) setOut({ data, error: "", missing: false, loading: false });
      } catch (err) {
        if (quit.signal.aborted) return;
        const missing = err instanceof NotOffered;
        setOut((o) => ({ data: missing ? null : o.data, error: missing ? "" : err.message, missing, loading: false }));
        if (missing) return;
      }
      if (every) timer = setTimeout(ask, every);
    };
    again.current = ask;
    ask();
    return () => {
      quit.abort();
      clearTimeout(timer);
    };
  }, [name, what, every]);
  return { ...out, again: useCallback(() => again.current?.(), []) };
}

export function useMedia(query) {
  const media = matchMedia(query);
  const [is, setIs] = useState(media.matches);
  useEffect(() => {
    const change = () => setIs(media.matches);
    media.addEventListener("change", change);
    return () => media.removeEventListener("change", change);
  }, []);
  return is;
}

export const usePhone = () => useMedia("(max-width: 720px)");

// Problem is an error in a box.
export const Problem = ({ children }) => html`<p class="problem" role="alert">${children}</p>`;
export const Nothing = ({ children }) => html`<p class="nothing">${children}</p>`;

// Answer shows what a call is waiting for, or why there is no answer.
export function Answer({ of: c, what, children }) {
  if (c.missing) return html`<${Nothing}>This penstock does not offer ${what}.<//>`;
  return html`
    ${c.error && html`<${Problem}>${c.error}<//>`}
    ${c.data ? children(c.data) : c.loading && html`<p class="nothing" role="status">Asking penstock …</p>`}`;
}

// Table is a plain table, whose rows are cards on a phone. Columns are [name, class, cell of a row].
export function Table({ label, columns, rows, rowKey, rowClass }) {
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${label}>
    <table class="table">
      <caption class="unseen">${label}</caption>
      <thead><tr>${columns.map(([name, kind]) => html`<th scope="col" class=${kind}>${name}</th>`)}</tr></thead>
      <tbody>${rows.map((r, i) => html`<tr key=${rowKey ? rowKey(r) : i} class=${rowClass?.(r) || ""}>
        ${columns.map(([name, kind, cell]) => html`<td class=${kind} data-name=${name}><div>${cell(r, i)}</div></td>`)}</tr>`)}
      </tbody>
    </table></div>`;
}

// Bar is a share, drawn. The number stands beside it.
export function Bar({ share, tone: t = "bad" }) {
  return html`<span class="bar" aria-hidden="true"><span class=${t} style=${{ width: `${Math.round(Math.min(1, share || 0) * 100)}%` }}></span></span>`;
}

// Dialog is modal. Esc closes it, and the focus returns to where it was.
export function Dialog({ title, children, wide }) {
  const ref = useRef(null);
  useLayoutEffect(() => {
    const from = document.activeElement;
    ref.current.showModal();
    ref.current.querySelector("input, .primary")?.focus();
    return () => from?.isConnected && from.focus?.();
  }, []);
  const close = () => open(null);
  return html`<dialog ref=${ref} class=${wide ? "wide" : ""} aria-labelledby="dialog-title" onClose=${close}
    onClick=${(e) => e.target === ref.current && close()}>
    <div class="dialog-body">
      <header><h2 id="dialog-title">${title}</h2>
        <button type="button" class="icon" aria-label="Close" onClick=${close}>✕</button></header>
      ${children}
    </div></dialog>`;
}

// Diff is a unified diff.
export function Diff({ text: diff }) {
  const kind = (l) => (/^(---|\+\+\+)/.test(l) ? "head" : l[0] === "+" ? "add" : l[0] === "-" ? "del" : l[0] === "@" ? "head" : "");
  return html`<pre class="diff" tabindex="0" role="region" aria-label="Change to the file">${diff.trimEnd().split("\n").map((l) => html`<span class=${kind(l)}>${l || " "}</span>`)}</pre>`;
}

// Menu is a button with a list of actions: [label, function, class]. Those that are missing are left out.
export function Menu({ label, items, children }) {
  const [at, setAt] = useState(null);
  const root = useRef(null);
  const list = items.filter(Boolean);
  useEffect(() => {
    if (!at) return undefined;
    root.current.querySelector("[role=menuitem]")?.focus();
    const away = (e) => !root.current?.contains(e.target) && setAt(null);
    const gone = () => setAt(null);
    document.addEventListener("pointerdown", away, true);
    window.addEventListener("resize", gone);
    document.addEventListener("scroll", gone, true);
    return () => {
      document.removeEventListener("pointerdown", away, true);
      window.removeEventListener("resize", gone);
      document.removeEventListener("scroll", gone, true);
    };
  }, [at]);
  if (!list.length) return null;
  const toggle = (e) => {
    e.stopPropagation();
    const box = e.currentTarget.getBoundingClientRect();
    const up = box.bottom + 40 * list.length > innerHeight;
    setAt(at ? null : { right: Math.max(4, innerWidth - box.right) + "px", ...(up ? { bottom: innerHeight - box.top + 4 + "px" } : { top: box.bottom + 4 + "px" }) });
  };
  const keys = (e) => {
    if (!at) return;
    const all = [...root.current.querySelectorAll("[role=menuitem]")];
    const i = all.indexOf(document.activeElement);
    const go = { ArrowDown: i + 1, ArrowUp: i - 1, Home: 0, End: all.length - 1 }[e.key];
    if (e.key === "Escape" || e.key === "Tab") {
      setAt(null);
      root.current.querySelector("button").focus();
    } else if (go !== undefined) {
      all[(go + all.length) % all.length].focus();
    } else if (e.key !== "Enter" && e.key !== " ") {
      return;
    }
    e.stopPropagation();
    if (e.key !== "Enter" && e.key !== " ") e.preventDefault();
  };
  return html`<span class="menu" ref=${root} onKeyDown=${keys}>
    <button type="button" class="icon" aria-label=${label} aria-haspopup="menu" aria-expanded=${!!at} onClick=${toggle}>${children || "⋯"}</button>
    ${at && html`<div role="menu" aria-label=${label} class="menu-list" style=${at}>
      ${list.map(([name, run, kind]) => html`<button type="button" role="menuitem" tabindex="-1" class=${kind || ""}
        onClick=${(e) => { e.stopPropagation(); setAt(null); run(); }}>${name}</button>`)}</div>`}
  </span>`;
}

// copy puts a text on the clipboard.
export const copy = (t) => act(() => navigator.clipboard.writeText(t), "Copied.");

// go leads to a page with parameters.
export function go(page, params) {
  const q = new URLSearchParams(Object.entries(params || {}).filter(([, v]) => v)).toString();
  location.hash = `#/${page}${q ? "?" + q : ""}`;
}
export const link = (page, params) => `#/${page}?${new URLSearchParams(Object.entries(params).filter(([, v]) => v))}`;

export { open, set, state };
