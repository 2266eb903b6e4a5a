package blocklist

import (
	"bytes"
	"strings"
)

// dnsmasq reads address=/x/, server=/x/ and local=/x/.
func (s *scanner) dnsmasq(line []byte) error {
	line = trimLeft(line)
	if len(line) == 0 || line[0] == '#' {
		return nil
	}
	key, value, ok := bytes.Cut(line, []byte("="))
	if i := bytes.Index(value, []byte(" #")); i >= 0 {
		value = trimRight(value[:i])
	}
	if !ok || len(value) < 3 || value[0] != '/' {
		return s.skip(SkipNotBlock)
	}
	last := bytes.LastIndexByte(value, '/')
	names, target := value[1:max(last, 1)], value[last+1:]
	switch string(key) {
	case "address", "host-record":
		// address=/x/# means the null address. An empty address has the same effect.
		if len(target) > 0 && string(target) != "#" && !isBlockAddr(target) {
			return s.skip(SkipNotBlock)
		}
	case "server", "local":
		// server=/x/ without a server answers from local data only, which blocks x. "#" sends x to the usual servers.
		switch string(target) {
		case "":
		case "#":
			s.entry.Allow = true
		default:
			return s.skip(SkipNotBlock)
		}
	default:
		return s.skip(SkipNotBlock)
	}
	for name := range bytes.SplitSeq(names, []byte("/")) {
		if err := s.domain(name); err != nil {
			return err
		}
	}
	return nil
}

// unbound reads local-zone and local-data.
func (s *scanner) unbound(raw []byte) error {
	line := strings.TrimLeft(string(raw), " \t")
	if line == "" || line[0] == '#' || line == "server:" {
		return nil
	}
	key, value, _ := strings.Cut(line, ":")
	value = strings.NewReplacer(`"`, " ", `'`, " ").Replace(value)
	if i := strings.IndexByte(value, '#'); i >= 0 {
		value = value[:i]
	}
	fields := strings.Fields(value)
	if len(fields) < 2 {
		return s.skip(SkipNotBlock)
	}
	switch key {
	case "local-zone":
		switch fields[1] {
		case "always_null", "always_nxdomain", "always_refuse", "always_deny", "always_nodata", "static", "refuse", "deny",
			"redirect", "inform_deny", "inform_redirect":
		case "always_transparent", "transparent":
			s.entry.Allow = true
		default:
			return s.skip(SkipNotBlock)
		}
	case "local-data":
		if !isBlockAddr([]byte(fields[len(fields)-1])) {
			return s.skip(SkipNotBlock)
		}
	default:
		return s.skip(SkipNotBlock)
	}
	return s.domain([]byte(fields[0]))
}
