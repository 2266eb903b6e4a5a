// The pages Flows and Questions: what happens and what has happened, newest first.
import { useEffect, useMemo, useRef, useState } from "./vendor/hooks.mjs";
import { NotOffered, call } from "./api.mjs";
import { allowHour, decide, kill } from "./decide.mjs";
import { Grid } from "./grid.mjs";
import { parse } from "./query.mjs";
import { follow, lately, state, useStore } from "./store.mjs";
import { bytes, clock, count, isBlocked, ms, plain, span } from "./text.mjs";
import { Do, Host, Menu, Verdict, act, copy, go, html, link, usePhone } from "./ui.mjs";

const most = 100000; // rows that are kept here
const page = 1000; // records that the history is asked for at once

// rowOf is a flow or question as a row.
function rowOf(r, kind) {
  const at = ms(r.start);
  const end = ms(r.end);
  const key = kind === "flow" ? `${r.flow_id}/${at}` : `${r.host}/${r.type || ""}/${r.src}/${at}`;
  return { ...r, key, at, live: kind === "flow" && !end, tone: isBlocked(r.verdict) ? "blocked" : "" };
}

// useRecords keeps the rows of one kind: live flows, the history as far as it was scrolled to, and what comes.
function useRecords(kind, filter) {
  const [rows, setRows] = useState([]);
  const [more, setMore] = useState(true);
  const [trouble, setTrouble] = useState("");
  const [missed, setMissed] = useState(0);
  const [back, setBack] = useState(0); // how far back a search came that goes on
  const what = JSON.stringify(filter);
  const self = useMemo(() => {
    const all = new Map();
    let live = new Set(), before = 0, busy = false, over = false, gone = false, failed = 0;
    let ready = false; // until the first answer the rows of the filter before stay
    const list = []; // the same rows, the newest first
    // place is where a time belongs: before all rows that are older.
    const place = (at) => {
      let low = 0, high = list.length;
      while (low < high) {
        const middle = (low + high) >> 1;
        if (list[middle].at >= at) low = middle + 1;
        else high = middle;
      }
      return low;
    };
    const find = (r) => {
      for (let i = place(r.at) - 1; i >= 0 && list[i].at === r.at; i--) if (list[i].key === r.key) return i;
      return -1;
    };
    const add = (some) => {
      for (const r of some) {
        if (all.has(r.key)) list[find(r)] = r;
        else list.splice(place(r.at), 0, r);
        all.set(r.key, r);
      }
    };
    const drop = (key) => {
      list.splice(find(all.get(key)), 1);
      all.delete(key);
    };
    const show = () => {
      for (const r of list.splice(most)) all.delete(r.key);
      if (ready && !gone) setRows([...list]);
    };
    add(lately.map((r) => (kind === "flow" ? r.flow : r.question)).filter(Boolean).map((r) => rowOf(r, kind)));
    const self = {
      stop() { gone = true; },
      // fresh takes records as they come.
      fresh(records) {
        const lost = records.reduce((n, r) => n + (r.missed || 0), 0);
        if (lost) setMissed((n) => n + lost);
        add(records.map((r) => (kind === "flow" ? r.flow : r.question)).filter(Boolean).map((r) => rowOf(r, kind)));
        show();
      },
      // now asks which flows live. One that does not any more, and whose end nobody told, is left out.
      async now() {
        const { flows } = await call("flows");
        const alive = flows.filter((f) => f.proto !== "dns").map((f) => rowOf(f, kind));
        const there = new Set(alive.map((r) => r.key));
        for (const k of live) if (!there.has(k) && all.get(k)?.live) drop(k);
        live = there;
        add(alive.filter((r) => all.get(r.key)?.live !== false));
        show();
      },
      // older asks for older records.
      async older() {
        if (busy || over || gone || Date.now() - failed < 5000) return;
        busy = true;
        try {
          for (let searched = true; searched;) { // where little matches, an answer says how far it came, and the next goes on there
            const out = await call("history/records", { ...filter, kind, limit: page, ...(before ? { before } : {}) });
            if (gone) return;
            over = !out.more;
            before = out.next ?? before;
            searched = !!out.searched;
            setBack(searched ? ms(out.searched) : 0);
            add(out.records.map((r) => rowOf(kind === "flow" ? r.flow : r.question, kind)));
            setTrouble("");
            if (searched) show();
          }
        } catch (err) {
          failed = Date.now();
          if (!(err instanceof NotOffered)) return setTrouble(err.message);
          over = true;
          await self.remembered();
        } finally {
          busy = false;
          ready = true;
          if (over && !gone) setMore(false);
        }
        show();
      },
      // remembered asks for what the daemon itself remembers, where there is no history.
      async remembered() {
        const lists = await Promise.all([call("flows", { denied: true }), ...(kind === "flow" ? [call("flows", { recent: true })] : [])].map((p) => p.catch(() => ({ flows: [] }))));
        for (const { flows } of lists) {
          add(flows.filter((f) => (f.proto === "dns") === (kind === "question") && ms(f.end)).map((f) => rowOf(f, kind)));
        }
      },
    };
    return self;
  }, [kind, what]);
  useEffect(() => {
    setMore(true);
    setMissed(0);
    setBack(0);
    self.older();
    const off = follow((records) => self.fresh(records));
    let timer, quit = false;
    const poll = async () => {
      if (!document.hidden) await self.now().catch(() => {});
      if (!quit) timer = setTimeout(poll, 2000);
    };
    if (kind === "flow") poll();
    return () => {
      quit = true;
      self.stop();
      off();
      clearTimeout(timer);
    };
  }, [self]);
  return { rows, more, trouble, missed, back, older: self.older };
}

const host = (address) => (address || "").replace(/:\d+$/, "").replace(/^\[(.*)\]$/, "$1");
const client = (r) => html`<span class="cut" title=${plain(r.src)}>${plain(r.peer || r.program?.split("/").pop() || host(r.src))}</span>`;
const time = (r) => html`<time datetime=${r.start} title=${new Date(r.at).toLocaleString()}>${clock(r.at)}</time>`;
const tag = (text) => text && html`<span class="tag">${plain(text)}</span>`;
const name = (r) => html`<span class="cut">${r.host ? html`<${Host} name=${r.host} strong />` : html`<span class="soft">no name</span>`}</span>${tag(r.host_source || r.type)}`;
const rule = (r) => html`<span class="cut" title=${plain(r.rule)}>${plain(r.rule)}</span>${tag(r.category)}`;

// why is what the page Why is asked about a row. The numbers of flows begin again when penstock starts, and it forgets old ones: then it
// is asked about the same target.
export function why(r) {
  if (r.proto === "dns") return { target: r.host, from: r.peer };
  const ported = r.proto === "tcp" || r.proto === "udp";
  const port = ported && /:\d+$/.exec(r.dst)?.[0];
  const known = ms(r.start) >= ms(state.status?.started);
  return { flow: known ? r.flow_id : "", target: r.host ? r.host + (port || "") : r.dst, from: r.peer, protocol: ported ? r.proto : "" };
}

const whyLink = (r) => html`<a class="row-link" href=${link("why", why(r))} tabindex="-1">Why?</a>`;

const flowColumns = [
  ["Time", "", time],
  ["Client", "", client],
  ["Host", "one", name],
  ["To", "mono", (r) => html`<span class="cut soft" title=${plain(r.dst)}>${plain(r.proto)} ${plain(r.dst)}</span>`],
  ["Rule", "one", rule],
  ["Way", "", (r) => html`<${Verdict} of=${r} />`],
  ["Sent, received", "num", (r) => (isBlocked(r.verdict) ? "" : html`<span>${bytes(r.txBytes)} <span class="soft">/</span> ${bytes(r.rxBytes)}</span>`)],
  ["Took", "num", (r) => (r.live ? html`<span class="live">live</span>` : html`<span class="soft">${isBlocked(r.verdict) ? "" : span(ms(r.end) - r.at)}</span>`)],
];
const questionColumns = [
  ["Time", "", time],
  ["Client", "", client],
  ["Name", "one", name],
  ["Verdict", "", (r) => (isBlocked(r.verdict) ? html`<${Verdict} of=${r} />` : html`<span class="soft">${plain(r.rcode || r.result || "")}</span>`)],
  ["Answer", "mono", (r) => html`<span class="cut soft" title=${plain((r.answers || []).join(", "))}>${plain((r.answers || []).join(", "))}</span>`],
  ["Rule", "one", rule],
  ["From", "", (r) => html`<span class="cut">${plain(r.upstream || "")}</span>${tag({ hit: "cache", stale: "stale" }[r.cache])}`],
  ["Took", "num soft", (r) => (r.end ? `${Math.max(0, ms(r.end) - r.at)} ms` : "")],
];

const card = (more) => (r) => html`
  <div class="card-line"><${Verdict} of=${r} />${r.live && html`<span class="live">live</span>`}<span class="push soft">${r.rxBytes || r.txBytes ? bytes(r.rxBytes + r.txBytes) + ", " : ""}${time(r)}</span></div>
  <div class="card-line">${name(r)}</div>
  <div class="card-line soft">${client(r)}<span class="cut">${plain(r.rule || "")}</span><span class="push">${more(r)}</span></div>`;

// actions are what can be done about a row.
function actions(r, offers, readOnly, narrow) {
  const changes = readOnly ? [] : [
    r.host && ["Allow for 1 hour", () => allowHour(r.host, r.peer)],
    r.host && [offers.decisions ? "Allow always …" : "Allow …", () => decide("allow", r.host, r.peer, true)],
    r.host && offers.decisions && ["Block …", () => decide("block", r.host, r.peer, true), "danger"],
    r.live && ["End this flow", () => kill(r.flow_id), "danger"],
  ];
  return [
    ["Why?", () => go("why", why(r))],
    ...changes,
    r.host && ["Only this host", () => narrow(`host:${r.host}`)],
    r.rule && ["Only this rule", () => narrow(`rule:${quote(r.rule)}`)],
    (r.peer || r.src) && ["Only this client", () => narrow(`client:${r.peer || host(r.src)}`)],
    r.host && ["Copy the name", () => copy(r.host)],
  ];
}
const quote = (s) => (/\s/.test(s) ? `"${s}"` : s);

function Records({ kind, title, params, columns, template, label, hint }) {
  const { known, offers, readOnly } = useStore();
  const phone = usePhone();
  const [text, setText] = useState(params.get("q") || "");
  const [only, setOnly] = useState(params.get("blocked") === "1");
  const [late, setLate] = useState(text);
  const [chosen, choose] = useState();
  const [held, setHeld] = useState(0); // the time of the newest row that is shown while somebody points at one; 0: nobody does
  const at = useRef(null);
  useEffect(() => {
    const timer = setTimeout(() => {
      setLate(text);
      if (!location.hash.startsWith(`#/${kind}s`)) return; // somebody is leaving
      // The filter is in the address, so that a page that is loaded again shows the same.
      const q = new URLSearchParams({ ...(text ? { q: text } : {}), ...(only ? { blocked: "1" } : {}) }).toString();
      history.replaceState(null, "", `#/${kind}s${q ? "?" + q : ""}`);
    }, 150);
    return () => clearTimeout(timer);
  }, [text, only]);
  const wanted = useMemo(() => parse(only ? `${late} blocked` : late), [late, only]);
  const { rows, more, trouble, missed, back, older } = useRecords(kind, wanted.filter);
  const current = useMemo(() => (wanted.empty ? rows : rows.filter(wanted.test)), [rows, wanted]);
  const waiting = held ? Math.max(0, current.findIndex((r) => r.at <= held)) : 0;
  const shown = useMemo(() => (waiting ? current.slice(waiting) : current), [current, waiting]);
  const hold = () => setHeld((h) => h || current[0]?.at || 0);
  const release = () => setHeld(0);
  const narrow = (term) => setText((t) => (t ? `${t} ${term}` : term));
  const [all, small] = useMemo(() => {
    const menu = (r) => html`<${Menu} label=${`What to do about ${plain(r.host || r.dst)}`} items=${actions(r, offers, readOnly, narrow)} />`;
    return [[...columns, ["Do", "do", (r) => html`${whyLink(r)}${menu(r)}`]], card((r) => html`${whyLink(r)}${menu(r)}`)];
  }, [columns, offers.decisions, readOnly]);
  const press = (key, r) => {
    if (key === "Enter" || key === "w") go("why", why(r));
    else if (key === "Escape") choose(undefined);
    else if (readOnly || !r.host) return false;
    else if (key === "a") allowHour(r.host, r.peer);
    else if (key === "A") decide("allow", r.host, r.peer, true);
    else if (key === "b" && offers.decisions) decide("block", r.host, r.peer, true);
    else if (key === "x" && r.live) kill(r.flow_id);
    else return false;
    return true;
  };
  return html`<section class="fill">
    <div class="tools">
      <h1>${title}</h1>
      <div class="search"><input type="search" ref=${at} aria-label=${`Filter ${kind}s`} placeholder=${hint} value=${text} data-search
        onInput=${(e) => setText(e.target.value)} spellcheck=${false} autocomplete="off" autocapitalize="off" /><kbd aria-hidden="true">/</kbd></div>
      <label class="toggle"><input type="checkbox" checked=${only} onChange=${(e) => setOnly(e.target.checked)} /><span>Blocked only</span></label>
      ${kind === "question" && html`<${Do} class="small" run=${() => act(() => call("dns/flush"), "The cache is empty.")}>Flush the cache<//>`}
      <span class="soft push" role="status">${back ? `searched back to ${clock(back)}, ` : ""}${count(shown.length)}${more ? "+" : ""}${waiting ? `, ${count(waiting)} new` : ""}</span>
    </div>
    ${trouble && html`<p class="problem" role="alert">${trouble}</p>`}
    ${missed > 0 && html`<p class="warning">${count(missed)} records came faster than this page could show. ${offers["history/records"] ? "The history has them." : ""}</p>`}
    <div class="fill" onPointerMove=${(e) => !held && e.pointerType === "mouse" && hold()} onPointerLeave=${release}>
      <${Grid} label=${label} columns=${all} template=${template} height=${phone ? 92 : 34} card=${phone && small}
        rows=${shown} chosen=${chosen} choose=${choose} press=${press} end=${more ? older : undefined}>
        ${more ? "Looking …" : wanted.empty ? `No ${kind}s yet.` : html`Nothing matches. ${known && !offers["history/records"] ? "No history is kept here: there is only what has happened lately." : ""}`}
      <//>
    </div>
  </section>`;
}

export const Flows = ({ params }) => html`<${Records} kind="flow" title="Flows" label="Flows, newest first" params=${params} columns=${flowColumns}
  hint="host:example rule:lan blocked" template="62px minmax(76px,1fr) minmax(170px,3fr) minmax(130px,1.1fr) minmax(98px,1.5fr) minmax(86px,.9fr) 124px 46px 70px" />`;
export const Questions = ({ params }) => html`<${Records} kind="question" title="Questions" label="DNS questions, newest first" params=${params} columns=${questionColumns}
  hint="host:example type:aaaa cache:hit" template="62px minmax(76px,1fr) minmax(170px,3fr) 96px minmax(110px,1.5fr) minmax(96px,1.3fr) minmax(116px,1.2fr) 54px 70px" />`;
