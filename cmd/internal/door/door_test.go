package door

import (
	"net/netip"
	"testing"
)

func at(text string) netip.Prefix { return Source(netip.MustParseAddr(text)) }

func TestConnectionsAreBounded(t *testing.T) {
	const most, each = 20, 5
	d := Door{Most: most, MostPerSource: each}
	one := at("192.0.2.1")
	for i := range each + 1 {
		if got := d.enter(one); got != (i < each) {
			t.Fatalf("connection %d of one source: got %t", i, got)
		}
	}
	addr := netip.MustParseAddr("192.0.2.2")
	for d.enter(Source(addr)) {
		addr = addr.Next()
	}
	if d.Held() != most {
		t.Errorf("got %d connections, want %d", d.Held(), most)
	}
	d.leave(one)
	if !d.enter(Source(addr)) {
		t.Error("a place that was given back is not free")
	}
	for range each - 1 {
		d.leave(one)
	}
	if _, held := d.sources[one]; held {
		t.Error("a source without connections is remembered")
	}
}

func TestASourceIsAnIPv4AddressOrAnIPv6Network(t *testing.T) {
	a, b := at("2001:db8::1"), at("2001:db8::ffff:1")
	if a != b || a == at("2001:db8:0:1::1") || at("::ffff:10.0.0.1") != at("10.0.0.1") || at("10.0.0.1") == at("10.0.0.2") {
		t.Errorf("got %v and %v of one network", a, b)
	}
}
