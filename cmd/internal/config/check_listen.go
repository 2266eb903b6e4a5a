package config

import (
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// listenChecker checks where packets come from, and the peers.
type listenChecker struct{ *checker }

// listen checks where packets come from.
func (k listenChecker) listen() {
	tun, wg := k.Listen.TUN, k.Listen.WireGuard
	if tun == nil && wg == nil && k.Listen.Proxy == nil {
		k.fault("listen", "add listen: {tun: {}} for this machine's own packets, or listen: {wireguard: ...} for peers", "listen is empty, so penstock gets no packets")
	}
	if k.Listen.Proxy != nil {
		k.proxy(k.Listen.Proxy)
	}
	if tun != nil {
		k.tun(tun)
	}
	if wg != nil {
		k.port("listen.wireguard.listen_port", wg.ListenPort)
		k.ownAddresses("listen.wireguard.address", wg.Address)
		k.mtu("listen.wireguard.mtu", wg.MTU, wg.Address)
		if wg.PrivateKey.IsZero() {
			k.fault("listen.wireguard.private_key", "write {file: PATH} or {env: NAME}", "listen.wireguard.private_key is empty")
		}
		k.secret("listen.wireguard.private_key", wg.PrivateKey, true)
		if wg.Endpoint != "" {
			k.endpoints("listen.wireguard.endpoint", wg.Endpoint)
		}
	}
	if e := k.Listen.Enrol; e != nil {
		k.enrol(e)
	}
	if tun == nil || wg == nil {
		return
	}
	for i, inner := range wg.Address {
		if j := slices.IndexFunc(tun.Address, inner.Overlaps); j >= 0 {
			k.fault(fmt.Sprintf("listen.wireguard.address[%d]", i), "choose another network", "%s overlaps %s of listen.tun.address", inner, tun.Address[j])
		}
	}
}

// enrol checks where invited people join.
func (k listenChecker) enrol(e *EnrolListen) {
	if k.Listen.WireGuard == nil {
		k.fault("listen.enrol", "add listen: {wireguard: ...}, or remove enrol", "listen.enrol invites people to a gateway, and this is none")
	}
	host, port, err := net.SplitHostPort(e.Address)
	if _, notIP := netip.ParseAddr(host); err != nil || host != "" && notIP != nil || !isPort(port) {
		k.fault("listen.enrol.address", "write an address of this machine and a port, or only a port, for example :8443", "listen.enrol.address is %q", e.Address)
	}
	u, err := url.Parse(e.URL)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" ||
		u.Fragment != "" || u.Port() != "" && !isPort(u.Port()) {
		k.fault("listen.enrol.url", "write https://HOST or https://HOST:PORT, for example https://vpn.example:8443", "listen.enrol.url is %q", e.URL)
		return
	}
	k.secretPlace("listen.enrol.private_key", e.PrivateKey)
	switch {
	case k.Site != nil && e.PrivateKey.IsZero():
		k.fault("listen.enrol.private_key", "make one with penstock fleet keygen enrolment secrets/enrol.key, and add private_key: {file: secrets/enrol.key}",
			"listen.enrol.private_key is empty, and all gateways of a site need the same")
	case k.Site != nil && e.Certificate == "":
		if _, err := e.OwnKey(); err != nil {
			k.fault("listen.enrol.private_key", "", "listen.enrol.private_key: %v", err)
		}
	case e.Certificate == "" && !e.PrivateKey.IsZero():
		k.fault("listen.enrol.private_key", "add certificate: FILE", "listen.enrol.private_key has no certificate")
	case e.Certificate != "" && e.PrivateKey.IsZero():
		k.fault("listen.enrol.certificate", "add private_key: {file: PATH}", "listen.enrol.certificate has no private_key")
	}
}

// isPort reports whether text is the number of a port that others can dial.
func isPort(text string) bool {
	n, err := strconv.ParseUint(text, 10, 16)
	return err == nil && n > 0
}

// proxy checks that somebody can use the proxy, and nobody without a login from another machine.
func (k listenChecker) proxy(p *ProxyListen) {
	const path = "listen.proxy.address"
	if !p.Address.IsValid() || p.Address.Port() == 0 || p.Address.Addr().Zone() != "" || p.Address.Addr().IsMulticast() {
		k.fault(path, "write an address and a port, for example 127.0.0.1:1080", "%s is %s", path, p.Address)
		return
	}
	hasPassword := func(p Peer) bool { return !p.ProxyPassword.IsZero() }
	if !NeedsLogin(k.Config) || k.Peers.Any(hasPassword) || mayHavePeers(k.Config) {
		return
	}
	const mend = "give a peer proxy_password: {file: PATH}"
	if p.Address.Addr().IsLoopback() {
		k.fault(path, mend, "nobody can log in to listen.proxy: no peer has a proxy_password")
		return
	}
	k.fault(path, mend+", or listen on 127.0.0.1", "other machines reach listen.proxy at %s, and no peer has a proxy_password", p.Address)
}

// tun checks the settings of the device.
func (k listenChecker) tun(t *TUN) {
	// IFNAMSIZ is 16 with its terminating zero, and net/core/dev.c also refuses "." and "..".
	if n := len(t.Name); n == 0 || n > 15 || strings.ContainsFunc(t.Name, func(r rune) bool { return !isNameRune(r) }) || strings.Trim(t.Name, ".") == "" {
		k.fault("listen.tun.name", "write 1 to 15 letters, digits and - _ . @", "listen.tun.name is %q", t.Name)
	}
	k.ownAddresses("listen.tun.address", t.Address)
	if len(t.Address) > 0 && len(t.ServiceAddrs()) == 0 && t.DNS == "auto" && t.FD == nil {
		k.fault("listen.tun.address", "choose a larger network, for example 10.77.0.1/24, or set dns: manual", "listen.tun.address leaves no address for the DNS server")
	}
	k.mtu("listen.tun.mtu", t.MTU, t.Address)
	if t.FD != nil && *t.FD < 0 {
		k.fault("listen.tun.fd", "write the number of an open descriptor", "listen.tun.fd is %d", *t.FD)
	}
	if t.Mark == 0 || t.Mark&^t.MarkMask != 0 {
		k.fault("listen.tun.mark", "choose a mark other than 0 within mark_mask", "listen.tun.mark %#x does not fit mark_mask %#x", t.Mark, t.MarkMask)
	}
}

// ownAddresses checks addresses that penstock itself has inside a tunnel.
func (k listenChecker) ownAddresses(path string, addresses []netip.Prefix) {
	if len(addresses) == 0 {
		k.fault(path, "write one, for example 10.77.0.1/24", "%s is empty", path)
	}
	for i, p := range addresses {
		at := fmt.Sprintf("%s[%d]", path, i)
		switch a := p.Addr(); {
		case a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.Is4In6():
			k.fault(at, "write an address for a host, for example 10.77.0.1/24", "%s is %s", at, p)
		case slices.ContainsFunc(addresses[:i], p.Overlaps):
			k.fault(at, "keep one of them", "%s overlaps another address of %s", p, path)
		}
	}
}

// endpoint checks what others dial.
// endpoints checks one or more endpoints, separated by commas.
func (k *checker) endpoints(path, value string) {
	for one := range strings.SplitSeq(value, ",") {
		k.endpoint(path, strings.TrimSpace(one))
	}
}

func (k *checker) endpoint(path, value string) {
	host, port, err := net.SplitHostPort(value)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil || host == "" || strings.Trim(port, "0") == "" {
		k.fault(path, "write a host and a port, for example vpn.example:51820 or [2001:db8::1]:51820", "%s is %q", path, value)
	}
}

func (k *checker) port(path string, port int) {
	if port < 1 || port > 65535 {
		k.fault(path, "write a number from 1 to 65535", "%s is %d", path, port)
	}
}

func isWireGuardKey(s string) bool {
	key, err := base64.StdEncoding.Strict().DecodeString(s)
	return err == nil && len(key) == 32
}
