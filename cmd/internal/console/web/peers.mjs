// The page Clients: the peers of a gateway, and who has asked for what.
import { useEffect, useMemo, useRef, useState } from "./vendor/hooks.mjs";
import { call } from "./api.mjs";
import { qrMatrix } from "./qr.mjs";
import { note, open, useStore } from "./store.mjs";
import { bytes, capital, clock, count, full, ms, plain } from "./text.mjs";
import { Ago, Answer, Badge, Bar, Dialog, Do, Host, Menu, Nothing, Problem, Table, act, copy, go, html, link, tone, useCall } from "./ui.mjs";

// Code is a QR code. Dark on light in both themes: cameras want that.
function Code({ text }) {
  const canvas = useRef(null);
  const rows = useMemo(() => qrMatrix(text), [text]);
  useEffect(() => {
    if (!rows) return;
    const scale = 6, edge = 4 * scale, c = canvas.current;
    c.width = c.height = rows.length * scale + 2 * edge;
    const g = c.getContext("2d");
    g.fillStyle = "#fff";
    g.fillRect(0, 0, c.width, c.height);
    g.fillStyle = "#000";
    rows.forEach((row, y) => row.forEach((dark, x) => dark && g.fillRect(edge + x * scale, edge + y * scale, scale, scale)));
  }, [rows]);
  if (!rows) return html`<p class="warning">The link is too long for a code.</p>`;
  return html`<canvas class="code" ref=${canvas} role="img" aria-label="QR code of the invitation"></canvas>`;
}

const hour = 3600e9;

function Invite({ again }) {
  const [name, setName] = useState("");
  const [groups, setGroups] = useState("");
  const [length, setLength] = useState("24");
  const [expires, setExpires] = useState("");
  const [error, setError] = useState("");
  const [made, setMade] = useState(null);
  const [peer, setPeer] = useState(null);
  useEffect(() => {
    if (!made) return undefined;
    const timer = setInterval(async () => {
      const out = await call("peers").catch(() => null);
      const one = out?.peers.find((p) => p.name === made.name);
      if (one) setPeer(one);
    }, 2000);
    return () => clearInterval(timer);
  }, [made]);
  const run = async () => {
    setError("");
    try {
      const out = await call("invite", {
        name: name.trim(), for: Number(length) * hour,
        ...(groups.trim() ? { groups: groups.split(/[\s,]+/).filter(Boolean) } : {}), ...(expires ? { expires: new Date(expires + "T23:59:59").toISOString() } : {}),
      });
      setMade(out);
      again();
    } catch (err) {
      setError(err.message);
    }
  };
  if (made) {
    const active = peer?.state === "active";
    return html`<${Dialog} title=${`Invite ${plain(made.name)}`}>
      ${active ? html`<p class="joined" role="status"><${Badge} tone="ok">connected<//> ${plain(made.name)} is here: the first handshake was <${Ago} at=${peer.lastHandshake} />.</p>` : html`
        <${Code} text=${made.link} />
        <p role="status">${peer ? html`<${Badge} tone="info">joined<//> Waiting for the first handshake …` : html`<${Badge} tone="quiet">open<//> Scan it with the phone's camera, or open the link. Whoever opens it first is the peer.`}</p>
        <p class="mono small wrap">${made.link}</p>
        ${made.pinned && html`<p class="warning">The browser will warn of the gateway's own certificate. That is expected.</p>`}
        <p class="actions"><button type="button" class="button" onClick=${() => copy(made.link)}>Copy the link</button><span class="soft">Open until ${clock(ms(made.until), false)}</span></p>`}
    <//>`;
  }
  return html`<${Dialog} title="Add a peer">
    <form onSubmit=${(e) => e.preventDefault()}>
      <label for="invite-name">Name</label><input id="invite-name" value=${name} onInput=${(e) => setName(e.target.value)} placeholder="ana-phone" autocomplete="off" spellcheck=${false} />
      <label for="invite-groups">Groups <span class="soft">(none, or several)</span></label><input id="invite-groups" value=${groups} onInput=${(e) => setGroups(e.target.value)} placeholder="staff" autocomplete="off" spellcheck=${false} />
      <label for="invite-expires">Access ends <span class="soft">(empty: never)</span></label><input id="invite-expires" type="date" value=${expires} onInput=${(e) => setExpires(e.target.value)} />
      <fieldset><legend>The invitation is open for</legend><div class="choices">${[["1", "an hour"], ["24", "a day"], ["168", "a week"]].map(([v, t]) => html`<label class="choice"><input type="radio" name="open" checked=${length === v} onChange=${() => setLength(v)} /><span>${t}</span></label>`)}</div></fieldset>
      ${error && html`<${Problem}>${error}<//>`}
      <p class="actions"><${Do} class="primary" run=${run} ...${name.trim() ? {} : { disabled: true }}>Make the invitation<//><button type="button" class="button" onClick=${() => open(null)}>Cancel</button></p>
    </form><//>`;
}

// Expiry asks until when a peer may connect.
function Expiry({ peer, again }) {
  const [until, setUntil] = useState("");
  const [error, setError] = useState("");
  const give = (expires, done) => async () => {
    setError("");
    try {
      await call("peers/access", { name: peer.name, disabled: false, expires });
      open(null);
      note(done);
      again();
    } catch (err) {
      setError(err.message);
    }
  };
  const end = until && new Date(until + "T23:59:59");
  return html`<${Dialog} title=${`Access of ${plain(peer.name)}`}>
    <form onSubmit=${(e) => e.preventDefault()}>
      <p>${ms(peer.expires) ? html`It ${peer.state === "expired" ? "ended" : "ends"} <${Ago} at=${peer.expires} />.` : "It does not end by itself."} At its end the flows of the peer end, and its key and address stay.</p>
      <label for="access-until">Last day</label><input id="access-until" type="date" value=${until} onInput=${(e) => setUntil(e.target.value)} />
      ${error && html`<${Problem}>${full(capital(error))}<//>`}
      <p class="actions"><${Do} class="primary" run=${give(end && end.toISOString(), `${peer.name} may connect until ${until}.`)} ...${until ? {} : { disabled: true }}>Set the end<//>
        ${(ms(peer.expires) > 0 || peer.disabled) && html`<${Do} run=${give("0001-01-01T00:00:00Z", `${peer.name} may connect.`)}>It never ends<//>`}
        <button type="button" class="button" onClick=${() => open(null)}>Cancel</button></p>
    </form><//>`;
}

const rate = (p) => (p.rate ? [p.rate.up && `${count(p.rate.up / 1e6)} Mbit/s up`, p.rate.down && `${count(p.rate.down / 1e6)} Mbit/s down`].filter(Boolean).join(", ") : "");

function Peers() {
  const { offers, readOnly } = useStore();
  const c = useCall("peers", {}, 3000);
  const invites = useCall("invites", {}, 5000);
  const waiting = (invites.data?.invitations || []).filter((i) => i.state === "open");
  const add = () => open(() => html`<${Invite} again=${invites.again} />`);
  const items = (p) => [
    ["Flows of this peer", () => go("flows", { q: `client:${p.name}` })],
    !readOnly && offers["peers/access"] && (p.state === "expired" ? null : p.disabled ? ["Enable", () => act(() => call("peers/access", { name: p.name, disabled: false }), `${p.name} may connect again.`).then(c.again)]
      : ["Disable", () => act(() => call("peers/access", { name: p.name, disabled: true }), `${p.name} is disabled, and its flows end.`).then(c.again), "danger"]),
    !readOnly && offers["peers/access"] && ["Access ends …", () => open(() => html`<${Expiry} peer=${p} again=${c.again} />`)],
    !readOnly && p.user && ["Sign out", () => act(() => call("peers/sign-out", { name: p.name }), `${p.name} is signed out.`).then(c.again)],
    !readOnly && p.quota && ["Begin the quota anew", () => act(() => call("peers/quota/reset", { name: p.name }), `The quota of ${p.name} begins anew.`).then(c.again)],
  ];
  return html`<div class="tools"><h1>Peers</h1><span class="push">${!readOnly && !invites.missing && html`<button type="button" class="button primary" onClick=${add}>Add a peer …</button>`}</span></div>
    ${!readOnly && invites.missing && html`<p class="soft">To invite peers from this page, set <code>listen: {enrol: …}</code> in the configuration and start penstock again. Until then, <code>penstock peer add</code> adds them.</p>`}
    ${waiting.length > 0 && html`<section class="panel"><header><h2>Invitations</h2></header><ul class="top">${waiting.map((i) => html`<li key=${i.name}><span><b class="wrap">${plain(i.name)}</b> ${(i.groups || []).map((g) => html`<span class="tag">${plain(g)}</span> `)}</span><span class="soft small">until ${clock(ms(i.until), false)}</span>
      <${Do} class="small" run=${() => act(() => call("uninvite", { name: i.name }), "The invitation is taken back.").then(invites.again)}>Take back<//></li>`)}</ul></section>`}
    <${Answer} of=${c} what="peers">${({ peers }) => (peers.length ? html`<section class="panel"><${Table} label="Peers" rows=${peers} rowKey=${(p) => p.name} columns=${[
      ["Peer", "", (p) => html`<b>${plain(p.name)}</b>${p.user ? html`<br /><span class="soft small">${plain(p.user)}, signed in</span>` : ""}`],
      ["State", "", (p) => html`<${Badge} tone=${tone(p.state || "idle")}>${p.state || "configured"}<//>${ms(p.expires) > 0 && html`<br /><span class="soft small">${p.state === "expired" ? "expired" : "expires"} <${Ago} at=${p.expires} /></span>`}`],
      ["Handshake", "soft", (p) => html`<${Ago} at=${p.lastHandshake} />`],
      ["Groups", "", (p) => (p.groups || []).map((g) => html`<span class="tag">${plain(g)}</span> `)],
      ["Addresses", "mono", (p) => p.addresses.join(", ")],
      ["From it, to it", "num", (p) => html`${bytes(p.rxBytes)} / ${bytes(p.txBytes)}`],
      ["Limit", "", (p) => html`${p.quota ? html`<${Bar} share=${p.quota.usedBytes / p.quota.limitBytes} tone=${p.quota.spent ? "bad" : "info"} /><br /><span class=${"small " + (p.quota.spent ? "strong" : "soft")}>${bytes(p.quota.usedBytes)} of ${bytes(p.quota.limitBytes)}${p.quota.spent ? `, used up: ${p.quota.over}` : ""}</span>` : ""}${rate(p) && html`<br /><span class="soft small">${rate(p)}</span>`}`],
      ["Do", "do", (p) => html`<${Menu} label=${`What to do about ${plain(p.name)}`} items=${items(p)} />`],
    ]} /></section>` : html`<${Nothing}>There are no peers yet.${invites.missing ? "" : " Add one, and scan the code with the phone."}<//>`)}<//>`;
}

// Client is what one client has asked for.
function Client({ name, since }) {
  const c = useCall("history/totals", { by: "host", client: name, since, limit: 12 });
  return html`<section class="panel"><header><h2>${plain(name)}</h2><span class="soft">names, 24 hours</span><a class="push" href=${link("flows", { q: `client:${name}` })}>Flows</a></header>
    <${Answer} of=${c} what="a history">${({ totals }) => html`<${Table} label=${`Names that ${plain(name)} asked for`} rows=${totals} rowKey=${(t) => t.key} columns=${[
      ["Name", "wide", (t) => (t.key ? html`<${Host} name=${t.key} />` : html`<span class="soft">no name</span>`)], ["Allowed", "num", (t) => count(t.allowed)], ["Blocked", "num", (t) => count(t.blocked)],
      ["Sent, received", "num", (t) => `${bytes(t.txBytes)} / ${bytes(t.rxBytes)}`],
    ]} />`}<//></section>`;
}

function Usage() {
  const since = useMemo(() => new Date(Date.now() - 86400e3).toISOString(), []);
  const c = useCall("history/totals", { by: "client", since, limit: 200 }, 30000);
  const [chosen, setChosen] = useState("");
  if (c.missing) return html`<${Nothing}>${full("What clients have done shows here once a history is kept: set history: {} in the configuration")}<//>`;
  return html`<${Answer} of=${c} what="a history">${({ totals }) => html`<section class="panel"><header><h2>Use</h2><span class="soft">24 hours</span></header><${Table} label="Clients" rows=${totals} rowKey=${(t) => t.key} columns=${[
    ["Client", "", (t) => html`<button type="button" class="as-link" aria-expanded=${chosen === t.key} onClick=${() => setChosen(chosen === t.key ? "" : t.key)}>${plain(t.key) || "this machine"}</button>`],
    ["Allowed", "num", (t) => count(t.allowed)], ["Blocked", "num", (t) => count(t.blocked)],
    ["Share blocked", "bar-cell", (t) => { const share = t.blocked / Math.max(1, t.blocked + t.allowed); return html`<${Bar} share=${share} /> <span class="num small">${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %</span>`; }],
    ["Sent, received", "num", (t) => `${bytes(t.txBytes)} / ${bytes(t.rxBytes)}`],
  ]} /></section>${chosen && html`<${Client} key=${chosen} name=${chosen} since=${since} />`}`}<//>`;
}

export function Clients() {
  const { offers } = useStore();
  return html`${offers.peers ? html`<${Peers} />` : html`<div class="tools"><h1>Clients</h1></div>`}<${Usage} />`;
}
