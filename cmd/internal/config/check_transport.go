package config

import (
	"fmt"
	"maps"
	"slices"

	"penstock/cmd/internal/config/profile"
	"penstock/cmd/internal/private"
)

// transportChecker checks the transports.
type transportChecker struct{ *checker }

// transports checks that each transport is of one kind, and the files that it names.
func (k transportChecker) transports() {
	for _, name := range slices.Sorted(maps.Keys(k.Transports)) {
		t, path := k.Transports[name], "transports."+name
		k.name(path, "transport", name)
		if slices.Contains(reserved, name) {
			k.fault(path, "choose another name", "the transport name %q means something else in rules", name)
		}
		kinds := 0
		if t.WireGuard != nil {
			kinds++
			k.wireguard(path+".wireguard", t.WireGuard)
		}
		if t.OpenVPN != nil {
			kinds++
			k.profile(path+".openvpn.config", t.OpenVPN.Config, profile.OpenVPN)
			k.secret(path+".openvpn.password", t.OpenVPN.Password, false)
			if (t.OpenVPN.Username == "") != t.OpenVPN.Password.IsZero() {
				k.fault(path+".openvpn", "write both or neither", "%s.openvpn: username and password belong together", path)
			}
		}
		if len(t.Failover) > 0 {
			kinds++
			k.failover(path+".failover", name, t.Failover)
			if t.Probe != nil {
				k.fault(path+".probe", "move it to the members", "transport %s is a group, and only its members are probed", name)
			}
		}
		if kinds != 1 {
			k.fault(path, "write exactly one", "transport %s has %d of wireguard, openvpn and failover", name, kinds)
		}
		if t.Probe != nil && (t.Probe.DNS != "") == t.Probe.Ping.IsValid() {
			k.fault(path+".probe", "write exactly one", "the probe of transport %s needs dns or ping", name)
		}
	}
}

// profile checks that penstock, and nobody else, can read a transport's own file, and that it is of this kind.
func (k transportChecker) profile(path, file string, want profile.Kind) {
	text, err := private.ReadText(file, MaxFile)
	if err != nil {
		k.fault(path, "", "%s: %v", path, err)
		return
	}
	got, section := profile.KindOf(text), map[profile.Kind]string{profile.WireGuard: "wireguard", profile.OpenVPN: "openvpn"}
	switch {
	case got == want || got == profile.Unknown:
	case got == profile.Configuration:
		k.fault(path, "name "+want.String(), "%s is %s", file, got)
	default:
		k.fault(path, "write "+section[got]+" instead of "+section[want], "%s is %s", file, got)
	}
}

// wireguard checks a transport that has a wg-quick file, or else the same settings written in place.
func (k transportChecker) wireguard(path string, w *WireGuard) {
	inline := !w.PrivateKey.IsZero() || len(w.Address)+len(w.DNS)+len(w.Peers) > 0 || w.MTU != 0 || w.ListenPort != 0
	switch {
	case w.Config != "" && inline:
		k.fault(path, "keep config or the other fields", "%s has both config and fields of its own", path)
	case w.Config != "":
		k.profile(path+".config", w.Config, profile.WireGuard)
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
		k.endpoints(at+".endpoint", p.Endpoint)
	}
}

// failover checks the members of a group. A group cannot be a member: nobody has needed that yet, and two groups would have
// to agree on which one waits.
func (k transportChecker) failover(path, group string, members []string) {
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
