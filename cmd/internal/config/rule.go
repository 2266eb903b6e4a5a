package config

import (
	"net/netip"
	"time"
)

// Category is a named set of domains. Without lists it is the built-in starter set of that name.
type Category struct {
	// Lists hold the domains. A domain means what its list's syntax says: in a hosts file and a policy zone (rpz) the name alone,
	// *. in a policy zone what is below it alone, and elsewhere the name and everything below it.
	Lists []List `yaml:"lists"`
	// Allow lists hold exceptions.
	Allow []List `yaml:"allow"`
	// OnMissing says what the category means while it has no list at all: no last good version, and no built-in list of its
	// name. With block it holds every name, with allow none. If only some of its lists are missing, the others apply. With
	// fail penstock does not start unless it has all of them, and does not wait for a subscription. Default: every name until
	// its lists are there, but none if they are there and were refused, as a web page is. The first line of status says so.
	OnMissing string `yaml:"on_missing" oneof:"block,allow,fail"`

	Pos Position `yaml:"-"`
}

// List is one list of domains: a file or a subscription.
type List struct {
	// URL is where the list is fetched from. An answer is refused if it is not a list, has lost half of its entries, or blocks
	// a split zone. The last good version then stays in use.
	URL string `yaml:"url"`
	// File is a list on this machine.
	File string `yaml:"file" path:"file"`
	// Format is the list's syntax; auto detects it.
	Format string `yaml:"format" default:"auto" oneof:"auto,domains,hosts,adblock,dnsmasq,unbound,rpz,geosite,expressions,urls"`
	// AllowTLD takes entries for whole top-level domains such as zip, and for public suffixes such as co.uk. Without it they are
	// left out, and check says so.
	AllowTLD bool `yaml:"allow_tld"`
	// Refresh is how often penstock looks for a newer list, 1s or more.
	Refresh time.Duration `yaml:"refresh" default:"24h"`
	// Via is the transport through which the URL is fetched, or direct.
	Via string `yaml:"via" default:"direct"`

	Pos Position `yaml:"-"`
}

// Rule judges flows and DNS questions.
type Rule struct {
	// Name identifies the rule in logs, metrics and explain.
	Name string `yaml:"name" required:"true"`
	// Match must hold for the rule to decide. The last rule has none.
	Match *Match `yaml:"match"`
	// Do is what happens then: block, drop, direct, dns, {via: TRANSPORT}, or a mapping with more.
	Do Do `yaml:"do" required:"true"`

	Pos Position `yaml:"-"`
}

// Match is the conditions of a rule. Several values in a field are alternatives. All fields that are set must hold.
type Match struct {
	// Domain is a host name. example.com matches itself and everything below it, *.example.com only what is below,
	// =example.com only itself.
	Domain []string `yaml:"domain"`
	// Category is a named set of domains.
	Category []string `yaml:"category"`
	// CIDR is a network or address of the destination, or private for the networks that are not on the internet: 10.0.0.0/8,
	// 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10, fc00::/7 and fec0::/10, also where an IPv6 address stands for one of IPv4
	// (NAT64, 6to4). No cidr opens loopback, link-local and multicast addresses, metadata services, and peers.
	CIDR []string `yaml:"cidr"`
	// Src is a network or address of the client, or private.
	Src []string `yaml:"src"`
	// Port is a destination port or a range such as 6000-6063.
	Port []string `yaml:"port"`
	// Protocol is tcp, udp, icmp, or quic, which is UDP to port 443.
	Protocol []string `yaml:"protocol" oneof:"tcp,udp,icmp,quic"`
	// Peer is the name of a peer.
	Peer []string `yaml:"peer"`
	// Group is the name of a group of peers.
	Group []string `yaml:"group"`
	// User is who has signed in with the peer: see sign_in.
	User []string `yaml:"user"`
	// SignedIn is whether somebody has signed in with the peer. It matches only peers.
	SignedIn *bool `yaml:"signed_in"`
	// UID is the user whose program sent the flow (Linux, not for peers).
	UID []uint32 `yaml:"uid"`
	// Process is the whole path of the program that sent the flow (Linux, not for peers).
	Process []string `yaml:"process"`
	// Unit is the systemd unit of the program that sent the flow, without what changes at each start: firefox.service,
	// app-org.mozilla.firefox.scope. An asterisk stands for any characters. system/ in front leaves out units that users start with
	// a service manager of their own, whose names they choose; user/ leaves out all others (Linux, not for peers).
	Unit []string `yaml:"unit"`
	// Container is the ID or name of the container of the program that sent the flow, written as in unit. A container with a
	// network of its own has no socket on this machine, so it is not known (Linux, not for peers).
	Container []string `yaml:"container"`
	// Schedule is times of the week: "mon-fri 21:00-06:00", "sat,sun", "22:00-06:00".
	Schedule []string `yaml:"schedule"`
	// SeenIn is where the host name was learnt: dns, sni, http or quic.
	SeenIn []string `yaml:"seen_in" oneof:"dns,sni,http,quic"`
	// Mismatch is true for flows that show a name for which DNS did not give their destination.
	Mismatch *bool `yaml:"mismatch"`
	// True matches the gateway's own addresses; no other match opens them. With cidr it also matches loopback and link-local
	// addresses and metadata services in there. Needs port.
	Gateway bool `yaml:"gateway"`
	// True matches the peers of the gateway and the networks behind them; no other match opens them. Such a rule blocks, or goes
	// direct: from the gateway to the peer, which sees the gateway's address as the sender.
	Peers bool `yaml:"peers"`
	// Not is a match that must not hold.
	Not *Match `yaml:"not"`

	Pos Position `yaml:"-"`
}

// Do is what a rule does with a flow.
type Do struct {
	// Action is block, drop (silence), direct, dns (the embedded DNS server) or via.
	Action string `yaml:"action" oneof:"block,drop,direct,dns,via"`
	// Via is the transport that carries the flow; it makes the action via.
	Via string `yaml:"via"`
	// How says what a blocked client sees: refuse (TCP RST, ICMP unreachable) or drop (silence).
	How string `yaml:"how" oneof:"refuse,drop"`
	// Unnamed is block or allow: what happens to a flow that matches but shows no host name where its protocol has one.
	Unnamed string `yaml:"unnamed" oneof:"block,allow"`
	// Fallback is direct to let flows leave directly while the transport is not up. Without it they are refused.
	Fallback string `yaml:"fallback" oneof:"direct"`
	// Trusted is direct to let flows leave directly on a network for which on_demand says filter_only.
	Trusted string `yaml:"trusted" oneof:"direct"`
	// Unrouted is direct to let flows leave directly whose destination the transport's OpenVPN server does not route through
	// the tunnel. Until the server has said what it routes, and with WireGuard, everything goes through the tunnel.
	Unrouted string `yaml:"unrouted" oneof:"direct"`

	Pos Position `yaml:"-"`
}

// Test is a statement about the rules that must hold.
type Test struct {
	// From is the name of a peer. Without it the flow comes from this machine.
	From string `yaml:"from"`
	// User is who has signed in with that peer. Without it nobody has.
	User string `yaml:"user"`
	// Groups are those that the provider says of the user.
	Groups []string `yaml:"groups"`
	// To is a URL, host, host:port or address. A URL's scheme gives protocol and port.
	To string `yaml:"to" required:"true"`
	// Addr is the destination's address, for a `to` that is a name and rules that match addresses.
	Addr netip.Addr `yaml:"addr"`
	// At is the time, as 2026-01-31T21:30:00+01:00. Schedules are judged by the clock of the zone that it names, so that a test
	// has the same outcome on every machine. Without it schedules do not match.
	At time.Time `yaml:"at"`
	// Process is the program on this machine that sends the flow. Without it no rule's process matches.
	Process string `yaml:"process"`
	// Unit is that program's unit, with user/ in front if a user's own service manager started it.
	Unit string `yaml:"unit"`
	// Container is that program's container.
	Container string `yaml:"container"`
	// Expect is the outcome, written as in a rule: block, drop, direct, dns or {via: TRANSPORT}.
	Expect Do `yaml:"expect" required:"true"`

	Pos Position `yaml:"-"`
}
