// The page Health: whether penstock is ready, and what doctor finds.
import { useState } from "./vendor/hooks.mjs";
import { NotOffered, call, signOut } from "./api.mjs";
import { warnings } from "./now.mjs";
import { state, useStore } from "./store.mjs";
import { capital, full, plain } from "./text.mjs";
import { Ago, Badge, Nothing, Problem, Table, html, tone } from "./ui.mjs";

// checks are what penstock itself watches: [what, whether it is so, what there is to say, since].
function checks(s) {
  const list = [["State", s.state === "connected" ? (s.degraded ? "warn" : "ok") : "bad", s.degraded ? "degraded" : s.state, s.reason || s.verdict, s.since]];
  for (const t of s.transports) list.push([`Transport ${t.name}`, tone(t.state, t.degraded), t.degraded ? "degraded" : t.state, t.state === "connected" ? "" : t.error || t.reason || "", t.since]);
  for (const h of s.health || []) list.push([`Reach ${h.target}`, h.reached ? "ok" : "bad", h.reached ? "reached" : "not reached", h.error || "", h.since]);
  list.push(["Configuration", s.reloadError ? "bad" : "ok", s.reloadError ? "refused" : "in force", s.reloadError || `${s.config}, generation ${s.policyGeneration}`, ""]);
  if (s.historyStopped) list.push(["History", "bad", "not kept", s.historyStopped, ""]);
  if (s.restart?.length) list.push(["Restart", "warn", "waits", `for changes of ${s.restart.join(", ")}`, ""]);
  return list;
}

function Doctor() {
  const [out, setOut] = useState({});
  const run = async () => {
    setOut({ busy: true });
    try {
      setOut({ findings: (await call("doctor")).findings });
    } catch (err) {
      setOut(err instanceof NotOffered ? { missing: true } : { error: err.message });
    }
  };
  const tones = { ok: "ok", warning: "warn", fault: "bad" };
  return html`<section class="panel"><header><h2>Doctor</h2><span class="soft">looks at this machine, and changes nothing</span>
      <span class="push"><button type="button" class="button small primary" disabled=${!!out.busy} aria-busy=${!!out.busy} onClick=${run}>${out.busy ? "Looking …" : "Run doctor"}</button></span></header>
    ${out.error && html`<${Problem}>${out.error}<//>`}
    ${out.missing && html`<${Nothing}>This penstock has no doctor.<//>`}
    ${out.findings && html`<${Table} label="What doctor found" rows=${out.findings} rowKey=${(f) => f.name} columns=${[
      ["Check", "", (f) => html`<b>${plain(f.name)}</b>`],
      ["Result", "", (f) => html`<${Badge} tone=${tones[f.result] || "quiet"}>${f.result}<//>`],
      ["Found", "wide", (f) => html`${full(capital(plain(f.found)))}${f.mend && html`<br /><span class="mend">${full(capital(plain(f.mend)))}</span>`}`],
    ]} />`}
  </section>`;
}

// On a phone there is no side to the page, and what stands there is here.
const More = ({ theme, help }) => html`<p class="actions phone-only">
  <button type="button" class="button" onClick=${theme}>Theme: ${state.theme}</button><button type="button" class="button" onClick=${help}>Filters</button><button type="button" class="button" onClick=${signOut}>Sign out</button></p>`;

export function Health({ theme, help }) {
  const { status: s, version } = useStore();
  if (!s) return html`<p class="nothing" role="status">Asking penstock …</p>`;
  const others = warnings(s);
  const ready = s.state === "connected" && (s.health || []).every((h) => h.reached);
  return html`<section class=${"hero " + (ready ? (s.degraded ? "warn" : "ok") : "bad")}><h1>${ready ? "penstock is ready: data flows." : "penstock is not ready."}</h1><p class="soft">${full(capital(plain(s.verdict)))}</p></section>
    <section class="panel"><header><h2>Checks</h2><span class="soft">as penstock watches them</span></header>
      <${Table} label="Checks" rows=${checks(s)} rowKey=${(c) => c[0]} columns=${[
        ["Check", "", (c) => html`<b>${plain(c[0])}</b>`], ["Result", "", (c) => html`<${Badge} tone=${c[1]}>${c[2]}<//>`],
        ["Reason", "wide soft", (c) => full(capital(plain(c[3])))], ["Since", "soft", (c) => (c[4] ? html`<${Ago} at=${c[4]} />` : "")],
      ]} /></section>
    ${others.length > 0 && html`<section class="panel warn"><header><h2>To look at</h2></header><ul class="plain">${others.map(([, t]) => html`<li>${full(plain(t))}</li>`)}</ul></section>`}
    <${Doctor} />
    <section class="panel"><dl class="facts">
      <div><dt>Version</dt><dd>${version || s.version}</dd></div><div><dt>Configuration</dt><dd class="mono">${s.config}</dd></div>
      <div><dt>Takes packets from</dt><dd>${s.listen.join(", ")}</dd></div><div><dt>Started</dt><dd><${Ago} at=${s.started} /></dd></div>
      ${s.direct && html`<div><dt>Direct flows</dt><dd>${capital(plain(s.direct))}</dd></div>`}</dl></section>
    <${More} theme=${theme} help=${help} />`;
}
