package push

import (
	"net/netip"

	"penstock/router/transport/openvpn/internal/route"
)

// Settings are what a server pushed, ready to use. Nothing in them has been applied, and nothing in them outranks policy.
type Settings struct {
	Addrs         []netip.Prefix // our addresses inside the tunnel
	MTU           int            // bytes, IP header included: what fits without outer fragments
	Gateway4      netip.Addr     // the peer inside the tunnel, invalid: not pushed
	Gateway6      netip.Addr
	Routes        []Route
	Redirect4     bool // all IPv4 traffic is meant for the tunnel (redirect-gateway)
	Redirect6     bool
	BlockIPv6     bool // block-ipv6: the server wants IPv6 refused
	DNS           []DNSServer
	SearchDomains []string // in the server's order
	BlockOtherDNS bool     // block-outside-dns
	Server        netip.AddrPort
}

// Route is a destination the server offers, or wants kept out of the tunnel.
type Route = route.Route

// DNSServer is one resolver with the domains it is for.
type DNSServer struct {
	Addrs     []netip.AddrPort // tried in order
	Domains   []string         // split DNS: only for these and what is below them; empty: for everything
	Transport string           // "plain", "DoT" or "DoH"
	SNI       string           // name in the server's certificate, for DoT and DoH
	DNSSEC    string           // "yes", "optional" or "no"; empty: not pushed
}
