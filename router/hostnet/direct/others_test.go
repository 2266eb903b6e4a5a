package direct

import (
	"net/netip"
	"testing"
)

func TestTheFirstNetworkOfOthersCounts(t *testing.T) {
	var o Others
	o.Set([]Other{
		{netip.MustParsePrefix("10.44.7.0/24"), "", 52},
		{netip.MustParsePrefix("10.44.0.0/16"), "mesh0", 52},
		{netip.MustParsePrefix("10.44.0.0/16"), "mesh1", 53},
	})
	for addr, want := range map[string]string{"10.44.1.1": "mesh0", "10.44.7.1": "", "10.45.0.1": "", "2001:db8::1": ""} {
		if got, ok := o.Of(netip.MustParseAddr(addr)); got.Interface != want || ok != (want != "") {
			t.Errorf("%s: got %v, %v; want %q", addr, got, ok, want)
		}
	}
	if got, want := o.List()[1].String(), "10.44.0.0/16 by mesh0 (table 52)"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	var none *Others
	if _, ok := none.Of(netip.MustParseAddr("10.44.1.1")); ok || none.List() != nil {
		t.Error("nobody's networks are known, but one was found")
	}
}
