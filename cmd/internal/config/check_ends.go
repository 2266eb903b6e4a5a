package config

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"slices"
)

func isWireGuardKey(s string) bool {
	key, err := base64.StdEncoding.Strict().DecodeString(s)
	return err == nil && len(key) == 32
}

// listen checks where packets come from.
func (k *checker) listen() {
	tun, wg := k.Listen.TUN, k.Listen.WireGuard
	if tun == nil && wg == nil {
		k.fault("listen", "add listen: {tun: {}} for this machine's own packets, or listen: {wireguard: ...} for peers", "no packets come in")
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

// peers checks that each peer is one, and that no two claim the same name, key or address.
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
		if p.Endpoint != "" {
			k.hostPort(path+".endpoint", p.Endpoint)
		}
		k.allowedIPs(i, path)
	}
}

// allowedIPs checks that a peer's addresses are no one else's: WireGuard would give them to the last one in silence.
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
				k.fault(at, "choose another address", "%s of peer %s holds the gateway's own address %s", prefix, k.Peers[i].Name, own.Addr())
			}
		}
	}
}

// transports checks that each transport is one thing, and its files.
func (k *checker) transports() {
	for _, name := range slices.Sorted(maps.Keys(k.Transports)) {
		t, path := k.Transports[name], "transports."+name
		k.name(path, "transport", name)
		if slices.Contains(reserved, name) {
			k.fault(path, "choose another name", "the transport name %q is a word of the rule language", name)
		}
		kinds := 0
		if t.WireGuard != nil {
			kinds++
			k.wireguard(path+".wireguard", t.WireGuard)
		}
		if t.OpenVPN != nil {
			kinds++
			k.profile(path+".openvpn.config", t.OpenVPN.Config)
			k.secret(path+".openvpn.password", t.OpenVPN.Password, false)
		}
		if len(t.Failover) > 0 {
			kinds++
			k.failover(path+".failover", name, t.Failover)
		}
		if kinds != 1 {
			k.fault(path, "write exactly one", "transport %s has %d of wireguard, openvpn and failover", name, kinds)
		}
		if t.Probe != nil && (t.Probe.DNS != "") == t.Probe.Ping.IsValid() {
			k.fault(path+".probe", "write exactly one", "the probe of transport %s needs dns or ping", name)
		}
	}
}

// profile checks that a transport's own file can be read, and by nobody else.
func (k *checker) profile(path, file string) {
	if _, err := readPrivate(file); err != nil {
		k.fault(path, "", "%s: %v", path, err)
	}
}

// wireguard checks a transport that is a wg-quick file or its fields.
func (k *checker) wireguard(path string, w *WireGuard) {
	inline := !w.PrivateKey.IsZero() || len(w.Address) > 0 || len(w.Peers) > 0
	switch {
	case w.Config != "" && inline:
		k.fault(path, "keep config or the other fields", "%s has both config and fields of its own", path)
	case w.Config != "":
		k.profile(path+".config", w.Config)
	case w.PrivateKey.IsZero() || len(w.Address) == 0 || len(w.Peers) == 0:
		k.fault(path, "write config: FILE.conf, or private_key, address and peers", "%s is not complete", path)
	}
	k.secret(path+".private_key", w.PrivateKey, true)
	k.mtu(path+".mtu", w.MTU, w.Address)
	if w.ListenPort != 0 {
		k.port(path+".listen_port", w.ListenPort)
	}
	for i, p := range w.Peers {
		at := fmt.Sprintf("%s.peers[%d]", path, i)
		if !isWireGuardKey(p.PublicKey) {
			k.fault(at+".public_key", "write what penstock pubkey prints", "the public key is not 32 bytes in base64")
		}
		k.secret(at+".preshared_key", p.PresharedKey, true)
		k.hostPort(at+".endpoint", p.Endpoint)
	}
}

// failover checks the members of a group. Groups of groups would need an order of waiting that nobody asked for.
func (k *checker) failover(path, group string, members []string) {
	for i, member := range members {
		at := fmt.Sprintf("%s[%d]", path, i)
		k.via(at, member)
		switch {
		case slices.Contains(members[:i], member):
			k.fault(at, "remove one", "%s is in group %s twice", member, group)
		case len(k.Transports[member].Failover) > 0 || member == "direct":
			k.fault(at, "name wireguard and openvpn transports only", "%s cannot be a member of group %s", member, group)
		}
	}
}

// listFile checks that a list can be read.
func (k *checker) listFile(path, file string) {
	f, err := os.Open(file)
	if err == nil {
		f.Close()
		return
	}
	if errors.Is(err, fs.ErrNotExist) {
		k.fault(path, "correct the path, or remove the list", "there is no list %s", file)
		return
	}
	k.fault(path, "run this as its owner or as root", "list: %v", err)
}

// rest checks what stands alone.
func (k *checker) rest() {
	if k.Metrics.Listen != "" {
		k.hostPort("metrics.listen", k.Metrics.Listen)
	}
	for _, limit := range k.Limits.numbers() {
		if limit.value < 1 {
			k.fault("limits."+limit.key, "write more than 0", "limits.%s is %d", limit.key, limit.value)
		}
	}
	if k.FlowLog.Keep < 0 {
		k.fault("flow_log.keep", "write 0 or more", "flow_log.keep is %d", k.FlowLog.Keep)
	}
	if k.FlowLog.File != "" && k.FlowLog.MaxSize < 4096 {
		k.fault("flow_log.max_size", "write 4KiB or more", "flow_log.max_size is %s", k.FlowLog.MaxSize)
	}
}

// onDemand checks that no step stands after one that always applies.
func (k *checker) onDemand() {
	for i, step := range k.OnDemand {
		path := fmt.Sprintf("on_demand[%d]", i)
		if step.If == nil && i < len(k.OnDemand)-1 {
			k.fault(path, "move it to the end, or add if", "no step after this one can apply")
		}
		if step.If != nil && step.If.Beacon != nil && len(step.If.Beacon.SHA256) != 64 {
			k.fault(path+".if.beacon.sha256", "write the certificate's digest as 64 hexadecimal digits", "the beacon's sha256 has %d characters", len(step.If.Beacon.SHA256))
		}
	}
}

// dns checks upstreams and split zones.
func (k *checker) dns() {
	k.upstreams("dns.upstreams", k.DNS.Upstreams)
	zones := make(map[string]Position)
	for i, s := range k.DNS.Split {
		path := fmt.Sprintf("dns.split[%d]", i)
		k.upstreams(path+".upstream", s.Upstream)
		for j, domain := range s.Domains {
			if first, taken := zones[domain]; taken {
				k.fault(fmt.Sprintf("%s.domains[%d]", path, j), "remove one", "%s is split already, at %s", domain, first)
			}
			zones[domain] = s.Pos
		}
	}
}

func (k *checker) upstreams(path string, upstreams []Upstream) {
	for i, u := range upstreams {
		at := fmt.Sprintf("%s[%d]", path, i)
		k.via(at+".via", u.Via)
		if !isUpstream(u.Address) {
			k.fault(at+".address", "write an IP address, for example 10.0.0.53, udp://10.0.0.53:53 or tcp://10.0.0.53", "the upstream's address is %q", u.Address)
		}
	}
}

// isCIDR says whether s is a network, an address, or the word for all networks that are not on the internet.
func isCIDR(s string) bool {
	if s == "private" {
		return true
	}
	_, err := parsePrefix(s)
	return err == nil
}

// isUpstream says whether s is an address, with or without port and scheme.
func isUpstream(s string) bool {
	for _, scheme := range []string{"udp://", "tcp://"} {
		if len(s) > len(scheme) && s[:len(scheme)] == scheme {
			s = s[len(scheme):]
			break
		}
	}
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	addr, err := netip.ParseAddrPort(s)
	return err == nil && addr.Port() != 0
}
