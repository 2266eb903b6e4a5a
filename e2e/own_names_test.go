package e2e

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"

	"penstock/e2e/netlab"
)

const ownNames = `dns:
  peers: peers.example
  listen: 127.0.0.1:53
  records:
    wiki.own.example: [10.20.0.10, "fd20::10"]
    handbook.own.example: 10.20.0.10
    "*.dev.own.example": 10.20.0.10
    git.own.example: {cname: wiki.own.example}
    www.own.example: {cname: public.example}
    play.own.example: 10.20.0.10
    mail.own.example: {mx: 10 wiki.own.example, txt: "v=spf1 -all"}
`

const ownNamesRules = `rules:
  - {name: no-play, match: {domain: play.own.example}, do: block}
  - {name: intranet, match: {cidr: [10.20.0.0/24, "fd20::/64"], group: [staff]}, do: direct}
  - {name: handbook, match: {domain: handbook.own.example}, do: direct}
  - {name: no-private, match: {cidr: private}, do: block}
  - {name: rest, do: direct}
`

var digStatus = regexp.MustCompile(`status: (\w+)`)

// dig asks the gateway and returns the response code and the data of the answers, aliases first.
func dig(t *testing.T, h *netlab.Host, server string, args ...string) string {
	t.Helper()
	r := run(t, h, program(t, "dig"), append([]string{"+noall", "+comments", "+answer", "+tries=2", "+timeout=5", "@" + server}, args...)...)
	status := digStatus.FindStringSubmatch(r.stdout)
	if status == nil {
		t.Errorf("dig %v: %s", args, r)
		return ""
	}
	got := status[1:]
	for line := range strings.Lines(r.stdout) {
		if fields := strings.Fields(line); len(fields) > 4 && fields[2] == "IN" {
			got = append(got, strings.Join(fields[4:], " "))
		}
	}
	return strings.Join(got, " ")
}

// laptop: wireguard-go, of staff \
//
//	access: wireguard-go, ben, a contractor  === WireGuard ===> [penstock] gateway --- intranet
func TestNamesOfOurOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	benKey, benPublic := keyPair(t)
	laptopPublic := regexp.MustCompile(`name: laptop, public_key: ([^,]+),`).FindStringSubmatch(w.read(t, "gateway.yaml"))[1]
	w.edit(t, "gateway.yaml", rulesOf(t, w, "gateway.yaml"), ownNamesRules)
	w.edit(t, "gateway.yaml", "dns:\n", ownNames)
	w.edit(t, "gateway.yaml", "metrics: {", "metrics: {compat: wireguard, ")
	w.edit(t, "gateway.yaml", "peers:\n  - ", "peers:\n  - {name: ben, public_key: "+benPublic+", allowed_ips: [10.99.0.3/32], groups: [contractors]}\n  - ")
	w.write(t, "ben.conf", strings.NewReplacer(w.fill.Replace("PrivateKey = LAPTOP_KEY"), "PrivateKey = "+benKey,
		"Address = 10.99.0.2/32, fd99::2/128", "Address = 10.99.0.3/32").Replace(w.read(t, "corp.conf")))
	w.gateway = start(t, w.Gateway, w.path("gateway.yaml"))
	stock(t, w.Laptop, w.path("corp.conf"), "10.99.0.0/24", "10.20.0.0/24")
	stock(t, w.Access, w.path("ben.conf"), "10.99.0.0/24", "10.20.0.0/24")
	l, err := w.Intranet.Listen(t.Context(), "tcp", netlab.IntranetIPv4+":5001")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "hello")
			c.Close()
		}
	}()
	reaches := func(h *netlab.Host) bool {
		return run(t, h, program(t, "nc"), "-d", "-w", "3", netlab.IntranetIPv4, "5001").stdout == "hello"
	}

	t.Run("what who sees", func(t *testing.T) {
		if reaches(w.Access) {
			t.Error("ben reaches the intranet without a name")
		}
		const absent = "NXDOMAIN"
		for _, row := range []struct{ sentence, question, staff, contractor, machine string }{
			{"a record", "wiki.own.example A", "NOERROR 10.20.0.10", absent, "NOERROR 10.20.0.10"},
			{"of the other family", "wiki.own.example AAAA", "NOERROR fd20::10", absent, "NOERROR fd20::10"},
			{"in any spelling, over TCP", "+tcp WIKI.own.EXAMPLE A", "NOERROR 10.20.0.10", absent, "NOERROR 10.20.0.10"},
			{"of a type that is not there", "wiki.own.example TXT", "NOERROR", absent, "NOERROR"},
			{"an alias", "git.own.example A", "NOERROR wiki.own.example. 10.20.0.10", absent, "NOERROR wiki.own.example. 10.20.0.10"},
			{"an alias of a public name", "www.own.example A", "NOERROR public.example. 203.0.113.10", "NOERROR public.example. 203.0.113.10", "NOERROR public.example. 203.0.113.10"},
			{"a wildcard", "a.b.dev.own.example A", "NOERROR 10.20.0.10", absent, "NOERROR 10.20.0.10"},
			{"what a rule blocks", "play.own.example A", absent, absent, absent},
			{"what has no address leads to no host that is closed", "mail.own.example MX", "NOERROR 10 wiki.own.example.", "NOERROR", "NOERROR 10 wiki.own.example."},
			{"with DNSSEC", "+dnssec mail.own.example TXT", `NOERROR "v=spf1 -all"`, `NOERROR "v=spf1 -all"`, `NOERROR "v=spf1 -all"`},
			{"a reverse name", "-x 10.20.0.10", "NOERROR wiki.own.example.", absent, "NOERROR wiki.own.example."},
			{"a peer", "laptop.peers.example A", "NOERROR 10.99.0.2", absent, "NOERROR 10.99.0.2"},
			{"its other address", "laptop.peers.example AAAA", "NOERROR fd99::2", absent, "NOERROR fd99::2"},
			{"another peer", "ben.peers.example A", absent, "NOERROR 10.99.0.3", "NOERROR 10.99.0.3"},
			{"by its address", "-x 10.99.0.3", absent, "NOERROR ben.peers.example.", "NOERROR ben.peers.example."},
			{"the gateway", "gateway.peers.example A", "NOERROR 10.99.0.1", "NOERROR 10.99.0.1", "NOERROR 10.99.0.1"},
			{"nobody", "nobody.peers.example A", absent, absent, absent},
			{"a host of a split zone", "intranet.corp.example A", "NOERROR 10.20.0.10", absent, "NOERROR 10.20.0.10"},
			{"of the other family", "intranet.corp.example AAAA", "NOERROR fd20::10", absent, "NOERROR fd20::10"},
			{"over TCP, verified", "+tcp +dnssec +adflag intranet.corp.example A", "NOERROR 10.20.0.10", absent, "NOERROR 10.20.0.10"},
			{"of a type that is not there", "intranet.corp.example TXT", "NOERROR", absent, "NOERROR"},
			{"mail of it", "intranet.corp.example MX", "NOERROR", absent, "NOERROR"},
			{"a host that the zone has not", "absent.corp.example TXT", absent, absent, absent},
			{"the zone itself", "corp.example TXT", absent, absent, absent},
			{"a name that is not ours", "public.example A", "NOERROR 203.0.113.10", "NOERROR 203.0.113.10", "NOERROR 203.0.113.10"},
		} {
			args := strings.Fields(row.question)
			for who, got := range map[string][2]string{
				"staff":      {dig(t, w.Laptop, gatewayInner4, args...), row.staff},
				"contractor": {dig(t, w.Access, gatewayInner4, args...), row.contractor},
				"machine":    {dig(t, w.Gateway, "127.0.0.1", args...), row.machine},
			} {
				if got[0] != got[1] {
					t.Errorf("%s: %s: %s: got %q, want %q", row.sentence, row.question, who, got[0], got[1])
				}
			}
		}
		if asked := append(w.PublicDNS.Queries(), w.IntranetDNS.Queries()...); slices.ContainsFunc(asked, func(q netlab.Query) bool { return strings.Contains(fmt.Sprint(q), "peers.example") }) {
			t.Errorf("an upstream was asked for a peer: %v", asked)
		}
	})
	t.Run("a flow is judged by the name of a record", func(t *testing.T) {
		if reaches(w.Access) {
			t.Fatal("ben reaches the intranet before he asks for the handbook")
		}
		if got := dig(t, w.Access, gatewayInner4, "handbook.own.example", "A"); got != "NOERROR 10.20.0.10" {
			t.Fatalf("the handbook: got %s", got)
		}
		if !reaches(w.Access) {
			t.Error("ben does not reach the address that the handbook has")
		}
		r := w.gateway.cli(t, "explain", "tcp://handbook.own.example:5001", "--from", "ben")
		if r.code != 0 || !strings.Contains(r.stdout, "handbook") || !regexp.MustCompile(`record at .*gateway.yaml:\d+`).MatchString(r.stdout) {
			t.Errorf("explain: got %s, want the rule and the record", r)
		}
		r = w.gateway.cli(t, "explain", "tcp://wiki.own.example:5001", "--from", "ben")
		if r.code != exitBlocked || !strings.Contains(r.stdout, "no-private") {
			t.Errorf("explain: got %s, want it blocked", r)
		}
	})
	t.Run("peers come and go", func(t *testing.T) {
		names := func(want string) {
			t.Helper()
			eventually(t, "cleo is "+want, func() error {
				if got := dig(t, w.Gateway, "127.0.0.1", "cleo.peers.example", "A"); got != want {
					return fmt.Errorf("got %s", got)
				}
				return nil
			})
		}
		names("NXDOMAIN")
		w.gateway.must(t, "peer", "add", "cleo", "-o", w.path("cleo.conf"))
		address := strings.Split(regexp.MustCompile(`Address = ([^\n]+)`).FindStringSubmatch(w.read(t, "cleo.conf"))[1], "/")[0]
		names("NOERROR " + address)
		if out := w.gateway.must(t, "dns", "query", "cleo.peers.example"); !strings.Contains(out, "known from the peer cleo") {
			t.Errorf("dns query: got %s", out)
		}
		if out := w.gateway.must(t, "dns", "query", "cleo.peers.example", "--from", "ben"); !strings.Contains(out, "NXDOMAIN") || !strings.Contains(out, "hidden: no flow of the client may go to "+address) {
			t.Errorf("dns query --from ben: got %s", out)
		}
		if got := dig(t, w.Laptop, gatewayInner4, "cleo.peers.example", "A"); got != "NXDOMAIN" {
			t.Errorf("another peer: got %s", got)
		}
		w.gateway.must(t, "peer", "disable", "cleo")
		names("NXDOMAIN")
		w.gateway.must(t, "peer", "enable", "cleo")
		names("NOERROR " + address)
		w.gateway.must(t, "peer", "rm", "cleo")
		names("NXDOMAIN")
		if r := w.gateway.cli(t, "peer", "add", "gateway", "-o", w.path("bad.conf")); r.code == 0 || !strings.Contains(r.stderr, "the gateway itself is gateway.peers.example") {
			t.Errorf("peer add gateway: got %s, want it refused", r)
		}
	})
	t.Run("a rule between peers shows their names", func(t *testing.T) {
		w.edit(t, "gateway.yaml", "rules:\n", "rules:\n  - {name: help-desk, match: {group: [staff], peers: true, port: 22}, do: direct}\n")
		w.gateway.must(t, "reload")
		for _, row := range []struct {
			who            *netlab.Host
			question, want string
		}{
			{w.Laptop, "ben.peers.example A", "NOERROR 10.99.0.3"},
			{w.Laptop, "-x 10.99.0.3", "NOERROR ben.peers.example."},
			{w.Access, "laptop.peers.example A", "NXDOMAIN"},
			{w.Access, "-x 10.99.0.2", "NXDOMAIN"},
		} {
			if got := dig(t, row.who, gatewayInner4, strings.Fields(row.question)...); got != row.want {
				t.Errorf("%s asks for %s: got %s, want %s", row.who.Name(), row.question, got, row.want)
			}
		}
	})
	t.Run("records follow the configuration", func(t *testing.T) {
		w.edit(t, "gateway.yaml", "handbook.own.example: 10.20.0.10\n", "handbook.own.example: 10.20.0.99\n")
		w.gateway.must(t, "reload")
		if got := dig(t, w.Laptop, gatewayInner4, "handbook.own.example", "A"); got != "NOERROR 10.20.0.99" {
			t.Errorf("after a reload: got %s", got)
		}
		w.edit(t, "gateway.yaml", "handbook.own.example: 10.20.0.99\n", "handbook.own.example: {cname: wiki.own.example, a: 10.20.0.9}\n")
		if r := w.gateway.cli(t, "reload"); r.code == 0 || !regexp.MustCompile(`gateway\.yaml:\d+:\d+: handbook\.own\.example is an alias, and has other records too`).MatchString(r.stderr) {
			t.Errorf("a bad record: got %s", r)
		}
	})
	t.Run("the metrics of another exporter", func(t *testing.T) {
		labels := fmt.Sprintf(`{allowed_ips="10.99.0.2/32,fd99::2/128",friendly_name="laptop",interface="penstock",public_key=%q}`, laptopPublic)
		for _, name := range []string{"wireguard_sent_bytes_total", "wireguard_received_bytes_total", "wireguard_latest_handshake_seconds"} {
			if n := w.metric(t, w.Gateway, name+labels); n == 0 {
				t.Errorf("got no %s%s", name, labels)
			}
		}
	})
}

// laptop [pen0 -> penstock] === WireGuard ===> [penstock] gateway --- internet
func TestRecordsOnALaptop(t *testing.T) {
	t.Parallel()
	const server = "10.77.0.2"
	w := newWorld(t, "dns:\n", `dns:
  records:
    news.own.example: `+newsIPv4+`
    old.own.example: {cname: news.own.example}
    web.own.example: {cname: public.example, ttl: 10s}
    play.own.example: {cname: `+netlab.GamblingSite+`}
    printer.local: 10.20.0.10
`, "rules:\n", "rules:\n  - {name: no-news, match: {domain: old.own.example}, do: block}\n").up(t)
	for _, row := range []struct{ sentence, question, want string }{
		{"a record", "news.own.example A", "NOERROR " + newsIPv4},
		{"of the other family", "news.own.example AAAA", "NOERROR"},
		{"an alias of what others know", "web.own.example A", "NOERROR public.example. " + publicIPv4},
		{"a blocked alias", "old.own.example A", "NXDOMAIN"},
		{"an alias of a blocked site", "play.own.example A", "NXDOMAIN"},
		{"a private address is no trick of an upstream", "printer.local A", "NOERROR 10.20.0.10"},
		{"a reverse name", "-x " + newsIPv4, "NOERROR news.own.example."},
	} {
		got := dig(t, w.Laptop, server, strings.Fields(row.question)...)
		if got != row.want {
			t.Errorf("%s: %s: got %q, want %q", row.sentence, row.question, got, row.want)
		}
	}
	if r := run(t, w.Laptop, program(t, "getent"), "ahostsv4", "news.own.example"); !strings.Contains(r.stdout, newsIPv4) {
		t.Errorf("getent: got %s", r)
	}
	if out := w.laptop.must(t, "dns", "query", "web.own.example"); !regexp.MustCompile(`known from the record at .*laptop\.yaml:\d+, from 10\.99\.0\.1`).MatchString(out) &&
		!regexp.MustCompile(`known from the record at .*laptop\.yaml:\d+, from the cache`).MatchString(out) {
		t.Errorf("dns query: got %s", out)
	}
	w.nothingInClear(t)
}
