package egress

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"penstock/router/transport/openvpn"
	"penstock/router/transport/wireguard"
)

// Naming is what a transport says about DNS, in its file or through what its server pushes.
type Naming struct {
	Transport string
	Servers   []Server
	Search    []string // domains of the transport's network; "~" in front: route only, do not search
}

// Server is a DNS server that a transport names.
type Server struct {
	Address   string // as in dnsproxy.Upstream
	Bootstrap []netip.Addr
	Domains   []string // which names it answers; empty: all
	Direct    bool     // it is not in the transport's networks, and is asked outside of it
}

// wireguardNaming returns what a wg-quick file says about DNS. Routing decides how its servers are asked: WireGuard would drop
// questions to one that is in no peer's AllowedIPs.
func wireguardNaming(name string, c *wireguard.Config) Naming {
	n := Naming{Transport: name, Search: c.SearchDomains}
	for _, a := range c.DNS {
		inside := slices.ContainsFunc(c.Peers, func(p wireguard.Peer) bool {
			return slices.ContainsFunc(p.AllowedIPs, func(allowed netip.Prefix) bool { return allowed.Contains(a) })
		})
		n.Servers = append(n.Servers, Server{Address: a.String(), Direct: !inside})
	}
	return n
}

func openvpnNaming(name string, s openvpn.Settings) Naming {
	n := Naming{Transport: name, Search: s.SearchDomains}
	for _, server := range s.DNS {
		n.Servers = append(n.Servers, pushedServers(server)...)
	}
	return n
}

// pushedServers converts a pushed setting. Port 53 stands for the default port of the protocol.
func pushedServers(s openvpn.DNSServer) []Server {
	var list []Server
	domains := s.Domains
	if slices.Contains(domains, ".") {
		domains = nil
	}
	for _, a := range s.Addrs {
		one := Server{Address: a.String(), Bootstrap: []netip.Addr{a.Addr()}, Domains: domains}
		host := cmp.Or(s.SNI, a.Addr().String())
		port := strconv.Itoa(int(a.Port()))
		switch {
		case s.Transport == "DoT" && a.Port() == 53:
			port = "853"
		case s.Transport == "DoH" && a.Port() == 53:
			port = "443"
		}
		switch s.Transport {
		case "DoT":
			one.Address = "tls://" + net.JoinHostPort(host, port)
		case "DoH":
			one.Address = "https://" + net.JoinHostPort(host, port)
		}
		list = append(list, one)
	}
	return list
}

// Search returns the search domains that the transports currently name, without duplicates.
func (e *Egress) Search() []string {
	var domains []string
	for _, t := range e.Naming() {
		for _, domain := range t.Search {
			if !slices.Contains(domains, domain) {
				domains = append(domains, domain)
			}
		}
	}
	return domains
}
