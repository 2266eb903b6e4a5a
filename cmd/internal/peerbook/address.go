package peerbook

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/private"
)

// FormerAddress is an address that a removed peer had, or one that is in force: then Removed is zero.
type FormerAddress struct {
	Address netip.Prefix `json:"address"`
	Peer    string       `json:"peer"`
	Removed time.Time    `json:"removed"`
}

// Former returns the addresses that rest: those of peers removed within listen.wireguard.reuse_after. One that was removed
// in the future, because the clock was wrong then or is now, rests from now on: otherwise it would rest until that time has come
// again.
func (f *Folder) Former(c *config.Config) ([]FormerAddress, error) {
	if f == nil {
		return nil, nil
	}
	path := filepath.Join(f.dir, formerName)
	text, err := private.Read(path, config.MaxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []FormerAddress
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, fmt.Errorf("%s, the addresses of removed peers, cannot be read: remove it if they may be used again at once: %w", path, err)
	}
	now, ahead := time.Now().UTC().Truncate(time.Second), false
	for i := range all {
		if all[i].Removed.After(now) {
			all[i].Removed, ahead = now, true
		}
	}
	if ahead {
		if err := f.writeFormer(all); err != nil {
			return nil, err
		}
	}
	return slices.DeleteFunc(all, func(a FormerAddress) bool {
		return !a.Address.IsValid() || now.Sub(a.Removed) >= c.Listen.WireGuard.ReuseAfter
	}), nil
}

// remember notes the addresses of a peer that is removed now, and forgets those that rest no longer.
func (f *Folder) remember(c *config.Config, p config.Peer) error {
	list, err := f.Former(c)
	if err != nil {
		return err
	}
	now := time.Now().UTC().Truncate(time.Second)
	for _, a := range p.AllowedIPs {
		list = append(list, FormerAddress{a, p.Name, now})
	}
	if err := f.writeFormer(list); err != nil {
		return fmt.Errorf("remember the addresses of peer %s: %w", p.Name, err)
	}
	return nil
}

func (f *Folder) writeFormer(list []FormerAddress) error {
	text, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return err
	}
	return f.write(filepath.Join(f.dir, formerName), string(text)+"\n")
}

// addressLike finds words that may be addresses.
var addressLike = regexp.MustCompile(`[0-9A-Fa-f:.]*[0-9A-Fa-f:]`)

// FreeAddresses returns the lowest address of each of the gateway's inner networks that no peer has, and none had within reuse_after.
func FreeAddresses(c *config.Config, former []FormerAddress) ([]netip.Prefix, error) {
	taken := newAddressSet()
	for _, own := range c.Listen.WireGuard.Address {
		taken.add(netip.PrefixFrom(own.Addr(), own.Addr().BitLen()))
	}
	for _, p := range c.Peers.All() {
		for _, prefix := range p.AllowedIPs {
			taken.add(prefix)
		}
	}
	for _, a := range former {
		taken.add(a.Address)
	}
	for _, bad := range c.Bad { // what the file wants will be its peer's when somebody mends it
		text, _ := os.ReadFile(bad.File) // unreadable: config finds a clash later
		for _, word := range addressLike.FindAllString(string(text), -1) {
			if addr, err := netip.ParseAddr(word); err == nil {
				taken.add(netip.PrefixFrom(addr, addr.BitLen()))
			}
		}
	}
	var free []netip.Prefix
	for i, network := range c.Listen.WireGuard.Address {
		addr, ok := taken.firstFree(network)
		if !ok {
			return nil, noAddress(c, i, former)
		}
		free = append(free, netip.PrefixFrom(addr, addr.BitLen()))
	}
	return free, nil
}

// noAddress says that the i-th network is full, and when it will have room.
func noAddress(c *config.Config, i int, former []FormerAddress) error {
	network := c.Listen.WireGuard.Address[i].Masked()
	mend := "remove peers, or give the gateway a larger network"
	var next time.Time
	for _, a := range former {
		if a.Removed.IsZero() {
			continue // its peer is there
		}
		if end := a.Removed.Add(c.Listen.WireGuard.ReuseAfter); network.Overlaps(a.Address) && (next.IsZero() || end.Before(next)) {
			next = end
		}
	}
	if !next.IsZero() {
		mend += fmt.Sprintf(", or wait until %s: the address of a removed peer is free after listen.wireguard.reuse_after, %v",
			next.Local().Format(time.DateTime), c.Listen.WireGuard.ReuseAfter)
	}
	return c.Err(fmt.Sprintf("listen.wireguard.address[%d]", i), fmt.Sprintf("no address of %s is free", network), mend)
}

// addressSet is a set of addresses and networks.
type addressSet struct {
	single   map[netip.Addr]bool
	networks []netip.Prefix // those of more than one address
}

func newAddressSet() *addressSet { return &addressSet{single: make(map[netip.Addr]bool)} }

func (s *addressSet) add(p netip.Prefix) {
	if p.IsSingleIP() {
		s.single[p.Addr()] = true
	} else {
		s.networks = append(s.networks, p)
	}
}

// past returns the last address of a network in the set that has addr, or addr.
func (s *addressSet) past(addr netip.Addr) (last netip.Addr, ok bool) {
	i := slices.IndexFunc(s.networks, func(p netip.Prefix) bool { return p.Contains(addr) })
	if i < 0 {
		return addr, s.single[addr]
	}
	b := addr.AsSlice()
	for bit := s.networks[i].Bits(); bit < addr.BitLen(); bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ = netip.AddrFromSlice(b)
	return last, true
}

// firstFree returns the lowest address of a network that is not in the set. It leaves out the first, which names the
// network, and in IPv4 the last, which is the broadcast address.
func (s *addressSet) firstFree(network netip.Prefix) (netip.Addr, bool) {
	for addr := network.Masked().Addr().Next(); network.Contains(addr); addr = addr.Next() {
		end, taken := s.past(addr)
		if last := addr.Is4() && !network.Contains(addr.Next()); !last && !taken {
			return addr, true
		}
		addr = end // a network may have more addresses than anybody can count
	}
	return netip.Addr{}, false
}
