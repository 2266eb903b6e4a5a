package iprange

import (
	"net/netip"
	"slices"
	"testing"
)

func TestRanges(t *testing.T) {
	tests := []struct {
		addr                        string
		private, reserved, internal bool
	}{
		{"1.1.1.1", false, false, false},
		{"2001:db8::1", false, false, false},
		{"10.20.0.10", true, false, true},
		{"172.31.255.255", true, false, true},
		{"172.32.0.0", false, false, false},
		{"fd00::1", true, false, true},
		{"100.64.0.1", true, false, true},
		{"127.0.0.53", false, true, true},
		{"::1", false, true, true},
		{"::", false, true, true},
		{"0.0.0.0", false, true, true},
		{"169.254.169.254", false, true, true},
		{"fe80::1%eth0", false, true, true},
		{"224.0.0.251", false, true, true},
		{"255.255.255.255", false, true, true},
		{"ff02::fb", false, true, true},
		{"fec0::1", true, false, true},
		{"64:ff9b::100.64.0.1", true, false, true},
		{"fd00:ec2::254", true, true, true},
		{"168.63.129.16", false, true, true},
		{"192.0.0.192", false, true, true},
		{"100.100.100.200", true, true, true},
		{"::ffff:10.20.0.10", true, false, true},
		{"64:ff9b::169.254.169.254", false, true, true},
		{"64:ff9b::10.20.0.10", true, false, true},
		{"64:ff9b::1.1.1.1", false, false, false},
		{"2002:a14:a::1", true, false, true},
		{"2002:7f00:1::1", false, true, true},
		{"::a14:a", true, false, true},
		{"::ffff:0:127.0.0.1", false, true, true},
	}
	for _, tt := range tests {
		a := netip.MustParseAddr(tt.addr)
		if got := IsPrivate(a); got != tt.private {
			t.Errorf("IsPrivate(%s): got %v, want %v", a, got, tt.private)
		}
		if got := IsReserved(a); got != tt.reserved {
			t.Errorf("IsReserved(%s): got %v, want %v", a, got, tt.reserved)
		}
		if got := IsInternal(a); got != tt.internal {
			t.Errorf("IsInternal(%s): got %v, want %v", a, got, tt.internal)
		}
	}
}

func TestPrivateIsWhatIsPrivate(t *testing.T) {
	for _, s := range []string{
		"100.63.255.255", "100.64.0.0", "100.127.255.255", "100.128.0.0", "fec0::", "feff::1", "64:ff9b::100.64.0.1", "64:ff9b::100.128.0.1",
		"2002:6440:1::1", "10.0.0.0", "10.255.255.255", "11.0.0.0", "172.15.255.255", "172.16.0.0", "192.168.0.1", "192.169.0.0", "fc00::", "fdff::1", "fe00::",
		"64:ff9b::10.0.0.1", "64:ff9b::11.0.0.0", "64:ff9b::172.31.0.1", "64:ff9b:1::10.0.0.1", "2002:a00:1::1", "2002:b00:1::1", "2002:c0a8:1::1", "2002:c0a9:1::1",
		"::10.1.2.3", "::11.1.2.3", "::ffff:0:10.1.2.3", "::ffff:0:11.1.2.3", "2001:db8::1", "1.1.1.1",
	} {
		addr := netip.MustParseAddr(s)
		in := slices.ContainsFunc(Private(), func(p netip.Prefix) bool { return p.Contains(addr) })
		if in != IsPrivate(addr) {
			t.Errorf("%s: Private holds it: %v, IsPrivate: %v", s, in, IsPrivate(addr))
		}
	}
}

func TestAnInvalidAddressIsInEveryRange(t *testing.T) {
	if a := (netip.Addr{}); !IsPrivate(a) || !IsReserved(a) || !IsInternal(a) {
		t.Error("an invalid address is not in every range: a guard would let it pass")
	}
}

func TestEmbedded(t *testing.T) {
	for addr, want := range map[string]string{
		"::ffff:192.0.2.1": "192.0.2.1", "64:ff9b::192.0.2.1": "192.0.2.1", "2002:c000:201::5": "192.0.2.1", "::192.0.2.1": "192.0.2.1",
		"::": "", "::1": "", "2001:db8::1": "", "192.0.2.1": "",
	} {
		v4, ok := Embedded(netip.MustParseAddr(addr))
		if got := v4.String(); ok != (want != "") || ok && got != want {
			t.Errorf("Embedded(%s): got %s, %v; want %q", addr, got, ok, want)
		}
	}
}

func TestCallersMayChangeWhatTheyGet(t *testing.T) {
	Private()[0] = netip.Prefix{}
	if !Private()[0].IsValid() {
		t.Error("a caller changed the table")
	}
}

func TestNoRowOfTheTableIsOrdinary(t *testing.T) {
	for _, row := range table {
		if row.kind&reserved != 0 && isOrdinary(row.prefix.Addr()) {
			t.Errorf("%v is reserved, but isOrdinary accepts it", row.prefix)
		}
	}
	for _, e := range embedded {
		if isOrdinary(e.prefix.Addr()) {
			t.Errorf("%v embeds an IPv4 address, but isOrdinary accepts it", e.prefix)
		}
	}
}
