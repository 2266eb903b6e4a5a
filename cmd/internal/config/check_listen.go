package config

import (
	"encoding/base64"
	"fmt"
)

// listen checks where packets come from.
func (k *checker) listen() {
	tun, wg := k.Listen.TUN, k.Listen.WireGuard
	if tun == nil && wg == nil {
		k.fault("listen", "add listen: {tun: {}} for this machine's own packets, or listen: {wireguard: ...} for peers", "listen is empty, so penstock gets no packets")
	}
	if tun != nil {
		// IFNAMSIZ is 16 with its terminating zero.
		if n := len(tun.Name); n == 0 || n > 15 {
			k.fault("listen.tun.name", "write 1 to 15 characters", "listen.tun.name is %q", tun.Name)
		}
		k.mtu("listen.tun.mtu", tun.MTU, tun.Address)
		if tun.FD != nil && *tun.FD < 0 {
			k.fault("listen.tun.fd", "write the number of an open descriptor", "listen.tun.fd is %d", *tun.FD)
		}
		if tun.Mark == 0 || tun.Mark&^tun.MarkMask != 0 {
			k.fault("listen.tun.mark", "choose a mark other than 0 within mark_mask", "listen.tun.mark %#x does not fit mark_mask %#x", tun.Mark, tun.MarkMask)
		}
	}
	if wg != nil {
		k.port("listen.wireguard.listen_port", wg.ListenPort)
		k.mtu("listen.wireguard.mtu", wg.MTU, wg.Address)
		k.secret("listen.wireguard.private_key", wg.PrivateKey, true)
		if wg.Endpoint != "" {
			k.hostPort("listen.wireguard.endpoint", wg.Endpoint)
		}
	}
}

func (k *checker) port(path string, port int) {
	if port < 1 || port > 65535 {
		k.fault(path, "write a number from 1 to 65535", "%s is %d", path, port)
	}
}

// peers checks each peer, and that no two have the same name, key or address.
func (k *checker) peers() {
	if len(k.Peers) > 0 && k.Listen.WireGuard == nil {
		k.fault("peers", "add listen: {wireguard: ...}", "peers have nothing to connect to")
	}
	names, keys := make(map[string]Position), make(map[string]Position)
	for i, p := range k.Peers {
		path := fmt.Sprintf("peers[%d]", i)
		k.name(path+".name", "peer", p.Name)
		if first, taken := names[p.Name]; taken {
			k.fault(path+".name", "choose another name", "there is a peer %q already, at %s", p.Name, first)
		}
		names[p.Name] = p.Pos
		if !isWireGuardKey(p.PublicKey) {
			k.fault(path+".public_key", "write what penstock pubkey prints", "the public key of peer %s is not 32 bytes in base64", p.Name)
		} else if first, taken := keys[p.PublicKey]; taken {
			k.fault(path+".public_key", "give every peer a key of its own", "another peer has the same public key, at %s", first)
		}
		keys[p.PublicKey] = p.Pos
		k.secret(path+".preshared_key", p.PresharedKey, true)
		k.allowedIPs(i, path)
	}
}

// allowedIPs checks that no two peers share an address: WireGuard would silently give it to the last one.
func (k *checker) allowedIPs(i int, path string) {
	if len(k.Peers[i].AllowedIPs) == 0 {
		k.fault(path+".allowed_ips", "give the peer an address", "peer %s has no addresses", k.Peers[i].Name)
	}
	for j, prefix := range k.Peers[i].AllowedIPs {
		at := fmt.Sprintf("%s.allowed_ips[%d]", path, j)
		for _, other := range k.Peers[:i] {
			for _, taken := range other.AllowedIPs {
				if prefix.Overlaps(taken) {
					k.fault(at, "give every peer addresses of its own", "%s of peer %s overlaps %s of peer %s, at %s",
						prefix, k.Peers[i].Name, taken, other.Name, other.Pos)
				}
			}
		}
		if k.Listen.WireGuard == nil {
			continue
		}
		for _, own := range k.Listen.WireGuard.Address {
			if prefix.Contains(own.Addr()) {
				k.fault(at, "choose another address", "%s of peer %s contains the gateway's own address %s", prefix, k.Peers[i].Name, own.Addr())
			}
		}
	}
}

func isWireGuardKey(s string) bool {
	key, err := base64.StdEncoding.Strict().DecodeString(s)
	return err == nil && len(key) == 32
}
