// The page History: sums over what is kept. A click narrows them.
import { useEffect, useMemo, useState } from "./vendor/hooks.mjs";
import { call } from "./api.mjs";
import { Chart } from "./chart.mjs";
import { note } from "./store.mjs";
import { bytes, count, ms, plain } from "./text.mjs";
import { Answer, Nothing, go, html, useCall } from "./ui.mjs";

const spans = [[6, "6 hours"], [24, "24 hours"], [168, "7 days"], [720, "30 days"], [8760, "a year"]];
const lines = [{ label: "allowed", colour: "--chart-ok", bars: true, value: (data, i) => data[1][i] - data[2][i] }, { label: "blocked", colour: "--chart-bad", bars: true }];
const whole = (v) => count(Math.round(v));
const narrowing = { category: "Category", rule: "Rule", client: "Client", host: "Host" };
const exported = 50000; // records at most

// column is a record's field in a file of values separated by commas. A text that a spreadsheet would calculate is quoted as text.
const column = (v) => {
  const text = String(v ?? "");
  return `"${(/^[=+\-@\t\r]/.test(text) ? "'" + text : text).replaceAll('"', '""')}"`;
};
const columns = ["kind", "start", "end", "peer", "src", "dst", "proto", "host", "type", "verdict", "rule", "category", "via", "txBytes", "rxBytes", "rcode", "upstream", "cache", "reason"];

// save writes the records that a filter selects into a file.
async function save(filter, format) {
  const all = [];
  try {
    for (let before = 0; all.length < exported;) {
      const out = await call("history/records", { ...filter, limit: 5000, ...(before ? { before } : {}) });
      all.push(...out.records.map((r) => ({ kind: r.flow ? "flow" : "question", ...(r.flow || r.question) })));
      if (!out.more) break;
      before = out.next;
    }
  } catch (err) {
    note(err.message, true);
    return;
  }
  const text = format === "json" ? all.map((r) => JSON.stringify(r)).join("\n") + "\n" : [columns.join(","), ...all.map((r) => columns.map((c) => column(r[c])).join(","))].join("\r\n") + "\r\n";
  const a = document.createElement("a");
  a.href = URL.createObjectURL(new Blob([text], { type: format === "json" ? "application/x-ndjson" : "text/csv" }));
  a.download = `penstock-history.${format === "json" ? "jsonl" : "csv"}`;
  a.click();
  setTimeout(() => URL.revokeObjectURL(a.href), 10000);
  note(all.length >= exported ? `The newest ${count(exported)} records are saved. penstock history export writes more.` : `${count(all.length)} records are saved.`);
}

function Sums({ by, name, filter, pick }) {
  const c = useCall("history/totals", { ...filter, by, limit: 10 }, 60000);
  const list = (c.data?.totals || []).filter((t) => t.key);
  const most = Math.max(1, ...list.map((t) => t.allowed + t.blocked));
  return html`<section class="panel"><header><h2>By ${name}</h2><span class="soft push">allowed, blocked</span></header>
    <${Answer} of=${c} what="a history">${() => (list.length ? html`<ul class="top sums">${list.map((t) => html`<li key=${t.key}>
      <button type="button" class="as-link cut" title=${plain(t.key)} onClick=${() => pick(by, t.key)}><bdi dir="ltr">${plain(t.key)}</bdi></button>
      <span class="bar" aria-hidden="true"><span class="ok" style=${{ width: `${(100 * t.allowed) / most}%` }}></span><span class="bad" style=${{ width: `${(100 * t.blocked) / most}%` }}></span></span>
      <span class="num">${count(t.allowed)}<span class="unseen"> allowed</span></span><span class=${"num" + (t.blocked ? " blocked-text" : "")}>${count(t.blocked)}<span class="unseen"> blocked</span></span></li>`)}</ul>` : html`<${Nothing}>Nothing.<//>`)}<//></section>`;
}

const lastTime = Date.UTC(9999, 11, 31); // what comes later has no year that penstock reads

// period is the time that an address asks for: from and to in ms since 1970 (undefined: until now), or so many hours back. What makes no
// sense is left out, and wrong says so.
export function period(params) {
  const number = (name) => (params.get(name) ? Number(params.get(name)) : undefined);
  const isTime = (n) => n >= 0 && n <= lastTime;
  const out = { hours: number("hours") ?? 24, from: number("from"), to: number("to"), wrong: "" };
  const bad = [];
  if (!(out.hours > 0 && out.hours <= spans.at(-1)[0])) {
    bad.push(`hours=${params.get("hours")}`);
    out.hours = 24;
  }
  if ((out.from !== undefined || out.to !== undefined) && !(isTime(out.from) && isTime(out.to) && out.from < out.to)) {
    bad.push(...["from", "to"].filter((k) => params.get(k)).map((k) => `${k}=${params.get(k)}`));
    out.from = out.to = undefined;
  }
  if (bad.length) out.wrong = `The address of this page says ${bad.join(" and ")}, which is no time that can be shown. These are the last ${out.hours} hours.`;
  return out;
}

export function History({ params }) {
  const { hours, from, to, wrong } = period(params);
  const ranged = from !== undefined;
  const blocked = params.get("blocked") === "1";
  const [start, setStart] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => setStart(Date.now()), 60000);
    return () => clearInterval(timer);
  }, []);
  const filter = useMemo(() => {
    const f = ranged ? { since: new Date(from).toISOString(), until: new Date(to).toISOString() } : { since: new Date(start - hours * 3600e3).toISOString() };
    for (const k of Object.keys(narrowing)) if (params.get(k)) f[k] = params.get(k);
    if (blocked) f.blocked = true;
    return f;
  }, [params.toString(), start]);
  const by = hours > 168 && !ranged ? "day" : "hour";
  const c = useCall("history/totals", { ...filter, by, limit: 1000 });
  const data = useMemo(() => {
    const list = c.data?.totals || [];
    return [list.map((t) => ms(t.time) / 1000), list.map((t) => t.allowed + t.blocked), list.map((t) => t.blocked)];
  }, [c.data]);
  const sum = (i) => data[i].reduce((a, b) => a + b, 0);
  const traffic = (c.data?.totals || []).reduce((n, t) => n + t.rxBytes + t.txBytes, 0);
  const change = (patch) => go("history", { ...Object.fromEntries(params), ...patch });
  const inHour = (i) => change({ from: data[0][i] * 1000, to: (data[0][i] + (by === "day" ? 86400 : 3600)) * 1000 });
  if (c.missing) return html`<h1>History</h1><${Nothing}>No history is kept here. Set <code>history: {}</code> in the configuration to keep one.<//>`;
  const narrowed = Object.keys(narrowing).filter((k) => params.get(k));
  return html`<div class="tools"><h1>History</h1>
      <span class="choices" role="group" aria-label="How far back">${spans.map(([h, t]) => html`<button type="button" class="choice-button" aria-pressed=${!ranged && h === hours} onClick=${() => change({ hours: String(h), from: "", to: "" })}>${t}</button>`)}</span>
      <label class="toggle"><input type="checkbox" checked=${blocked} onChange=${(e) => change({ blocked: e.target.checked ? "1" : "" })} /><span>Blocked only</span></label>
      <span class="push actions"><button type="button" class="button small" onClick=${() => save(filter, "csv")}>Save as CSV</button><button type="button" class="button small" onClick=${() => save(filter, "json")}>JSON</button></span></div>
    ${wrong && html`<p class="warning" role="alert">${plain(wrong)}</p>`}
    ${(narrowed.length > 0 || ranged) && html`<p class="chips">${ranged && html`<button type="button" class="chip" onClick=${() => change({ from: "", to: "" })}>${new Date(from).toLocaleString([], { dateStyle: "medium", timeStyle: "short" })}<span aria-label="remove"> ✕</span></button>`}
      ${narrowed.map((k) => html`<button type="button" class="chip" onClick=${() => change({ [k]: "" })}><span class="soft">${k}</span> ${plain(params.get(k))}<span aria-label="remove"> ✕</span></button>`)}</p>`}
    <section class="panel"><header><h2>${by === "day" ? "Each day" : "Each hour"}</h2></header>
      <p class="key"><span><i class="ok"></i>allowed <b>${count(sum(1) - sum(2))}</b></span><span><i class="bad"></i>blocked <b>${count(sum(2))}</b></span><span class="soft">${bytes(traffic)} carried</span></p>
      ${c.error && html`<p class="problem" role="alert">${c.error}</p>`}
      <${Chart} label=${`${count(sum(1) - sum(2))} allowed and ${count(sum(2))} blocked`} data=${data} lines=${lines} format=${whole} height=${200} pick=${inHour} /></section>
    <div class="two">${Object.entries(narrowing).map(([k, name]) => html`<${Sums} key=${k} by=${k} name=${name.toLowerCase()} filter=${filter} pick=${(key, v) => change({ [key]: v })} />`)}</div>
    <p class="actions"><button type="button" class="button" onClick=${() => go("flows", { q: narrowed.map((k) => `${k}:${/\s/.test(params.get(k)) ? `"${params.get(k)}"` : params.get(k)}`).join(" "), blocked: blocked ? "1" : "" })}>The flows behind it</button></p>`;
}
