// The language of the filters: words and field:value, each of which must hold; with a minus before it, must not.
import { isBlocked } from "./text.mjs";

const low = (v) => String(v ?? "").toLowerCase();

// fields are the columns that can be named, and what of a row they are.
export const fields = {
  host: (r) => low(r.host) + " " + (r.names || []).map((n) => low(n.host)).join(" "),
  client: (r) => low(r.peer) + " " + low(r.src),
  src: (r) => low(r.src),
  dst: (r) => low(r.dst),
  rule: (r) => low(r.rule),
  category: (r) => low(r.category),
  via: (r) => low(r.via),
  verdict: (r) => low(r.verdict),
  proto: (r) => low(r.proto),
  program: (r) => low(r.program) + " " + low(r.unit) + " " + low(r.container),
  source: (r) => low(r.host_source),
  reason: (r) => low(r.reason),
  type: (r) => low(r.type),
  answer: (r) => low(r.answers?.join(" ")) + " " + low(r.rcode),
  upstream: (r) => low(r.upstream),
  cache: (r) => low(r.cache),
  id: (r) => low(r.flow_id),
};

const words = {
  blocked: (r) => isBlocked(r.verdict),
  allowed: (r) => !isBlocked(r.verdict),
  live: (r) => r.live,
  direct: (r) => r.verdict === "direct",
  dropped: (r) => r.verdict === "drop",
  tcp: (r) => r.proto === "tcp",
  udp: (r) => r.proto === "udp",
  icmp: (r) => r.proto === "icmp",
};

// asked are the fields that the server looks through for a text, and in which a word without a field may be.
const asked = ["host", "client", "dst", "rule", "category"];

// parse returns the test of a filter, and what of it the history can be asked for: a filter that holds at least what the test does.
export function parse(text) {
  const tests = [], filter = {};
  for (const [token] of text.matchAll(/-?(?:\w+:)?(?:"[^"]*"?|[^\s"]+)/g)) {
    const not = token.startsWith("-") && token.length > 1;
    const bare = not ? token.slice(1) : token;
    const colon = bare.indexOf(":");
    const field = colon > 0 && Object.hasOwn(fields, bare.slice(0, colon).toLowerCase()) ? bare.slice(0, colon).toLowerCase() : "";
    const value = low(field ? bare.slice(colon + 1) : bare).replaceAll('"', "");
    let test;
    if (!field && Object.hasOwn(words, value)) {
      test = words[value];
      if (value === "blocked" && !not) filter.blocked = true;
    } else if (!value) {
      continue;
    } else {
      const parts = field ? [fields[field]] : asked.map((f) => fields[f]);
      test = (r) => parts.some((p) => p(r).includes(value));
      if (!not && (!field || asked.includes(field)) && value.length > (filter.text || "").length) filter.text = value;
    }
    tests.push(not ? (r) => !test(r) : test);
  }
  return { test: (r) => tests.every((t) => t(r)), filter, empty: !tests.length };
}
