package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"penstock/cmd/internal/config"
)

// freeAddresses returns the lowest address of each of the gateway's inner networks that nobody has.
func freeAddresses(c *config.Config) ([]netip.Prefix, error) {
	var free []netip.Prefix
	for _, network := range c.Listen.WireGuard.Address {
		addr, ok := freeAddress(c, network)
		if !ok {
			return nil, c.Err("listen.wireguard.address", fmt.Sprintf("every address of %s is taken", network.Masked()), "add a network, or remove peers")
		}
		free = append(free, netip.PrefixFrom(addr, addr.BitLen()))
	}
	return free, nil
}

// freeAddress is the lowest free address of a network, without its first, which names the network, and, in IPv4, its
// last, to which everyone in it listens.
func freeAddress(c *config.Config, network netip.Prefix) (netip.Addr, bool) {
	for addr := network.Masked().Addr().Next(); network.Contains(addr); addr = addr.Next() {
		last := addr.Is4() && !network.Contains(addr.Next())
		if !last && !isTaken(c, addr) {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

func isTaken(c *config.Config, addr netip.Addr) bool {
	for _, own := range c.Listen.WireGuard.Address {
		if own.Addr() == addr {
			return true
		}
	}
	for _, p := range c.Peers {
		for _, prefix := range p.AllowedIPs {
			if prefix.Contains(addr) {
				return true
			}
		}
	}
	return false
}

// peerYAML is a peer as it stands in a configuration. Names, keys and addresses need no quotes; a group may.
func peerYAML(p config.Peer) string {
	addresses := make([]string, len(p.AllowedIPs))
	for i, a := range p.AllowedIPs {
		addresses[i] = fmt.Sprintf("%q", a)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "peers:\n  - name: %q\n    public_key: %s\n    allowed_ips: [%s]\n", p.Name, p.PublicKey, strings.Join(addresses, ", "))
	if len(p.Groups) > 0 {
		groups := make([]string, len(p.Groups))
		for i, g := range p.Groups {
			groups[i] = fmt.Sprintf("%q", g)
		}
		fmt.Fprintf(&b, "    groups: [%s]\n", strings.Join(groups, ", "))
	}
	return b.String()
}

// writePeer writes the peer to a file of its own that the configuration includes, and returns its path; none where the
// configuration includes no glob. If the configuration is invalid with it, the file is removed again.
func writePeer(c *config.Config, p config.Peer) (string, error) {
	path := peerPath(c, p.Name)
	if path == "" {
		return "", nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", fmt.Errorf("write peer %s: %w", p.Name, err)
	}
	if err := writeNew(path, peerYAML(p)); err != nil {
		return "", fmt.Errorf("write peer %s: %w", p.Name, err)
	}
	if _, err := config.Load(c.Path); err != nil {
		if gone := os.Remove(path); gone != nil {
			err = errors.Join(err, gone)
		}
		return "", err
	}
	return path, nil
}

// peerPath is where the file of a peer goes: below the first glob of include that takes a file of its name.
func peerPath(c *config.Config, name string) string {
	for _, pattern := range c.Include {
		if !filepath.IsAbs(pattern) {
			pattern = filepath.Join(filepath.Dir(c.Path), pattern)
		}
		dir, file := filepath.Split(pattern)
		path := filepath.Join(dir, name+".yaml")
		if fits, err := filepath.Match(file, filepath.Base(path)); err == nil && fits && strings.Contains(file, "*") && !strings.ContainsAny(dir, "*?[") {
			return path
		}
	}
	return ""
}

// writeNew makes a file that appears whole or not at all. It does not replace one.
func writeNew(path, text string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".penstock-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("there is a file %s already", path)
	} else if err != nil {
		return err
	}
	return nil
}

// removePeer removes the file of a peer, if it holds this peer and nothing else.
func removePeer(c *config.Config, name string) (string, error) {
	for _, p := range c.Peers {
		if p.Name != name {
			continue
		}
		path := peerPath(c, name)
		if path == "" || p.Pos.File != path {
			return "", fmt.Errorf("peer %s stands at %s: remove it there and run penstock reload", name, p.Pos)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("remove peer %s: %w", name, err)
		}
		if string(text) != peerYAML(p) {
			return "", fmt.Errorf("%s was edited by hand: remove peer %s there and run penstock reload", path, name)
		}
		return path, os.Remove(path)
	}
	return "", fmt.Errorf("there is no peer %q", name)
}
