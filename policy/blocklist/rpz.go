package blocklist

import (
	"strings"
)

// zone is the state of a parser of a policy zone.
type zone struct {
	apex   string // the zone's own name with a trailing dot; absolute owners end in it
	origin string // appended to relative owners
	owner  string // of the previous line
	open   bool   // inside parentheses
}

// rpz reads a line of a response policy zone: draft-vixie-dnsop-dns-rpz-00.
func (s *scanner) rpz(raw []byte) error {
	line, _, _ := strings.Cut(string(raw), ";")
	z := &s.zone
	if z.open {
		z.open = !strings.Contains(line, ")")
		return nil
	}
	z.open = strings.Contains(line, "(") && !strings.Contains(line, ")")
	fields := strings.Fields(line)
	if len(fields) == 0 {
		return nil
	}
	if fields[0][0] == '$' {
		if strings.EqualFold(fields[0], "$ORIGIN") && len(fields) > 1 {
			z.origin = z.absolute(fields[1])
			if z.apex == "" {
				z.apex = z.origin
			}
		}
		return nil
	}
	if line[0] != ' ' && line[0] != '\t' {
		z.owner = fields[0]
		fields = fields[1:]
	}
	kind, target := recordData(fields)
	switch kind {
	case "SOA":
		if z.apex == "" && z.owner != "@" {
			z.apex = z.absolute(z.owner)
		}
		return nil
	case "CNAME":
		switch strings.ToLower(target) {
		case ".", "*.", "rpz-drop.":
		case "rpz-passthru.":
			s.entry.Allow = true
		default:
			return s.skip(SkipNotBlock)
		}
	case "A", "AAAA":
		if !isBlockAddr([]byte(target)) {
			return s.skip(SkipNotBlock)
		}
	default:
		return nil
	}
	name := z.trigger()
	if name == "" || name == "@" {
		return nil
	}
	if i := strings.LastIndexByte(name, '.'); strings.HasPrefix(name[i+1:], "rpz-") {
		return s.skip(SkipTrigger)
	}
	// A trigger is the name alone, or with *. only what is below it: 4.3 of the draft, as in DNS itself (RFC 4592).
	if below, ok := strings.CutPrefix(name, "*."); ok {
		s.entry.Below = true
		name = below
	} else {
		s.entry.Exact = true
	}
	return s.domain([]byte(name))
}

// recordData skips TTL and class. It returns the type and the first field of the data.
func recordData(fields []string) (kind, target string) {
	for i, f := range fields {
		if strings.EqualFold(f, "IN") || f[0] >= '0' && f[0] <= '9' {
			continue
		}
		if i+1 < len(fields) {
			target = fields[i+1]
		}
		return strings.ToUpper(f), target
	}
	return "", ""
}

func (z *zone) absolute(name string) string {
	switch {
	case name == "@":
		return z.origin
	case strings.HasSuffix(name, "."), z.origin == "":
		return name
	}
	return name + "." + z.origin
}

// trigger returns the owner relative to the zone, which is the name that the policy applies to.
func (z *zone) trigger() string {
	name := z.absolute(z.owner)
	if z.apex == "" || !strings.HasSuffix(z.apex, ".") {
		return strings.TrimSuffix(name, ".")
	}
	if strings.EqualFold(name, z.apex) {
		return ""
	}
	if n := len(name) - len(z.apex) - 1; n > 0 && name[n] == '.' && strings.EqualFold(name[n+1:], z.apex) {
		return name[:n]
	}
	return strings.TrimSuffix(name, ".")
}
