package privatedns

import (
	"encoding/xml"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestTokens: each peer has its own for each way; they stay until the peer, its number or the gateway's key is another.
func TestTokens(t *testing.T) {
	c := gateway(t)
	ana, ben := c.Peers.At(0), c.Peers.At(1)
	renewed, renamed, rekeyed := ana, ana, ana
	renewed.DNSRenewals, renamed.Name, rekeyed.PublicKey = 1, "anna", "2Bo5n4y4CRcCcX2HMRSL1fBDMhgT1Z4x0AMkYmZ9DGA="
	k, err := keyOf(c)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	add := func(says, token string) {
		if !regexp.MustCompile(`^[a-z2-7]{32}$`).MatchString(token) {
			t.Errorf("%s: got %q, want a label of 32 characters", says, token)
		}
		if other, taken := seen[token]; taken {
			t.Errorf("%s and %s have one token", says, other)
		}
		seen[token] = says
	}
	for _, w := range []Way{HTTPS, TLS} {
		add("ana over "+string(w), k.token(w, ana))
		add("ben over "+string(w), k.token(w, ben))
		add("ana with other tokens over "+string(w), k.token(w, renewed))
		add("ana with another key over "+string(w), k.token(w, rekeyed))
		add("another gateway over "+string(w), key("another").token(w, ana))
		if k.token(w, renamed) != k.token(w, ana) {
			t.Errorf("%s: with another name ana has another token", w)
		}
	}
	p, err := NewPlan(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		says  string
		plan  *Plan
		way   Way
		token string
		want  string
	}{
		{"its own", p, HTTPS, k.token(HTTPS, ana), ana.PublicKey},
		{"of a peer without a tunnel", p, TLS, k.token(TLS, ben), "name ben"},
		{"of the other way", p, TLS, k.token(HTTPS, ana), ""},
		{"that is not made yet", p, HTTPS, k.token(HTTPS, renewed), ""},
		{"cut off", p, HTTPS, k.token(HTTPS, ana)[:31], ""},
		{"none", p, HTTPS, "", ""},
		{"without dns.serve", nil, HTTPS, k.token(HTTPS, ana), ""},
		{"of no way", p, "quic", k.token(HTTPS, ana), ""},
	} {
		if got, ok := tt.plan.Peer(tt.way, tt.token); got != tt.want || ok != (tt.want != "") {
			t.Errorf("%s: got %q, %t; want %q", tt.says, got, ok, tt.want)
		}
	}
	if p, err := NewPlan(gateway(t, "dns: {serve", "dns: {timeout: 3s} # {serve", "  - {name: ben}\n", "")); p != nil || err != nil || p.Anonymous() {
		t.Errorf("without dns.serve: got %v, %v", p, err)
	}
}

func TestWhereATokenStands(t *testing.T) {
	for path, want := range map[string]string{
		"/dns-query": "", "/dns-query/abc": "abc", "/dns-query/a/b": "a/b",
		"/dns-query/": "no", "/dns-queryabc": "no", "/": "no", "": "no", "/other": "no",
	} {
		if got, ok := tokenAt(path); ok != (want != "no") || ok && got != want {
			t.Errorf("path %q: got %q, %t; want %q", path, got, ok, want)
		}
	}
	for name, want := range map[string]string{
		"": "", "dns.example": "", "DNS.Example": "", "abc.dns.example": "abc", "ABC.DNS.EXAMPLE": "abc",
		".dns.example": "no", "example": "no", "dns.example.org": "no", "xdns.example": "no",
	} {
		if got, ok := tokenIn(name, "dns.example"); ok != (want != "no") || ok && got != want {
			t.Errorf("name %q: got %q, %t; want %q", name, got, ok, want)
		}
	}
}

// TestAccess: what a phone is told, in text and as a profile, depends on what is served.
func TestAccess(t *testing.T) {
	for _, tt := range []struct {
		says      string
		edits     []string
		url, host string
		profile   string // has this
	}{
		{"both", nil, `https://dns\.example/dns-query/\w{32}`, `\w{32}\.dns\.example`, "<key>DNSProtocol</key>\n<string>HTTPS</string>\n<key>ServerURL</key>"},
		{"HTTPS on another port", []string{":443", ":8443", `tls: "127.0.0.1:853", `, ""}, `https://dns\.example:8443/dns-query/\w{32}`, "", "<string>HTTPS</string>"},
		{"TLS alone", []string{`https: "127.0.0.1:443", `, ""}, "", `\w{32}\.dns\.example`, "<key>DNSProtocol</key>\n<string>TLS</string>\n<key>ServerName</key>"},
	} {
		c := gateway(t, tt.edits...)
		a, err := AccessOf(c, c.Peers.At(1))
		if err != nil || !regexp.MustCompile("^"+tt.url+"$").MatchString(a.URL) || !regexp.MustCompile("^"+tt.host+"$").MatchString(a.Host) {
			t.Errorf("%s: got %+v, %v", tt.says, a, err)
		}
		profile := string(a.MobileConfig("ben", "dns.example"))
		d := xml.NewDecoder(strings.NewReader(profile))
		for {
			if _, err := d.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("%s: %v:\n%s", tt.says, err, profile)
			}
		}
		for _, want := range []string{tt.profile, "<string>com.apple.dnsSettings.managed</string>", "<string>Configuration</string>"} {
			if !strings.Contains(profile, want) {
				t.Errorf("%s: the profile lacks %s:\n%s", tt.says, want, profile)
			}
		}
		ids := regexp.MustCompile(`<string>([0-9A-F]{8}-[0-9A-F]{4}-8[0-9A-F]{3}-[89AB][0-9A-F]{3}-[0-9A-F]{12})</string>`).FindAllString(profile, -1)
		if len(ids) != 2 || ids[0] == ids[1] {
			t.Errorf("%s: got the UUIDs %q, want two", tt.says, ids)
		}
	}
}

// TestDocsConfigurationIsGood: what the documentation shows can be read, and phones get both addresses by it.
func TestDocsConfigurationIsGood(t *testing.T) {
	page, err := os.ReadFile("../../../docs/operation.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, ok := strings.Cut(string(page), "```yaml phones\n")
	block, _, closed := strings.Cut(after, "```")
	if !ok || !closed {
		t.Fatal("docs/operation.md has no block marked phones")
	}
	_, more, _ := strings.Cut(gatewayText, "\n")
	_, more, _ = strings.Cut(more, "\n")
	listen, _, _ := strings.Cut(gatewayText, "\n")
	c := gateway(t, gatewayText, listen+"\n"+strings.ReplaceAll(block, "/etc/penstock/", "")+more)
	if a, err := AccessOf(c, c.Peers.At(1)); err != nil || !strings.HasPrefix(a.URL, "https://dns.example.com/dns-query/") || !strings.HasSuffix(a.Host, ".dns.example.com") {
		t.Errorf("got %+v, %v", a, err)
	}
}
