package netlab

import (
	"context"
	"fmt"
	"net/netip"
)

// MoreGateway is a further gateway, with legs of its own to the internet and to the intranet.
type MoreGateway struct {
	*Host
	IPv4 string // on the internet's side
}

// AddGateway adds a further gateway. The number, from 2 to 50, makes its addresses: gateway 2 has 198.51.102.10 outside and 10.20.2.1 inside.
func (l *Lab) AddGateway(ctx context.Context, number int) (*MoreGateway, error) {
	h, err := newHost(ctx, fmt.Sprintf("gateway%d", number), []string{IntranetIPv4})
	if err != nil {
		return nil, err
	}
	l.more = append(l.more, h)
	outside, inside := fmt.Sprintf("198.51.%d.", 100+number), fmt.Sprintf("10.20.%d.", number)
	wan, intra := fmt.Sprintf("gw%d", number), fmt.Sprintf("intra%d", number)
	for _, step := range []func() error{
		func() error { return h.WriteFile(CAFile, l.CA.PEM()) },
		func() error { return wire(h, "wan", l.Internet, wan) },
		func() error { return wire(h, "intra", l.Intranet, intra) },
		func() error { return h.AddAddr("wan", netip.MustParsePrefix(outside+"10/24")) },
		func() error { return l.Internet.AddAddr(wan, netip.MustParsePrefix(outside+"1/24")) },
		func() error { return h.AddAddr("intra", netip.MustParsePrefix(inside+"1/24")) },
		func() error { return l.Intranet.AddAddr(intra, netip.MustParsePrefix(inside+"10/24")) },
		func() error {
			return h.AddRoute(Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr(outside + "1")})
		},
		func() error {
			return h.AddRoute(Route{Dst: netip.MustParsePrefix("10.20.0.0/24"), Via: netip.MustParseAddr(inside + "10")})
		},
	} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("add gateway %d: %w", number, err)
		}
	}
	return &MoreGateway{Host: h, IPv4: outside + "10"}, nil
}
