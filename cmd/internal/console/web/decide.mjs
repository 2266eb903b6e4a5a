// What people decide: allow, block, pause, kill. Whatever writes to a file is shown first.
import { useEffect, useState } from "./vendor/hooks.mjs";
import { call } from "./api.mjs";
import { open, useStore } from "./store.mjs";
import { clock, ms, plain } from "./text.mjs";
import { Dialog, Diff, Do, Problem, act, html } from "./ui.mjs";

const second = 1e9;
const hour = 3600 * second;

const until = (out) => (ms(out.until) ? `until ${clock(ms(out.until), false)}` : "always");
const forWhom = (peer) => (peer ? ` for ${plain(peer)}` : "");
const said = { allow: "is allowed", block: "is blocked" };
const report = (verb, target, peer) => (out) =>
  out.warning ? `${plain(target)} ${said[verb]}${forWhom(peer)} ${until(out)}, but: ${out.warning}` : `${plain(target)} ${said[verb]}${forWhom(peer)} ${until(out)}.`;

// allowHour lets a name through for an hour: at once, because it ends by itself.
export const allowHour = (target, peer) => act(() => call("allow", { target, for: hour, peer }), report("allow", target, peer));

export const kill = (id) => act(() => call("flows/kill", { name: id }), "The flow is ended.");

export const pause = (minutes) => act(() => call("allow", { target: "filter", for: minutes * 60 * second }), (out) => `The filter is paused until ${clock(ms(out.until), false)}.`);

// resume takes back each pause of the filter that is for everyone.
export const resume = () =>
  act(async () => {
    const { decisions } = await call("decisions");
    for (const d of decisions.filter((d) => d.target === "filter" && !d.peer)) await call("decisions/remove", { id: d.id });
  }, "The filter is on again.");

// remove takes a decision back. If it stands in a file, the change is shown first.
export async function remove(id, done) {
  const plan = await act(() => call("decisions/remove", { id, dryRun: true }));
  if (!plan) return;
  const doIt = () => act(() => call("decisions/remove", { id }), "The decision is taken back.").then((out) => {
    if (out) {
      open(null);
      done?.();
    }
  });
  if (!plan.diff) return void (await doIt());
  open(() => html`<${Dialog} title="Take the decision back?" wide>
    <p>This changes <code>${plan.file}</code>:</p>
    <${Diff} text=${plan.diff} />
    <p class="actions"><${Do} class="primary" run=${doIt}>Take it back<//>
      <button type="button" class="button" onClick=${() => open(null)}>Cancel</button></p>
  <//>`);
}

const times = [[600, "10 minutes"], [3600, "1 hour"], [8 * 3600, "8 hours"], [86400, "a day"]];

// decide asks for what, for whom and for how long, and says what would be written where.
export const decide = (verb, target, peer, always, done) => open(() => html`<${Decide} verb=${verb} target=${target} peer=${peer} always=${always} done=${done} />`);

function Decide({ verb, target: first, peer, always, done }) {
  const kept = useStore().offers.decisions; // else decisions only last for a while
  const [target, setTarget] = useState(first || "");
  const [length, setLength] = useState(always && kept ? "always" : "3600");
  const [mine, setMine] = useState(!!peer);
  const [plan, setPlan] = useState({});
  const query = { target: target.trim(), ...(length === "always" ? { always: true } : { for: Number(length) * second }), ...(mine && peer ? { peer } : {}) };
  const what = JSON.stringify(query);
  useEffect(() => {
    setPlan({});
    if (length !== "always" || !query.target) return undefined;
    const quit = new AbortController();
    const timer = setTimeout(async () => {
      try {
        setPlan(await call(verb, { ...query, dryRun: true }, quit.signal));
      } catch (err) {
        if (!quit.signal.aborted) setPlan({ error: err.message });
      }
    }, 250);
    return () => {
      quit.abort();
      clearTimeout(timer);
    };
  }, [what]);
  const ready = query.target && (length !== "always" || plan.diff !== undefined || plan.target);
  const doIt = async () => {
    const out = await act(() => call(verb, query), report(verb, query.target, query.peer));
    if (out) {
      open(null);
      done?.();
    }
  };
  return html`<${Dialog} title=${verb === "allow" ? "Allow" : "Block"} wide=${!!plan.diff}>
    <label for="decide-target">What</label>
    <input id="decide-target" value=${target} onInput=${(e) => setTarget(e.target.value)} spellcheck=${false} autocomplete="off" />
    <p class="soft small">A name, with all names below it, or category:NAME.</p>
    <fieldset><legend>For how long</legend><div class="choices">
      ${[...times.map(([s, name]) => [String(s), name]), ...(kept ? [["always", "always"]] : [])].map(([value, name]) => html`<label class="choice">
        <input type="radio" name="length" value=${value} checked=${length === value} onChange=${() => setLength(value)} /><span>${name}</span></label>`)}
    </div></fieldset>
    ${peer && html`<fieldset><legend>For whom</legend><div class="choices">
      <label class="choice"><input type="radio" name="whom" checked=${mine} onChange=${() => setMine(true)} /><span>only ${plain(peer)}</span></label>
      <label class="choice"><input type="radio" name="whom" checked=${!mine} onChange=${() => setMine(false)} /><span>everyone</span></label></div></fieldset>`}
    ${plan.error && html`<${Problem}>${plan.error}<//>`}
    ${plan.diff && html`<p>This changes <code>${plan.file}</code>:</p><${Diff} text=${plan.diff} />`}
    <p class="actions">
      <${Do} class=${verb === "block" ? "primary danger" : "primary"} run=${doIt} ...${ready ? {} : { disabled: true }}>${verb === "allow" ? "Allow" : "Block"} ${length === "always" ? "always" : ""}<//>
      <button type="button" class="button" onClick=${() => open(null)}>Cancel</button></p>
  <//>`;
}
