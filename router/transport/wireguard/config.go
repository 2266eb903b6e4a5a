package wireguard

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Config is a wg-quick file in plain Go. It has no String method, because the file shows the keys: use WriteTo.
type Config struct {
	PrivateKey    PrivateKey
	Addresses     []netip.Prefix // ours inside the tunnel, host bits kept
	DNS           []netip.Addr   // resolvers to be asked through the tunnel
	SearchDomains []string       // names among the DNS values; one that begins with ~ is only routed, not searched
	MTU           int            // bytes, IP header included; 0: not set
	ListenPort    uint16         // local UDP port; 0: any
	Peers         []Peer

	// Warnings name the lines that have no effect, as "file:line: text". WriteTo leaves them out.
	Warnings []string
}

// Peer is the other end of a tunnel: a client calls its peers, a server is called by them.
type Peer struct {
	Name         string // for messages and status only; files do not have it
	PublicKey    PublicKey
	PresharedKey PresharedKey   // zero: none
	AllowedIPs   []netip.Prefix // inner destinations that go to the peer, and the only inner sources accepted from it
	Endpoints    []Endpoint     // where to call it; none: it calls us
	// PersistentKeepalive is how long the peer sends nothing before it sends an empty packet: whole seconds up to
	// 65535 s; 0: never.
	PersistentKeepalive time.Duration
}

// label names a peer in messages.
func (p Peer) label() string {
	if p.Name != "" {
		return strconv.Quote(p.Name)
	}
	return p.PublicKey.String()
}

// Endpoint is a UDP address whose host may be a name. The zero value is no endpoint.
type Endpoint struct {
	Host string // a name, or an IP address without brackets
	Port uint16
}

// ParseEndpoint reads "host:port", with an IPv6 address in brackets.
func ParseEndpoint(s string) (Endpoint, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return Endpoint{}, badEndpoint(s)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return Endpoint{}, fmt.Errorf("endpoint %q has the port %q, want a number from 1 to 65535", s, port)
	}
	addr, err := netip.ParseAddr(host)
	switch {
	case err == nil && addr.Zone() != "":
		// wireguard-go cannot send to an address with a zone.
		return Endpoint{}, fmt.Errorf("endpoint %q has a zone, want an address that is valid on any link", s)
	case err != nil && strings.ContainsFunc(host, func(r rune) bool { return r > unicode.MaxASCII }):
		return Endpoint{}, fmt.Errorf("endpoint %q has letters beyond ASCII: write them in their xn-- form", s)
	case err != nil && !isHostName(host):
		return Endpoint{}, fmt.Errorf("endpoint %q has the host %q, want a host name or an IP address", s, host)
	}
	return Endpoint{Host: host, Port: uint16(n)}, nil
}

// ParseEndpoints reads one or more endpoints, separated by commas.
func ParseEndpoints(s string) ([]Endpoint, error) {
	var all []Endpoint
	for text := range strings.SplitSeq(s, ",") {
		e, err := ParseEndpoint(strings.TrimSpace(text))
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, nil
}

// badEndpoint says what is wrong with an endpoint that is not host:port.
func badEndpoint(s string) error {
	if scheme, rest, ok := strings.Cut(s, "://"); ok {
		if host, port, err := net.SplitHostPort(rest); err == nil && !strings.Contains(port, "/") {
			return fmt.Errorf("endpoint %q is a URL: write %s", s, net.JoinHostPort(host, port))
		}
		return fmt.Errorf("endpoint %q is a URL: remove %s://, and keep one host and one port", s, scheme)
	}
	if i := strings.LastIndexByte(s, ':'); i > 0 {
		if addr, err := netip.ParseAddr(s[:i]); err == nil && addr.Is6() && addr.Zone() == "" {
			return fmt.Errorf("endpoint %q has an IPv6 address without brackets: write %s", s, net.JoinHostPort(s[:i], s[i+1:]))
		}
	}
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" || isHostName(s) {
		return fmt.Errorf("endpoint %q has no port: write %s", s, net.JoinHostPort(s, "51820"))
	}
	return fmt.Errorf("endpoint %q is not host:port, with an IPv6 address in brackets", s)
}

// IsZero reports whether e is no endpoint.
func (e Endpoint) IsZero() bool { return e == Endpoint{} }

// String returns what ParseEndpoint reads, or "" for the zero value.
func (e Endpoint) String() string {
	if e.IsZero() {
		return ""
	}
	return net.JoinHostPort(e.Host, strconv.Itoa(int(e.Port)))
}

// WriteTo writes c as a wg-quick file, keys in clear. Errors are w's.
func (c *Config) WriteTo(w io.Writer) (int64, error) {
	var b bytes.Buffer
	field := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%s = %s\n", name, value)
		}
	}
	key := func(name string, s secret) {
		if !s.IsZero() {
			field(name, s.Reveal())
		}
	}
	number := func(name string, n int) {
		if n != 0 {
			field(name, strconv.Itoa(n))
		}
	}

	b.WriteString("[Interface]\n")
	key("PrivateKey", c.PrivateKey.secret)
	field("Address", list(c.Addresses))
	field("DNS", joined(list(c.DNS), strings.Join(c.SearchDomains, ", ")))
	number("MTU", c.MTU)
	number("ListenPort", int(c.ListenPort))
	for _, p := range c.Peers {
		b.WriteString("\n[Peer]\n")
		field("PublicKey", p.PublicKey.String())
		key("PresharedKey", p.PresharedKey.secret)
		field("AllowedIPs", list(p.AllowedIPs))
		for _, e := range p.Endpoints {
			field("Endpoint", e.String())
		}
		number("PersistentKeepalive", int(p.PersistentKeepalive/time.Second))
	}
	return b.WriteTo(w)
}

// list writes values as a comma separated list.
func list[T fmt.Stringer](values []T) string {
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = v.String()
	}
	return strings.Join(texts, ", ")
}

// joined joins the lists that are not empty.
func joined(lists ...string) string {
	return strings.Join(slices.DeleteFunc(lists, func(s string) bool { return s == "" }), ", ")
}

// isHostName reports whether s can be a DNS name: letters, digits, hyphens and underscores between dots. Names in other
// scripts must be in their xn-- form.
func isHostName(s string) bool {
	const labelMax, nameMax = 63, 253 // RFC 1035, 2.3.4
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > nameMax {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > labelMax {
			return false
		}
		for _, r := range label {
			if !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_') {
				return false
			}
		}
	}
	return true
}
