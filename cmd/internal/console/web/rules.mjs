// The pages Rules and Lists.
import { useState } from "./vendor/hooks.mjs";
import { call } from "./api.mjs";
import { decide, remove } from "./decide.mjs";
import { open, useStore } from "./store.mjs";
import { capital, count, full, ms, plain, plural } from "./text.mjs";
import { Ago, Answer, Badge, Bar, Dialog, Do, Host, Nothing, Problem, Table, act, html, link, useCall } from "./ui.mjs";

// reload shows what a reload would do, and does it if somebody wants that.
async function reload(again) {
  const plan = await act(() => call("reload", { dryRun: true }));
  if (!plan) return;
  const run = (killDenied) => async () => {
    const out = await act(() => call("reload", { killDenied }), "The configuration is in force.");
    if (out) {
      open(null);
      again();
    }
  };
  open(() => html`<${Dialog} title="Reload the configuration?">
    ${plan.changed?.length ? html`<p>What changes: <b>${plan.changed.join(", ")}</b>.</p>` : html`<p>The file says what is in force already.</p>`}
    ${plan.restart?.length > 0 && html`<p class="warning">Only a restart changes ${plan.restart.join(", ")}.</p>`}
    <p>${plural(plan.blocked, "live flow")} would be blocked by the new rules, and ${count(plan.rerouted)} sent elsewhere.</p>
    ${plan.warnings?.map((w) => html`<p class="warning">${w}</p>`)}
    <p class="actions"><${Do} class="primary" run=${run(false)}>Reload<//>
      ${plan.blocked > 0 && html`<${Do} class="danger" run=${run(true)}>Reload and end those<//>`}
      <button type="button" class="button" onClick=${() => open(null)}>Cancel</button></p>
  <//>`);
}

// Tests are the configuration's own, judged now.
function Tests({ tests }) {
  const failed = tests.filter((t) => t.error).length;
  return html`<section class=${"panel" + (failed ? " warn" : "")}><header><h2>Tests</h2><span class="soft">of the configuration, judged by what is in force now</span>
      <span class="push"><${Badge} tone=${failed ? "bad" : "ok"}>${failed ? `${count(failed)} of ${count(tests.length)} do not hold` : `${plural(tests.length, "test")} ${tests.length === 1 ? "holds" : "hold"}`}<//></span></header>
    <${Table} label="Tests of the configuration" rows=${tests} columns=${[
      ["Test", "", (t) => html`from <b>${plain(t.from) || "this machine"}</b> to <${Host} name=${t.to} strong /><br /><span class="soft small mono">${plain(t.position)}</span>`],
      ["Expects", "", (t) => plain(t.expect)],
      ["Gets", "", (t) => html`${plain(t.got) || "nothing"}${t.rule && html` <span class="soft">by ${plain(t.rule)}</span>`}`],
      ["Result", "", (t) => html`<${Badge} tone=${t.error ? "bad" : "ok"}>${t.error ? "does not hold" : "holds"}<//>`],
      ["Why", "do", (t) => html`<a class="button small" href=${link("why", { target: t.to, from: t.from })} aria-label=${`Why ${plain(t.to)}?`}>Why?</a>`],
    ]} /></section>`;
}

function Decisions() {
  const c = useCall("decisions", {}, 5000);
  if (c.missing) return null;
  const list = c.data?.decisions || [];
  return html`<section class="panel"><header><h2>Decisions</h2><span class="soft">come before the rules</span>
      <span class="push actions"><${Do} class="small" run=${async () => decide("allow", "", "", false, c.again)}>Allow …<//><${Do} class="small" run=${async () => decide("block", "", "", false, c.again)}>Block …<//></span></header>
    ${c.error && html`<${Problem}>${c.error}<//>`}
    ${c.data?.fault && html`<${Problem}>${c.data.fault}<//>`}
    ${list.length ? html`<${Table} label="Decisions" rowKey=${(d) => d.id} rows=${list} columns=${[
      ["What", "", (d) => html`<${Badge} tone=${(d.do || d.kind) === "block" ? "bad" : "ok"}>${d.do || d.kind}<//> ${d.target === "filter" ? html`<b>everything that the filter blocks</b>` : html`<${Host} name=${d.target} strong />`}${d.note && html`<br /><span class="soft small">${full(plain(d.note))}</span>`}`],
      ["For", "", (d) => (d.peer ? plain(d.peer) : "everyone")],
      ["Until", "", (d) => (ms(d.until) ? html`<${Ago} at=${d.until} />` : "always")],
      ["Made", "soft", (d) => html`<${Ago} at=${d.made} />${d.by ? ` by ${plain(d.by)}` : ""}`],
      ["Do", "do", (d) => html`<${Do} class="small" run=${() => remove(d.id, c.again)}>Take back<//>`],
    ]} />` : c.data && html`<${Nothing}>Nobody has decided anything. What is allowed or blocked here stands above all rules.<//>`}
  </section>`;
}

export function Rules() {
  const c = useCall("rules", {}, 5000);
  return html`<div class="tools"><h1>Rules</h1><span class="soft">The first that matches decides.</span><span class="push"><${Do} class="small" run=${() => reload(c.again)}>Reload …<//></span></div>
    <${Decisions} />
    <${Answer} of=${c} what="rules">${({ rules, tests }) => {
      const most = Math.max(1, ...rules.map((r) => r.hits));
      return html`<section class="panel"><${Table} label="Rules in order" rowKey=${(r) => r.name} rows=${rules} rowClass=${(r) => (r.shadowedBy ? "faint" : "")} columns=${[
        ["Rule", "", (r, i) => html`<span class="soft">${i + 1}</span> <b>${plain(r.name)}</b><br /><span class="soft small mono">${plain(r.position)}</span>`],
        ["Matches", "wide", (r) => html`<span>${r.match ? plain(r.match) : html`<span class="soft">everything else</span>`}</span>${r.shadowedBy && html`<br /><${Badge} tone="warn">never asked: ${plain(r.shadowedBy)} comes first<//>`}`],
        ["Does", "", (r) => html`<${Badge} tone=${/^(block|drop)/.test(r.do) ? "bad" : /via/.test(r.do) ? "info" : "ok"}>${plain(r.do)}<//>`],
        ["Hits", "num", (r) => html`<a href=${link("flows", { q: `rule:${/\s/.test(r.name) ? `"${r.name}"` : r.name}` })}>${count(r.hits)}</a>`],
        ["Share", "bar-cell", (r) => html`<${Bar} share=${r.hits / most} tone=${/^(block|drop)/.test(r.do) ? "bad" : "info"} />`],
        ["Last hit", "soft", (r) => html`<${Ago} at=${r.lastHit} />`],
      ]} /></section>${tests?.length > 0 && html`<${Tests} tests=${tests} />`}`;
    }}<//>`;
}

export function Lists() {
  const c = useCall("lists", {}, 10000);
  const [name, setName] = useState("");
  const [found, setFound] = useState(null);
  const look = async (e) => {
    e.preventDefault();
    if (name.trim()) setFound(await act(() => call("lists/lookup", { name: name.trim() })) || null);
  };
  const refresh = () => act(() => call("lists/refresh"), "All lists are read again.").then(c.again);
  return html`<div class="tools"><h1>Lists</h1><span class="push"><${Do} class="small" run=${refresh}>Refresh all<//></span></div>
    <form class="ask" onSubmit=${look}><span class="field grow"><label for="lookup">Which lists have a name?</label><input id="lookup" data-search value=${name} onInput=${(e) => setName(e.target.value)} autocomplete="off" spellcheck=${false} placeholder="example.org" /></span><button class="button">Look up</button></form>
    ${found && html`<section class="panel" role="status">${found.hits.length ? html`<ul class="plain">${found.hits.map((h) => html`<li><${Badge} tone=${h.allow ? "ok" : "bad"}>${plain(h.category)}${h.allow ? ", excepted" : ""}<//> <${Host} name=${h.entry} /> <span class="soft mono small">${plain(h.list)}${h.line ? ":" + h.line : ""}</span></li>`)}</ul>` : html`<p>No list has <${Host} name=${found.name} strong />.</p>`}</section>`}
    <${Answer} of=${c} what="lists">${({ lists }) => (lists.length ? html`<section class="panel"><${Table} label="Lists" rows=${lists} rowKey=${(l) => l.category + l.list} columns=${[
      ["Category", "", (l) => html`<b>${plain(l.category)}</b>`],
      ["List", "wide mono", (l) => plain(l.list)],
      ["Entries", "num", (l) => count(l.entries)],
      ["Hits", "num", (l) => (l.hits === undefined ? html`<a href=${link("flows", { q: `category:${l.category}` })}>see</a>` : count(l.hits))],
      ["Updated", "soft", (l) => html`<${Ago} at=${l.updated} />`],
      ["Next look", "soft", (l) => (ms(l.next) ? html`<${Ago} at=${l.next} />` : "")],
      ["State", "", (l) => (l.error ? html`<${Badge} tone="bad">${full(capital(plain(l.error)))}<//>` : html`<${Badge} tone="ok">ok<//>`)],
    ]} /></section>` : html`<${Nothing}>No list is in use.<//>`)}<//>`;
}
