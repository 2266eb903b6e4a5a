package e2e

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"penstock/e2e/netlab"
)

// laptop [pen0 -> penstock] --- access (captures) --- internet: casino.example, public.example
//
//	\                                   |
//	 ======= WireGuard =======> [penstock] gateway --- intranet
func TestSitesByCurl(t *testing.T) {
	t.Parallel()
	w := newWorld(t).up(t)
	tryAll(t, w.Laptop, []attempt{
		{"a gambling site has no address", "curl https://casino.example/", "", []int{noSuchName}},
		{"a name below it has none either", "curl https://www.casino.example/", "", []int{noSuchName}},
		{"by its address, with the name in TLS, it is refused", "curl --resolve casino.example:443:203.0.113.20 https://casino.example/", "", cutOff()},
		{"over IPv6 too", "curl -6 --resolve casino.example:443:[2001:db8:113::20] https://casino.example/", "", cutOff()},
		{"by its address, with the name in plain HTTP, a page says why not", "curl --resolve casino.example:80:203.0.113.20 http://casino.example/", "the rule <b>no-gambling</b>", nil},
		{"at another site's address it is refused", "curl -H Host:casino.example http://public.example/", "This site is blocked", nil},
		{"an adult site from a hosts file is refused", "curl --resolve adult.example:80:203.0.113.21 http://adult.example/", "in the category <b>adult</b>", nil},
		{"a public site is reached", "curl https://public.example/", "this is public.example\n", nil},
		{"a public site is reached over IPv6", "curl -6 https://public.example/", "this is public.example\n", nil},
		{"a public site is reached over plain HTTP", "curl http://public.example/", "this is public.example\n", nil},
		{"a public site is reached over HTTP/1.1 with TLS", "curl --http1.1 https://public.example/", "this is public.example\n", nil},
		{"a public site sees the gateway", "curl -4 http://public.example/client", "198.51.100.10:", nil},
		{"the intranet is reached by name", "curl https://intranet.corp.example/", "this is intranet.corp.example\n", nil},
		{"the intranet is reached over IPv6", "curl -6 https://intranet.corp.example/", "this is intranet.corp.example\n", nil},
		{"a second name of the intranet is reached", "curl http://wiki.corp.example/", "this is wiki.corp.example\n", nil},
		{"the intranet sees the gateway", "curl -4 http://intranet.corp.example/client", "10.20.0.1:", nil},
		{"a closed port is refused", "curl http://public.example:4/", "", []int{notConnected}},
		{"a closed port is refused over IPv6", "curl -6 http://public.example:4/", "", []int{notConnected}},
		{"a closed port of the intranet is refused", "curl https://intranet.corp.example:4/", "", []int{notConnected}},
		{"a dead host times out", "curl --max-time 2 http://dead.example:22/", "", []int{timedOut}},
		{"a dead host times out over IPv6", "curl -6 --max-time 2 http://dead.example:22/", "", []int{timedOut}},
	})
	for _, row := range []struct{ sentence, dst, rule, source string }{
		{"TLS named the gambling site", gamblingIPv4 + ":443", "no-gambling", "sni"},
		{"TLS named it over IPv6", "[" + gamblingIPv6 + "]:443", "no-gambling", "sni"},
		{"HTTP named it", gamblingIPv4 + ":80", "no-gambling", "http"},
		{"HTTP named the adult site", adultIPv4 + ":80", "no-adult", "http"},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			f := w.laptop.denied(t, row.dst)
			if f.Rule != row.rule || f.HostSource != row.source || f.Verdict != "block" {
				t.Errorf("got %+v, want a block by %s, the name from %s", f, row.rule, row.source)
			}
		})
	}
	w.nothingInClear(t)
}

// laptop [pen0 -> penstock] === WireGuard ===> [penstock] gateway --- internet: UDP 443 of casino.example and news.example
func TestQUICIsJudgedByTheNameInIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t).up(t)
	for _, row := range []struct {
		sentence, addr, name string
		arrives              bool
	}{
		{"a gambling site is refused", gamblingIPv4, netlab.GamblingSite, false},
		{"a gambling site at another's address is refused", newsIPv4, netlab.GamblingSite, false},
		{"a news site is reached", newsIPv4, netlab.NewsSite, true},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			site, err := w.Internet.ListenPacket(t.Context(), "udp", net.JoinHostPort(row.addr, "443"))
			if err != nil {
				t.Fatal(err)
			}
			arrived, ended := make(chan int, 1), make(chan struct{})
			go func() {
				defer close(ended)
				n, _, err := site.ReadFrom(make([]byte, 2000))
				if err == nil {
					arrived <- n
				}
			}()
			defer func() {
				site.Close()
				<-ended // only then is the port free for the next row
			}()
			conn, err := w.Laptop.DialContext(t.Context(), "udp", net.JoinHostPort(row.addr, "443"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Write(quicInitial(t, row.name)); err != nil {
				t.Fatal(err)
			}
			if !row.arrives {
				// Refused is told by an ICMP message, which the client's next read shows.
				within(t, conn)
				if _, err := conn.Read(make([]byte, 1)); !isRefused(err) {
					t.Errorf("the client's read: got %v, want refused", err)
				}
				if f := w.laptop.denied(t, net.JoinHostPort(row.addr, "443")); f.HostSource != "quic" || f.Host != row.name {
					t.Errorf("got %+v, want %s from quic", f, row.name)
				}
				select {
				case n := <-arrived:
					t.Errorf("the site got %d bytes, want none", n)
				default:
				}
				return
			}
			select {
			case n := <-arrived:
				if n != quicInitialSize {
					t.Errorf("the site got %d bytes, want %d", n, quicInitialSize)
				}
			case <-time.After(patience):
				t.Error("the site got nothing")
			}
		})
	}
	w.nothingInClear(t)
}

// laptop [pen0 -> penstock] --- one connection, two requests ---> public.example
func TestASecondRequestIsJudgedToo(t *testing.T) {
	t.Parallel()
	w := newWorld(t).up(t)
	for _, row := range []struct {
		sentence, second string
		served           bool
	}{
		{"for the same host it is served", netlab.PublicSite, true},
		{"for a gambling site it is not", netlab.GamblingSite, false},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			conn := dial(t, w.Laptop, "tcp", publicIPv4+":80")
			first := exchange(t, conn, "GET / HTTP/1.1\r\nHost: public.example\r\n\r\n")
			if !strings.HasSuffix(first, "this is public.example\n") {
				t.Fatalf("the first request: got %q, want the page", first)
			}
			second := exchange(t, conn, fmt.Sprintf("GET / HTTP/1.1\r\nHost: %s\r\n\r\n", row.second))
			want := ""
			if row.served {
				want = "this is " + row.second + "\n"
			}
			if !strings.HasSuffix(second, want) || want == "" && second != "" {
				t.Errorf("the second request: got %q, want %q at its end, or a new connection for it", second, want)
			}
		})
	}
	w.nothingInClear(t)
}
