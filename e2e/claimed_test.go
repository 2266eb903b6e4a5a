package e2e

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
)

// vaultIPv4 is a second address of the intranet's host: a machine that no rule opens.
const vaultIPv4 = "10.20.0.66"

// serveVault gives the intranet a second machine. Both serve "HOST at ADDRESS" over HTTP on ports 8080 and 5080 and
// over TLS on 8443 and 5443, so that a client learns which of them has answered.
func (w *world) serveVault(t *testing.T) {
	t.Helper()
	if err := w.Intranet.AddAddr("intra", prefix(vaultIPv4+"/24")); err != nil {
		t.Fatal(err)
	}
	pages := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		local := r.Context().Value(http.LocalAddrContextKey).(net.Addr).String()
		fmt.Fprintf(rw, "%s at %s\n", r.Host, local)
	})
	certificate := &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		return w.CA.Certificate(hello.ServerName)
	}}
	for _, port := range []string{":8080", ":5080", ":8443", ":5443"} {
		l, err := w.Intranet.Listen(t.Context(), "tcp", port)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(port, "443") {
			l = tls.NewListener(l, certificate)
		}
		srv := &http.Server{Handler: pages}
		go srv.Serve(l) // ends with its listener
		t.Cleanup(func() { srv.Close() })
	}
}

// Rules that open one name of the intranet, and nothing else that is private.
const onlyWiki = `rules:
  - {name: wiki, match: {domain: wiki.corp.example}, do: DO}
  - {name: no-private, match: {cidr: private}, do: block}
  - {name: rest, do: DO}
`

// laptop [pen0 -> penstock] === WireGuard ===> [penstock] gateway --- intranet: wiki 10.20.0.10, vault 10.20.0.66
func TestAClaimedNameOpensNoOtherAddress(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.serveVault(t)
	closed := func(name, do string) {
		w.edit(t, name, rulesOf(t, w, name), strings.ReplaceAll(onlyWiki, "DO", do))
	}
	open := func(name, do string) {
		w.edit(t, name, rulesOf(t, w, name), "rules:\n  - {name: rest, do: "+do+"}\n")
	}
	closed("laptop.yaml", "{via: corp}")
	open("gateway.yaml", "direct")
	w.up(t)
	names := []attempt{
		{"the name itself works", "curl -4 http://wiki.corp.example:8080/", "wiki.corp.example:8080 at 10.20.0.10:8080", nil},
		{"a Host header leads to the name's own address", "curl --resolve wiki.corp.example:8080:10.20.0.66 http://wiki.corp.example:8080/", "at 10.20.0.10:8080", nil},
		{"a TLS name leads to the name's own address", "curl --resolve wiki.corp.example:8443:10.20.0.66 https://wiki.corp.example:8443/", "at 10.20.0.10:8443", nil},
		{"a Host header without a look-up before", "curl -H Host:wiki.corp.example http://10.20.0.66:8080/", "at 10.20.0.10:8080", nil},
		{"one in upper case, with another port and a dot", "curl -H Host:WIKI.Corp.example.:9999 http://10.20.0.66:8080/", "at 10.20.0.10:8080", nil},
		{"an absolute target of the name", "curl --request-target http://wiki.corp.example/ http://10.20.0.66:8080/", "at 10.20.0.10:8080", nil},
		{"a TLS name in upper case", "curl --resolve WIKI.CORP.example:8443:10.20.0.66 https://WIKI.CORP.example:8443/", "at 10.20.0.10:8443", nil},
		{"a Host header where the server may speak first", "curl -H Host:wiki.corp.example http://10.20.0.66:5080/", "", refusedOrCutOff()},
		{"a TLS name there", "curl --resolve wiki.corp.example:5443:10.20.0.66 https://wiki.corp.example:5443/", "", refusedOrCutOff()},
		{"the name itself there", "curl -4 https://wiki.corp.example:5443/", "wiki.corp.example:5443 at 10.20.0.10:5443", nil},
		{"the address alone is refused", "curl http://10.20.0.66:8080/", "This site is blocked", nil},
		{"an absolute target", "curl --request-target http://gone.wiki.corp.example/ http://10.20.0.66:8080/", "This site is blocked", nil},
		{"upper case, with a port and a dot", "curl -H Host:GONE.wiki.corp.example.:8080 http://10.20.0.66:8080/", "This site is blocked", nil},
		{"a name that nobody resolves is refused", "curl --resolve gone.wiki.corp.example:8443:10.20.0.66 https://gone.wiki.corp.example:8443/", "", refusedOrCutOff()},
	}
	t.Run("on the laptop", func(t *testing.T) { tryAll(t, w.Laptop, names) })
	mismatch := func(t *testing.T, p *penstock) {
		// Where a client says its hello late, its flow is refused without a name: then it tries once more.
		again := attempt{"", "curl --resolve gone.wiki.corp.example:8443:10.20.0.66 https://gone.wiki.corp.example:8443/", "", refusedOrCutOff()}
		eventually(t, "a refused flow to the vault with a name", func() error {
			for _, f := range p.flows(t, "--denied") {
				if f.Dst != vaultIPv4+":8443" || f.Host == "" {
					continue
				}
				if f.Host != "gone.wiki.corp.example" || !strings.HasPrefix(f.Reason, "mismatch: ") {
					t.Errorf("got %+v, want gone.wiki.corp.example as a mismatch", f)
				}
				return nil
			}
			again.on(t, w.Laptop)
			return errors.New("there is none")
		})
	}
	const called = "a name that our resolver does not confirm is called a mismatch"
	t.Run(called, func(t *testing.T) { mismatch(t, w.laptop) })
	open("laptop.yaml", "{via: corp}")
	closed("gateway.yaml", "direct")
	w.laptop.must(t, "reload")
	w.gateway.must(t, "reload")
	t.Run("on the gateway", func(t *testing.T) { tryAll(t, w.Laptop, names) })
	t.Run(called+", there too", func(t *testing.T) { mismatch(t, w.gateway) })
	w.nothingInClear(t)
}

// rulesOf is the text of all rules of a configuration.
func rulesOf(t *testing.T, w *world, name string) string {
	t.Helper()
	text := w.read(t, name)
	_, after, ok := strings.Cut(text, "\nrules:\n")
	if !ok {
		t.Fatalf("%s has no rules:\n%s", name, text)
	}
	rules := "rules:\n"
	for line := range strings.Lines(after) {
		if !strings.HasPrefix(line, " ") {
			break
		}
		rules += line
	}
	return rules
}

// laptop [pen0 -> penstock <- penstock explain, dns query] === WireGuard ===> [penstock <- the same] gateway --- public.example
func TestAQuestionAboutAFlowChangesNothing(t *testing.T) {
	t.Parallel()
	const onlyPublic = "rules:\n  - {name: allowed, match: {domain: public.example}, do: DO}\n  - {name: rest, do: block}\n"
	unnamed := attempt{"", "curl https://203.0.113.10/", "", refusedOrCutOff()}
	for _, row := range []struct{ host, do, from string }{{"laptop", "{via: corp}", ""}, {"gateway", "direct", " --from laptop"}} {
		t.Run("on the "+row.host, func(t *testing.T) {
			w := newWorld(t)
			name := row.host + ".yaml"
			w.edit(t, name, rulesOf(t, w, name), strings.ReplaceAll(onlyPublic, "DO", row.do))
			w.up(t)
			asked := w.laptop
			if row.host == "gateway" {
				asked = w.gateway
			}
			unnamed.on(t, w.Laptop)
			for _, question := range []string{
				"explain https://public.example/", "explain 203.0.113.10:443 --sni public.example", "dns query public.example",
				"dns query public.example AAAA",
			} {
				said := asked.must(t, strings.Fields(question+row.from)...)
				if !strings.Contains(said, "allowed") && !strings.Contains(said, "NOERROR") {
					t.Errorf("%s: got\n%s\nwant the name known: the row proves nothing", question, said)
				}
				t.Run("after "+question, func(t *testing.T) { unnamed.on(t, w.Laptop) })
			}
			// The control: what a program of the laptop resolves does count.
			attempt{"", "curl -4 https://public.example/", "this is public.example\n", nil}.on(t, w.Laptop)
			attempt{"", "curl https://203.0.113.10/", "this is 203.0.113.10\n", nil}.on(t, w.Laptop)
			w.nothingInClear(t)
		})
	}
}
