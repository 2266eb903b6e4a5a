// The page Why: what would be done with a flow, or was done, as a picture.
import { useEffect, useState } from "./vendor/hooks.mjs";
import { call } from "./api.mjs";
import { allowHour, decide, remove } from "./decide.mjs";
import { useStore } from "./store.mjs";
import { capital, full, isBlocked, plain, plural, way } from "./text.mjs";
import { Answer, Badge, Do, Host, Nothing, Verdict, go, html, useCall } from "./ui.mjs";

const kinds = { block: "bad", drop: "bad", via: "info", direct: "ok", dns: "ok" };

// Step is one station of the way that a flow takes.
const Step = ({ n, title, tone = "", children }) => html`<li class=${"step " + tone}><h3><span class="step-no" aria-hidden="true">${n}</span>${title}</h3>${children}</li>`;

function Names({ x }) {
  return html`<${Step} n="1" title="Names">
    ${x.names?.length ? html`<ul>${x.names.map((n) => html`<li><${Host} name=${n.host} strong /> <span class="tag">${plain(n.source)}</span></li>`)}</ul>` : html`<p class="soft">No name is known. It is judged by its address.</p>`}
    ${x.addresses?.length > 0 && html`<p class="mono soft">${x.addresses.map(plain).join(", ")}</p>`}
    <p class="soft">From ${x.peer ? html`<b>${plain(x.peer)}</b>${x.groups?.length ? ` of ${x.groups.map(plain).join(", ")}` : ""}` : "this machine"}${x.protocol ? ` over ${x.protocol}` : ""}.</p>
    ${x.resolver && html`<p class="soft small">Resolver: ${full(plain(x.resolver))}</p>`}
  <//>`;
}

function Hits({ x }) {
  return html`<${Step} n="2" title="Categories" tone=${x.hits?.some((h) => !h.allow) ? "touched" : ""}>
    ${x.hits?.length ? html`<ul>${x.hits.map((h) => html`<li><${Badge} tone=${h.allow ? "ok" : x.category === h.category ? "bad" : "quiet"}>${plain(h.category)}${h.allow ? ", excepted" : ""}<//>
      <br /><${Host} name=${h.entry} /><br /><span class="soft small mono">${plain(h.list)}${h.line ? ":" + h.line : ""}</span></li>`)}</ul>` : html`<p class="soft">It stands on no list.</p>`}
  <//>`;
}

function RulesStep({ x, rules }) {
  const at = rules ? rules.findIndex((r) => r.name === x.rule) : -1;
  const before = at > 0 ? rules.slice(0, at) : [];
  const later = new Set(x.shadowed || []);
  const after = rules ? rules.slice(at + 1) : []; // a decision comes before all of them
  const item = (r, kind, text) => html`<li class=${"rule " + kind}><span class="rule-mark" aria-hidden="true">${{ no: "–", yes: "◆", also: "○", rest: "·" }[kind]}</span><span><b>${plain(r.name)}</b> <span class="soft">${text}</span></span></li>`;
  const few = before.slice(-3), many = before.length - few.length;
  return html`<${Step} n="3" title="Rules, in order" tone="touched">
    <ol class="rules-path">
      ${many > 0 && html`<li class="rule no soft">${plural(many, "rule")} before ${many === 1 ? "does" : "do"} not match</li>`}
      ${few.map((r) => item(r, "no", "does not match"))}
      <li class=${"rule yes " + (kinds[x.verdict] || "")}><span class="rule-mark" aria-hidden="true">◆</span><span><b>${plain(x.rule)}</b> decides: ${way(x.verdict, x.via)}
        ${x.position && html`<br /><span class="soft small mono">${plain(x.position)}</span>`}</span></li>
      ${after.filter((r) => later.has(r.name)).map((r) => item(r, "also", "matches as well, but later"))}
      ${after.some((r) => !later.has(r.name)) && html`<li class="rule rest soft">${plural(after.filter((r) => !later.has(r.name)).length, "rule")} not asked</li>`}
    </ol><//>`;
}

function WayStep({ x }) {
  return html`<${Step} n="4" title="Way" tone=${kinds[x.verdict] || ""}>
    <p><${Verdict} of=${x} /></p>
    ${x.transport && html`<p>${full(capital(plain(x.transport)))}</p>`}
    ${x.datapath && html`<p class="soft">${full(capital(plain(x.datapath)))}</p>`}
    ${isBlocked(x.verdict) && html`<p class="soft">${x.verdict === "drop" ? "The client hears nothing." : "The client is told at once."}</p>`}
  <//>`;
}

// Changes are what would change the verdict, as buttons where it is a call.
function Changes({ x, again }) {
  const { readOnly, offers } = useStore();
  const calls = x.changes || [];
  const host = x.names?.[0]?.host;
  const button = (c, i) => {
    if (c.call === "remove") return html`<${Do} run=${() => remove(c.target, again)} title=${plain(c.text)}>Take the decision back<//>`;
    const name = plain(c.target);
    return html`${c.call === "allow" && html`<${Do} class=${i ? "" : "primary"} run=${() => allowHour(c.target, c.peer).then(again)} title=${plain(c.text)}>Allow ${name} for 1 hour<//>`}
      <${Do} class=${c.call === "block" ? "danger" : ""} run=${async () => decide(c.call, c.target, c.peer, offers.decisions, again)} title=${plain(c.text)}>${capital(c.call)} ${name}${c.call === "allow" && offers.decisions ? " always" : ""} …<//>`;
  };
  const own = calls.length || readOnly || !host ? [] : isBlocked(x.verdict) ? [{ call: "allow", target: host, peer: x.peer, text: "" }, ...(x.category ? [{ call: "allow", target: "category:" + x.category, peer: x.peer, text: "" }] : [])]
    : offers.decisions ? [{ call: "block", target: host, peer: x.peer, text: "" }] : [];
  if (!x.notes?.length && !calls.length && !own.length) return null;
  return html`<section class="panel"><header><h2>What would change it</h2></header>
    ${!readOnly && html`<p class="actions">${[...calls, ...own].map(button)}</p>`}
    ${x.notes?.length > 0 && html`<ul class="plain">${x.notes.map((n) => html`<li>${full(capital(plain(n)))}</li>`)}</ul>`}
  </section>`;
}

function Explained({ x, again }) {
  const [rules, setRules] = useState(null);
  useEffect(() => { call("rules").then((r) => setRules(r.rules), () => {}); }, [x]);
  const then = x.then;
  const same = then && then.verdict === x.verdict && then.rule === x.rule && (then.via || "") === (x.via || "");
  const line = (y) => html`<${Verdict} of=${y} /> by rule <b>${plain(y.rule)}</b>${y.category ? html` for <b>${plain(y.category)}</b>` : ""}`;
  return html`
    <section class=${"hero " + (kinds[x.verdict] === "bad" ? "bad" : "ok")}>
      <h2 class="verdict-line"><${Host} name=${/[a-z]/i.test(x.target) ? x.target : x.names?.[0]?.host || x.target} /> ${isBlocked(x.verdict) ? `is ${way(x.verdict)}` : x.verdict === "dns" ? "is answered by the DNS server" : x.verdict === "via" ? `goes ${way(x.verdict, x.via)}` : "goes directly"}, by rule “${plain(x.rule)}”.</h2>
      ${x.because && html`<p>${full(capital(plain(x.because)))}</p>`}
      ${then && html`<p class="then">${same ? html`It was the same when the flow was judged.` : html`<b>Then:</b> ${line(then)}. <b>Now:</b> ${line(x)}.`}</p>`}
    </section>
    <ol class="path" aria-label="How it was judged">
      <${Names} x=${x} /><${Hits} x=${x} /><${RulesStep} x=${x} rules=${rules} /><${WayStep} x=${x} />
    </ol>
    <${Changes} x=${x} again=${again} />`;
}

function Asked({ query, instead }) {
  const c = useCall("explain", query);
  if (instead && c.error && !c.data) return html`<p class="soft">penstock does not remember this flow any more. This is what it would do with it now.</p><${Asked} query=${instead} />`;
  return html`<${Answer} of=${c} what="explanations">${(x) => html`<${Explained} x=${x} again=${c.again} />`}<//>`;
}

export function Why({ params }) {
  const { offers } = useStore();
  const [form, setForm] = useState({});
  useEffect(() => setForm({ target: params.get("target") || "", from: params.get("from") || "", protocol: params.get("protocol") || "", at: params.get("at") || "" }), [params.toString()]);
  const query = {};
  for (const k of ["target", "from", "protocol", "sni"]) if (params.get(k)) query[k] = params.get(k);
  const flow = params.get("flow");
  const at = params.get("at") && new Date(params.get("at"));
  if (at && !Number.isNaN(+at)) query.at = at.toISOString();
  const field = (name, label, rest) => html`<span class=${"field " + name}><label for=${"why-" + name}>${label}</label><input id=${"why-" + name} value=${form[name] || ""} onInput=${(e) => setForm({ ...form, [name]: e.target.value })} autocomplete="off" spellcheck=${false} ...${rest} /></span>`;
  return html`
    <h1>Why</h1>
    <form class="ask" onSubmit=${(e) => { e.preventDefault(); if (form.target.trim()) go("why", { ...form, target: form.target.trim() }); }}>
      ${field("target", "Host, URL or address", { "data-search": true, placeholder: "example.org, https://example.org or 192.0.2.1:22" })}
      ${offers.peers && field("from", "From", { placeholder: "peer" })}
      <span class="field"><label for="why-protocol">Protocol</label><select id="why-protocol" value=${form.protocol || ""} onChange=${(e) => setForm({ ...form, protocol: e.target.value })}>
        <option value="">any</option><option>tcp</option><option>udp</option></select></span>
      ${field("at", "At", { type: "datetime-local" })}
      <button class="button primary">Ask</button>
    </form>
    ${flow ? html`<${Asked} key=${flow} query=${{ flow }} instead=${query.target ? query : undefined} />` : query.target ? html`<${Asked} query=${query} />` : html`<${Nothing}>Ask what penstock would do with a flow. It says which names, lists and rules decide, and what would change it.<//>`}`;
}
