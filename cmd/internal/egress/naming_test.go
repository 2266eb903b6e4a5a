package egress

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"penstock/cmd/internal/config"
	"penstock/router/transport/openvpn"
	"penstock/router/transport/openvpn/profile"
)

func TestPushedServers(t *testing.T) {
	at := netip.MustParseAddrPort
	for _, row := range []struct {
		name string
		push openvpn.DNSServer
		want string
	}{
		{"plain", openvpn.DNSServer{Addrs: []netip.AddrPort{at("10.8.0.1:53"), at("[fd00::1]:5353")}, Transport: "plain"}, "10.8.0.1:53 [10.8.0.1] [], [fd00::1]:5353 [fd00::1] []"},
		{"for all names", openvpn.DNSServer{Addrs: []netip.AddrPort{at("10.8.0.1:53")}, Domains: []string{"."}, Transport: "plain"}, "10.8.0.1:53 [10.8.0.1] []"},
		{"DoT by name", openvpn.DNSServer{Addrs: []netip.AddrPort{at("10.8.0.1:53")}, Transport: "DoT", SNI: "dns.corp.example", Domains: []string{"corp.example"}}, "tls://dns.corp.example:853 [10.8.0.1] [corp.example]"},
		{"DoH at its usual port", openvpn.DNSServer{Addrs: []netip.AddrPort{at("10.8.0.1:53")}, Transport: "DoH"}, "https://10.8.0.1:443 [10.8.0.1] []"},
		{"DoH at another port", openvpn.DNSServer{Addrs: []netip.AddrPort{at("[fd00::1]:8443")}, Transport: "DoH"}, "https://[fd00::1]:8443 [fd00::1] []"},
	} {
		var parts []string
		for _, server := range pushedServers(row.push) {
			parts = append(parts, fmt.Sprintf("%s %v %v", server.Address, server.Bootstrap, server.Domains))
		}
		if got := strings.Join(parts, ", "); got != row.want {
			t.Errorf("%s: got %s, want %s", row.name, got, row.want)
		}
	}
}

// newPushed is an OpenVPN transport with one server, known by its address, to which no server has pushed anything yet.
func newPushed(t *testing.T, renamed func()) *openvpnInner {
	t.Helper()
	one := planned{name: "legacy", config: config.Transport{OpenVPN: &config.OpenVPN{}}, openvpn: &profile.Profile{Remotes: []profile.Remote{{Host: "192.0.2.1"}}}}
	o, err := newOpenVPN(one, &Config{Renamed: renamed})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.inside().Close(); err != nil {
			t.Error(err)
		}
	})
	return o
}

func TestWhatAServerPushesIsFollowed(t *testing.T) {
	renamed := 0
	o := newPushed(t, func() { renamed++ })
	if f := o.facts(); f.ipv6 || f.named || len(f.naming.Servers) != 0 {
		t.Errorf("before: got %+v, want nothing known", f)
	}
	push := openvpn.Settings{
		Addrs: []netip.Prefix{netip.MustParsePrefix("10.8.0.2/24"), netip.MustParsePrefix("fd08::2/64")}, MTU: 1300,
		DNS:           []openvpn.DNSServer{{Addrs: []netip.AddrPort{netip.MustParseAddrPort("10.8.0.1:53")}, Transport: "plain"}},
		SearchDomains: []string{"corp.example"},
	}
	for range 2 { // the second time it is the same: a new session
		if err := o.configure(push); err != nil {
			t.Fatal(err)
		}
	}
	if renamed != 1 {
		t.Errorf("got %d calls of renamed, want 1", renamed)
	}
	if got := o.stack.MTU(); got != 1300 {
		t.Errorf("MTU: got %d, want the server's", got)
	}
	f := o.facts()
	if !f.ipv6 || f.naming.Transport != "legacy" || !slices.Equal(f.naming.Search, []string{"corp.example"}) {
		t.Errorf("got %+v", f)
	}
	if got := f.resolvers(); !slices.Equal(got, []netip.AddrPort{netip.MustParseAddrPort("10.8.0.1:53")}) {
		t.Errorf("resolvers: got %v", got)
	}
	push.SearchDomains, push.MTU, push.Addrs = nil, 100, push.Addrs[:1]
	if err := o.configure(push); err != nil {
		t.Fatal(err)
	}
	if renamed != 2 || o.facts().ipv6 {
		t.Error("a push with other domains and without IPv6 changed nothing")
	}
	if got := o.stack.MTU(); got != 1300 {
		t.Errorf("MTU: got %d, want 1300: less than 576 bytes is no MTU", got)
	}
	push.DNS[0].Transport = "DoT"
	if err := o.configure(push); err != nil {
		t.Fatal(err)
	}
	if got := o.facts().resolvers(); len(got) != 0 {
		t.Errorf("resolvers: got %v, want none: a server that speaks TLS alone is not asked in clear", got)
	}
}

// TestFlowsAreResetWhileAServerPushes resets the flows of a transport, again and again, while its server pushes other addresses.
func TestFlowsAreResetWhileAServerPushes(t *testing.T) {
	o := newPushed(t, func() {})
	pushed := [2]netip.Prefix{netip.MustParsePrefix("10.8.0.2/24"), netip.MustParsePrefix("fd08::2/64")}
	for i := range 1000 {
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := o.reset(); err != nil {
				t.Error(err)
			}
		})
		now, before := pushed[i%2], pushed[(i+1)%2]
		if err := o.configure(openvpn.Settings{Addrs: []netip.Prefix{now}}); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		if !o.stack.Speaks(now.Addr()) || o.stack.Speaks(before.Addr()) {
			t.Fatalf("push %d: the stack does not have the address %v, which the server has pushed, alone", i, now)
		}
	}
}

func TestCredentialsComeFromTheConfiguration(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("open sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	password := openvpn.Challenge{Kind: openvpn.ChallengePassword}
	o := newPushed(t, func() {})
	if _, _, err := o.credentials(t.Context(), password); err == nil || !strings.Contains(err.Error(), "penstock login") {
		t.Errorf("nothing is configured: got %v, want advice", err)
	}
	if q, ok := o.asking.pending(); !ok || q != (Question{ID: 1, Text: "Password", NeedUser: true}) {
		t.Errorf("got the question %+v, %v", q, ok)
	}
	if again, err := o.asking.answer(Reply{User: "bob", Text: "sesame"}); !again || err != nil {
		t.Errorf("got %v, %v, want another attempt", again, err)
	}
	if user, pass, err := o.credentials(t.Context(), password); user != "bob" || pass != "sesame" || err != nil {
		t.Errorf("the user's answer: got %q, %q, %v", user, pass, err)
	}
	if _, _, err := o.credentials(t.Context(), password); err == nil {
		t.Error("an answer was used twice")
	}
	o.conf = &config.OpenVPN{Username: "ana", Password: config.Secret{File: file}}
	if user, pass, err := o.credentials(t.Context(), password); user != "ana" || pass != "open sesame" || err != nil {
		t.Errorf("got %q, %q, %v", user, pass, err)
	}
	_, pass, err := o.credentials(t.Context(), openvpn.Challenge{Kind: openvpn.ChallengePassword + 1, Text: "PIN?"})
	if err == nil || pass != "" || !strings.Contains(err.Error(), `"PIN?"`) {
		t.Errorf("another question: got %q and %v, want a refusal that names it", pass, err)
	}
	o.conf.Password.File = "/nowhere/password"
	if _, _, err := o.credentials(t.Context(), password); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is gone: got %v", err)
	}
}
