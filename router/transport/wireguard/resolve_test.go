package wireguard

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
)

func TestCandidates(t *testing.T) {
	noSuchHost := errors.New("no such host")
	tests := []struct {
		name     string
		host     string
		resolved []string
		err      error
		want     []string
	}{
		{name: "an address needs no resolver", host: "192.0.2.1", err: noSuchHost, want: []string{"192.0.2.1:51820"}},
		{name: "families alternate, IPv6 first", host: "vpn.example",
			resolved: []string{"192.0.2.1", "192.0.2.2", "2001:db8::1", "192.0.2.3"},
			want:     []string{"[2001:db8::1]:51820", "192.0.2.1:51820", "192.0.2.2:51820", "192.0.2.3:51820"}},
		{name: "IPv4 in IPv6 form is IPv4", host: "vpn.example", resolved: []string{"::ffff:192.0.2.1"}, want: []string{"192.0.2.1:51820"}},
		{name: "a resolver's error is passed on", host: "vpn.example", err: noSuchHost},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := candidates(t.Context(), Endpoint{tt.host, 51820}, func(_ context.Context, host string) ([]netip.Addr, error) {
				if host != tt.host {
					t.Errorf("asked for %q, want %q", host, tt.host)
				}
				var addrs []netip.Addr
				for _, a := range tt.resolved {
					addrs = append(addrs, netip.MustParseAddr(a))
				}
				return addrs, tt.err
			})
			if tt.want == nil {
				if !errors.Is(err, tt.err) {
					t.Errorf("got %v, want %v", err, tt.err)
				}
				return
			}
			var texts []string
			for _, a := range got {
				texts = append(texts, a.String())
			}
			if err != nil || !slices.Equal(texts, tt.want) {
				t.Errorf("got %v and %v, want %v", texts, err, tt.want)
			}
		})
	}
}

func TestAddressesOfSeveralEndpointsInTurn(t *testing.T) {
	at := func(addrs ...string) (all []netip.AddrPort) {
		for _, a := range addrs {
			all = append(all, netip.MustParseAddrPort(a))
		}
		return all
	}
	known := [][]netip.AddrPort{at("[2001:db8::1]:1", "192.0.2.1:1"), nil, at("192.0.2.2:1", "192.0.2.1:1", "192.0.2.3:1")}
	for _, row := range []struct {
		name    string
		current netip.AddrPort
		want    []netip.AddrPort
	}{
		{"none is in use: the first of each endpoint first, and none twice", netip.AddrPort{}, at("[2001:db8::1]:1", "192.0.2.2:1", "192.0.2.1:1", "192.0.2.3:1")},
		{"one is in use", at("192.0.2.3:1")[0], at("192.0.2.3:1", "[2001:db8::1]:1", "192.0.2.2:1", "192.0.2.1:1")},
		{"one that is not known any more is in use", at("192.0.2.9:1")[0], at("[2001:db8::1]:1", "192.0.2.2:1", "192.0.2.1:1", "192.0.2.3:1")},
	} {
		if got := inTurn(known, row.current); !slices.Equal(got, row.want) {
			t.Errorf("%s: got %v, want %v", row.name, got, row.want)
		}
	}
	if got, want := after(at("192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1"), at("192.0.2.2:1")[0]), at("192.0.2.3:1", "192.0.2.1:1"); !slices.Equal(got, want) {
		t.Errorf("the others: got %v, want %v", got, want)
	}
}
