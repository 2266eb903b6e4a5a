package iprange

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// withoutPrivate is what a WireGuard app writes for "exclude private IPs".
const withoutPrivate = "0.0.0.0/5 8.0.0.0/7 11.0.0.0/8 12.0.0.0/6 16.0.0.0/4 32.0.0.0/3 64.0.0.0/2 128.0.0.0/3 160.0.0.0/5 168.0.0.0/6 " +
	"172.0.0.0/12 172.32.0.0/11 172.64.0.0/10 172.128.0.0/9 173.0.0.0/8 174.0.0.0/7 176.0.0.0/4 192.0.0.0/9 192.128.0.0/11 192.160.0.0/13 " +
	"192.169.0.0/16 192.170.0.0/15 192.172.0.0/14 192.176.0.0/12 192.192.0.0/10 193.0.0.0/8 194.0.0.0/7 196.0.0.0/6 200.0.0.0/5 208.0.0.0/4"

func prefixes(text string) (list []netip.Prefix) {
	for field := range strings.FieldsSeq(text) {
		list = append(list, netip.MustParsePrefix(field))
	}
	return list
}

func TestCoverage(t *testing.T) {
	for _, row := range []struct {
		name, networks string
		v4, v6         Coverage
	}{
		{"nothing", "", Part, Part},
		{"default routes", "0.0.0.0/0 ::/0", Whole, Whole},
		{"halves", "128.0.0.0/1 0.0.0.0/1 8000::/1 ::/1", Whole, Whole},
		{"quarters", "0.0.0.0/2 64.0.0.0/2 128.0.0.0/2 192.0.0.0/2 c000::/2 ::/2 4000::/2 8000::/2", Whole, Whole},
		{"parts that overlap", "128.0.0.0/1 64.0.0.0/2 10.0.0.0/8 0.0.0.0/2 96.0.0.0/3", Whole, Part},
		{"host bits", "10.9.9.9/1 200.9.9.9/1", Whole, Part},
		{"halves of two families", "0.0.0.0/1 8000::/1", Part, Part},
		{"a hole of a quarter", "0.0.0.0/2 128.0.0.0/1", Part, Part},
		{"one half", "0.0.0.0/1 ::/1", Part, Nearly},
		{"private networks", "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 fc00::/7", Part, Part},
		{"all but private networks", withoutPrivate, Nearly, Part},
		{"the same from 1.0.0.0 on, with a resolver", strings.Replace(withoutPrivate, "0.0.0.0/5", "1.0.0.0/8 2.0.0.0/7 4.0.0.0/6 192.168.1.1/32", 1), Nearly, Part},
		{"all but private networks and the server", strings.Replace(withoutPrivate, "11.0.0.0/8", "11.128.0.0/9 11.64.0.0/10", 1), Nearly, Part},
		{"all but one address", "0.0.0.0/1 128.0.0.0/2 192.0.0.0/3 224.0.0.0/4 240.0.0.0/5 248.0.0.0/6 252.0.0.0/7 254.0.0.0/8 255.0.0.0/9 " +
			"255.128.0.0/10 255.192.0.0/11 255.224.0.0/12 255.240.0.0/13 255.248.0.0/14 255.252.0.0/15 255.254.0.0/16", Nearly, Part},
		{"the public part of IPv6", "2000::/3", Part, Nearly},
		{"the public part of IPv6 without a block", "2000::/4 3000::/5 3c00::/6 3800::/7", Part, Nearly},
		{"half of the public part of IPv6", "2000::/4", Part, Part},
		{"IPv4 inside of IPv6", "::ffff:0.0.0.0/96", Part, Part},
	} {
		networks := prefixes(row.networks)
		if v4, v6 := Covered4(networks), Covered6(networks); v4 != row.v4 || v6 != row.v6 {
			t.Errorf("%s: got %d %d, want %d %d", row.name, v4, v6, row.v4, row.v6)
		}
	}
}

// TestCoverageOfManyNetworks: the work grows about as their number does, not as its square.
func TestCoverageOfManyNetworks(t *testing.T) {
	// took is the time for all networks of so many bits and for all but one, as often as said.
	took := func(bits, times int) time.Duration {
		var networks []netip.Prefix
		for i := range uint32(1) << bits {
			networks = append(networks, netip.PrefixFrom(netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, i<<(32-bits)))), bits))
		}
		begun := time.Now()
		for range times {
			if got := Covered4(networks); got != Whole {
				t.Errorf("all networks of %d bits: got %d, want all", bits, got)
			}
			if got := Covered4(networks[1:]); got != Nearly {
				t.Errorf("all but one of %d bits: got %d, want nearly all", bits, got)
			}
		}
		return time.Since(begun)
	}
	// 128 times as many networks, each of which is met at twice as many sizes, are the work of 256 times the few. As a square it would be
	// 64 times that. The shorter of two rounds counts: in the other somebody else had the processor.
	few, many := took(7, 256), took(14, 1)
	few, many = min(few, took(7, 256)), min(many, took(14, 1))
	if many > 24*few {
		t.Errorf("%d networks took %v, and 256 times %d took %v: want at most 24 times that", 1<<14, many, 1<<7, few)
	}
}
