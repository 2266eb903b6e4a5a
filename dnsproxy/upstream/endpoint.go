package upstream

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

// parseEndpoint parses Spec.Address.
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
		var inner *url.Error
		if errors.As(err, &inner) {
			err = inner.Err // the rest repeats the address
		}
		return endpoint{}, err
	}
	web := u.Scheme == "https" || u.Scheme == "h3"
	e := endpoint{scheme: u.Scheme, host: u.Hostname(), port: defaultPorts[u.Scheme], path: u.RequestURI()}
	switch {
	case e.port == 0:
		return endpoint{}, errors.New("scheme must be udp, tcp, tls, https, quic or h3")
	case e.host == "":
		return endpoint{}, errors.New("no host")
	case u.User != nil:
		return endpoint{}, errors.New("it has a user or password, which nothing uses: leave them out")
	case !web && u.Path != "" && u.Path != "/":
		return endpoint{}, errors.New("only https and h3 have a path")
	case web && strings.Contains(s, "{"):
		return endpoint{}, errors.New("it is a template: leave out the part in braces")
	case web && u.Path == "":
		e.path = "/dns-query" // RFC 8484 names it in every example, and every server has it
	}
	if p := u.Port(); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return endpoint{}, errors.New("port must be 1 to 65535")
		}
		e.port = uint16(n)
	}
	return e, nil
}

// reach dials the addresses of an endpoint.
type reach struct {
	endpoint
	cfg   *Config
	via   string
	addrs []netip.Addr // known ones; empty means resolve
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
	if r.cfg.Dialer == nil {
		var d net.Dialer
		return d.DialContext(ctx, network, to.String())
	}
	d, ok := r.cfg.Dialer(r.via)
	if !ok {
		return nil, fmt.Errorf("there is no way %q to the upstream", r.via)
	}
	return d.DialContext(ctx, network, to.String())
}

// each tries the addresses in turn until one will do. Each has its share of the time that is left.
func (r *reach) each(ctx context.Context, try func(context.Context, netip.AddrPort) error) error {
	addrs := r.addrs
	if len(addrs) == 0 {
		if r.cfg.Resolve == nil {
			return fmt.Errorf("resolve %s: nothing resolves the names of upstreams: give its addresses as bootstrap", r.host)
		}
		var err error
		if addrs, err = r.cfg.Resolve(ctx, r.host); err != nil {
			return fmt.Errorf("resolve %s: %w", r.host, err)
		}
	}
	var errs []error
	for i, addr := range addrs {
		to := netip.AddrPortFrom(addr.Unmap(), r.port)
		if r.cfg.Refuse(to) {
			errs = append(errs, fmt.Errorf("%s leads back to this server", to))
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
