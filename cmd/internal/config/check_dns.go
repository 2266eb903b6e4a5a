package config

import (
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// dnsChecker checks the settings of the DNS server.
type dnsChecker struct{ *checker }

// dns checks upstreams and split zones.
func (k dnsChecker) dns() {
	k.upstreams("dns.upstreams", k.DNS.Upstreams)
	zones := make(map[string]Position)
	for i, s := range k.DNS.Split {
		path := fmt.Sprintf("dns.split[%d]", i)
		k.upstreams(path+".upstream", s.Upstream)
		for j, domain := range s.Domains {
			if first, taken := zones[domain]; taken {
				k.fault(fmt.Sprintf("%s.domains[%d]", path, j), "remove one", "there is a split zone %s already, at %s", domain, first)
			}
			zones[domain] = s.Pos
		}
	}
	for _, name := range slices.Sorted(maps.Keys(k.DNS.Records)) {
		k.record("dns.records."+name, k.DNS.Records[name])
	}
	if k.DNS.Peers != "" && k.Listen.WireGuard == nil {
		k.fault("dns.peers", "add listen: {wireguard: ...}, or remove dns.peers", "there are no peers to have names in %s", k.DNS.Peers)
	}
	k.blockAnswer("dns.block", k.DNS.Block)
	known := append(slices.Sorted(maps.Keys(k.Categories)), starter...)
	for _, name := range slices.Sorted(maps.Keys(k.DNS.BlockCategory)) {
		at := "dns.block_category." + name
		k.oneOf(at, name, "category", "categories", known)
		k.blockAnswer(at, k.DNS.BlockCategory[name])
	}
	for i, a := range k.DNS.Listen {
		if a.Port() == 0 {
			k.fault(fmt.Sprintf("dns.listen[%d]", i), "write the port that clients ask, usually 53", "dns.listen[%d] is %s", i, a)
		}
	}
	k.serve()
	if k.DNS.Timeout == 0 {
		k.fault("dns.timeout", "write more than 0", "dns.timeout is 0: no upstream could answer in time")
	}
	if k.DNS.QueryLog && k.FlowLog.File == "" && !k.FlowLog.Journal && k.FlowLog.Syslog == "" {
		k.fault("dns.query_log", "set flow_log.file or flow_log.journal", "there is no flow log to write questions to")
	}
}

// serve checks encrypted DNS for phones. It does not read certificate and key, which others renew: if that goes wrong, peers can
// still be removed.
func (k dnsChecker) serve() {
	s := k.DNS.Serve
	if s == nil {
		return
	}
	if k.Listen.WireGuard == nil {
		k.fault("dns.serve", "add listen: {wireguard: ...}", "dns.serve answers peers, whose tokens are made from the gateway's key, and there is no gateway")
	}
	if !isHostName(s.Name) {
		k.fault("dns.serve.name", "write the host name that phones ask, for example dns.example.com", "dns.serve.name is %q", s.Name)
	}
	if len(s.HTTPS)+len(s.TLS) == 0 {
		k.fault("dns.serve", "add https: 0.0.0.0:443, tls: 0.0.0.0:853, or both", "dns.serve has no address to listen on")
	}
	seen := make(map[netip.AddrPort]bool)
	for _, l := range []struct {
		key   string
		addrs []netip.AddrPort
	}{{"https", s.HTTPS}, {"tls", s.TLS}} {
		for i, a := range l.addrs {
			at := fmt.Sprintf("dns.serve.%s[%d]", l.key, i)
			if a.Port() == 0 {
				k.fault(at, "write the port that phones ask, usually 443 for https and 853 for tls", "%s is %s", at, a)
			}
			if seen[a] || slices.Contains(k.DNS.Listen, a) {
				k.fault(at, "choose another port", "dns listens on %s twice", a)
			}
			seen[a] = true
		}
	}
	switch {
	case s.ACME: // see acme
	case s.Certificate == "":
		k.fault("dns.serve", "add certificate: FILE and key: {file: PATH}, or, without tls, acme: true", "dns.serve has no certificate")
	case s.Key.IsZero():
		k.fault("dns.serve.key", "write {file: PATH} or {env: NAME}", "dns.serve.key is empty")
	}
	k.secretPlace("dns.serve.key", s.Key)
}

// maxServeName leaves room for a token and a dot in a name of 253 characters.
const maxServeName = 253 - 33

// isHostName reports whether s is a host name in lower case with at least two labels.
func isHostName(s string) bool {
	labels := strings.Split(s, ".")
	if _, err := netip.ParseAddr(s); err == nil || len(labels) < 2 || len(s) > maxServeName {
		return false
	}
	return !slices.ContainsFunc(labels, func(label string) bool {
		return label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || label[0] == '-' || label[len(label)-1] == '-'
	})
}

// maxTTL is the longest time that DNS can say (RFC 2181, 8).
const maxTTL = (1<<31 - 1) * time.Second

func (k dnsChecker) blockAnswer(path string, b BlockAnswer) {
	if (b.Answer == "address") != (len(b.Addresses) > 0) {
		k.fault(path+".answer", "write both or neither", "answer: address and addresses belong together")
	}
	if b.TTL > maxTTL {
		k.fault(path+".ttl", "write a shorter time, for example 30s", "%s.ttl is longer than DNS can say, %v", path, maxTTL)
	}
}

// record checks what can be said of a record without the others. Package dnsproxy/records checks the rest.
func (k dnsChecker) record(path string, r Record) {
	for i, a := range r.A {
		if !a.Is4() {
			k.fault(fmt.Sprintf("%s.a[%d]", path, i), "write it under aaaa", "%v is no IPv4 address", a)
		}
	}
	for i, a := range r.AAAA {
		if a.Is4() {
			k.fault(fmt.Sprintf("%s.aaaa[%d]", path, i), "write it under a", "%v is no IPv6 address", a)
		}
	}
	if r.TTL > maxTTL || r.TTL < time.Second {
		k.fault(path+".ttl", "write a time such as 60s", "%s.ttl is %v, and DNS can say 1s to %v", path, r.TTL, maxTTL)
	}
}

func (k dnsChecker) upstreams(path string, upstreams []Upstream) {
	for i, u := range upstreams {
		at := fmt.Sprintf("%s[%d]", path, i)
		k.via(at+".via", u.Via)
		if !isUpstream(u.Address) {
			k.fault(at+".address", "write an IP address, for example 10.0.0.53 or tcp://10.0.0.53:53, or tls://, https://, h3:// or quic:// and a name", "the upstream's address is %q", u.Address)
		}
	}
}

// isUpstream reports whether s is an address, with or without a port and a scheme. Encrypted upstreams may have a name
// instead.
func isUpstream(s string) bool {
	scheme, rest, hasScheme := strings.Cut(s, "://")
	switch {
	case !hasScheme:
		return isAddress(s)
	case scheme == "udp" || scheme == "tcp":
		return isAddress(rest)
	case scheme == "tls" || scheme == "quic":
		u, err := url.Parse(s)
		return err == nil && u.Hostname() != "" && u.User == nil && u.Path == ""
	case scheme == "https" || scheme == "h3":
		u, err := url.Parse(s)
		return err == nil && u.Hostname() != "" && u.User == nil
	}
	return false
}

// isAddress reports whether s is an IP address, with or without a port.
func isAddress(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	addr, err := netip.ParseAddrPort(s)
	return err == nil && addr.Port() != 0
}
