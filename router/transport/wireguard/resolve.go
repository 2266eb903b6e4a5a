package wireguard

import (
	"context"
	"errors"
	"net"
	"net/netip"
)

// resolveFunc returns the addresses of a host name.
type resolveFunc func(ctx context.Context, host string) ([]netip.Addr, error)

// resolveDefault asks the host's resolver.
func resolveDefault(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// candidates returns the addresses of a peer in the order in which to try them.
func candidates(ctx context.Context, e Endpoint, resolve resolveFunc) ([]netip.AddrPort, error) {
	addrs := make([]netip.Addr, 1)
	var err error
	if addrs[0], err = netip.ParseAddr(e.Host); err != nil {
		if addrs, err = resolve(ctx, e.Host); err != nil {
			return nil, err
		}
	}
	var v6, v4 []netip.AddrPort
	for _, a := range addrs {
		if a = a.Unmap(); a.Is4() {
			v4 = append(v4, netip.AddrPortFrom(a, e.Port))
		} else {
			v6 = append(v6, netip.AddrPortFrom(a.WithZone(""), e.Port))
		}
	}
	if len(v4)+len(v6) == 0 {
		return nil, errors.New("the name has no addresses")
	}
	return interleave(v6, v4), nil
}

// interleave takes from all lists in turn, beginning with the first: if one family does not work, every second attempt
// still does (RFC 8305, 4).
func interleave(lists ...[]netip.AddrPort) []netip.AddrPort {
	most := 0
	for _, l := range lists {
		most = max(most, len(l))
	}
	var all []netip.AddrPort
	for i := range most {
		for _, l := range lists {
			if i < len(l) {
				all = append(all, l[i])
			}
		}
	}
	return all
}
