package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// PeerLimits are limits of one peer.
type PeerLimits struct {
	// Rate limits a peer's bandwidth. One rate alone, such as 20Mbit, is for both directions.
	Rate Rates `yaml:"rate"`
	// Quota limits what a peer may send and get in a month. A size alone, such as 50GiB, is the volume.
	Quota *Quota `yaml:"quota"`
}

// Rates are limits of a peer's bandwidth, in bits per second of IP packets inside the tunnel, and of what connections by proxy carry.
// What is above waits: packets for at most about 0.1 s, beyond which they are dropped.
type Rates struct {
	// Up is from the peer. Without it, that of the peer's groups counts; without those, there is no limit.
	Up Rate `yaml:"up"`
	// Down is to the peer. Without it, that of the peer's groups counts; without those, there is no limit.
	Down Rate `yaml:"down"`
}

func (r *Rates) setScalar(text string) error {
	err := r.Up.UnmarshalText([]byte(text))
	r.Down = r.Up
	return err
}

// Quota is the volume that a peer may use in a calendar month, in UTC.
type Quota struct {
	// Monthly is the volume: bytes of IP packets inside the tunnel, and of what connections by proxy carry, of both directions
	// together.
	Monthly Size `yaml:"monthly" required:"true"`
	// Over says what happens to a peer that has used it up. With block, its flows end, and new ones are refused until the month
	// ends; it still reaches the DNS server and what the rules open on the gateway itself. With a rate, such as 1Mbit, that much
	// is left to it in each direction.
	Over Over `yaml:"over" default:"block"`
}

func (q *Quota) setScalar(text string) error { return q.Monthly.UnmarshalText([]byte(text)) }

// IsZero reports whether nothing is limited.
func (l PeerLimits) IsZero() bool { return l == PeerLimits{} }

// LimitsOf returns the limits of a peer of a configuration. What its own entry limits counts; else the most generous of its groups that limit it.
func LimitsOf(c *Config, p Peer) PeerLimits {
	l := PeerLimits{Rate: p.Rate, Quota: p.Quota}
	for _, name := range p.Groups {
		group := c.GroupLimits[name]
		if p.Rate.Up == 0 {
			l.Rate.Up = max(l.Rate.Up, group.Rate.Up)
		}
		if p.Rate.Down == 0 {
			l.Rate.Down = max(l.Rate.Down, group.Rate.Down)
		}
		if p.Quota == nil && group.Quota.exceeds(l.Quota) {
			l.Quota = group.Quota
		}
	}
	return l
}

// exceeds reports whether a quota is more generous than another. None is no quota at all, so it is not.
func (q *Quota) exceeds(other *Quota) bool {
	if q == nil || other == nil {
		return q != nil
	}
	return cmp.Or(cmp.Compare(q.Monthly, other.Monthly), cmp.Compare(q.Over, other.Over)) > 0
}

// Rate is a number of bits per second, written as 64kbit, 20Mbit or 1Gbit.
type Rate int64

// Bounds of a rate. With less, a single packet would take a noticeable time.
const (
	minRate Rate = 64_000
	maxRate Rate = 1000_000_000_000
)

// UnmarshalText reads a number with its unit. A unit is required: a number alone could be meant in bytes.
func (r *Rate) UnmarshalText(text []byte) error {
	for unit, factor := range map[string]Rate{"kbit": 1e3, "Mbit": 1e6, "Gbit": 1e9} {
		number, ok := strings.CutSuffix(string(text), unit)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
		if err != nil || n < 0 || n > int64(maxRate/factor) || Rate(n)*factor < minRate {
			break
		}
		*r = Rate(n) * factor
		return nil
	}
	return errors.New("a rate is a number with kbit, Mbit or Gbit from 64kbit to 1000Gbit, for example 20Mbit")
}

// String writes the rate with the largest unit that divides it.
func (r Rate) String() string {
	for _, u := range []struct {
		name   string
		factor Rate
	}{{"Gbit", 1e9}, {"Mbit", 1e6}, {"kbit", 1e3}} {
		if r > 0 && r%u.factor == 0 {
			return fmt.Sprintf("%d%s", r/u.factor, u.name)
		}
	}
	return strconv.FormatInt(int64(r), 10) + "bit"
}

// Over is the rate that is left to a peer over its quota. 0 blocks it.
type Over Rate

// UnmarshalText reads block or a rate.
func (o *Over) UnmarshalText(text []byte) error {
	if string(text) == "block" {
		*o = 0
		return nil
	}
	return (*Rate)(o).UnmarshalText(text)
}

// String returns block or the rate.
func (o Over) String() string {
	if o == 0 {
		return "block"
	}
	return Rate(o).String()
}

// peerLimits checks the limits of groups, and those of peers.
func (k *checker) peerLimits() {
	for _, name := range slices.Sorted(maps.Keys(k.GroupLimits)) {
		path := "group_limits." + name
		k.name(path, "group", name)
		if k.GroupLimits[name].IsZero() {
			k.fault(path, "write a rate or a quota", "group_limits.%s limits nothing", name)
		}
		k.quota(path+".quota", k.GroupLimits[name].Quota)
	}
	for i, p := range k.Peers.All() {
		path := "peers[" + strconv.Itoa(i) + "]"
		if p.Quota != nil {
			k.quota(path+".quota", p.Quota)
		}
		if k.Listen.WireGuard == nil && !LimitsOf(k.Config, p).IsZero() { // the gateway's port for peers keeps them
			k.fault(path, "add listen: {wireguard: ...}, or remove them", "the rates and the quota of peer %s count for nothing without listen.wireguard", p.Name)
		}
	}
}

func (k *checker) quota(path string, q *Quota) {
	if q != nil && q.Monthly == 0 {
		k.fault(path, "write a size such as 50GiB, or disable the peer", "%s is 0, so nothing could be used", path)
	}
}
