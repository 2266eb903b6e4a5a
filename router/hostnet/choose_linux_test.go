package hostnet

import (
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"penstock/router/hostnet/internal/hosttest"
)

func TestChooseAddressesSeesWhatTheHostUses(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	ip := func(t *testing.T, args string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), "ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	for _, row := range []struct {
		name, do, undo, nameserver, want string
	}{
		{"an address", "addr add 10.77.0.9/24 dev up0", "addr del 10.77.0.9/24 dev up0", "", "10.78.0.1/24"},
		{"the far end of a point-to-point link", "addr add 192.0.2.77 peer 10.77.0.9 dev up0", "addr del 192.0.2.77 peer 10.77.0.9 dev up0", "", "10.78.0.1/24"},
		{"a route", "route add 10.77.0.128/25 dev up0", "route del 10.77.0.128/25 dev up0", "", "10.78.0.1/24"},
		{"a route of another table", "route add 10.77.0.0/16 dev up0 table 52", "route del 10.77.0.0/16 dev up0 table 52", "", "10.78.0.1/24"},
		{"a route in two halves", "route add 0.0.0.0/1 dev up0", "route del 0.0.0.0/1 dev up0", "", "10.77.0.1/24"},
		{"a route of our own table", "route add 10.77.0.0/24 dev up0 table 7077", "route del 10.77.0.0/24 dev up0 table 7077", "", "10.77.0.1/24"},
		{"a resolver", "", "", "nameserver 10.77.0.53\n", "10.78.0.1/24"},
		{"a resolver on a link", "", "", "nameserver fe80::1%up0\n", "10.77.0.1/24"},
	} {
		h := hosttest.New(t)
		if row.nameserver != "" {
			hosttest.Must(t, os.WriteFile(h.ResolvConf(), []byte(row.nameserver), 0o644))
		}
		if row.do != "" {
			ip(t, row.do)
		}
		got, err := ChooseAddresses(Choice{Interface: "pen0", ResolvConf: h.ResolvConf(), Avoid: prefixes("0.0.0.0/0")})
		if err != nil || !slices.Contains(got, netip.MustParsePrefix(row.want)) {
			t.Errorf("%s: got %v, %v; want %s", row.name, got, err, row.want)
		}
		if row.undo != "" {
			ip(t, row.undo)
		}
		h.Close(t)
	}
}
