package edition

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"penstock/cmd/internal/config"
	"penstock/dnsproxy/records"
	"penstock/policy"
)

// names makes the book of the names that penstock knows by itself: those of dns.records and of the peers that may connect at a
// time. The error is a *config.Error; the book is without what has faults.
func (e *Edition) names(now time.Time) (*records.Book, error) {
	dns := e.Config.DNS
	list, paths := ownRecords(e.Config)
	var faults []config.Fault
	var closed []string
	if zone, fault := e.peersZone(); fault != nil {
		faults = append(faults, *fault)
	} else if zone != "" {
		closed = []string{zone}
		list = append(list, e.peersRecords(zone, list, now)...)
	}
	if len(list) == 0 && closed == nil {
		return nil, faultsOf(faults)
	}
	book, wrong := records.Compile(list, closed...)
	for _, f := range wrong {
		switch path := "dns.peers"; {
		case f.Record >= len(paths):
			faults = append(faults, e.Config.Fault(path, f.Problem, f.Mend))
		case f.Key == "":
			r := dns.Records[strings.TrimPrefix(paths[f.Record], recordsPath)]
			faults = append(faults, e.Config.FaultAt(r.NamePos, f.Problem, f.Mend))
		default:
			faults = append(faults, e.Config.Fault(paths[f.Record]+f.Key, f.Problem, f.Mend))
		}
	}
	return book, faultsOf(faults)
}

func faultsOf(list []config.Fault) error {
	if len(list) == 0 {
		return nil
	}
	return &config.Error{Faults: list}
}

const recordsPath = "dns.records."

// ownRecords returns dns.records in the order in which they are written, and the path of each.
func ownRecords(cfg *config.Config) (list []records.Record, paths []string) {
	type named struct {
		name string
		config.Record
	}
	var all []named
	for name, r := range cfg.DNS.Records {
		all = append(all, named{name, r})
	}
	slices.SortFunc(all, func(a, b named) int {
		p, q := a.NamePos, b.NamePos
		return cmp.Or(cmp.Compare(slices.Index(cfg.Files, p.File), slices.Index(cfg.Files, q.File)), cmp.Compare(p.Line, q.Line),
			cmp.Compare(p.Column, q.Column), cmp.Compare(a.name, b.name))
	})
	for _, r := range all {
		list = append(list, records.Record{
			Name: r.name, From: fmt.Sprintf("record at %s:%d", r.NamePos.File, r.NamePos.Line), TTL: r.TTL,
			Addrs: r.Addresses(), CNAME: r.CNAME, TXT: r.TXT, MX: r.MX, SRV: r.SRV,
		})
		paths = append(paths, recordsPath+r.name)
	}
	return list, paths
}

// peersZone returns the domain in which peers have names, in canonical form; "" if there is none.
func (e *Edition) peersZone() (zone string, fault *config.Fault) {
	domain := e.Config.DNS.Peers
	if domain == "" || e.Gateway == nil {
		return "", nil
	}
	wrong := func(mend, format string, args ...any) (string, *config.Fault) {
		f := e.Config.Fault("dns.peers", fmt.Sprintf(format, args...), mend)
		return "", &f
	}
	zone, err := policy.CanonicalName(domain)
	if err != nil || strings.Contains(domain, ":") {
		return wrong("write one such as peers.example", "%q is not a domain", domain)
	}
	for _, split := range e.Config.DNS.Split {
		for _, other := range split.Domains {
			name, err := policy.CanonicalName(strings.TrimPrefix(other, "*."))
			if err == nil && (name == zone || strings.HasSuffix(name, "."+zone)) {
				return wrong("give the peers a domain of their own", "names in %s would not be asked of the servers for %s at %s", domain, other, split.Pos)
			}
		}
	}
	return zone, nil
}

// peersRecords returns the records of the gateway and of the peers that may connect at a time. A name in dns.records is left to
// the record there. A peer whose name is no host name, or that has no address for one host, has none.
func (e *Edition) peersRecords(zone string, own []records.Record, now time.Time) []records.Record {
	taken := make(map[string]bool, len(own))
	for _, r := range own {
		if name, err := policy.CanonicalName(r.Name); err == nil {
			taken[name] = true
		}
	}
	var list []records.Record
	add := func(name, from string, addrs []netip.Addr) {
		name, err := peerName(name, zone)
		if err == nil && len(addrs) > 0 && !taken[name] {
			list = append(list, records.Record{Name: name, From: from, Addrs: addrs})
		}
	}
	var addrs []netip.Addr
	for _, p := range e.Config.Listen.WireGuard.Address {
		addrs = append(addrs, p.Addr())
	}
	add(config.GatewayName, "gateway itself", addrs)
	for _, p := range e.Config.Peers.All() {
		if p.State(now) != "" {
			continue
		}
		var addrs []netip.Addr
		for _, prefix := range p.AllowedIPs {
			if prefix.IsSingleIP() && !slices.Contains(addrs, prefix.Addr()) {
				addrs = append(addrs, prefix.Addr())
			}
		}
		add(p.Name, "peer "+p.Name, addrs[:min(len(addrs), records.MaxAddrs)])
	}
	return list
}

// peerName returns the name of a peer in the domain of the peers.
func peerName(name, zone string) (string, error) {
	return policy.CanonicalName(strings.ToLower(name) + "." + zone)
}

// nameless returns a sentence for each peer that is called as no new peer may be, and for each that cannot have a name in dns.peers.
func (e *Edition) nameless() []string {
	zone, fault := e.peersZone()
	if fault != nil {
		zone = ""
	}
	var list []string
	for _, p := range e.Config.Peers.All() {
		if err := config.CheckNewPeer(p.Name); err != nil {
			list = append(list, fmt.Sprintf("%s: %v: give the peer another name, which commands and DNS can use", p.Pos, err))
		} else if zone == "" {
			continue
		} else if _, err := peerName(p.Name, zone); err != nil {
			list = append(list, fmt.Sprintf("%s: peer %s has no name in %s: a host name has letters, digits, - and dots", p.Pos, p.Name, zone))
		}
	}
	return list
}
