package e2e

import (
	"context"
	"crypto/tls"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"penstock/e2e/netlab"
)

// phoneAccess is what penstock peer dns prints.
type phoneAccess struct{ url, token, host string }

func readAccess(t *testing.T, text string) phoneAccess {
	t.Helper()
	m := regexp.MustCompile(`^https (https://dns\.example/dns-query/([a-z2-7]{32}))\ntls   ([a-z2-7]{32}\.dns\.example)\n$`).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("penstock peer dns printed %q", text)
	}
	return phoneAccess{m[1], m[2], m[3]}
}

// secure returns the way of TLS to the gateway with a server name.
func (w *world) secure(host, alpn string) *tls.Config {
	return &tls.Config{RootCAs: w.CA.Pool(), ServerName: host, NextProtos: []string{alpn}}
}

// post sends a query to a path of the gateway, on a connection of its own.
func (w *world) post(t *testing.T, path string, query []byte) (status int, body []byte) {
	t.Helper()
	client := &http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true, ForceAttemptHTTP2: true, TLSClientConfig: w.secure("dns.example", "h2"),
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return w.Laptop.DialContext(ctx, network, netlab.GatewayIPv4+":443")
		},
	}}
	res, err := client.Post("https://dns.example"+path, "application/dns-message", strings.NewReader(string(query)))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, err = io.ReadAll(res.Body); err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, body
}

// openTLS opens a connection of DNS over TLS.
func (w *world) openTLS(t *testing.T, host string) *dns.Conn {
	t.Helper()
	conn := tls.Client(dial(t, w.Laptop, "tcp", netlab.GatewayIPv4+":853"), w.secure(host, "dot"))
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	return &dns.Conn{Conn: conn}
}

func askOn(conn *dns.Conn, name string) (*dns.Msg, error) {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	if err := conn.WriteMsg(new(dns.Msg).SetQuestion(name, dns.TypeA)); err != nil {
		return nil, err
	}
	return conn.ReadMsg()
}

// phones: curl, dig, kdig --- HTTPS and TLS ---> [penstock: DNS] gateway --- intranet: corp.example
//
//	\--- internet: the rest
func TestPhonesAskWithTheirOwnNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := os.Mkdir(w.path("peers.d"), 0o700); err != nil {
		t.Fatal(err)
	}
	renew := func(t *testing.T, names ...string) {
		t.Helper()
		chain, key, err := w.CA.Files(names...)
		if err != nil {
			t.Fatal(err)
		}
		w.write(t, "dns.pem", string(chain))
		w.write(t, "dns.key", string(key))
	}
	renew(t, "dns.example", "*.dns.example")
	if err := w.PublicDNS.Add("dns.example. 60 IN A "+netlab.GatewayIPv4, "*.dns.example. 60 IN A "+netlab.GatewayIPv4); err != nil {
		t.Fatal(err)
	}
	w.edit(t, "gateway.yaml", "dns:\n", "dns:\n  query_log: true\n  clients: 0.0.0.0/0\n"+
		"  serve: {name: dns.example, https: 0.0.0.0:443, tls: 0.0.0.0:853, certificate: dns.pem, key: {file: dns.key}}\n")
	w.edit(t, "gateway.yaml", "rules:\n", "flow_log: {file: flows.log}\ncategories: {gambling: {lists: [{file: gambling.txt}]}}\nrules:\n"+
		"  - {name: no-gambling, match: {category: gambling, group: [kids]}, do: block}\n")
	w.gateway = start(t, w.Gateway, w.path("gateway.yaml"))
	ana := readAccess(t, w.gateway.must(t, "peer", "add", "ana-phone", "--dns-only", "--group", "staff"))
	ben := readAccess(t, w.gateway.must(t, "peer", "add", "ben-phone", "--dns-only", "--group", "kids", "-o", w.path("ben.mobileconfig")))
	if ana.token == strings.TrimSuffix(ana.host, ".dns.example") || ana.token == ben.token {
		t.Errorf("got the tokens %v and %v, want four", ana, ben)
	}

	const dig = "dig +time=5 +tries=1 +noall +comments +answer +tls-ca=" + netlab.CAFile + " @" + netlab.GatewayIPv4 + " "
	const kdig = "kdig +time=5 +retry=0 +tls-ca=" + netlab.CAFile + " @" + netlab.GatewayIPv4 + " "
	https := func(token string) string { return "+https=/dns-query/" + token + " +tls-hostname=dns.example " }
	tryAll(t, w.Laptop, []attempt{
		{sentence: "curl finds a site by its own resolver", command: "curl --doh-url " + ana.url + " http://casino.example/", want: "casino.example"},
		{sentence: "curl of a child finds none", command: "curl --doh-url " + ben.url + " http://casino.example/", codes: []int{noSuchName}},
		{sentence: "curl of a child finds others", command: "curl --doh-url " + ben.url + " http://public.example/", want: "public.example"},
		{sentence: "dig over HTTPS", command: dig + https(ana.token) + "casino.example", want: gamblingIPv4},
		{sentence: "dig over HTTPS by GET", command: dig + "+https-get=/dns-query/" + ana.token + " +tls-hostname=dns.example casino.example", want: gamblingIPv4},
		{sentence: "dig of a child over HTTPS", command: dig + https(ben.token) + "casino.example", want: "status: NXDOMAIN"},
		{sentence: "kdig over TLS", command: kdig + "+tls-hostname=" + ana.host + " casino.example", want: gamblingIPv4},
		{sentence: "kdig of a child over TLS", command: kdig + "+tls-hostname=" + ben.host + " casino.example", want: "status: NXDOMAIN"},
		{sentence: "who may go to the intranet is told where it is", command: kdig + "+tls-hostname=" + ana.host + " intranet.corp.example", want: netlab.IntranetIPv4},
		{sentence: "who may not is not", command: kdig + "+tls-hostname=" + ben.host + " intranet.corp.example", want: "ANSWER: 0;"},
		{sentence: "nobody is answered over HTTPS", command: "curl -o /dev/null -w %{http_code} https://dns.example/dns-query?dns=AAABAAABAAAAAAAAA3d3dwdleGFtcGxlA2NvbQAAAQAB", want: "404"},
		{sentence: "nobody is answered over TLS", command: kdig + "+tls-hostname=dns.example public.example", codes: []int{1}},
		{sentence: "a token for HTTPS is none for TLS", command: kdig + "+tls-hostname=" + ana.token + ".dns.example public.example", codes: []int{1}},
	})
	t.Run("the log names the phones", func(t *testing.T) {
		log := w.read(t, "flows.log")
		for _, want := range []string{`"peer":"ana-phone","host":"casino.example","type":"A","verdict":"dns"`, `"peer":"ben-phone","host":"casino.example","type":"A","verdict":"block","rule":"no-gambling"`} {
			if !strings.Contains(log, want) {
				t.Errorf("the log lacks %s:\n%s", want, log)
			}
		}
		for _, protocol := range []string{"https", "tls"} {
			if n := w.metric(t, w.Gateway, `penstock_dns_encrypted_queries_total{protocol="`+protocol+`"}`); n < 2 {
				t.Errorf("got %v questions over %s, want those that were asked", n, protocol)
			}
		}
	})
	t.Run("the profile is a property list", func(t *testing.T) {
		profile := w.read(t, "ben.mobileconfig")
		for d := xml.NewDecoder(strings.NewReader(profile)); ; {
			if _, err := d.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("%v:\n%s", err, profile)
			}
		}
		if !strings.Contains(profile, "<key>ServerURL</key>\n<string>"+ben.url+"</string>") || !strings.Contains(profile, "<string>com.apple.dnsSettings.managed</string>") {
			t.Errorf("got the profile\n%s", profile)
		}
	})
	t.Run("addresses that were renewed are dead on an open connection", func(t *testing.T) {
		open := w.openTLS(t, ana.host)
		if a, err := askOn(open, "public.example."); err != nil || len(a.Answer) != 1 {
			t.Fatalf("got %v, %v", a, err)
		}
		before := ana
		ana = readAccess(t, w.gateway.must(t, "peer", "dns", "ana-phone", "--renew"))
		if a, err := askOn(open, "public.example."); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v, %v, want the connection closed", a, err)
		}
		query, err := new(dns.Msg).SetQuestion("public.example.", dns.TypeA).Pack()
		if err != nil {
			t.Fatal(err)
		}
		if code, _ := w.post(t, "/dns-query/"+before.token, query); code != http.StatusNotFound {
			t.Errorf("the former path: got %d", code)
		}
		if code, _ := w.post(t, "/dns-query/"+ana.token, query); code != http.StatusOK {
			t.Errorf("the new path: got %d", code)
		}
		a, err := askOn(w.openTLS(t, ana.host), "public.example.")
		if err != nil || len(a.Answer) != 1 {
			t.Errorf("the new name: got %v, %v", a, err)
		}
	})
	t.Run("who is removed is out, on an open connection too", func(t *testing.T) {
		open := w.openTLS(t, ben.host)
		if a, err := askOn(open, "public.example."); err != nil || len(a.Answer) != 1 {
			t.Fatalf("got %v, %v", a, err)
		}
		w.gateway.must(t, "peer", "rm", "ben-phone")
		within(t, open.Conn)
		if n, err := open.Conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read %d bytes, %v, want the connection closed", n, err)
		}
		if r := run(t, w.Laptop, program(t, "kdig"), strings.Fields(kdig + "+tls-hostname=" + ben.host + " public.example")[1:]...); r.code == 0 {
			t.Errorf("its name: got %s", r)
		}
	})
	t.Run("a new certificate is served without a restart, and a bad one is not", func(t *testing.T) {
		serial := func() string {
			conn := w.openTLS(t, ana.host)
			defer conn.Close()
			return conn.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String()
		}
		served := func() {
			t.Helper()
			before := serial()
			renew(t, "dns.example", "*.dns.example")
			eventually(t, "the new certificate is served", func() error {
				if serial() == before {
					return fmt.Errorf("still the one before")
				}
				return nil
			})
		}
		served()
		before := serial()
		w.write(t, "dns.pem", "-----BEGIN CERTIFICATE-----\nhalf of")
		eventually(t, "status tells of the bad certificate", func() error {
			if r := w.gateway.cli(t, "status"); r.code != 4 || !strings.Contains(r.stdout, "degraded: dns.serve: the certificate before stays in force: ") {
				return fmt.Errorf("status: %s", r)
			}
			return nil
		})
		if now := serial(); now != before {
			t.Errorf("got certificate %s, want %s still", now, before)
		}
		w.gateway.must(t, "peer", "add", "cleo-phone", "--dns-only") // and it keeps nobody from changing peers
		served()
		eventually(t, "status is well again", func() error {
			if r := w.gateway.cli(t, "status"); r.code != 0 {
				return fmt.Errorf("status: %s", r)
			}
			return nil
		})
	})
	t.Run("who guesses is limited, and others are served", func(t *testing.T) {
		codes := make(map[int]int)
		for i := range 1000 {
			code, _ := w.post(t, fmt.Sprintf("/dns-query/%032d", i), nil)
			codes[code]++
		}
		if codes[http.StatusNotFound]+codes[http.StatusTooManyRequests] != 1000 || codes[http.StatusTooManyRequests] < 500 {
			t.Errorf("got %v, want most of them limited", codes)
		}
		if n := w.metric(t, w.Gateway, `penstock_dns_encrypted_refused_total{reason="guessing"}`); n < 500 {
			t.Errorf("metrics: got %v guesses", n)
		}
		if r := run(t, w.Laptop, program(t, "kdig"), strings.Fields(kdig + "+tls-hostname=" + ana.host + " public.example")[1:]...); r.code != 0 {
			t.Errorf("a phone at the same address: got %s", r)
		}
	})
	t.Run("strangers are answered where that is wanted, but not about the intranet", func(t *testing.T) {
		w.edit(t, "gateway.yaml", "key: {file: dns.key}", "key: {file: dns.key}, anonymous: true")
		w.gateway.must(t, "reload")
		tryAll(t, w.Laptop, []attempt{
			{sentence: "over HTTPS", command: "curl --doh-url https://dns.example/dns-query http://public.example/", want: "public.example"},
			{sentence: "over TLS", command: kdig + "+tls-hostname=dns.example public.example", want: publicIPv4},
			{sentence: "not about the intranet", command: kdig + "+tls-hostname=dns.example intranet.corp.example", want: "status: REFUSED"},
		})
	})
	if said := w.gateway.said.String(); strings.Contains(said, ana.token) || strings.Contains(said, strings.TrimSuffix(ana.host, ".dns.example")) || strings.Contains(said, ben.token) {
		t.Errorf("a token is in the log:\n%s", said)
	}
}
