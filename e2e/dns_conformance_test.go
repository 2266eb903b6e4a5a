package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"penstock/e2e/netlab"
)

// dnsYAML is a laptop with an upstream of every kind. What no zone takes goes to the server that corp.conf names.
const dnsYAML = `listen:
  tun: {name: pen0, address: [10.77.0.1/24, "fd77::1/64"], state_file: DIR/host.json}
transports:
  corp: {wireguard: {config: corp.conf}}
categories:
  gambling: {lists: [{file: gambling.txt}]}
  adult: {lists: [{file: adult.hosts}]}
dns:
  listen: ["127.0.0.1:5300", "192.168.50.10:5300"]
  clients: [127.0.0.0/8, 192.0.2.0/24]
  allow_private: [home.example]
  block_category: {adult: {answer: "null"}}
  query_log: true
  split:
    - {domains: [udp.example], upstream: {name: plain, address: "203.0.113.60:5353"}}
    - {domains: [tcp.example], upstream: {address: "tcp://203.0.113.60:5353"}}
    - {domains: [dot.example], upstream: {address: "tls://dns.example:8853", bootstrap: 203.0.113.60}}
    - {domains: [doh.example], upstream: {address: "https://dns.example:8443/dns-query", bootstrap: 203.0.113.60}}
    - {domains: [h3.example], upstream: {address: "h3://dns.example:8443/dns-query", bootstrap: 203.0.113.60}}
    - {domains: [doq.example], upstream: {address: "quic://dns.example:8853", bootstrap: 203.0.113.60}}
    - {domains: [named.example], upstream: {address: "tls://dns.example:8853"}}
    - {domains: [tunnelled.example], upstream: {address: "quic://dns.example:8853", bootstrap: 203.0.113.60, via: corp}}
    - {domains: [liar.example], upstream: {address: "tls://other.example:8853", bootstrap: 203.0.113.60}}
    - {domains: [failover.example], upstream: [{address: 203.0.113.254}, {name: second, address: "203.0.113.60:5353"}]}
    - {domains: [dead.example], upstream: {address: 203.0.113.254}}
    - {domains: [unbound.example], upstream: {address: "203.0.113.61:5354", via: corp}}
rules:
  - {name: shop, match: {domain: allowed.nowhere.example}, do: {via: corp}}
  - {name: no-gambling, match: {category: gambling}, do: block}
  - {name: no-adult, match: {category: adult}, do: block}
  - {name: no-name, match: {domain: forbidden.example}, do: block}
  - {name: silence, match: {domain: hush.example}, do: drop}
  - {name: rest, do: {via: corp}}
flow_log: {file: DIR/flows.json}
metrics: {listen: "127.0.0.1:9477"}
`

// question is what dig is asked, and what its answer has and has not.
type question struct {
	sentence string
	dig      string // its arguments
	want     []string
	never    []string
}

// laptop [dig, getent, curl -> pen0 -> penstock] --- access --- internet: upstream 203.0.113.60, unbound 203.0.113.61
//
//	\                                              |
//	 ============== WireGuard ==============> [penstock] gateway --- intranet: corp.example
//
// The table is that of the DNS server's behaviour: a row for each rule. It runs alone, because it asks much at once and counts the answers.
func TestDNSBehaviour(t *testing.T) {
	dig := program(t, "dig")
	w := newWorld(t)
	w.write(t, "corp.conf", w.fill.Replace(strings.Replace(corpConf, "DNS = 10.99.0.1", "DNS = 10.99.0.1, corp.example", 1)))
	w.write(t, "laptop.yaml", w.fill.Replace(dnsYAML))
	w.edit(t, "gateway.yaml", "dns:\n", "dns:\n  allow_private: [\".\"]\n") // what is dropped is dropped by the laptop
	up := startUpstream(t, w.Lab)
	w.startUnbound(t)
	if err := w.AccessDNS.Add("dns.example. 60 IN A " + upstreamIPv4); err != nil {
		t.Fatal(err)
	}
	if err := w.PublicDNS.Add(
		"rebind.example. 60 IN A 10.1.2.3", "nas.home.example. 60 IN A 192.168.7.7", "cdn.example. 60 IN CNAME casino.example.",
		"allowed.nowhere.example. 60 IN CNAME casino.example.", "once.example. 600 IN A 203.0.113.10",
		"casino.example. 60 IN TXT hello",
	); err != nil {
		t.Fatal(err)
	}
	w.gateway = start(t, w.Gateway, w.path("gateway.yaml"))
	w.laptop = start(t, w.Laptop, w.path("laptop.yaml"), "SSL_CERT_FILE="+netlab.CAFile) // the upstreams' certificates are the lab's
	w.connected(t)

	for _, q := range []question{
		// listening
		{"the host's resolver is ours", "public.example A", []string{"NOERROR", "203.0.113.10", "SERVER: 10.77.0.2#53"}, nil},
		{"the service address answers over TCP", "@10.77.0.2 +tcp public.example", []string{"203.0.113.10"}, nil},
		{"the service address answers over IPv6", "@fd77::2 public.example AAAA", []string{"2001:db8:113::10"}, nil},
		{"a question to any other resolver is ours", "@203.0.113.99 public.example", []string{"203.0.113.10"}, nil},
		{"a question to any other resolver is ours over TCP", "@203.0.113.53 +tcp casino.example", []string{"NXDOMAIN", "EDE: 17"}, nil},
		{"a question to any other resolver is ours over IPv6", "@2001:db8:113::53 casino.example", []string{"NXDOMAIN", "EDE: 17"}, nil},
		{"a host address answers where one is named", "@127.0.0.1 -p 5300 public.example", []string{"203.0.113.10"}, nil},
		// sizes
		{"an answer over UDP has 1232 octets at most, and says that there is more", "+ignore +bufsize=4096 big.udp.example TXT", []string{"flags: qr tc", "udp: 1232"}, nil},
		{"the whole answer comes over TCP, also from upstream", "big.udp.example TXT", []string{"ANSWER: 20"}, []string{"flags: qr tc"}},
		{"without EDNS an answer over UDP has 512 octets at most", "+noedns +ignore big.udp.example TXT", []string{"flags: qr tc"}, []string{"ANSWER: 20"}},
		// EDNS
		{"who does not speak EDNS hears none", "+noedns casino.example", []string{"NXDOMAIN"}, []string{"OPT PSEUDOSECTION"}},
		{"another version of EDNS is BADVERS", "+edns=1 +noednsnegotiation public.example", []string{"BADVERS"}, nil},
		{"DO is kept", "+dnssec public.example", []string{"flags: do"}, nil},
		{"cookies and subnets stay here", "+cookie +subnet=192.0.2.0/24 options.udp.example", []string{"203.0.113.10"}, []string{"CLIENT-SUBNET: 192"}},
		// upstreams
		{"an upstream is asked over UDP", "w.udp.example", []string{"203.0.113.10"}, nil},
		{"an upstream is asked over TCP", "w.tcp.example", []string{"203.0.113.10"}, nil},
		{"an upstream is asked over TLS", "w.dot.example", []string{"203.0.113.10"}, nil},
		{"an upstream is asked over HTTP/2", "w.doh.example", []string{"203.0.113.10"}, nil},
		{"an upstream is asked over HTTP/3", "w.h3.example", []string{"203.0.113.10"}, nil},
		{"an upstream is asked over QUIC", "w.doq.example", []string{"203.0.113.10"}, nil},
		{"an upstream is asked over QUIC through a tunnel", "w.tunnelled.example", []string{"203.0.113.10"}, nil},
		{"the name of an upstream is asked for outside", "w.named.example", []string{"203.0.113.10"}, nil},
		{"an upstream that cannot prove its name is not used", "w.liar.example", []string{"SERVFAIL", "EDE: 23"}, []string{"203.0.113.10"}},
		{"answers by those who guess are ignored", "forged.udp.example", []string{"203.0.113.10"}, []string{"203.0.113.66"}},
		{"a stock unbound answers through the tunnel", "www.unbound.example", []string{"203.0.113.11"}, nil},
		// selection
		{"when an upstream is silent, the next is asked", "w.failover.example", []string{"203.0.113.10"}, nil},
		{"when all are silent, it is SERVFAIL with the reason, and soon", "+time=7 +tries=1 w.dead.example", []string{"SERVFAIL", "EDE: 23"}, nil},
		{"one that refers to others is no resolver", "lame.udp.example", []string{"SERVFAIL", "EDE: 22"}, nil},
		// split zones and pushed DNS
		{"a domain of the tunnel's file is asked there, and its private address stays", "intranet.corp.example", []string{"10.20.0.10"}, nil},
		{"it never falls back to the public", "nosuch.corp.example", []string{"NXDOMAIN"}, nil},
		{"a name in a zone is filtered too", "cloaked.udp.example", []string{"NXDOMAIN", "EDE: 17"}, []string{"203.0.113.20"}},
		// blocks
		{"a blocked name does not exist, for 30 s", "casino.example", []string{"NXDOMAIN", "30\tIN\tSOA", "EDE: 17 (Filtered): (blocked by rule no-gambling)"}, nil},
		{"for every type", "casino.example TXT", []string{"NXDOMAIN", "EDE: 17"}, []string{"hello"}},
		{"with all names below", "a.b.casino.example HTTPS", []string{"NXDOMAIN", "EDE: 17"}, nil},
		{"in another category it has the null address", "adult.example", []string{"NOERROR", "0.0.0.0"}, nil},
		{"of both families", "adult.example AAAA", []string{"\tAAAA\t::"}, nil},
		{"a name blocked by itself is blocked for that", "forbidden.example", []string{"NXDOMAIN", "EDE: 15 (Blocked)"}, nil},
		{"a blocked name behind another blocks that", "cdn.example", []string{"NXDOMAIN", "EDE: 17"}, []string{"203.0.113.20"}},
		{"the target of a service record too", "service.udp.example HTTPS", []string{"NXDOMAIN", "EDE: 17"}, nil},
		{"unless a rule lets the first name pass", "allowed.nowhere.example", []string{"NOERROR", "203.0.113.20"}, nil},
		{"which leaves nothing for others", "cdn.example", []string{"NXDOMAIN"}, []string{"203.0.113.20"}},
		{"a rule that drops is silence", "+time=1 +tries=1 hush.example", []string{"timed out"}, nil},
		// ECH
		{"a service record has no ech while rules look at names", "ech.udp.example HTTPS", []string{`alpn="h2"`}, []string{"ech=A"}},
		// rebinding
		{"a public name has no private address", "rebind.example", []string{"NOERROR", "ANSWER: 0", "EDE: 15"}, []string{"10.1.2.3"}},
		{"from the cache likewise", "rebind.example", []string{"ANSWER: 0"}, []string{"10.1.2.3"}},
		{"where that is allowed it has", "nas.home.example", []string{"192.168.7.7"}, nil},
		// special names
		{"localhost is here", "x.localhost AAAA", []string{"::1"}, nil},
		{"a name that cannot exist does not", "x.invalid", []string{"NXDOMAIN"}, nil},
		{"onions are for others", "x.onion", []string{"NXDOMAIN"}, nil},
		{"Firefox is told to use us", "use-application-dns.net", []string{"NXDOMAIN"}, nil},
		{"with every type", "use-application-dns.net TXT", []string{"NXDOMAIN"}, nil},
		{"and Apple", "mask-h2.icloud.com", []string{"NXDOMAIN"}, nil},
		{"nobody is led to another resolver", "_dns.resolver.arpa SVCB", []string{"NOERROR", "ANSWER: 0"}, nil},
		{"private addresses have no name outside", "-x 192.168.1.1", []string{"NXDOMAIN"}, nil},
		// odd queries
		{"ANY is one HINFO", "public.example ANY +notcp", []string{"HINFO", "RFC8482"}, nil},
		{"another opcode is NOTIMP", "+opcode=STATUS public.example", []string{"NOTIMP"}, nil},
		{"another class is refused", "-c CH version.bind TXT", []string{"REFUSED"}, nil},
		{"a transfer is refused", "public.example AXFR", []string{"Transfer failed"}, nil},
		// loops
		{"an upstream that asks us back ends in SERVFAIL", "+time=7 +tries=1 loop.udp.example", []string{"SERVFAIL"}, nil},
	} {
		t.Run(q.sentence, func(t *testing.T) {
			r := run(t, w.Laptop, dig, strings.Fields(q.dig)...)
			for _, want := range q.want {
				if !strings.Contains(r.stdout, want) {
					t.Errorf("dig %s: no %q in\n%s", q.dig, want, r.stdout)
				}
			}
			for _, never := range q.never {
				if strings.Contains(r.stdout, never) {
					t.Errorf("dig %s: %q in\n%s", q.dig, never, r.stdout)
				}
			}
		})
	}
	t.Run("each way was used, and from where it should", func(t *testing.T) {
		for name, want := range map[string]string{
			"w.udp.example": "udp 192.168.50.10", "w.tcp.example": "tcp 192.168.50.10", "w.dot.example": "dot 192.168.50.10",
			"w.doh.example": "doh 192.168.50.10", "w.h3.example": "h3 192.168.50.10", "w.doq.example": "doq 192.168.50.10",
			"w.tunnelled.example": "doq 198.51.100.10", "w.named.example": "dot 192.168.50.10", "w.liar.example": "",
		} {
			got := ""
			for _, a := range up.queries(name) {
				got = a.way + " " + a.client.Addr().String()
			}
			if got != want {
				t.Errorf("%s was asked by %q, want %q", name, got, want)
			}
		}
	})
	t.Run("an upstream hears nothing of the client's options", func(t *testing.T) {
		for _, a := range up.queries("options.udp.example") {
			if opt := a.msg.IsEdns0(); opt == nil || len(opt.Option) > 0 {
				t.Errorf("got %v, want EDNS without options", opt)
			}
		}
	})
	t.Run("the network outside heard only the upstream's own name", func(t *testing.T) {
		for _, q := range w.AccessDNS.Queries() {
			if q.Name != "dns.example" {
				t.Errorf("it was asked for %s, want nothing but dns.example", q.Name)
			}
		}
		if n := w.PublicDNS.Asked("nosuch.corp.example"); n > 0 {
			t.Errorf("the public resolver was asked %d times for a name of the intranet, want never", n)
		}
	})
	w.dnsCache(t, up, dig)
	w.dnsCoalescing(t, up)
	w.dnsRawQueries(t)
	w.dnsPrograms(t, dig)
}

// startUnbound runs a stock unbound on the internet host.
func (w *world) startUnbound(t *testing.T) {
	t.Helper()
	unbound := program(t, "unbound")
	if err := w.Internet.AddAddr("lo", netip.MustParsePrefix("203.0.113.61/32")); err != nil {
		t.Fatal(err)
	}
	w.write(t, "unbound.conf", `server:
  interface: 203.0.113.61
  port: 5354
  username: ""
  chroot: ""
  directory: ""
  pidfile: ""
  use-syslog: no
  access-control: 0.0.0.0/0 allow
  local-zone: "unbound.example." static
  local-data: "www.unbound.example. 60 IN A 203.0.113.11"
remote-control:
  control-enable: no
`)
	cmd := w.Internet.Command(t.Context(), unbound, "-d", "-c", w.path("unbound.conf"))
	var said transcript
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("unbound said:\n%s", said.String())
		}
	})
}

// dnsCache looks at what is asked again and what is not.
func (w *world) dnsCache(t *testing.T, up *upstream, dig string) {
	ask := func(t *testing.T, args ...string) string {
		t.Helper()
		return run(t, w.Laptop, dig, args...).stdout
	}
	t.Run("an answer is asked for once", func(t *testing.T) {
		ask(t, "once.example")
		ask(t, "ONCE.example")
		if n := w.PublicDNS.Asked("once.example"); n != 1 {
			t.Errorf("the upstream was asked %d times, want once", n)
		}
	})
	t.Run("the spelling of the question comes back", func(t *testing.T) {
		if got := ask(t, "oNCe.eXAMPLE"); !strings.Contains(got, ";oNCe.eXAMPLE.") {
			t.Errorf("got\n%s", got)
		}
	})
	t.Run("so is that there is none", func(t *testing.T) {
		ask(t, "nowhere.udp-not.example")
		ask(t, "nowhere.udp-not.example")
		if n := w.PublicDNS.Asked("nowhere.udp-not.example"); n != 1 {
			t.Errorf("the upstream was asked %d times, want once", n)
		}
	})
	t.Run("with DO and without are two", func(t *testing.T) {
		ask(t, "aged.udp.example")
		ask(t, "+dnssec", "aged.udp.example")
		if n := len(up.queries("aged.udp.example")); n != 2 {
			t.Errorf("the upstream was asked %d times, want twice", n)
		}
	})
	t.Run("dns flush forgets", func(t *testing.T) {
		w.laptop.must(t, "dns", "flush")
		ask(t, "aged.udp.example")
		if n := len(up.queries("aged.udp.example")); n != 3 {
			t.Errorf("the upstream was asked %d times, want three times", n)
		}
	})
	t.Run("what has expired serves while the upstream is silent, for 30 s and marked", func(t *testing.T) {
		ask(t, "short.udp.example")
		up.silence(true)
		defer up.silence(false)
		eventually(t, "a stale answer", func() error {
			got := ask(t, "+time=7", "+tries=1", "short.udp.example")
			if !strings.Contains(got, "EDE: 3 (Stale Answer)") || !strings.Contains(got, "\t30\tIN\tA\t203.0.113.10") {
				return fmt.Errorf("got\n%s", got)
			}
			return nil
		})
	})
}

// dnsCoalescing asks much at once.
func (w *world) dnsCoalescing(t *testing.T, up *upstream) {
	t.Run("50 who ask the same at once are one question", func(t *testing.T) {
		conns := make([]*dns.Conn, 50)
		for i := range conns {
			conns[i] = &dns.Conn{Conn: dial(t, w.Laptop, "udp", "10.77.0.2:53")}
			if err := conns[i].WriteMsg(new(dns.Msg).SetQuestion("slow.udp.example.", dns.TypeA)); err != nil {
				t.Fatal(err)
			}
		}
		for _, c := range conns {
			if a, err := c.ReadMsg(); err != nil || len(a.Answer) != 1 {
				t.Fatalf("got %v, %v, want an address", a, err)
			}
		}
		if n := len(up.queries("slow.udp.example")); n > 3 {
			t.Errorf("the upstream was asked %d times, want at most 3", n)
		}
	})
	t.Run("2,000 questions come from as many ports and under as many ids", func(t *testing.T) {
		c := &dns.Conn{Conn: dial(t, w.Laptop, "udp", "10.77.0.2:53")}
		const n = 2000
		for begin := 0; begin < n; begin += 40 {
			for i := range 40 {
				if err := c.WriteMsg(new(dns.Msg).SetQuestion(fmt.Sprintf("n%d.ports.udp.example.", begin+i), dns.TypeA)); err != nil {
					t.Fatal(err)
				}
			}
			within(t, c)
			for range 40 {
				if _, err := c.ReadMsg(); err != nil {
					t.Fatal(err)
				}
			}
		}
		ports, ids, seen := map[uint16]bool{}, map[uint16]bool{}, 0
		up.mu.Lock()
		defer up.mu.Unlock()
		for _, a := range up.asked {
			if strings.HasSuffix(a.msg.Question[0].Name, ".ports.udp.example.") {
				ports[a.client.Port()], ids[a.msg.Id] = true, true
				seen++
			}
		}
		t.Logf("%d queries, %d ports, %d ids", seen, len(ports), len(ids))
		if seen < n || len(ports) < n*90/100 || len(ids) < n*95/100 {
			t.Errorf("got %d queries from %d ports under %d ids, want 90 %% and 95 %% of %d distinct", seen, len(ports), len(ids), n)
		}
	})
}

// dnsRawQueries sends what no resolver's client does.
func (w *world) dnsRawQueries(t *testing.T) {
	good, err := new(dns.Msg).SetQuestion("public.example.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	with := func(change func(b []byte) []byte) []byte { return change(append([]byte(nil), good...)) }
	for _, row := range []struct {
		sentence string
		query    []byte
		rcode    int // -1: silence
	}{
		{"no question is FORMERR", with(func(b []byte) []byte { b[5] = 0; return b[:12] }), dns.RcodeFormatError},
		{"two questions are FORMERR", with(func(b []byte) []byte { b[5] = 2; return append(b, b[12:]...) }), dns.RcodeFormatError},
		{"a name that points at itself is FORMERR", with(func(b []byte) []byte { return append(b[:12], 0xc0, 12, 0, 1, 0, 1) }), dns.RcodeFormatError},
		{"half a question is FORMERR", with(func(b []byte) []byte { return b[:20] }), dns.RcodeFormatError},
		{"an answer is no question", with(func(b []byte) []byte { b[2] |= 0x80; return b }), -1},
		{"half a header is no question", with(func(b []byte) []byte { return b[:11] }), -1},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			conn := dial(t, w.Laptop, "udp", "10.77.0.2:53")
			last := append([]byte{0xab, 0xcd}, good[2:]...)
			for _, b := range [][]byte{row.query, last} { // the good one behind it is answered in any case
				if _, err := conn.Write(b); err != nil {
					t.Fatal(err)
				}
			}
			got := -1
			for {
				a, err := (&dns.Conn{Conn: conn}).ReadMsg()
				if a == nil {
					t.Fatal(err)
				}
				if a.Id == 0xabcd {
					break
				}
				got = a.Rcode
			}
			if got != row.rcode {
				t.Errorf("got response code %d, want %d", got, row.rcode)
			}
		})
	}
	t.Run("a message of 64 KiB over TCP is answered", func(t *testing.T) {
		conn := dial(t, w.Laptop, "tcp", "10.77.0.2:53")
		b := append([]byte{0xff, 0xff}, good...)
		b = append(b, make([]byte, 65535-len(good))...)
		if _, err := conn.Write(b); err != nil {
			t.Fatal(err)
		}
		if a, err := (&dns.Conn{Conn: conn}).ReadMsg(); err != nil {
			t.Errorf("got %v, %v, want an answer", a, err)
		}
	})
	t.Run("a slow client over TCP keeps nobody waiting", func(t *testing.T) {
		for range 20 {
			if _, err := dial(t, w.Laptop, "tcp", "10.77.0.2:53").Write([]byte{0}); err != nil {
				t.Fatal(err)
			}
		}
		conn := dial(t, w.Laptop, "tcp", "10.77.0.2:53")
		if _, err := conn.Write(append([]byte{0, byte(len(good))}, good...)); err != nil {
			t.Fatal(err)
		}
		if a, err := (&dns.Conn{Conn: conn}).ReadMsg(); err != nil || len(a.Answer) == 0 {
			t.Errorf("got %v, %v, want an answer", a, err)
		}
	})
	t.Run("who asks too much at once is told so, and others are not", func(t *testing.T) {
		const each = 60 // of the 64 that may wait on one connection
		conns := make([]*dns.Conn, 25)
		for i := range conns {
			conns[i] = &dns.Conn{Conn: dial(t, w.Laptop, "tcp", "127.0.0.1:5300")}
			for j := range each {
				q := new(dns.Msg).SetQuestion(fmt.Sprintf("silent.n%d-%d.udp.example.", i, j), dns.TypeA).SetEdns0(1232, false)
				if err := conns[i].WriteMsg(q); err != nil {
					t.Fatal(err)
				}
			}
		}
		other := &dns.Conn{Conn: dial(t, w.Laptop, "udp", "10.77.0.2:53")}
		if err := other.WriteMsg(new(dns.Msg).SetQuestion("others.doq.example.", dns.TypeA)); err != nil {
			t.Fatal(err)
		}
		if a, err := other.ReadMsg(); err != nil || len(a.Answer) != 1 {
			t.Errorf("another client got %v, %v, want an address", a, err)
		}
		refused := 0
		for _, c := range conns {
			for range each {
				a, err := c.ReadMsg()
				if err != nil {
					t.Fatalf("a question that waits has no answer: %v", err)
				}
				if strings.Contains(a.String(), "too many queries") {
					refused++
				}
			}
		}
		if all := each * len(conns); refused < all/3 {
			t.Errorf("%d of %d questions without an answer were refused, want half of them", refused, all)
		}
	})
}

// dnsPrograms looks at what people and programs see.
func (w *world) dnsPrograms(t *testing.T, dig string) {
	tryAll(t, w.Laptop, []attempt{
		{"getent finds a public name", "getent ahosts public.example", "203.0.113.10", nil},
		{"getent finds a name of the intranet", "getent hosts wiki.corp.example", "fd20::10", nil},
		{"getent finds no blocked name", "getent hosts casino.example", "", []int{2}},
		{"curl reaches the intranet by its name", "curl https://intranet.corp.example/", "this is intranet.corp.example\n", nil},
	})
	t.Run("nobody outside is answered", func(t *testing.T) {
		for _, port := range []string{"53", "5300"} {
			if r := run(t, w.Access, dig, "@"+netlab.LaptopIPv4, "-p", port, "+time=1", "+tries=1", "public.example"); r.code == 0 {
				t.Errorf("port %s: got %s", port, r)
			}
		}
	})
	t.Run("dns query shows the answer, the rule, the list with its line, the upstream and the cache", func(t *testing.T) {
		w.laptop.must(t, "dns", "flush")
		if got := w.laptop.must(t, "dns", "query", "public.example"); !strings.Contains(got, " IN A 203.0.113.10") || strings.Contains(got, "from the cache") {
			t.Errorf("dns query public.example: got %s, want an answer of now", got)
		}
		if got := w.laptop.must(t, "dns", "query", "public.example"); strings.Contains(got, "from the cache") {
			t.Errorf("dns query public.example again: got %s: the query before it was kept", got)
		}
		run(t, w.Laptop, dig, "public.example") // a client's question is kept
		for _, row := range []struct{ args, want string }{
			{"public.example", " IN A 203.0.113.10"},
			{"public.example", "from the cache, first from corp"},
			{"shown.doq.example", "from quic://dns.example:8853"},
			{"casino.example", "rule no-gambling (gambling)"},
			{"casino.example", "gambling.txt:2"},
			{"cdn.example", "for casino.example"},
			{"public.example AAAA", "2001:db8:113::10"},
		} {
			if got := w.laptop.must(t, append([]string{"dns", "query"}, strings.Fields(row.args)...)...); !strings.Contains(got, row.want) {
				t.Errorf("dns query %s: no %q in\n%s", row.args, row.want, got)
			}
		}
		if got := w.gateway.must(t, "dns", "query", "intranet.corp.example", "--from", "laptop"); !strings.Contains(got, "10.20.0.10") {
			t.Errorf("dns query --from laptop: got\n%s", got)
		}
	})
	t.Run("a block is counted once", func(t *testing.T) {
		count := func() float64 {
			r := run(t, w.Laptop, program(t, "curl"), "-sS", "http://"+monitor+"/metrics")
			return number(t, r.stdout, `penstock_category_blocks_total\{category="gambling",layer="dns"\} ([0-9]+)`)
		}
		before := count()
		run(t, w.Laptop, dig, "cdn.example")
		if got := count() - before; got != 1 {
			t.Errorf("got %v, want 1", got)
		}
	})
	t.Run("questions are in the flow log", func(t *testing.T) {
		b, err := os.ReadFile(w.path("flows.json"))
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for line := range strings.Lines(string(b)) {
			var q struct{ Proto, Host, Verdict, Rule, Category, Decided, Src string }
			if err := json.Unmarshal([]byte(line), &q); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			_, err := netip.ParseAddrPort(q.Src)
			found = found || q.Proto == "dns" && q.Host == "cdn.example" && q.Decided == "casino.example" && q.Verdict == "block" && q.Rule == "no-gambling" && err == nil
		}
		if !found {
			t.Errorf("no block of cdn.example in\n%.2000s", b)
		}
	})
}

// laptop [penstock] with a transport that has no IPv6, and upstreams that are itself
func TestDNSWithoutIPv6AndWithItselfAsUpstream(t *testing.T) {
	t.Parallel()
	dig := program(t, "dig")
	w := newWorld(t)
	w.write(t, "corp.conf", w.fill.Replace(strings.Replace(corpConf, ", fd99::2/128", "", 1)))
	w.edit(t, "laptop.yaml", "{address: 10.99.0.1, via: corp}", "{address: 203.0.113.53}")
	w.laptop = start(t, w.Laptop, w.path("laptop.yaml"))
	t.Run("a name whose way has no IPv6 has no AAAA", func(t *testing.T) {
		if r := run(t, w.Laptop, dig, "public.example", "AAAA"); !strings.Contains(r.stdout, "NOERROR") || !strings.Contains(r.stdout, "ANSWER: 0") {
			t.Errorf("got %s", r)
		}
		if r := run(t, w.Laptop, dig, "public.example", "A"); !strings.Contains(r.stdout, "203.0.113.10") {
			t.Errorf("got %s", r)
		}
	})
	w.laptop.stop(t, os.Interrupt)
	for _, own := range []string{"10.77.0.2", "10.77.0.1", "127.0.0.53"} {
		t.Run("an upstream that is ourselves is refused: "+own, func(t *testing.T) {
			w.write(t, "own.yaml", w.fill.Replace(strings.Replace(laptopYAML, "{address: 10.99.0.1, via: corp}", "{address: "+own+"}", 1)))
			r := run(t, w.Laptop, built("penstock"), "run", "-c", w.path("own.yaml"), "--socket", w.path("own.sock"))
			if r.code == 0 || !strings.Contains(r.stderr, "leads back to this server") {
				t.Errorf("got %s", r)
			}
		})
	}
}
