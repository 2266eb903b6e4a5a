package upstream

import (
	"cmp"
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// Dialer makes connections to upstreams. *net.Dialer, a stack and a transport all fit. Network is "udp" or "tcp", address is
// always an IP address and a port. A dialer whose way is down returns an error at once.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Spec describes a resolver and the way to it.
type Spec struct {
	// Name is used in metrics and logs, and shown to users; empty means Address.
	Name string
	// Address is "10.0.0.53", "10.0.0.53:5353", "udp://10.0.0.53", "tcp://10.0.0.53", "tls://dns.example" (port 853),
	// "https://dns.example/dns-query", "h3://dns.example/dns-query" (HTTP/3) or "quic://dns.example" (port 853, RFC 9250). Plain
	// addresses are asked over UDP, and over TCP when an answer does not fit.
	Address string
	// Via names the way to the upstream: see [Config.Dialer].
	Via string
	// Bootstrap holds the addresses of a host named in Address, in order of preference. If empty, [Config.Resolve] is asked.
	Bootstrap []netip.Addr
}

// Target is a Spec whose Address is valid.
type Target struct {
	Spec
	at endpoint
}

// Parse checks a Spec.
func Parse(s Spec) (Target, error) {
	at, err := parseEndpoint(s.Address)
	if err != nil {
		return Target{}, fmt.Errorf("upstream address %q: %w", redacted(s.Address), err)
	}
	s.Name = cmp.Or(s.Name, s.Address)
	s.Bootstrap = slices.Clone(s.Bootstrap)
	if addr, err := netip.ParseAddr(at.host); err == nil {
		s.Bootstrap = []netip.Addr{addr}
	}
	return Target{s, at}, nil
}

// redacted returns an address without a password that somebody put into it.
func redacted(address string) string {
	full := address
	if !strings.Contains(address, "://") {
		full = "udp://" + address
	}
	if u, err := url.Parse(full); err == nil && u.User != nil {
		return u.Redacted()
	}
	return address
}

// Host returns the host in Address: a name or an address.
func (t Target) Host() string { return t.at.host }

// Addrs returns the addresses at which the upstream is, as far as they are known without asking anybody.
func (t Target) Addrs() []netip.AddrPort {
	var addrs []netip.AddrPort
	for _, addr := range t.Bootstrap {
		addrs = append(addrs, netip.AddrPortFrom(addr.Unmap(), t.at.port))
	}
	return addrs
}

// Selection says which upstream of several is asked first.
type Selection uint8

// Ways of selection. With each, the next upstream is asked as soon as one fails or is slower than it usually is.
const (
	Ordered  Selection = iota // as configured
	Fastest                   // lowest average round trip first
	Parallel                  // the two fastest at once; the first good answer wins
)

// Config is what upstreams have in common.
type Config struct {
	// Dialer returns the way that Spec.Via names. It is asked at each dial; false means that there is no such way, and fails the
	// query. Nil dials as the host does.
	Dialer func(via string) (Dialer, bool)
	// Resolve finds the addresses of an upstream that is named by host and has no Bootstrap. Nil means that it cannot be reached.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	// Refuse reports addresses that must not be dialled because they lead back here. Nil refuses none.
	Refuse func(netip.AddrPort) bool
	// Go starts a goroutine. Whoever makes the Config waits for them: those of connections end soon after Retire.
	Go func(func())

	RootCAs *x509.CertPool // verify upstreams over TLS and QUIC; nil means the roots of the system
	Log     *slog.Logger   // must be set
	Metrics *Metrics       // nil counts nothing
}
