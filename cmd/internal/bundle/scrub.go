package bundle

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"penstock/cmd/internal/config"
)

// secret stands for a secret.
const secret = "(secret)"

// shortestSecret is what is looked for. Shorter ones would be found everywhere.
const shortestSecret = 4

// scrubber removes secrets from texts and, unless names are kept, hides names and addresses.
type scrubber struct {
	key   [32]byte // of the hashes; it is known here alone
	names bool     // keep names and addresses

	secrets []string          // longest first
	words   map[string]string // names that are known, in lower case, and what they are: peer, user, host
	phrases []*regexp.Regexp  // names of several words
	inside  []string          // domains that are not public
	tokens  []string          // domains below which labels are secrets
	keys    map[string]bool   // of a configuration, as metrics.listen, which look like names
}

func newScrubber(names bool) *scrubber {
	s := &scrubber{names: names, words: make(map[string]string), keys: make(map[string]bool)}
	keysOf(reflect.TypeFor[config.Config](), "", 4, s.keys)
	rand.Read(s.key[:]) // cannot fail
	return s
}

// hide has a value removed wherever it appears, in any usual form.
func (s *scrubber) hide(value string) {
	value = strings.TrimSpace(value)
	if len(value) < shortestSecret {
		return
	}
	forms := []string{value, url.QueryEscape(value), url.PathEscape(value)}
	if quoted, err := json.Marshal(value); err == nil {
		forms = append(forms, strings.Trim(string(quoted), `"`))
	}
	if raw, err := base64.StdEncoding.DecodeString(value); err == nil && len(raw) >= 16 {
		forms = append(forms, hex.EncodeToString(raw))
	}
	s.secrets = append(s.secrets, forms...)
	slices.SortFunc(s.secrets, longestFirst)
	s.secrets = slices.Compact(s.secrets)
}

func longestFirst(a, b string) int {
	if len(a) != len(b) {
		return len(b) - len(a)
	}
	return strings.Compare(a, b)
}

// know has a name replaced wherever it stands as a word.
func (s *scrubber) know(name, kind string) {
	switch name = strings.ToLower(strings.TrimSpace(name)); {
	case name == "":
	case strings.IndexFunc(name, func(r rune) bool { return !isWordRune(r) }) >= 0:
		s.phrases = append(s.phrases, regexp.MustCompile("(?i)"+regexp.QuoteMeta(name)))
	default:
		s.words[name] = kind
	}
}

// hash is the same for the same text in one archive.
func (s *scrubber) hash(text string) string {
	mac := hmac.New(sha256.New, s.key[:])
	mac.Write([]byte(strings.ToLower(strings.TrimSuffix(text, "."))))
	return hex.EncodeToString(mac.Sum(nil)[:4])
}

// sweep removes known secrets from the bytes of a file: whatever happened before, none of them is left.
func (s *scrubber) sweep(text []byte) []byte {
	out := string(text)
	for _, value := range s.secrets {
		out = strings.ReplaceAll(out, value, secret)
	}
	return []byte(out)
}

// pattern finds what is a secret, or an address, or a name with a dot. Go takes the leftmost and, of those, the first that matches.
var pattern = regexp.MustCompile(strings.Join([]string{
	`(?P<pem>-----BEGIN [A-Z0-9 ]+-----[\s\S]*?(?:-----END [A-Z0-9 ]+-----|\z))`,
	`(?P<url>[a-zA-Z][a-zA-Z0-9+.-]*://[^\s"'<>\\|,;)}\]]*(?:\][^\s"'<>\\|,;)}\]]*)?)`,
	`(?P<assigned>(?i:password|passwd|passphrase|secret|token|private_?key|preshared_?key|authorization|cookie)["']?\s*[:=]\s*(?:(?i:bearer|basic)\s+)?["']?[^\s"',}{]+)`,
	`(?P<bearer>(?i:bearer|basic)\s+[A-Za-z0-9+/_.=-]{8,})`,
	`(?P<key>[A-Za-z0-9+/]{43}=)`,
	`(?P<blob>[A-Za-z0-9+/]{60,}={0,2}|\b[0-9a-fA-F]{64,}\b)`,
	`(?P<userinfo>[^\s"'/@:=]+:[^\s"'/@]+@)`,
	`(?P<email>[\p{L}\p{N}._%+-]+@[\p{L}\p{N}-]+(?:\.[\p{L}\p{N}-]+)+)`,
	`(?P<mac>\b(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}\b)`,
	`(?P<v6>[0-9A-Fa-f]*:[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*(?:%[\w.-]+)?(?:/\d{1,3})?)`,
	`(?P<v4>\d{1,3}(?:\.\d{1,3}){3}(?:/\d{1,2}\b)?)`,
	`(?P<home>/(?:home|Users)/[^/\s"':]+)`,
	`(?P<named>\b(?:host|peer|user|client|domain|ssid|hostname)=(?:"(?:[^"\\]|\\.)*"|[^\s",}]+))`,
	`(?P<name>[\p{L}\p{N}_](?:[\p{L}\p{N}_-]*[\p{L}\p{N}_])?(?:\.[\p{L}\p{N}_](?:[\p{L}\p{N}_-]*[\p{L}\p{N}_])?)*\.(?:\p{L}{2,24}|xn--[A-Za-z0-9-]+)\b)`,
}, "|"))

// text returns a text of any kind without what must not be in it.
func (s *scrubber) text(t string) string {
	t = string(s.sweep([]byte(t)))
	var out strings.Builder
	kinds := pattern.SubexpNames()
	at := 0
	for _, m := range pattern.FindAllStringSubmatchIndex(t, -1) {
		out.WriteString(s.plain(t[at:m[0]]))
		for i, kind := range kinds {
			if kind != "" && m[2*i] >= 0 {
				out.WriteString(s.found(kind, t[m[0]:m[1]]))
			}
		}
		at = m[1]
	}
	out.WriteString(s.plain(t[at:]))
	return out.String()
}

// found replaces what the pattern found.
func (s *scrubber) found(kind, t string) string {
	switch kind {
	case "pem", "bearer", "blob":
		return secret
	case "assigned":
		at := strings.IndexAny(t, ":=")
		return t[:at+1] + secret
	case "key":
		return "(key-" + s.hash(t) + ")"
	case "url":
		return s.url(t)
	case "userinfo":
		return secret + "@"
	}
	if s.names {
		switch kind {
		case "name":
			return s.withoutToken(t)
		case "named":
			at := strings.Index(t, "=") + 1
			return t[:at] + s.text(t[at:])
		}
		return t
	}
	switch kind {
	case "email":
		return s.word(t, "user")
	case "mac":
		return "mac-" + s.hash(t)
	case "v4", "v6":
		return s.address(t)
	case "home":
		return t[:strings.LastIndex(t, "/")+1] + s.word(t[strings.LastIndex(t, "/")+1:], "user")
	case "named":
		key, value, _ := strings.Cut(t, "=")
		return key + "=" + s.named(key, strings.Trim(value, `"`))
	}
	return s.host(t)
}

// plain replaces the names that are known in a text that has nothing else.
func (s *scrubber) plain(t string) string {
	if s.names {
		return t
	}
	for _, phrase := range s.phrases {
		t = phrase.ReplaceAllStringFunc(t, func(found string) string { return "name-" + s.hash(found) })
	}
	var out strings.Builder
	for len(t) > 0 {
		i := strings.IndexFunc(t, isWordRune)
		if i < 0 {
			break
		}
		out.WriteString(t[:i])
		t = t[i:]
		end := strings.IndexFunc(t, func(r rune) bool { return !isWordRune(r) })
		if end < 0 {
			end = len(t)
		}
		out.WriteString(s.token(t[:end], ".@-_"))
		t = t[end:]
	}
	return out.String() + t
}

// isWordRune reports whether a name of a peer can have r: see config.CheckName.
func isWordRune(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-_.@", r) || r > 0x7f
}

// token replaces a word that is known or, if it is not, its parts: mia.yaml is the file of mia.
func (s *scrubber) token(t, separators string) string {
	if kind, ok := s.words[strings.ToLower(t)]; ok {
		return s.word(t, kind)
	}
	if separators == "" {
		return t
	}
	parts := strings.Split(t, separators[:1])
	for i, part := range parts {
		parts[i] = s.token(part, separators[1:])
	}
	return strings.Join(parts, separators[:1])
}

// word replaces a name of a kind, whatever it looks like.
func (s *scrubber) word(t, kind string) string {
	if s.names || t == "" {
		return t
	}
	return kind + "-" + s.hash(t)
}

// host replaces a name with a dot, unless it is that of a file. Whether it is inside and its last label stay.
func (s *scrubber) host(t string) string {
	lower := strings.ToLower(strings.TrimSuffix(t, "."))
	if kind, ok := s.words[lower]; ok {
		return s.word(t, kind)
	}
	last := lower[strings.LastIndex(lower, ".")+1:]
	first, _, _ := strings.Cut(lower, ".")
	if slices.Contains(fileNames(), last) || s.keys[lower] || first == "transports" || first == "categories" {
		return s.plain(t)
	}
	where := "outside"
	if slices.ContainsFunc(s.inside, func(d string) bool { return lower == d || strings.HasSuffix(lower, "."+d) }) || slices.Contains(insideNames(), last) {
		where = "inside"
	}
	if last == lower {
		return "name-" + where + "-" + s.hash(lower)
	}
	return "name-" + where + "-" + s.hash(lower) + "." + last
}

// fileNames are the ends of names that are files and no top-level domains.
func fileNames() []string {
	return []string{"yaml", "yml", "json", "conf", "ovpn", "txt", "hosts", "log", "service", "socket", "sock", "key", "pem", "crt", "db", "lock", "handshake", "gz", "tar"}
}

// insideNames are the top-level domains that are never public.
func insideNames() []string {
	return []string{"local", "lan", "home", "internal", "intranet", "corp", "private", "arpa", "localhost", "localdomain"}
}

// address replaces an address or a network. Its family, whether it is inside, and the length of the network stay.
func (s *scrubber) address(t string) string {
	text, bits, isNet := strings.Cut(t, "/")
	addr, err := netip.ParseAddr(text)
	if err != nil {
		text = strings.TrimRight(text, ":.") // that of a sentence
		addr, err = netip.ParseAddr(text)
	}
	switch {
	case err == nil:
	case strings.Contains(t, "::"), strings.Count(t, ":") > 3:
		return "v6-unclear-" + s.hash(t)
	default:
		return t // a time of day, or a version
	}
	after := strings.TrimPrefix(t, text)
	if isNet {
		after = "/" + bits
	}
	addr = addr.WithZone("").Unmap()
	if addr.IsUnspecified() || addr.IsLoopback() || addr.IsMulticast() {
		return t // it says nothing of anybody
	}
	family, where := "v6", "outside"
	if addr.Is4() {
		family = "v4"
	}
	switch {
	case addr.IsLinkLocalUnicast():
		where = "link"
	case addr.IsPrivate(), netip.MustParsePrefix("100.64.0.0/10").Contains(addr):
		where = "inside"
	}
	return family + "-" + where + "-" + s.hash(addr.String()) + after
}

// url replaces the host of a URL. User, password, query and fragment, which may be secrets, never stay, and the path, which may be
// one too, stays only with names.
func (s *scrubber) url(t string) string {
	scheme, rest, _ := strings.Cut(t, "://")
	rest, _, more := cutAny(rest, "?#")
	authority, path, hasPath := strings.Cut(rest, "/")
	if i := strings.LastIndex(authority, "@"); i >= 0 {
		authority = authority[i+1:]
	}
	out := scheme + "://" + s.authority(authority)
	if hasPath && path != "" {
		if s.names {
			out += "/" + longRuns.ReplaceAllString(path, secret)
		} else {
			out += "/(path-" + s.hash(path) + ")"
		}
	} else if hasPath {
		out += "/"
	}
	if more {
		out += "?(left out)"
	}
	return out
}

// longRuns finds what in a path may be a token.
var longRuns = regexp.MustCompile(`[A-Za-z0-9_=-]{16,}`)

func (s *scrubber) authority(t string) string {
	if s.names {
		return s.withoutToken(t)
	}
	host, port := t, ""
	if i := strings.LastIndex(t, ":"); i > strings.LastIndex(t, "]") {
		host, port = t[:i], t[i:]
	}
	if inner := strings.Trim(host, "[]"); inner != host {
		return "[" + s.address(inner) + "]" + port
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return s.address(host) + port
	}
	if host == "" || host == "localhost" {
		return t
	}
	return s.host(host) + port
}

// withoutToken removes a label that is a secret: phones have such names for DNS over TLS.
func (s *scrubber) withoutToken(name string) string {
	for _, zone := range s.tokens {
		if i := strings.Index(strings.ToLower(name), "."+zone); i >= 0 {
			return secret + name[i:]
		}
	}
	return name
}

func cutAny(t, chars string) (before, after string, found bool) {
	if i := strings.IndexAny(t, chars); i >= 0 {
		return t[:i], t[i+1:], true
	}
	return t, "", false
}

// named replaces the value of a field that always has a name.
func (s *scrubber) named(key, value string) string {
	if s.names || value == "" {
		return s.text(value)
	}
	switch key {
	case "peer", "from":
		return s.word(value, "peer")
	case "user", "users", "username", "ssid":
		return s.word(value, strings.TrimSuffix(strings.TrimSuffix(key, "name"), "s"))
	case "client":
		if out := s.text(value); out != value {
			return out
		}
		return s.word(value, "peer")
	}
	sign := value[:len(value)-len(strings.TrimLeft(value, "=*.~"))]
	rest := value[len(sign):]
	if _, err := netip.ParseAddr(rest); err == nil || rest == "" || rest == "localhost" {
		return sign + s.text(rest)
	}
	return sign + s.host(rest)
}

// isNamed tells the fields whose values are names, in answers of the control socket, in logs and in configurations.
func isNamed(key string) bool {
	return slices.Contains([]string{"peer", "from", "user", "users", "username", "ssid", "client", "host", "hostname", "domain", "domains", "decided",
		"sni", "intranet", "search", "dns_search", "allow_private"}, key)
}

// value returns what JSON decoded, without what must not be in it. key is the field that has it.
func (s *scrubber) value(key string, v any) any {
	switch v := v.(type) {
	case string:
		if isNamed(key) {
			return string(s.sweep([]byte(s.named(key, v))))
		}
		return s.text(v)
	case []any:
		for i := range v {
			v[i] = s.value(key, v[i])
		}
		return v
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, one := range v {
			clean := s.text(k)
			if key == "records" {
				clean = s.named("domain", k)
			}
			out[clean] = s.value(k, one)
		}
		return out
	}
	return v
}

// json returns an answer as JSON, without what must not be in it.
func (s *scrubber) json(answer any) ([]byte, error) {
	text, err := json.Marshal(answer)
	if err != nil {
		return nil, err
	}
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		return nil, err
	}
	return json.MarshalIndent(s.value("", v), "", "  ")
}

// lines returns a log, without what must not be in it. Lines of JSON stay lines of JSON.
func (s *scrubber) lines(t string) string {
	var out strings.Builder
	for line := range strings.Lines(t) {
		line = strings.TrimSuffix(line, "\n")
		before, _, _ := strings.Cut(line, "{")
		var record map[string]any
		if rest := line[len(before):]; rest != "" && json.Unmarshal([]byte(rest), &record) == nil {
			if clean, err := json.Marshal(s.value("", record)); err == nil {
				out.WriteString(s.text(before) + string(clean) + "\n")
				continue
			}
		}
		out.WriteString(s.text(line) + "\n")
	}
	return out.String()
}
