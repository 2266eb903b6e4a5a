// The session, the calls and the events of the server.
import { set, state, tell } from "./store.mjs";

const keyName = "penstock-key";
let key = "";
let quit; // ends the stream of events
let token = ""; // of a link, until penstock has answered

// NotOffered says that this penstock has no such call.
export class NotOffered extends Error {}

// expire locks a page whose session has ended. If another tab has signed out, people know why.
const expire = () => lock(localStorage.getItem(keyName) === key ? "The session is over: penstock has been started again, or nobody has used the console for 12 hours." : "");

// onKey calls back once another tab has opened a link.
export function onKey(f) {
  addEventListener("storage", (e) => { if (e.key === keyName && e.newValue) f(); });
}

function lock(why = "") {
  if (localStorage.getItem(keyName) === key) localStorage.removeItem(keyName); // another tab may have opened another link
  key = "";
  set({ phase: "locked", why, status: null, dialog: null });
}

// renew takes the key that another tab has got since: a browser has one cookie for all of them. It reports whether there is one.
async function renew(used) {
  if (key && key !== used) return true;
  if (localStorage.getItem(keyName) === used) await pause(500); // the cookie comes first
  const other = localStorage.getItem(keyName);
  if (!other || other === used) return false;
  key = other;
  request("GET", "/session").then((answer) => answer.ok && answer.json().then(({ readOnly, version }) => set({ readOnly, version }))).catch(() => {});
  return true;
}

async function request(method, path, body, signal) {
  const used = key;
  const headers = { "X-Penstock-Key": used };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), signal, cache: "no-store" });
  if (answer.status === 401 && path !== "/session") {
    if (await renew(used)) return request(method, path, body, signal);
    if (key) expire();
  }
  return answer;
}

async function failure(answer, what) {
  const { error } = await answer.json().catch(() => ({}));
  return error || `${what}: penstock answers ${answer.status}`;
}

// begin opens the console with the token of a link, or with the session that this browser has. The token leaves the address bar first.
export async function begin() {
  const linked = new URLSearchParams(location.hash.slice(1)).get("t");
  if (linked) {
    token = linked;
    history.replaceState(null, "", location.pathname + "#/now");
  }
  let why = "";
  key = localStorage.getItem(keyName) || "";
  if (token) {
    const answer = await request("POST", "/session", { token });
    token = "";
    if (answer.ok) {
      ({ key } = await answer.json());
      localStorage.setItem(keyName, key);
    } else {
      why = await failure(answer, "the link");
    }
  }
  const answer = key ? await request("GET", "/session") : null;
  if (!answer?.ok) {
    lock(why);
    return;
  }
  const { readOnly, version } = await answer.json();
  await learn().catch(() => {}); // the events say when penstock is there
  set({ phase: "open", readOnly, version });
}

export async function signOut() {
  quit?.abort(); // before penstock does
  await request("DELETE", "/session").catch(() => {});
  lock();
}

// call makes a call of the control API.
export async function call(name, body = {}, signal) {
  if (state.known && !state.offers[name]) throw new NotOffered(name);
  const answer = await request("POST", "/api/v1/" + name, body, signal).catch((err) => {
    throw err.name === "AbortError" ? err : new Error("penstock does not answer.");
  });
  const offered = answer.status !== 404 && answer.status !== 501;
  if (answer.ok) return answer.json();
  const text = await failure(answer, name);
  throw offered ? new Error(text) : new NotOffered(text);
}

// learn asks which calls this penstock offers.
async function learn() {
  set({ known: false });
  const { calls } = await call("calls");
  set({ known: true, offers: Object.fromEntries(calls.map((name) => [name, true])) });
}

const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

const doze = 60000; // a page that nobody sees for so long lets go of its stream: a browser has six connections for all of them

// events follows what happens for as long as the session lasts, and connects again when it must.
export async function events() {
  let timer, dozing = false;
  const look = () => {
    clearTimeout(timer);
    if (document.hidden) timer = setTimeout(() => { dozing = true; quit?.abort(); }, doze);
  };
  document.addEventListener("visibilitychange", look);
  look();
  let last = "", started = "", wait = 500, batch = [];
  const late = () => set({ connected: false });
  let alarm = setTimeout(late, 3000);
  const handle = (name, id, data) => {
    if (id) last = id;
    if (name === "record") {
      batch.push(data);
    } else if (name === "missed") {
      batch.push({ missed: data.missed });
    } else if (name === "status") {
      if (started && started !== data.started) last = ""; // its numbers begin again
      if (started && started !== data.started) learn().catch(() => {}); // it may be another penstock
      started = data.started;
      set({ status: data });
    }
  };
  // ask gets the status where nothing tells it.
  const ask = async () => {
    set({ status: await call("status"), connected: true });
    clearTimeout(alarm);
    alarm = undefined;
    wait = 1000;
  };
  // A burst is rendered twice a second, not with each record.
  const beat = setInterval(() => {
    if (batch.length) {
      tell(batch);
      batch = [];
    }
  }, 500);
  while (state.phase === "open") {
    try {
      if (!state.known) await learn().catch(() => {});
      if (state.known && !state.offers.events) {
        await ask();
        throw new NotOffered("events");
      }
      const used = key;
      const headers = { "X-Penstock-Key": used, "Content-Type": "application/json" };
      if (last) headers["Last-Event-ID"] = last;
      quit = new AbortController();
      const answer = await fetch("/api/v1/events", { method: "POST", headers, body: "{}", signal: quit.signal, cache: "no-store" });
      if (answer.status === 401) {
        if (await renew(used)) continue;
        if (key) expire();
        break;
      }
      if (answer.status === 429) await ask();
      if (!answer.ok) throw new Error(await failure(answer, "events"));
      await read(answer.body, handle, quit, () => {
        clearTimeout(alarm);
        alarm = undefined;
        wait = 500;
        if (!state.connected) set({ connected: true });
      });
    } catch {
      // It ended, or it never began: what matters is for how long.
    }
    if (dozing) {
      clearTimeout(alarm);
      alarm = undefined;
      while (document.hidden) await new Promise((done) => document.addEventListener("visibilitychange", done, { once: true }));
      dozing = false;
      wait = 100;
    }
    alarm ??= setTimeout(late, 3000);
    await pause(wait);
    wait = Math.min(wait * 2, 10000);
  }
  clearTimeout(alarm);
  clearTimeout(timer);
  clearInterval(beat);
  document.removeEventListener("visibilitychange", look);
}

// read takes a stream of server-sent events apart. One that says nothing for long is dead: the server says something each second.
async function read(stream, handle, quit, alive) {
  const lines = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", name = "", id = "", data = "", dog;
  try {
    for (;;) {
      dog = setTimeout(() => quit.abort(), 15000);
      const { value, done } = await lines.read();
      clearTimeout(dog);
      if (done) return;
      alive();
      const parts = (rest + value).split("\n");
      rest = parts.pop();
      for (const line of parts) {
        if (line === "") {
          if (data) handle(name, id, JSON.parse(data));
          name = id = data = "";
        } else if (line.startsWith("event: ")) {
          name = line.slice(7);
        } else if (line.startsWith("id: ")) {
          id = line.slice(4);
        } else if (line.startsWith("data: ")) {
          data += line.slice(6);
        }
      }
    }
  } finally {
    clearTimeout(dog);
    quit.abort();
  }
}
