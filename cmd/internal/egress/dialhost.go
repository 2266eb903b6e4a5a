package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// DialHost opens a connection of penstock's own, for example to fetch a list. It resolves the host in address at the far end:
// for direct with the resolvers that this machine has without penstock, otherwise through the transport, first with those of
// Config.Servers and then with the transport's own. It does not ask the policy: a list could block its own update.
func (e *Egress) DialHost(ctx context.Context, via, network, address string) (net.Conn, error) {
	dialer, ok := e.Dialer(via)
	if !ok {
		return nil, fmt.Errorf("there is no transport %q", via)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	addrs, err := e.resolveVia(ctx, via, host)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, a := range addrs {
		if a.Is6() && !e.CarriesIPv6(via) {
			continue
		}
		family := "6"
		if a.Is4() {
			family = "4"
		}
		c, err := dialer.DialContext(ctx, network+family, net.JoinHostPort(a.String(), port))
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return nil, fmt.Errorf("%s has no address that is reachable via %s", host, via)
	}
	return nil, errors.Join(errs...)
}

// resolveVia resolves a name through an egress.
func (e *Egress) resolveVia(ctx context.Context, via, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a.Unmap()}, nil
	}
	if _, ok := e.Serving(via); !ok {
		return e.Outside.Resolve(ctx, host)
	}
	servers := e.resolversOf(via)
	if len(servers) == 0 {
		return nil, fmt.Errorf("resolve %s: no DNS server for %s: add one to dns.upstreams with via: %s", host, via, via)
	}
	dialer, _ := e.Dialer(via)
	// Over TCP, because package net takes a connection for UDP only if it is a net.PacketConn, and ours are not.
	return LookUp(ctx, host, servers, func(ctx context.Context, _, server string) (net.Conn, error) {
		return dialer.DialContext(ctx, "tcp", server)
	})
}

// LookUp asks DNS servers for the addresses of a host, one after the other until one answers. dial connects to a server;
// its network is udp or tcp. Search domains do not apply.
func LookUp(ctx context.Context, host string, servers []netip.AddrPort, dial func(ctx context.Context, network, server string) (net.Conn, error)) ([]netip.Addr, error) {
	var errs []error
	for _, server := range servers {
		r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dial(ctx, network, server.String())
		}}
		addrs, err := r.LookupNetIP(ctx, "ip", strings.TrimSuffix(host, ".")+".")
		if err == nil {
			for i := range addrs {
				addrs[i] = addrs[i].Unmap()
			}
			return addrs, nil
		}
		if failed, ok := errors.AsType[*net.DNSError](err); ok {
			failed.Server = server.String() // package net reports the host's own resolver, which was not used
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// resolversOf returns the DNS servers for a transport: first those that the configuration asks through it, then its own.
func (e *Egress) resolversOf(via string) []netip.AddrPort {
	servers := slices.Clone(e.Servers(via))
	if t, ok := e.Serving(via); ok {
		servers = append(servers, t.inner.facts().resolvers()...)
	}
	return servers
}
