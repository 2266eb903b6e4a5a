package daemon

import (
	"net/netip"
	"testing"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/edition"
	"penstock/cmd/internal/egress"
	"penstock/cmd/internal/lists"
	"penstock/policy"
	"penstock/router/clients"
)

// owner is a host's network of which one address is the host's own.
type owner struct {
	egress.Direct
	own netip.Addr
}

func (o owner) Reserved(addr netip.Addr) bool { return addr == o.own }
func (owner) Routed(netip.Addr) bool          { return false }

func TestWhatADestinationIsToThisHost(t *testing.T) {
	live := edition.NewLive(lists.Config{})
	live.Use(&edition.Edition{Policy: &policy.Policy{}, Clients: clients.NewBook(clients.List{{Name: "ana", ID: "a", Addrs: []netip.Prefix{netip.MustParsePrefix("10.99.0.3/32")}}}, nil), Config: &config.Config{Listen: config.Listen{
		WireGuard: &config.WireGuardListen{Address: []netip.Prefix{netip.MustParsePrefix("10.99.0.1/24")}},
	}}})
	w := ways{live: live, direct: owner{own: netip.MustParseAddr("10.20.0.5")}}
	const peer = 7
	for _, row := range []struct {
		name, dst string
		client    uint64
		want      policy.Place
	}{
		{"somebody else", "10.20.0.9", peer, policy.Elsewhere},
		{"the host itself", "10.20.0.5", peer, policy.Host},
		{"the host itself behind NAT64", "64:ff9b::10.20.0.5", peer, policy.Host},
		{"the host itself behind 6to4", "2002:a14:5::1", peer, policy.Host},
		{"somebody else behind NAT64", "64:ff9b::198.51.100.9", peer, policy.Elsewhere},
		{"this machine's own address, asked for by itself", "10.20.0.5", clients.Machine, policy.Elsewhere},
		{"where penstock answers", "10.99.0.1", peer, policy.Service},
		{"where penstock answers, behind NAT64", "64:ff9b::10.99.0.1", peer, policy.Service},
		{"another peer", "10.99.0.3", peer, policy.AtPeer},
		{"another peer behind 6to4", "2002:a63:3::1", peer, policy.AtPeer},
		{"a peer's place that nobody has", "10.99.0.9", peer, policy.Inside},
		{"a host whose address is not known yet", "", peer, policy.Elsewhere},
		{"a metadata service", "169.254.169.254", peer, policy.Reserved},
	} {
		dst, _ := netip.ParseAddr(row.dst)
		if got := w.Place(row.client, dst); got != row.want {
			t.Errorf("%s: got %d, want %d", row.name, got, row.want)
		}
	}
}
