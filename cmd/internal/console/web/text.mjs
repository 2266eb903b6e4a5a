// Numbers, times and names as people read them.

const units = ["B", "kB", "MB", "GB", "TB"];

// bytes is 1.2 MB, in powers of 1000.
export function bytes(n) {
  let i = 0;
  for (n = n || 0; n >= 999.5 && i < units.length - 1; i++) n /= 1000;
  return `${i && n < 99.5 ? n.toFixed(1) : Math.round(n)} ${units[i]}`;
}

export const count = (n) => (n || 0).toLocaleString("en");

export const plural = (n, one, many = one + "s") => `${count(n)} ${n === 1 ? one : many}`;

// ms is a time of the API as milliseconds since 1970, or 0 for none.
export const ms = (time) => (!time || time.startsWith("0001-") ? 0 : Date.parse(time));

const steps = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

// span is a length of time, such as 3 h.
export function span(milliseconds) {
  const s = Math.max(0, Math.round(milliseconds / 1000));
  for (const [size, unit] of steps) {
    if (s >= size) return `${Math.floor(s / size)} ${unit}`;
  }
  return "0 s";
}

// ago is how long ago a time was, or how far away it is.
export function ago(at, now) {
  if (!at) return "never";
  const d = now - at;
  if (Math.abs(d) < 1500) return "now";
  return d > 0 ? `${span(d)} ago` : `in ${span(-d)}`;
}

const two = (n) => String(n).padStart(2, "0");

// clock is 14:02:05 today, and with the day before it else.
export function clock(at, seconds = true) {
  if (!at) return "";
  const d = new Date(at), today = new Date();
  const time = `${two(d.getHours())}:${two(d.getMinutes())}${seconds ? ":" + two(d.getSeconds()) : ""}`;
  return d.toDateString() === today.toDateString() ? time : `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())} ${time}`;
}

// hidden are characters that are not seen, or that turn the text around them: a name of a stranger may have them.
const hidden = /[\u0000-\u001f\u007f-\u00a0\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff]/g;

// plain is a text of a stranger with what is hidden in it made visible.
export function plain(text) {
  return String(text ?? "").replace(hidden, (c) => (c === " " ? c : "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0")));
}

// way is a verdict in words.
export function way(verdict, via) {
  switch (verdict) {
    case "block": return "blocked";
    case "drop": return "dropped";
    case "via": return "via " + plain(via);
    default: return verdict || "";
  }
}

export const isBlocked = (verdict) => verdict === "block" || verdict === "drop";

// capital begins a sentence, and full ends it.
export const capital = (s) => (s ? s[0].toUpperCase() + s.slice(1) : "");
export const full = (s) => (!s || /[.!?]$/.test(s) ? s : s + ".");
