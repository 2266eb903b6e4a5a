package demo

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"penstock/router/transport/wireguard"
)

// Values that both configurations share.
const (
	gatewayInner4, gatewayInner6 = "10.99.0.1", "fd99::1"
	laptopInner4, laptopInner6   = "10.99.0.2", "fd99::2"
)

// files are the two configuration files of a world.
type files struct{ dir, laptop, gateway string }

// writeFiles writes the configurations of a gateway that listens at endpoint, and of its laptop. tun is the value of the
// laptop's listen.tun.
func writeFiles(dir string, endpoint netip.AddrPort, intranetDNS netip.Addr, tun string) (files, error) {
	f := files{dir: dir, laptop: filepath.Join(dir, "laptop.yaml"), gateway: filepath.Join(dir, "gateway.yaml")}
	gatewayKey, laptopKey := wireguard.GeneratePrivateKey(), wireguard.GeneratePrivateKey()
	laptopPeer := wireguard.Peer{
		Name: "laptop", PublicKey: laptopKey.Public(),
		AllowedIPs: []netip.Prefix{netip.MustParsePrefix(laptopInner4 + "/32"), netip.MustParsePrefix(laptopInner6 + "/128")},
	}
	conf := wireguard.ClientFile(wireguard.ServerInfo{
		Endpoints: []wireguard.Endpoint{{Host: endpoint.Addr().String(), Port: endpoint.Port()}},
		PublicKey: gatewayKey.Public(),
		DNS:       []netip.Addr{netip.MustParseAddr(gatewayInner4)},
	}, laptopKey, laptopPeer)
	corp, err := os.OpenFile(filepath.Join(dir, "corp.conf"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return f, err
	}
	defer corp.Close()
	if _, err := conf.WriteTo(corp); err != nil {
		return f, err
	}
	for _, file := range []struct{ path, text string }{
		{filepath.Join(dir, "gateway.key"), gatewayKey.Reveal() + "\n"},
		{filepath.Join(dir, "gambling.txt"), "# gambling sites of this world\n" + gamblingSite + "\n"},
		{filepath.Join(dir, "adult.hosts"), "0.0.0.0 " + adultSite + "\n"},
		{f.gateway, gatewayConfig(endpoint.Port(), laptopKey.Public(), intranetDNS)},
		{f.laptop, laptopConfig(tun)},
	} {
		if err := os.WriteFile(file.path, []byte(file.text), 0o600); err != nil {
			return f, err
		}
	}
	return f, nil
}

func gatewayConfig(port uint16, laptop wireguard.PublicKey, intranetDNS netip.Addr) string {
	return fmt.Sprintf(`# The company's gateway: colleagues connect by WireGuard, and each flow is judged and dialled.
listen:
  wireguard: {listen_port: %d, address: [%s/24, %s/64], private_key: {file: gateway.key}}
state_dir: .
peers:
  - {name: laptop, public_key: %q, allowed_ips: [%s/32, %s/128], groups: [staff]}
dns:
  upstreams: [{address: %s}]
  split: [{domains: [corp.example], upstream: {address: %s}}]
rules:
  - {name: intranet, match: {cidr: [10.20.0.0/24, fd20::/64], group: [staff]}, do: direct}
  - {name: no-private, match: {cidr: private}, do: block}
  - {name: rest, do: direct}
`, port, gatewayInner4, gatewayInner6, laptop.String(), laptopInner4, laptopInner6, resolverAddr, intranetDNS)
}

func laptopConfig(tun string) string {
	return fmt.Sprintf(`# A laptop: all packets enter a TUN, blocked categories are refused, and the rest goes through the tunnel.
listen:
  tun: %s
state_dir: state-laptop
transports:
  corp: {wireguard: {config: corp.conf}}
categories:
  gambling: {lists: [{file: gambling.txt}]}
  adult: {lists: [{file: adult.hosts}]}
dns:
  upstreams: [{address: %s, via: corp}]
  split: [{domains: [corp.example], upstream: {address: %s, via: corp}}]
history: {file: history.db}
rules:
  - {name: no-gambling, match: {category: gambling}, do: block}
  - {name: no-adult, match: {category: adult}, do: block}
  - {name: intranet, match: {domain: corp.example}, do: {via: corp}}
  - {name: rest, do: {via: corp}}
tests:
  - {to: "https://casino.example", expect: block}
  - {to: "https://intranet.corp.example", expect: {via: corp}}
`, tun, gatewayInner4, gatewayInner4)
}
