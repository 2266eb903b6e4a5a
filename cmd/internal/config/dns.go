package config

import (
	"net/netip"
	"time"
)

// DNS configures the embedded DNS server. It always answers on the TUN's and the gateway's own inner addresses.
type DNS struct {
	// Listen is further addresses on the host where the server answers, over UDP and TCP.
	Listen []netip.AddrPort `yaml:"listen"`
	// Upstreams are asked in order; the next one when the one before does not answer.
	Upstreams []Upstream `yaml:"upstreams"`
	// Split sends the questions for some domains to other upstreams. The longest suffix wins; it never falls back.
	Split []Split `yaml:"split"`
	// Block is how a blocked name is answered.
	Block BlockAnswer `yaml:"block"`
	// Timeout is how long a question may take over all upstreams before SERVFAIL.
	Timeout time.Duration `yaml:"timeout" default:"5s"`
}

// Upstream is a DNS server that questions are forwarded to.
type Upstream struct {
	// Name in metrics and explain. Default: the address.
	Name string `yaml:"name"`
	// Address is an IP address, with a port if it is not 53; udp:// and tcp:// select one protocol. tls://NAME and
	// https://NAME/PATH are asked encrypted.
	Address string `yaml:"address" required:"true"`
	// Via is the transport that carries the questions, or direct.
	Via string `yaml:"via" default:"direct"`

	Pos Position `yaml:"-"`
}

// Split is the upstreams of some domains.
type Split struct {
	// Domains, each with everything below it.
	Domains []string `yaml:"domains" required:"true"`
	// Upstream answers for them; several are asked in order.
	Upstream []Upstream `yaml:"upstream" required:"true"`

	Pos Position `yaml:"-"`
}

// BlockAnswer is how a blocked name is answered.
type BlockAnswer struct {
	// Answer is nxdomain, refused, or null (0.0.0.0 and ::).
	Answer string `yaml:"answer" default:"nxdomain" oneof:"nxdomain,refused,null"`
	// TTL is how long a client may remember the answer.
	TTL time.Duration `yaml:"ttl" default:"30s"`
}
