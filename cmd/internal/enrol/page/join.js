import { qrMatrix } from "/join-qr.js";

// The link is https://HOST/join#TOKEN or #TOKEN.PIN. The pin is for penstock join: a browser has its own way to trust a server.
const token = location.hash.slice(1).split(".")[0];
// The token leaves the address bar and the history before anybody looks.
history.replaceState(null, "", location.pathname);

const at = (id) => document.getElementById(id);

function problem(text) {
  at("problem").textContent = text;
  at("problem").hidden = false;
}

const base64 = (bytes) => btoa(String.fromCharCode(...bytes));

// makeKey returns a new X25519 key pair in the form that WireGuard writes.
async function makeKey() {
  const pair = await crypto.subtle.generateKey({ name: "X25519" }, true, ["deriveBits"]);
  const publicKey = new Uint8Array(await crypto.subtle.exportKey("raw", pair.publicKey));
  // PKCS #8 (RFC 8410, 7): the last 32 bytes are the private key.
  const secret = new Uint8Array(await crypto.subtle.exportKey("pkcs8", pair.privateKey)).slice(-32);
  // Clamped (RFC 7748, 5), so that all programs print the same key.
  secret[0] &= 248;
  secret[31] = (secret[31] & 127) | 64;
  return { privateKey: base64(secret), publicKey: base64(publicKey) };
}

const noKeys = "This browser cannot make a WireGuard key (X25519). Your invitation is still good. Open the link in a current Firefox, Chrome, Edge " +
  "or Safari, or use the program: penstock join LINK.";

async function join() {
  at("problem").hidden = true;
  at("join").disabled = true;
  at("busy").textContent = "Joining…";
  try {
    await ask();
  } finally {
    at("busy").textContent = "";
    at("join").disabled = false;
  }
}

async function ask() {
  let key;
  try {
    key = await makeKey();
  } catch {
    problem(noKeys);
    return;
  }
  let answer, response;
  try {
    response = await fetch("/join", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ token, public_key: key.publicKey }),
      cache: "no-store", credentials: "omit", redirect: "error", referrerPolicy: "no-referrer",
    });
    answer = await response.json();
  } catch {
    problem("The gateway did not answer. Try again. If it then says that the invitation is not valid, ask for a new one.");
    return;
  }
  const section = "[Interface]\n";
  at("start").hidden = response.status === 403; // nothing more can come of it
  if (answer.error || !answer.config || !answer.config.startsWith(section)) {
    problem(answer.error ? answer.error[0].toUpperCase() + answer.error.slice(1) + "." : "The gateway did not answer as expected. Ask for a new invitation.");
    return;
  }
  show(answer.name, section + "PrivateKey = " + key.privateKey + "\n" + answer.config.slice(section.length));
}

function show(name, config) {
  at("name").textContent = name;
  at("config").value = config;
  at("download").href = URL.createObjectURL(new Blob([config], { type: "application/octet-stream" }));
  draw(qrMatrix(config.trim()));
  at("start").hidden = true;
  at("done").hidden = false;
  at("done-title").focus();
  saved = false;
}

// draw shows a QR code with its quiet zone, dark on light whatever the page's colours are. A configuration may be too long for one.
function draw(rows) {
  if (!rows) {
    return;
  }
  const quiet = 4, scale = 4, canvas = at("qr");
  canvas.width = canvas.height = (rows.length + 2 * quiet) * scale;
  const paint = canvas.getContext("2d");
  paint.fillStyle = "#ffffff";
  paint.fillRect(0, 0, canvas.width, canvas.height);
  paint.fillStyle = "#000000";
  rows.forEach((row, y) => row.forEach((dark, x) => {
    if (dark) {
      paint.fillRect((x + quiet) * scale, (y + quiet) * scale, scale, scale);
    }
  }));
  at("code").hidden = false;
}

// What is on the page is nowhere else: closing it before it is saved asks first.
let saved = true;
addEventListener("beforeunload", (event) => {
  if (!saved) {
    event.preventDefault();
  }
});
at("download").addEventListener("click", () => { saved = true; });
at("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(at("config").value);
    at("copied").textContent = "Copied.";
    saved = true;
  } catch {
    at("config").select();
    at("copied").textContent = "Press Ctrl+C, or hold the text, to copy it.";
  }
});
at("join").addEventListener("click", join);

if (!window.isSecureContext || !crypto.subtle) {
  problem(noKeys);
} else if (!/^[A-Za-z0-9_-]{22}$/.test(token)) {
  problem("This link is not complete. Copy all of it, or scan its code again. If you have loaded this page again, open the link again.");
} else {
  at("start").hidden = false;
}
