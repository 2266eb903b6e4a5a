package dnsproxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// endpoint is an upstream's address taken apart.
type endpoint struct {
	scheme string // udp, tcp, tls, https, quic or h3
	host   string // an address or a name
	port   uint16
	path   string // with https and h3
}

var defaultPorts = map[string]uint16{"udp": 53, "tcp": 53, "tls": 853, "https": 443, "quic": 853, "h3": 443}

// parseEndpoint parses Upstream.Address.
func parseEndpoint(s string) (endpoint, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		return endpoint{scheme: "udp", host: addr.String(), port: 53}, nil
	}
	full := s
	if !strings.Contains(s, "://") {
		full = "udp://" + s
	}
	u, err := url.Parse(full)
	if err != nil {
		return endpoint{}, fmt.Errorf("dnsproxy: upstream address %q: %w", s, err)
	}
	web := u.Scheme == "https" || u.Scheme == "h3"
	e := endpoint{scheme: u.Scheme, host: u.Hostname(), port: defaultPorts[u.Scheme], path: u.RequestURI()}
	switch {
	case e.port == 0:
		return endpoint{}, fmt.Errorf("dnsproxy: upstream address %q: scheme must be udp, tcp, tls, https, quic or h3", s)
	case e.host == "":
		return endpoint{}, fmt.Errorf("dnsproxy: upstream address %q: no host", s)
	case u.User != nil:
		return endpoint{}, fmt.Errorf("dnsproxy: upstream address %q: user and password mean nothing here", u.Redacted())
	case !web && u.Path != "" && u.Path != "/":
		return endpoint{}, fmt.Errorf("dnsproxy: upstream address %q: only https and h3 have a path", s)
	case web && u.Path == "":
		e.path = "/dns-query" // RFC 8484 names it in every example, and every server has it
	}
	if p := u.Port(); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return endpoint{}, fmt.Errorf("dnsproxy: upstream address %q: port must be 1 to 65535", s)
		}
		e.port = uint16(n)
	}
	return e, nil
}

// reach dials the addresses of an endpoint.
type reach struct {
	endpoint
	via     string
	dialer  func(via string) (Dialer, bool) // nil dials as the host does
	addrs   []netip.Addr                    // known ones; empty means resolve
	resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	refuse  func(netip.AddrPort) bool // addresses that lead to ourselves
}

// dial connects to the first address that answers. Network is udp or tcp.
func (r *reach) dial(ctx context.Context, network string) (conn net.Conn, err error) {
	err = r.each(ctx, func(ctx context.Context, to netip.AddrPort) (err error) {
		conn, err = r.open(ctx, network, to)
		return err
	})
	return conn, err
}

// open makes a connection on the way that leads to the upstream now.
func (r *reach) open(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	if r.dialer == nil {
		var d net.Dialer
		return d.DialContext(ctx, network, to.String())
	}
	d, ok := r.dialer(r.via)
	if !ok {
		return nil, fmt.Errorf("there is no way %q to the upstream", r.via)
	}
	return d.DialContext(ctx, network, to.String())
}

// each tries the addresses in turn until one will do. Each has its share of the time that is left.
func (r *reach) each(ctx context.Context, try func(context.Context, netip.AddrPort) error) error {
	addrs := r.addrs
	if len(addrs) == 0 {
		if r.resolve == nil {
			return fmt.Errorf("resolve %s: nothing resolves names of upstreams: give its addresses as bootstrap", r.host)
		}
		var err error
		if addrs, err = r.resolve(ctx, r.host); err != nil {
			return fmt.Errorf("resolve %s: %w", r.host, err)
		}
	}
	var errs []error
	for i, addr := range addrs {
		to := netip.AddrPortFrom(addr.Unmap(), r.port)
		if r.refuse(to) {
			errs = append(errs, fmt.Errorf("%s leads to ourselves", to))
			continue
		}
		part, cancel := share(ctx, len(addrs)-i)
		err := try(part, to)
		cancel()
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return fmt.Errorf("resolve %s: no addresses", r.host)
	}
	return errors.Join(errs...)
}
