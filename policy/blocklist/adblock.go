package blocklist

import (
	"strings"
)

// adblock reads a rule in AdBlock or AdGuard syntax. It uses only rules that block or allow whole hosts.
func (s *scanner) adblock(raw []byte) error {
	line := strings.TrimLeft(string(raw), " \t")
	switch {
	case line == "" || line[0] == '!' || line[0] == '[':
		return nil
	case isCosmetic(line):
		return s.skip(SkipCosmetic)
	case line[0] == '#':
		return nil
	}
	if addr, rest := cutField(raw); len(rest) > 0 && isAddr(addr) {
		return s.hosts(raw)
	}
	if rest, ok := strings.CutPrefix(line, "@@"); ok {
		line = rest
		s.entry.Allow = true
	}
	pattern, options := cutOptions(line)
	except, reason := s.modifiers(options)
	if reason != "" {
		return s.skip(reason)
	}
	if len(pattern) > 2 && pattern[0] == '/' && pattern[len(pattern)-1] == '/' {
		if s.entry.Disables || s.entry.Important {
			return s.skip(SkipModifier)
		}
		return s.expression(pattern[1 : len(pattern)-1])
	}
	name, reason := s.hostPattern(pattern)
	if reason != "" {
		return s.skip(reason)
	}
	if err := s.name([]byte(name)); err != nil {
		return err
	}
	for name := range strings.SplitSeq(except, "|") {
		if name == "" {
			continue
		}
		s.entry.Allow, s.entry.Exact, s.entry.Important = true, false, false
		if err := s.name([]byte(name)); err != nil {
			return err
		}
	}
	return nil
}

// isCosmetic reports whether a rule hides elements of a page.
func isCosmetic(line string) bool {
	for _, sep := range []string{"##", "#@#", "#?#", "#@?#", "#$#", "#@$#", "#%#", "#@%#", "$$"} {
		if i := strings.Index(line, sep); i >= 0 && !strings.ContainsAny(line[:i], " \t/|") {
			// Not followed by a selector: a comment such as "## Facebook" or "#####".
			rest := line[i+len(sep):]
			return rest != "" && rest[0] != ' ' && rest[0] != '#'
		}
	}
	return false
}

// cutOptions splits a rule at the $ before its modifiers. A $ within an expression does not count.
func cutOptions(line string) (pattern, options string) {
	from := 0
	if line != "" && line[0] == '/' {
		from = strings.LastIndexByte(line, '/')
	}
	if i := strings.IndexByte(line[from:], '$'); i >= 0 {
		return line[:from+i], line[from+i+1:]
	}
	return line, ""
}

// modifiers applies the modifiers after the $. It skips a rule with a condition on more than the host name: without the
// condition the rule would block too much.
func (s *scanner) modifiers(options string) (except, skip string) {
	for option := range strings.SplitSeq(options, ",") {
		key, value, _ := strings.Cut(strings.TrimSpace(option), "=")
		switch key {
		case "", "all", "document", "doc":
		case "important":
			s.entry.Important = true
		case "badfilter":
			s.entry.Disables = true
		case "denyallow":
			if s.entry.Allow {
				return "", SkipModifier
			}
			except = value
		case "dnsrewrite":
			if s.entry.Allow || !isBlockRewrite(value) {
				return "", SkipNotBlock
			}
		default:
			return "", SkipModifier
		}
	}
	return except, ""
}

// isBlockRewrite reports whether a dnsrewrite value blocks the name.
func isBlockRewrite(value string) bool {
	switch strings.ToUpper(strings.TrimRight(value, ";")) {
	case "NXDOMAIN", "REFUSED", "":
		return true
	}
	value = value[strings.LastIndexByte(value, ';')+1:]
	return isBlockAddr([]byte(value))
}

// hostPattern returns the host name that a pattern stands for, or why it does not stand for a whole host.
func (s *scanner) hostPattern(p string) (name, skip string) {
	name, subtree := strings.CutPrefix(p, "||")
	if !subtree {
		if exact, ok := strings.CutPrefix(p, "|"); ok {
			name, s.entry.Exact = exact, true
		}
	}
	name = strings.TrimSuffix(name, "|")
	name = strings.TrimSuffix(name, "^")
	name = strings.TrimPrefix(name, "*.")
	if !subtree {
		name = strings.TrimPrefix(name, ".")
	}
	switch {
	case strings.Contains(name, "/"):
		return "", SkipPath
	case strings.ContainsAny(name, "*^|"):
		return "", SkipPattern
	case !subtree && !strings.Contains(name, "."):
		return "", SkipPattern // part of a URL, such as "-ads-"
	}
	return name, ""
}
