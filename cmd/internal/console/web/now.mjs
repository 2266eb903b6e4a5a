// The page Now: how it is, why, and what to do about it.
import { useEffect, useMemo, useState } from "./vendor/hooks.mjs";
import { call } from "./api.mjs";
import { Chart } from "./chart.mjs";
import { allowHour, pause, resume } from "./decide.mjs";
import { why } from "./records.mjs";
import { follow, useStore } from "./store.mjs";
import { bytes, capital, clock, count, full, isBlocked, ms, plain, span } from "./text.mjs";
import { Ago, Badge, Bar, Do, Host, Menu, Nothing, act, go, html, link, tone, useCall, useTick } from "./ui.mjs";

// sentence is the state with its reason.
export function sentence(s) {
  const names = s.transports.filter((t) => t.state === "connected" && !t.active).map((t) => t.name);
  const via = names.length ? " via " + names.join(" and ") : "";
  const first = {
    connected: `penstock is connected${via}`,
    connecting: "penstock is connecting",
    reconnecting: "penstock lost its connection and tries again",
    offline: "This machine is offline",
    blocked: "Traffic is blocked",
    waiting: "penstock waits for somebody to sign in",
    down: "penstock's transports are down",
    quiesced: "penstock rests while this machine sleeps",
  }[s.state] || `penstock is ${s.state}`;
  const reason = s.reason && s.state !== "connected" ? `: ${s.reason}` : "";
  if (s.state === "connected" && s.degraded) return `${first}, but not as it should be${s.reason ? ": " + s.reason : ""}.`;
  if (s.state === "connected") return `${!via && s.transports.length === 0 ? "penstock is at work" : first}, and ${s.pausedUntil ? "the filter is paused" : "the filter is on"}.`;
  return full(first + reason);
}

// problems are what should be looked at, the worst first: [when, text].
export const problems = (s) => [...failures(s), ...warnings(s)];

function failures(s) {
  const list = [];
  if (s.reloadError) list.push(["", `The last reload was refused: ${s.reloadError}`]);
  for (const t of s.transports) {
    if (t.signIn) list.push([t.since, `${t.name}: its server wants its user to sign in: ${t.signIn}${t.signInWhy ? `, because ${t.signInWhy}` : ""} (penstock login ${t.name})`]);
    else if (t.error && t.state !== "connected") list.push([t.since, `${t.name}: ${t.error}`]);
  }
  for (const h of s.health || []) if (!h.reached) list.push([h.since, `${h.target} is not reached${h.error ? ": " + h.error : ""}`]);
  if (s.historyStopped) list.push(["", `The history is not kept at present: ${s.historyStopped}`]);
  if (s.restart?.length) list.push(["", `Changes of ${s.restart.join(", ")} wait for a restart of penstock.`]);
  return list;
}

// warnings are what no check of the page Health says.
export function warnings(s) {
  const list = [];
  for (const w of s.warnings || []) list.push(["", w]);
  for (const t of s.transports) for (const w of t.warnings || []) list.push(["", `${t.name}: ${w}`]);
  for (const b of s.peers?.bad || []) list.push(["", `${b.file}: ${b.error}`]);
  for (const o of s.otherVPNs || []) list.push(["", `Another VPN leads ${o.networks.join(", ")} into ${o.interface}. Flows there need a rule with do: direct.`]);
  return list;
}

const rateLines = [{ label: "received", colour: "--chart-rx", fill: "--chart-rx-fill" }, { label: "sent", colour: "--chart-tx" }];
const flowLines = [
  { label: "allowed", colour: "--chart-ok", bars: true, value: (data, i) => data[1][i] - data[2][i] },
  { label: "blocked", colour: "--chart-bad", bars: true },
];
const perSecond = (v) => `${bytes(v)}/s`;
const whole = (v) => count(Math.round(v));

// rates turns running totals into what happened between them. A total that falls began anew.
function rates(samples) {
  const rate = [[], [], []], flows = [[], [], []];
  for (let i = 1; i < samples.length; i++) {
    const a = samples[i - 1], b = samples[i], t = ms(b.time) / 1000;
    const d = Math.max(0.5, t - ms(a.time) / 1000);
    const diff = (k) => (b[k] >= a[k] ? b[k] - a[k] : b[k]);
    rate[0].push(t); rate[1].push(diff("rxBytes") / d); rate[2].push(diff("txBytes") / d);
    flows[0].push(t); flows[1].push(diff("forwarded") + diff("denied")); flows[2].push(diff("denied"));
  }
  // Six bars a minute are too thin: add three up.
  const wide = [[], [], []];
  for (let i = 0; i < flows[0].length; i++) {
    if (i % 3 === 0) for (const k of [0, 1, 2]) wide[k].push(0);
    wide[0][wide[0].length - 1] = flows[0][i];
    for (const k of [1, 2]) wide[k][wide[k].length - 1] += flows[k][i];
  }
  return { rate, flows: wide };
}

function Traffic() {
  const c = useCall("samples", {}, 5000);
  const samples = c.data?.samples || [];
  const { rate, flows } = useMemo(() => rates(samples), [c.data]);
  if (c.missing) return null;
  const last = (i) => rate[i].at(-1) || 0;
  const sum = (i) => flows[i].reduce((a, b) => a + b, 0);
  return html`<div class="two">
    <section class="panel"><header><h2>Throughput</h2><span class="soft">10 minutes</span></header>
      <p class="key"><span><i class="rx"></i>received <b>${perSecond(last(1))}</b></span><span><i class="tx"></i>sent <b>${perSecond(last(2))}</b></span></p>
      <${Chart} label=${`Throughput of the last ten minutes: now ${perSecond(last(1))} received, ${perSecond(last(2))} sent`} data=${rate} lines=${rateLines} format=${perSecond} />
    </section>
    <section class="panel"><header><h2>Flows</h2><span class="soft">10 minutes</span></header>
      <p class="key"><span><i class="ok"></i>allowed <b>${count(sum(1) - sum(2))}</b></span><span><i class="bad"></i>blocked <b>${count(sum(2))}</b></span></p>
      <${Chart} label=${`Flows of the last ten minutes: ${count(sum(1) - sum(2))} allowed, ${count(sum(2))} blocked`} data=${flows} lines=${flowLines} format=${whole} />
    </section></div>`;
}

// useTop is the names that were blocked most: of a day where there is a history, else of what is remembered.
function useTop() {
  const since = useMemo(() => new Date(Date.now() - 86400e3).toISOString(), []);
  const { known, offers } = useStore();
  const [top, setTop] = useState(null);
  useEffect(() => {
    if (!known) return undefined;
    let quit = false, timer;
    const ask = async () => {
      try {
        if (offers["history/records"]) {
          const { totals } = await call("history/totals", { by: "host", blocked: true, since, limit: 9 });
          if (!quit) setTop(totals.filter((t) => t.key && t.blocked).slice(0, 8).map((t) => [t.key, t.blocked]));
        } else {
          const { flows } = await call("flows", { denied: true });
          const sums = new Map();
          for (const f of flows) if (f.host && isBlocked(f.verdict)) sums.set(f.host, (sums.get(f.host) || 0) + 1);
          if (!quit) setTop([...sums].sort((a, b) => b[1] - a[1]).slice(0, 8));
        }
      } catch { /* the next time */ }
      if (!quit) timer = setTimeout(ask, 15000);
    };
    ask();
    return () => { quit = true; clearTimeout(timer); };
  }, [known, offers["history/records"], since]);
  return top;
}

function TopBlocked() {
  const { offers, readOnly } = useStore();
  const top = useTop();
  const max = top?.[0]?.[1] || 1;
  return html`<section class="panel"><header><h2>Blocked most</h2><span class="soft">${offers["history/records"] ? "24 hours" : "lately"}</span></header>
    ${top && !top.length && html`<${Nothing}>Nothing has been blocked.<//>`}
    <ul class="top">${(top || []).map(([name, n]) => html`<li key=${name}>
      <a class="cut" href=${link("flows", { q: `host:${name}`, blocked: "1" })}><${Host} name=${name} /></a><${Bar} share=${n / max} /><span class="num">${count(n)}</span>
      <${Menu} label=${`What to do about ${plain(name)}`} items=${[["Why?", () => go("why", { target: name })], !readOnly && ["Allow for 1 hour", () => allowHour(name)]]} /></li>`)}</ul>
  </section>`;
}

function LastBlocked() {
  const { offers } = useStore();
  const [last, setLast] = useState([]);
  useEffect(() => {
    call("flows", { denied: true }).then(({ flows }) => setLast(flows.filter((f) => isBlocked(f.verdict)).slice(-6).reverse()), () => {});
    return follow((records) => {
      const fresh = records.map((r) => r.flow || r.question).filter((f) => f && isBlocked(f.verdict)).reverse();
      if (fresh.length) setLast((l) => [...fresh, ...l].slice(0, 6));
    });
  }, []);
  return html`<section class="panel"><header><h2>Blocked just now</h2><a href="#/flows?blocked=1">All</a></header>
    ${!last.length && html`<${Nothing}>Nothing lately.<//>`}
    <ul class="top">${last.map((f) => html`<li key=${(f.flow_id || "") + f.host + f.start}>
      <span class="cut"><${Host} name=${f.host || f.dst} strong /> <span class="soft">${plain(f.category || f.rule)}${f.peer ? ", " + plain(f.peer) : ""}</span></span>
      <span class="soft num"><${Ago} at=${f.start} /></span>
      <a class="button small" href=${link("why", why(f))}>Why?</a>
      ${f.host && html`<${Do} class="small" run=${() => allowHour(f.host, f.peer)}>Allow 1 h<//>`}</li>`)}</ul>
  </section>`;
}

function Transport({ t }) {
  const order = (name, done) => () => act(() => call(name, { name: t.name }), done);
  return html`<li class="transport">
    <${Badge} tone=${tone(t.state, t.degraded)}>${t.degraded ? "degraded" : t.state}<//>
    <span class="grow"><b>${t.name}</b> <span class="soft">${t.kind}${t.active ? `, new flows go via ${t.active}` : ""}${t.endpoint ? `, ${plain(t.endpoint)}` : ""}</span>
      ${t.reason && t.state !== "connected" && html`<br /><span class="soft">${plain(t.reason)}</span>`}
      ${/^https?:/.test(t.signIn) && html`<br /><a href=${t.signIn} target="_blank" rel="noreferrer">Sign in</a>`}</span>
    ${!t.active && html`<span class="soft num">${bytes(t.rxBytes)} in, ${bytes(t.txBytes)} out</span>
      <span class="soft num">heard <${Ago} at=${t.lastRx} /></span>`}
    <span class="actions">
      ${t.state === "down" ? html`<${Do} class="small" run=${order("up", `${t.name} comes up.`)}>Up<//>` : html`
        <${Do} class="small" run=${order("reconnect", `${t.name} reconnects.`)}>Reconnect<//>
        <${Do} class="small" title="What rules send through it is refused then" run=${order("down", `${t.name} goes down.`)}>Down<//>`}
    </span></li>`;
}

function PauseBar({ s }) {
  const now = useTick();
  const { offers } = useStore();
  const end = ms(s.pausedUntil);
  if (!offers.decisions) return null;
  if (end > now) return html`<span class="paused"><span>Filter paused until <b>${clock(end, false)}</b>, ${span(end - now)} left</span> <${Do} class="primary" run=${resume}>Resume<//></span>`;
  return html`<${Do} run=${() => pause(5)}>Pause filter 5 min<//><${Do} run=${() => pause(30)}>30 min<//>`;
}

export function Now() {
  const { status: s } = useStore();
  if (!s) return html`<p class="nothing" role="status">Asking penstock …</p>`;
  const list = problems(s);
  const t = s.pausedUntil ? "warn" : tone(s.state, s.degraded);
  const some = s.transports.some((x) => x.state !== "down");
  return html`
    <section class=${"hero " + t}>
      <h1>${sentence(s)}</h1>
      <p class="soft">${s.since && `Since ${clock(ms(s.since), false)}. `}${capital(plain(s.verdict))}.</p>
      <p class="actions">
        <${PauseBar} s=${s} />
        ${s.transports.length > 0 && (some ? html`<${Do} run=${() => act(() => call("reconnect"), "All transports reconnect.")}>Reconnect<//>
          <${Do} title="Transports go down and filtering goes on" run=${() => act(() => call("down"), "Transports are down, and the filter stays on.")}>Filter only<//>`
          : html`<${Do} class="primary" run=${() => act(() => call("up"), "The transports come up.")}>Connect<//>`)}
      </p>
    </section>
    ${list.length > 0 && html`<section class="panel warn" aria-label="Problems"><ul class="problems">${list.slice(0, 5).map(([at, text]) => html`<li><${Badge} tone="warn">look<//> <span class="grow">${full(plain(text))}</span>${at && html`<span class="soft"><${Ago} at=${at} /></span>`}</li>`)}</ul></section>`}
    <dl class="numbers">
      <div><dt>Live flows</dt><dd><a href="#/flows?q=live">${count(s.flows.active)}</a></dd></div>
      <div><dt>Forwarded</dt><dd>${count(s.flows.forwarded)}</dd></div>
      <div><dt>Blocked</dt><dd><a href="#/flows?blocked=1">${count(s.flows.denied)}</a></dd></div>
      ${s.peers ? html`<div><dt>Peers active</dt><dd><a href="#/clients">${count(s.peers.active)}</a><span class="soft"> of ${count(s.peers.active + s.peers.idle + s.peers.disabled + s.peers.expired)}</span></dd></div>` : ""}
      <div><dt>Running for</dt><dd><${Running} since=${s.started} /></dd></div>
    </dl>
    <${Traffic} />
    <div class="two"><${TopBlocked} /><${LastBlocked} /></div>
    ${s.transports.length > 0 && html`<section class="panel"><header><h2>Transports</h2></header>
      <ul class="transports">${s.transports.map((x) => html`<${Transport} key=${x.name} t=${x} />`)}</ul></section>`}`;
}

const Running = ({ since }) => span(useTick() - ms(since));
