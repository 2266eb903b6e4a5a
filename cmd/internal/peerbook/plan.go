package peerbook

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"penstock/cmd/internal/config"
	"penstock/router/transport/wireguard"
)

// Terms are what is decided about a new peer before its key and its addresses are known.
type Terms struct {
	Name       string         `json:"name"`
	Groups     []string       `json:"groups,omitempty"`
	Expires    time.Time      `json:"expires,omitzero"`      // zero: never
	Endpoint   string         `json:"endpoint,omitempty"`    // where the peer dials, several separated by commas; empty: the configuration's
	AllowedIPs []netip.Prefix `json:"allowed_ips,omitempty"` // what the peer sends through the tunnel; nil: all
}

// IsNew returns an error if there is a peer of that name, or if dns.peers has a host of it.
func (t Terms) IsNew(c *config.Config) error {
	if c.DNS.Peers != "" && strings.EqualFold(t.Name, config.GatewayName) {
		return fmt.Errorf("the gateway itself is %s.%s: choose another name: see dns.peers, at %s", config.GatewayName, c.DNS.Peers, c.Position("dns.peers"))
	}
	i := c.Peers.Index(func(p config.Peer) bool { return SameName(c, p.Name, t.Name) })
	if i < 0 {
		return nil
	}
	taken := c.Peers.At(i)
	return fmt.Errorf("there is a peer %q already, at %s: choose another name, or remove it with: penstock peer rm %s", taken.Name, taken.Pos, taken.Name)
}

// SameName reports whether no two peers of a configuration may have these names. Capitals make no difference between hosts.
func SameName(c *config.Config, a, b string) bool {
	return a == b || c.DNS.Peers != "" && strings.EqualFold(a, b)
}

// Plan returns a new peer with the next free addresses, and the peer's own file. The caller adds the key to both. InForce are
// the addresses that a running gateway has given out. Without a folder only the configuration is looked at.
func (f *Folder) Plan(c *config.Config, t Terms, inForce []FormerAddress) (config.Peer, *wireguard.Config, error) {
	peer := config.Peer{Name: t.Name, Groups: t.Groups, Expires: t.Expires}
	if err := t.IsNew(c); err != nil {
		return peer, nil, err
	}
	former, err := f.Former(c)
	if err != nil {
		return peer, nil, err
	}
	if peer.AllowedIPs, err = FreeAddresses(c, append(former, inForce...)); err != nil {
		return peer, nil, err
	}
	file, err := clientFile(c, t, peer.AllowedIPs)
	return peer, file, err
}

// InvitedFile is the own file of a peer with an invitation, without its key.
func InvitedFile(c *config.Config, p config.Peer) (*wireguard.Config, error) {
	return clientFile(c, Terms{Endpoint: p.Invite.Endpoint, AllowedIPs: p.Invite.AllowedIPs}, p.AllowedIPs)
}

// clientFile is the peer's own file, without its key.
func clientFile(c *config.Config, t Terms, addresses []netip.Prefix) (*wireguard.Config, error) {
	wg := c.Listen.WireGuard
	endpoint := t.Endpoint
	if endpoint == "" {
		endpoint = wg.Endpoint
	}
	if endpoint == "" {
		return nil, c.Err("listen.wireguard", "nothing says where the peer can reach this gateway", "add endpoint: HOST:PORT, or use --endpoint HOST:PORT")
	}
	at, err := wireguard.ParseEndpoints(endpoint)
	if err != nil {
		return nil, err
	}
	own, err := GatewayKey(c)
	if err != nil {
		return nil, err
	}
	server := wireguard.ServerInfo{Endpoints: at, PublicKey: own, DNS: wg.DNS, MTU: wg.MTU, AllowedIPs: t.AllowedIPs}
	if server.DNS == nil {
		for _, a := range wg.Address {
			server.DNS = append(server.DNS, a.Addr())
		}
	}
	return wireguard.ClientFile(server, wireguard.PrivateKey{}, wireguard.Peer{AllowedIPs: addresses}), nil
}

// GatewayKey returns the gateway's own public key.
func GatewayKey(c *config.Config) (wireguard.PublicKey, error) {
	secret, err := c.Listen.WireGuard.PrivateKey.Read()
	if err == nil {
		var key wireguard.PrivateKey
		if key, err = wireguard.ParsePrivateKey(secret); err == nil {
			return key.Public(), nil
		}
	}
	return wireguard.PublicKey{}, fmt.Errorf("listen.wireguard.private_key: %w", err)
}
