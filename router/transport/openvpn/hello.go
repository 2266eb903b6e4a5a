package openvpn

import (
	"fmt"
	"runtime"
	"strings"

	"penstock/router/transport/openvpn/internal/framing"
	"penstock/router/transport/openvpn/internal/link"
	"penstock/router/transport/openvpn/internal/push"
	"penstock/router/transport/openvpn/internal/wire"
	"penstock/router/transport/openvpn/profile"
)

// hello is our key exchange message, without its secrets.
func (s *session) hello() wire.KeyExchange {
	return wire.KeyExchange{
		Options:  optionsString(s.client.cfg.Profile, s.remote),
		PeerInfo: s.client.peerInfo(),
		User:     s.sent.User,
		Password: string(s.sent.Password),
	}
}

// optionsString is the summary of options that servers compare and, at worst, warn about.
func optionsString(p *profile.Profile, r profile.Remote) string {
	proto := "UDPv4"
	if link.IsTCP(r.Network) {
		proto = "TCPv4_CLIENT"
	}
	out := "V4,dev-type tun,link-mtu 1541,tun-mtu 1500,proto " + proto
	if p.Fallback != "" {
		out += ",cipher " + string(p.Fallback)
	}
	if p.Framing != framing.None {
		out += ",comp-lzo" // whatever the kind
	}
	if guard := p.ProtectionFor(r); guard.Kind == wire.TLSAuthKey {
		if guard.Direction == wire.Inverse {
			out += ",keydir 1"
		}
		out += ",tls-auth"
	}
	return out + ",auth SHA1,keysize 128,key-method 2,tls-client"
}

// IV_PROTO: DATA_V2, REQUEST_PUSH, TLS_KEY_EXPORT, AUTH_PENDING_KW, CC_EXIT_NOTIFY, AUTH_FAIL_TEMP, DYN_TLS_CRYPT,
// DATA_EPOCH, DNS_OPTION_V2, PUSH_UPDATE (reference: ssl.h).
const protocolBits = 1<<1 | 1<<2 | 1<<3 | 1<<4 | 1<<7 | 1<<8 | 1<<9 | 1<<10 | 1<<11 | 1<<12

// peerInfo says to the server what this client can do.
func (c *Client) peerInfo() string {
	p := c.cfg.Profile
	ciphers := make([]string, len(p.Ciphers))
	for i, name := range p.Ciphers {
		ciphers[i] = string(name)
	}
	version := c.cfg.Version
	if version == "" {
		version = "penstock"
	}
	lines := []string{
		"IV_VER=2.6.0", // the level of the protocol, which servers parse; the product is in IV_GUI_VER
		"IV_PLAT=" + platform(runtime.GOOS),
		"IV_TCPNL=1",
		fmt.Sprintf("IV_MTU=%d", push.MaxMTU),
		"IV_NCP=2",
		"IV_CIPHERS=" + strings.Join(ciphers, ":"),
		fmt.Sprintf("IV_PROTO=%d", protocolBits),
		"IV_GUI_VER=" + version,
	}
	if c.cfg.Credentials != nil {
		lines = append(lines, "IV_SSO=webauth,crtext")
	}
	return strings.Join(append(lines, p.PeerInfo...), "\n") + "\n"
}

// platform is a system's name in the words of IV_PLAT.
func platform(goos string) string {
	switch goos {
	case "darwin":
		return "mac"
	case "windows":
		return "win"
	}
	return goos
}
