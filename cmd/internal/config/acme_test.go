package config

import (
	"fmt"
	"strings"
	"testing"
)

func TestWhoGetsACertificateByACME(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "server.key", "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=")
	for _, row := range []struct{ acme, enrol, serve, signIn, sites, http string }{
		{enrol: "https://VPN.corp.example:8443", sites: "[{listen.enrol vpn.corp.example}]", http: ":80"},
		{enrol: "https://[2001:db8::1]:8443", sites: "[{listen.enrol 2001:db8::1}]", http: ":80"},
		{enrol: "https://vpn.corp.example", sites: "[{listen.enrol vpn.corp.example}]", http: ""},
		{enrol: "https://vpn.corp.example", acme: `, http: "192.0.2.1:80"`, sites: "[{listen.enrol vpn.corp.example}]", http: "192.0.2.1:80"},
		{serve: "192.0.2.1:443", sites: "[{dns.serve dns.corp.example}]", http: ""},
		{serve: "192.0.2.1:8443", sites: "[{dns.serve dns.corp.example}]", http: ":80"},
		{signIn: "https://login.corp.example/", sites: "[{sign_in login.corp.example}]", http: ":80"}, // port 443 is in the tunnel
		{enrol: "https://vpn.corp.example:8443", signIn: "https://login.corp.example/", sites: "[{listen.enrol vpn.corp.example} {sign_in login.corp.example}]", http: ":80"},
	} {
		var text strings.Builder
		fmt.Fprintf(&text, "acme: {agree: true%s}\nlisten:\n  wireguard: {address: 10.99.0.1/24, private_key: {file: server.key}}\n", row.acme)
		if row.enrol != "" {
			fmt.Fprintf(&text, "  enrol: {url: %q, acme: true}\n", row.enrol)
		}
		if row.serve != "" {
			fmt.Fprintf(&text, "dns: {serve: {name: dns.corp.example, https: %q, acme: true}}\n", row.serve)
		}
		if row.signIn != "" {
			fmt.Fprintf(&text, "sign_in: {oidc: {issuer: \"https://id.corp.example\", client_id: vpn}, required: all, url: %q, acme: true}\n", row.signIn)
		}
		c := load1(t, write(t, dir, "gateway.yaml", text.String()+"rules: {name: rest, do: direct}\n"))
		if sites, http := fmt.Sprint(ACMESites(c)), ACMEHTTP(c); sites != row.sites || http != row.http {
			t.Errorf("%s: got %s and port 80 at %q, want %s and %q", text.String(), sites, http, row.sites, row.http)
		}
	}
}

func TestTheRootsOfAnAuthorityOfOnesOwn(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "server.key", "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=")
	c := load1(t, write(t, dir, "gateway.yaml", `acme: {agree: true, directory: "https://ca.corp.example/directory", ca: roots.pem}
listen:
  wireguard: {address: 10.99.0.1/24, private_key: {file: server.key}}
  enrol: {url: "https://vpn.corp.example", acme: true}
rules: {name: rest, do: direct}
`))
	for _, row := range []struct{ text, want string }{{"", "no such file"}, {"half a certificate", "roots.pem has no certificate in PEM"}} {
		if row.text != "" {
			write(t, dir, "roots.pem", row.text)
		}
		list, files := CertificateFaults(c)
		if len(list) != 1 || !strings.Contains(list[0].Message, row.want) || list[0].Pos.Line != 1 || len(files) != 1 {
			t.Errorf("%q: got %v of %v, want one that says %q", row.text, list, files, row.want)
		}
	}
}
