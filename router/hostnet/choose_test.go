package hostnet

import (
	"slices"
	"strings"
	"testing"
)

func TestATUNGetsNetworksThatNothingUses(t *testing.T) {
	for _, row := range []struct{ name, kept, taken, routed, want string }{
		{"nothing is used", "", "", "", "10.77.0.1/24 fd77::1/64"},
		{"a LAN has the default", "", "10.77.0.0/24", "", "10.78.0.1/24 fd77::1/64"},
		{"a LAN has it within a larger network", "", "10.77.0.0/16 10.78.0.0/16", "", "10.79.0.1/24 fd77::1/64"},
		{"a gateway or resolver is in it", "", "10.77.0.53/32 fd77::53/128", "", "10.78.0.1/24 fd78::1/64"},
		{"all of 10 is a LAN", "", "10.0.0.0/8", "", "172.16.77.1/24 fd77::1/64"},
		{"10 and 172.16 are routed elsewhere", "", "", "10.0.0.0/8 172.16.0.0/12", "192.168.77.1/24 fd77::1/64"},
		{"everything private is routed elsewhere", "", "10.77.0.0/24", "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 fd00::/8", "10.78.0.1/24 fd77::1/64"},
		{"the choice before is kept", "10.80.0.1/24 fd80::1/64", "", "", "10.80.0.1/24 fd80::1/64"},
		{"the choice before is taken now", "10.80.0.1/24 fd80::1/64", "10.80.0.0/24", "", "10.77.0.1/24 fd80::1/64"},
		{"the choice of another program's file", "8.8.8.8/0 10.80.0.1/8 2001:db8::/32", "", "", "10.77.0.1/24 fd77::1/64"},
		{"nothing is free", "", "0.0.0.0/0 ::/0", "", "10.77.0.1/24 fd77::1/64"},
	} {
		got := choose(prefixes(strings.Fields(row.kept)...), used{prefixes(strings.Fields(row.taken)...), prefixes(strings.Fields(row.routed)...)})
		if want := prefixes(strings.Fields(row.want)...); !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", row.name, got, want)
		}
	}
}

func TestCandidatesArePlainPrivateNetworks(t *testing.T) {
	for _, v4 := range []bool{true, false} {
		list := candidates(v4)
		for i, p := range list {
			if !p.IsValid() || !p.Addr().IsPrivate() || slices.ContainsFunc(list[:i], p.Overlaps) {
				t.Errorf("got %v, want a private network that overlaps no other candidate", p)
			}
		}
	}
}
