package main

import (
	"bufio"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"penstock/e2e/netlab"
)

// keyPair is the identity of a WireGuard peer.
type keyPair struct{ key *ecdh.PrivateKey }

func (k keyPair) private64() string { return base64.StdEncoding.EncodeToString(k.key.Bytes()) }
func (k keyPair) public64() string {
	return base64.StdEncoding.EncodeToString(k.key.PublicKey().Bytes())
}
func (k keyPair) private16() string { return hex.EncodeToString(k.key.Bytes()) }
func (k keyPair) public16() string  { return hex.EncodeToString(k.key.PublicKey().Bytes()) }

// keys returns new keys for the laptop and the gateway.
func keys() (laptop, gateway keyPair, err error) {
	if laptop.key, err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
		return laptop, gateway, err
	}
	gateway.key, err = ecdh.X25519().GenerateKey(rand.Reader)
	return laptop, gateway, err
}

const wgLink = "wg0"

// openWireguardGo runs wireguard-go on laptop and gateway, and lets the gateway's kernel forward.
func openWireguardGo(ctx context.Context, w *world) error {
	laptop, gateway, err := keys()
	if err != nil {
		return err
	}
	if err := w.Gateway.Sysctl("net.ipv4.ip_forward", "1"); err != nil {
		return err
	}
	for _, end := range []struct {
		host *netlab.Host
		addr string
		conf string
	}{
		{w.Gateway, gatewayInner + "/24", "private_key=" + gateway.private16() + "\nlisten_port=" + wgPort +
			"\npublic_key=" + laptop.public16() + "\nallowed_ip=" + laptopInner + "/32\n"},
		{w.Laptop, laptopInner + "/24", "private_key=" + laptop.private16() +
			"\npublic_key=" + gateway.public16() + "\nendpoint=" + netlab.GatewayIPv4 + ":" + wgPort + "\nallowed_ip=0.0.0.0/0\n"},
	} {
		if err := w.wireguardGo(ctx, end.host, end.conf); err != nil {
			return err
		}
		if err := end.host.AddAddr(wgLink, netip.MustParsePrefix(end.addr)); err != nil {
			return err
		}
		if err := end.host.SetLink(wgLink, true); err != nil {
			return err
		}
	}
	return w.Laptop.AddRoute(netlab.Route{Dst: netip.MustParsePrefix("10.20.0.0/24"), Link: wgLink})
}

// Rules of nft that stand beside WireGuard on most hosts: those of wg-quick for a laptop all of whose traffic goes through the tunnel, and
// on a gateway to a network that knows no way back to the tunnel's addresses.
const (
	laptopRules = `table inet tunnel {
	chain guard { type filter hook prerouting priority raw; iifname != "` + wgLink + `" ip daddr ` + laptopInner + ` fib saddr type != local drop; }
	chain restore { type filter hook prerouting priority mangle; meta l4proto udp meta mark set ct mark; }
	chain save { type filter hook postrouting priority mangle; meta l4proto udp meta mark ` + wgPort + ` ct mark set meta mark; }
}`
	gatewayRules = `table inet tunnel {
	chain admit {
		type filter hook forward priority filter; policy drop;
		ct state established,related accept
		iifname "` + wgLink + `" accept
	}
	chain leave { type nat hook postrouting priority srcnat; iifname "` + wgLink + `" masquerade; }
}`
)

// guardedWireguardGo is the path through wireguard-go with those rules, if this machine has nft.
func guardedWireguardGo() []path {
	if _, err := exec.LookPath("nft"); err != nil {
		return nil
	}
	return []path{{name: "wireguard-go-guarded", title: "wireguard-go with the rules of wg-quick, and a gateway that masquerades", baseline: "wireguard-go",
		tunnel: true, brief: true, server: netlab.IntranetIPv4, open: openWireguardGoGuarded}}
}

// openWireguardGoGuarded is openWireguardGo with those rules.
func openWireguardGoGuarded(ctx context.Context, w *world) error {
	if err := openWireguardGo(ctx, w); err != nil {
		return err
	}
	for h, rules := range map[*netlab.Host]string{w.Laptop: laptopRules, w.Gateway: gatewayRules} {
		if err := w.write(h.Name()+".nft", rules); err != nil {
			return err
		}
		if err := h.Command(ctx, "nft", "-f", filepath.Join(w.dir, h.Name()+".nft")).Run(); err != nil {
			return fmt.Errorf("load the rules of %s: %w", h.Name(), err)
		}
	}
	return nil
}

// wireguardGo runs one wireguard-go and configures it over its socket.
func (w *world) wireguardGo(ctx context.Context, h *netlab.Host, conf string) error {
	p, err := w.start(ctx, h, "wireguard", "-f", wgLink)
	if err != nil {
		return err
	}
	for range 500 {
		if p.ended() {
			return fmt.Errorf("wireguard-go on %s ended:\n%s", h.Name(), p.said.String())
		}
		err := h.Do(func() error { return configure("/run/wireguard/"+wgLink+".sock", conf) })
		if err == nil {
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) { // the socket does not exist yet
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("wireguard-go on %s does not answer", h.Name())
}

// configure speaks WireGuard's cross-platform protocol.
func configure(socket, conf string) error {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := fmt.Fprintf(c, "set=1\n%s\n", conf); err != nil {
		return err
	}
	answer, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return err
	}
	if answer != "errno=0\n" {
		return fmt.Errorf("wireguard-go refused its configuration: %s", answer)
	}
	return nil
}
