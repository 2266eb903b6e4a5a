package bundle

import (
	"encoding"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/private"
)

// learn tells the scrubber what in a configuration is secret, and which names are in it.
func (s *scrubber) learn(cfg *config.Config) {
	s.learnFrom("", reflect.ValueOf(cfg))
	for _, p := range cfg.Peers.All() {
		s.know(p.Name, "peer")
	}
	for _, t := range cfg.Transports {
		switch {
		case t.WireGuard != nil && t.WireGuard.Config != "":
			s.learnProfile(t.WireGuard.Config)
		case t.OpenVPN != nil:
			s.hide(t.OpenVPN.Username)
			s.learnProfile(t.OpenVPN.Config)
		}
	}
	for _, split := range cfg.DNS.Split {
		s.inside = append(s.inside, lowered(split.Domains)...)
	}
	for name := range cfg.DNS.Records {
		s.learnText("domain", name)
		s.inside = append(s.inside, lowered([]string{name})...)
	}
	s.inside = append(s.inside, lowered(cfg.Intranet)...)
	if cfg.DNS.Peers != "" {
		s.inside = append(s.inside, lowered([]string{cfg.DNS.Peers})...)
	}
	if serve := cfg.DNS.Serve; serve != nil {
		s.tokens = append(s.tokens, strings.ToLower(serve.Name))
	}
}

func lowered(names []string) []string {
	var list []string
	for _, n := range names {
		list = append(list, strings.ToLower(strings.Trim(n, "*.=~")))
	}
	return list
}

// learnFrom walks through a value of the configuration; key is the one that has it.
func (s *scrubber) learnFrom(key string, v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			s.learnFrom(key, v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			s.learnFrom(key, v.Index(i))
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			s.learnFrom(key, it.Value())
		}
	case reflect.String:
		s.learnText(key, v.String())
	case reflect.Struct:
		if of, ok := v.Interface().(config.Secret); ok {
			if value, err := of.Read(); err == nil {
				s.hideLines(value)
			}
			return
		}
		if list, ok := v.Interface().(config.PeerList); ok {
			s.learnFrom(key, reflect.ValueOf(list.Slice()))
			return
		}
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() && f.Tag.Get("yaml") != "-" {
				s.learnFrom(f.Tag.Get("yaml"), v.Field(i))
			}
		}
	}
}

// shortestRun is the length from which on a part of a URL may be a secret.
const shortestRun = 6

// learnText learns from one value.
func (s *scrubber) learnText(key, text string) {
	if _, rest, ok := strings.Cut(text, "://"); ok {
		rest, query, _ := cutAny(rest, "?#")
		authority, path, _ := strings.Cut(rest, "/")
		if i := strings.LastIndex(authority, "@"); i >= 0 {
			user, password, _ := strings.Cut(authority[:i], ":")
			s.hide(user)
			s.hide(password)
		}
		s.hide(query)
		for pair := range strings.SplitSeq(query, "&") {
			if _, value, _ := strings.Cut(pair, "="); len(value) >= shortestRun {
				s.hide(value)
			}
		}
		for part := range strings.SplitSeq(path, "/") { // in the URL of a DNS server, it may tell the subscriber
			if key == "address" && part != "dns-query" && len(part) >= shortestRun || longRuns.FindString(part) == part {
				s.hide(part)
			}
		}
		return
	}
	bare := strings.Trim(text, "*.=~")
	if key == "user" && slices.Contains([]string{"email", "sub", "name", "preferred_username"}, bare) {
		return // of sign_in: where a token has the user
	}
	if isNamed(key) && bare != "" && !strings.Contains(bare, ".") && bare != "localhost" {
		kind := "name"
		switch key {
		case "peer", "from":
			kind = "peer"
		case "user", "users", "username":
			kind = "user"
		}
		s.know(bare, kind)
	}
}

// profileSecret finds the lines of a wg-quick file that hold secrets.
var profileSecret = regexp.MustCompile(`(?im)^\s*(?:PrivateKey|PresharedKey)\s*=\s*(\S+)`)

// learnProfile learns the secrets in a wg-quick or .ovpn file, and in the password file that it names.
func (s *scrubber) learnProfile(path string) {
	text, err := private.ReadText(path, config.MaxFile)
	if err != nil {
		return // then it is nowhere else either
	}
	for _, m := range profileSecret.FindAllStringSubmatch(string(text), -1) {
		s.hide(m[1])
	}
	block := ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		switch {
		case block != "" && line == "</"+block+">":
			block = ""
		case block != "":
			s.hideLines(line)
		case block == "" && slices.Contains(secretWords(), firstWord(line)):
			file := strings.Trim(strings.Fields(line + " - -")[1], `"'`)
			if !filepath.IsAbs(file) {
				file = filepath.Join(filepath.Dir(path), file)
			}
			if text, err := private.ReadText(file, config.MaxFile); err == nil {
				s.hideLines(string(text))
			}
		case strings.HasPrefix(line, "<") && strings.HasSuffix(line, ">") && line != "<connection>" && line != "</connection>":
			block = strings.Trim(line, "<>")
		}
	}
}

// secretWords are the directives of an .ovpn file that name files with secrets.
func secretWords() []string {
	return []string{"auth-user-pass", "askpass", "key", "secret", "tls-auth", "tls-crypt", "tls-crypt-v2"}
}

func firstWord(line string) string {
	word, _, _ := strings.Cut(line, " ")
	return word
}

// hideLines hides each line of a secret: a key may be quoted in part.
func (s *scrubber) hideLines(text string) {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); !strings.HasPrefix(line, "-----") {
			s.hide(line)
		}
	}
}

// learnHost learns the names of this machine and of who works here.
func (s *scrubber) learnHost() {
	if name, err := os.Hostname(); err == nil && name != "localhost" {
		s.know(name, "host")
	}
	for _, variable := range []string{"SUDO_USER", "USER", "LOGNAME"} {
		if name := os.Getenv(variable); name != "root" {
			s.know(name, "user")
		}
	}
}

// expanded returns a configuration as values that JSON can write, by the keys of its file. What is zero is left out, and of a secret
// there is only where it is kept.
func expanded(v reflect.Value) any {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return nil
		}
		return expanded(v.Elem())
	}
	if !v.IsValid() || v.IsZero() {
		return nil
	}
	switch one := v.Interface().(type) {
	case time.Duration:
		return one.String()
	case config.Size:
		return one.String()
	case config.Record:
		if len(one.Short) > 0 {
			return expanded(reflect.ValueOf(one.Short))
		}
	case time.Time, netip.Addr, netip.AddrPort, netip.Prefix:
		text, _ := one.(encoding.TextMarshaler).MarshalText() // they cannot fail
		return string(text)
	}
	switch v.Kind() {
	case reflect.Slice:
		var list []any
		for i := range v.Len() {
			list = append(list, expanded(v.Index(i)))
		}
		return list
	case reflect.Map:
		out := make(map[string]any)
		for it := v.MapRange(); it.Next(); {
			out[it.Key().String()] = expanded(it.Value())
		}
		return out
	case reflect.Struct:
		if list, ok := v.Interface().(config.PeerList); ok {
			return expanded(reflect.ValueOf(list.Slice()))
		}
		out := make(map[string]any)
		for i := range v.NumField() {
			f := v.Type().Field(i)
			key := f.Tag.Get("yaml")
			if !f.IsExported() || key == "-" || key == "" {
				continue
			}
			if value := expanded(v.Field(i)); value != nil {
				out[key] = value
			}
		}
		if len(out) == 0 {
			return nil
		}
		return out
	}
	return v.Interface()
}

// keysOf adds the keys of a configuration's structs, to some depth.
func keysOf(t reflect.Type, above string, depth int, keys map[string]bool) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t == reflect.TypeFor[config.PeerList]() {
		t = reflect.TypeFor[config.Peer]()
	}
	if t.Kind() != reflect.Struct || depth == 0 {
		return
	}
	for i := range t.NumField() {
		key := t.Field(i).Tag.Get("yaml")
		if key == "" || key == "-" {
			continue
		}
		keys[above+key] = true
		keysOf(t.Field(i).Type, above+key+".", depth-1, keys)
	}
}
