package config

import (
	"net/netip"
	"time"
)

// Transport is an encrypted way out. It has exactly one of wireguard, openvpn and failover.
type Transport struct {
	// WireGuard connects to a WireGuard peer.
	WireGuard *WireGuard `yaml:"wireguard"`
	// OpenVPN connects to an OpenVPN server.
	OpenVPN *OpenVPN `yaml:"openvpn"`
	// Failover lists transports in order of preference. The first one that is connected carries new flows.
	Failover []string `yaml:"failover"`
	// Probe says how to find out whether the transport is alive. Default: what its protocol offers. A failover group has none.
	Probe *Probe `yaml:"probe"`

	Pos Position `yaml:"-"`
}

// WireGuard is the client side of WireGuard: a wg-quick file, or the same settings written here.
type WireGuard struct {
	// Config is a wg-quick file. The other keys are for use without one.
	Config string `yaml:"config" path:"file"`
	// PrivateKey is our key.
	PrivateKey Secret `yaml:"private_key"`
	// Address is our addresses inside the tunnel.
	Address []netip.Prefix `yaml:"address"`
	// DNS servers and search domains, as in wg-quick.
	DNS []string `yaml:"dns"`
	// MTU in bytes inside the tunnel, IP header included; 0 lets penstock choose.
	MTU int `yaml:"mtu"`
	// ListenPort is our UDP port; 0 lets the system choose.
	ListenPort int `yaml:"listen_port"`
	// Peers are the servers.
	Peers []WireGuardPeer `yaml:"peers"`
}

// WireGuardPeer is a server that a WireGuard transport talks to.
type WireGuardPeer struct {
	// PublicKey is the server's key, base64.
	PublicKey string `yaml:"public_key" required:"true"`
	// PresharedKey is an optional second secret, base64.
	PresharedKey Secret `yaml:"preshared_key"`
	// Endpoint is the server's address or name, with port; several, separated by commas, are those of servers with the same key.
	// When the one in use falls silent, the first to answer takes its place.
	Endpoint string `yaml:"endpoint" required:"true"`
	// AllowedIPs are the addresses behind the server.
	AllowedIPs []netip.Prefix `yaml:"allowed_ips" required:"true"`
	// PersistentKeepalive is the interval between packets that keep a NAT mapping open; 0 is off.
	PersistentKeepalive time.Duration `yaml:"persistent_keepalive"`

	Pos Position `yaml:"-"`
}

// OpenVPN is the client side of OpenVPN.
type OpenVPN struct {
	// Config is an .ovpn file.
	Config string `yaml:"config" path:"file" required:"true"`
	// Username answers auth-user-pass, together with password.
	Username string `yaml:"username"`
	// Password answers auth-user-pass, together with username.
	Password Secret `yaml:"password"`
	// KeyPassphrase decrypts the private key of the file, if that is encrypted and `askpass` names no file.
	KeyPassphrase Secret `yaml:"key_passphrase"`
	// RequireServerCert refuses a file without `remote-cert-tls server`. Without that line, anybody with a client certificate
	// of the same authority can pose as the server, and penstock only warns.
	RequireServerCert bool `yaml:"require_server_cert"`
}

// Probe asks for something that only a working transport can deliver. It has exactly one key.
type Probe struct {
	// DNS is a name to ask the transport's DNS server for. Any answer will do.
	DNS string `yaml:"dns"`
	// Ping is an address inside the tunnel that answers pings.
	Ping netip.Addr `yaml:"ping"`
}
