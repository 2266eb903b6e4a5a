package config

import "time"

// Category is a named set of domains. Without lists it is the built-in starter set of that name.
type Category struct {
	// Lists name the domains, each with everything below it.
	Lists []List `yaml:"lists"`
	// Allow lists name exceptions.
	Allow []List `yaml:"allow"`
	// OnMissing says what a list that cannot be had means: block (the rest of the category still applies),
	// allow (the category is empty) or fail (penstock does not start).
	OnMissing string `yaml:"on_missing" default:"block" oneof:"block,allow,fail"`

	Pos Position `yaml:"-"`
}

// List is one list of domains: a file or a subscription.
type List struct {
	// URL is where the list is fetched from.
	URL string `yaml:"url"`
	// File is a list on this machine.
	File string `yaml:"file" path:"file"`
	// Format is hosts, domains, or empty to detect it.
	Format string `yaml:"format"`
	// Refresh is how often the URL is asked for a newer list.
	Refresh time.Duration `yaml:"refresh" default:"24h"`
	// Via is the transport that fetches the URL, or direct.
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

// Match is the conditions of a rule. Several values in a field are alternatives; all fields that are set must hold.
type Match struct {
	// Domain is a host name, or *.name for everything below and the name itself.
	Domain []string `yaml:"domain"`
	// Category is a named set of domains.
	Category []string `yaml:"category"`
	// CIDR is a network or address of the destination, or private for all that are not on the internet.
	CIDR []string `yaml:"cidr"`
	// Port is a destination port or a range such as 6000-6063.
	Port []string `yaml:"port"`
	// Protocol is tcp, udp or icmp.
	Protocol []string `yaml:"protocol"`
	// Peer is the name of a peer.
	Peer []string `yaml:"peer"`
	// Group is the name of a group of peers.
	Group []string `yaml:"group"`
}

// Do is what a rule does with a flow.
type Do struct {
	// Action is block, drop (silence), direct, dns (the embedded DNS server) or via.
	Action string `yaml:"action" oneof:"block,drop,direct,dns,via"`
	// Via is the transport that carries the flow; it makes the action via.
	Via string `yaml:"via"`
	// How a block is answered: refuse (TCP RST, ICMP unreachable) or drop (silence).
	How string `yaml:"how" oneof:"refuse,drop"`
	// Unnamed is block or allow: what happens to a flow that matches but shows no host name where one could stand.
	Unnamed string `yaml:"unnamed" oneof:"block,allow"`
	// Fallback is direct or empty: where flows go while the transport is not up. Empty: nowhere.
	Fallback string `yaml:"fallback" oneof:"direct"`
	// Trusted is direct or empty: where flows go on a network that on_demand answers with filter_only.
	Trusted string `yaml:"trusted" oneof:"direct"`

	Pos Position `yaml:"-"`
}

// Test is one sentence about the rules that must hold.
type Test struct {
	// From is the name of a peer; empty is this machine.
	From string `yaml:"from"`
	// To is a URL, host, host:port or address.
	To string `yaml:"to" required:"true"`
	// Protocol is tcp, udp or icmp. Default: what the URL's scheme implies, else tcp.
	Protocol string `yaml:"protocol" oneof:"tcp,udp,icmp"`
	// Expect is the outcome, written as in a rule: block, drop, direct, dns or {via: TRANSPORT}.
	Expect Do `yaml:"expect" required:"true"`

	Pos Position `yaml:"-"`
}
