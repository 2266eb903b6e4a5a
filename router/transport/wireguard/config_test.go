package wireguard

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestClientFile(t *testing.T) {
	server := ServerInfo{
		Endpoints:     must(ParseEndpoints("[2001:db8::1]:51820")),
		PublicKey:     must(ParsePublicKey(testPublicKey)),
		DNS:           []netip.Addr{netip.MustParseAddr("10.77.0.1")},
		SearchDomains: []string{"corp.example"},
		MTU:           1420,
	}
	key := must(ParsePrivateKey(testPrivateKey))
	peer := Peer{
		Name: "ana", PublicKey: key.Public(), PresharedKey: must(ParsePresharedKey(testPreshared)),
		AllowedIPs: []netip.Prefix{
			netip.MustParsePrefix("10.77.0.2/32"), netip.MustParsePrefix("fd77::2/128"),
			netip.MustParsePrefix("192.168.7.0/24"), // her lab, behind her machine
		},
	}
	c := ClientFile(server, key, peer)
	var text strings.Builder
	if _, err := c.WriteTo(&text); err != nil {
		t.Fatal(err)
	}
	const want = `[Interface]
PrivateKey = ` + testPrivateKey + `
Address = 10.77.0.2/32, fd77::2/128
DNS = 10.77.0.1, corp.example
MTU = 1420

[Peer]
PublicKey = ` + testPublicKey + `
PresharedKey = ` + testPreshared + `
AllowedIPs = 0.0.0.0/0, ::/0
Endpoint = [2001:db8::1]:51820
PersistentKeepalive = 25
`
	if got := text.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	if got := must(ParseConfig(strings.NewReader(text.String()), "ana.conf")); !reflect.DeepEqual(got, c) {
		t.Errorf("read back: got %+v, want %+v", got, c)
	}

	server.AllowedIPs = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	server.Keepalive = time.Minute
	if got := ClientFile(server, key, peer).Peers[0]; got.PersistentKeepalive != time.Minute || !reflect.DeepEqual(got.AllowedIPs, server.AllowedIPs) {
		t.Errorf("got %+v, want the server's AllowedIPs and keepalive", got)
	}
}

// TestSeveralEndpoints reads them from lines of their own, and from one line, and writes them to lines of their own.
func TestSeveralEndpoints(t *testing.T) {
	c, err := ParseConfig(strings.NewReader("[Interface]\nPrivateKey = "+testPrivateKey+"\nAddress = 10.77.0.2/32\n\n[Peer]\nPublicKey = "+testPublicKey+
		"\nEndpoint = vpn.example:51820 , [2001:db8::1]:51820\nAllowedIPs = 0.0.0.0/0\nendpoint = 192.0.2.1:443\n"), "corp.conf")
	if err != nil {
		t.Fatal(err)
	}
	want := []Endpoint{{"vpn.example", 51820}, {"2001:db8::1", 51820}, {"192.0.2.1", 443}}
	if got := c.Peers[0].Endpoints; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	var text strings.Builder
	if _, err := c.WriteTo(&text); err != nil {
		t.Fatal(err)
	}
	const lines = "AllowedIPs = 0.0.0.0/0\nEndpoint = vpn.example:51820\nEndpoint = [2001:db8::1]:51820\nEndpoint = 192.0.2.1:443\n"
	if got := text.String(); !strings.HasSuffix(got, lines) {
		t.Errorf("got:\n%s\nwant it to end in:\n%s", got, lines)
	}
	if got := must(ParseConfig(strings.NewReader(text.String()), "corp.conf")); !reflect.DeepEqual(got, c) {
		t.Errorf("read back: got %+v, want %+v", got, c)
	}
	if got := c.Portable().Peers[0].Endpoints; !reflect.DeepEqual(got, want[:1]) || len(c.Peers[0].Endpoints) != 3 {
		t.Errorf("for all programs: got %v, want the first alone, and the others kept in the original: %v", got, c.Peers[0].Endpoints)
	}

	if _, err := parse("", "Endpoint = bücher.example:443"); err == nil || !strings.Contains(err.Error(), "write them in their xn-- form") {
		t.Errorf("a name beyond ASCII: got %v, want how to write it", err)
	}
	if _, err := parse("", "Endpoint = 192.0.2.1:443, vpn.example"); err == nil || !strings.Contains(err.Error(), `x.conf:8: Endpoint: endpoint "vpn.example" has no port`) {
		t.Errorf("got %v, want the second endpoint of the line refused", err)
	}
	if _, err := parse("", strings.Repeat("Endpoint = 192.0.2.1:443\n", 16)); err == nil || !strings.Contains(err.Error(), "x.conf:23: peer 1 has 17 endpoints") {
		t.Errorf("got %v, want too many endpoints refused", err)
	}
}

func TestParseEndpoint(t *testing.T) {
	tests := []struct {
		text string
		want Endpoint // zero: refused
	}{
		{"vpn.example:51820", Endpoint{"vpn.example", 51820}},
		{"vpn.example.:1", Endpoint{"vpn.example.", 1}},
		{"192.0.2.1:65535", Endpoint{"192.0.2.1", 65535}},
		{"[2001:db8::1]:51820", Endpoint{"2001:db8::1", 51820}},
		{"vpn.example", Endpoint{}},
		{"vpn.example:0", Endpoint{}},
		{"vpn.example:65536", Endpoint{}},
		{"vpn.example:https", Endpoint{}},
		{":51820", Endpoint{}},
		{"2001:db8::1:51820", Endpoint{}},
		{"[fe80::1%eth0]:51820", Endpoint{}},
		{"vpn example:51820", Endpoint{}},
		{"vpn..example:51820", Endpoint{}},
		{strings.Repeat("a", 64) + ".example:51820", Endpoint{}},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			got, err := ParseEndpoint(tt.text)
			if got != tt.want || (err == nil) == tt.want.IsZero() {
				t.Errorf("got %+v and %v, want %+v", got, err, tt.want)
			}
			if err == nil && got.String() != tt.text {
				t.Errorf("String: got %q, want %q", got, tt.text)
			}
		})
	}
}
