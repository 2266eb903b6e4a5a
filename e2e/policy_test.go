package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"penstock/e2e/netlab"
)

// Addresses that belong to known resolvers in the world outside, and here to a server of the lab.
const knownResolver4, knownResolver6 = "8.8.8.8", "2001:4860:4860::8888"

// way is one way round a block: something that a program on the laptop does to reach a site that the rules refuse.
type way struct {
	sentence string
	// try reports whether it got through, from a host. An error is as good as being refused.
	try func(t *testing.T, c *tryer) (through bool, err error)
	// futile says that the lab's servers would not serve it either: there is no control.
	futile bool
}

// tryer is a host from which ways are tried.
type tryer struct {
	*world
	host *netlab.Host
}

// tries is how long one way may take: a refusal by silence is a refusal.
const tries = 4 * time.Second

// dial connects from the host, for no longer than a way may take.
func (c *tryer) dial(t *testing.T, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(t.Context(), tries)
	defer cancel()
	conn, err := c.host.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { conn.Close() })
	return conn, conn.SetDeadline(time.Now().Add(tries))
}

// newPolicyWorld is a world with all blocks that the ways below go round.
func newPolicyWorld(t *testing.T, edits ...string) *world {
	t.Helper()
	w := newWorld(t, append([]string{
		"dns:\n", "limits: {reject_storm: 100000}\ndns:\n  enforce: true\n",
		"  - {name: intranet,", "  - {name: strict, match: {category: adult, cidr: [203.0.113.21, \"2001:db8:113::21\"]}, do: {action: block, unnamed: block}}\n  - {name: intranet,",
	}, edits...)...)
	w.write(t, "gambling.txt", strings.Join([]string{netlab.GamblingSite, "xn--glcksspiel-feb.example", ""}, "\n"))
	if err := w.PublicDNS.Add(
		"www.casino.example. 60 IN A "+gamblingIPv4,
		"xn--glcksspiel-feb.example. 60 IN A "+gamblingIPv4,
		"alias.example. 60 IN CNAME casino.example.",
		"alias2.example. 60 IN CNAME alias.example.",
		"service.example. 60 IN HTTPS 1 casino.example. alpn=h2 ipv4hint="+gamblingIPv4,
		"hinted.example. 60 IN HTTPS 0 casino.example.",
		"casino.example. 60 IN HTTPS 1 . alpn=h2 ipv4hint="+gamblingIPv4,
		"casino.example. 60 IN TXT \"v=spf1 -all\"",
		"casino.example. 60 IN MX 10 mail.casino.example.",
		"encrypted.example. 60 IN HTTPS 1 . alpn=h2 ech=AEX+DQBBBAAgACAAAAAA",
		"dns.google. 60 IN A "+knownResolver4,
		"use-application-dns.net. 60 IN A "+publicIPv4,
		"mask.icloud.com. 60 IN A "+publicIPv4,
		"_dns.resolver.arpa. 60 IN SVCB 1 dns.google. alpn=h2 ipv4hint="+knownResolver4,
	); err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{knownResolver4 + "/32", knownResolver6 + "/128"} {
		if err := w.Internet.AddAddr("lo", prefix(a)); err != nil {
			t.Fatal(err)
		}
	}
	w.serveMore(t)
	w.serveOtherPorts(t)
	return w
}

// serveMore opens the servers that a way may want beside the lab's own: web on a second port, DNS over TLS, and UDP that
// tells what it has got.
func (w *world) serveMore(t *testing.T) {
	t.Helper()
	web := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { fmt.Fprintf(rw, "this is %s\n", r.Host) })
	serve := func(address string, handler func(net.Conn)) {
		l, err := w.Internet.Listen(t.Context(), "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		var over sync.WaitGroup
		over.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				over.Go(func() { defer c.Close(); handler(c) })
			}
		})
		t.Cleanup(func() { l.Close() })
	}
	l, err := w.Internet.Listen(t.Context(), "tcp", ":8080")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: web}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	serve(":853", func(c net.Conn) { io.WriteString(c, "resolver\n") })
	serve(":22", func(c net.Conn) { io.WriteString(c, "SSH-2.0-lab\r\n"); io.Copy(c, c) })
	serve(":25", func(c net.Conn) { io.WriteString(c, "220 lab ESMTP\r\n"); io.Copy(c, c) })
	addresses := []string{gamblingIPv4 + ":443", "[" + gamblingIPv6 + "]:443", newsIPv4 + ":443", netlab.ResolverIPv4 + ":853", knownResolver4 + ":443"}
	for _, port := range datagramPorts {
		addresses = append(addresses, fmt.Sprintf("%s:%d", gamblingIPv4, port), fmt.Sprintf("%s:%d", newsIPv4, port))
	}
	for _, address := range addresses {
		udp, err := w.Internet.ListenPacket(t.Context(), "udp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { udp.Close() })
		go func() {
			buf := make([]byte, 1<<16)
			for {
				n, from, err := udp.ReadFrom(buf)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err == nil {
					fmt.Fprintf(&packetWriter{udp, from}, "got %d", n)
				}
			}
		}()
	}
}

// packetWriter answers one sender.
type packetWriter struct {
	net.PacketConn
	to net.Addr
}

func (w *packetWriter) Write(b []byte) (int, error) { return w.WriteTo(b, w.to) }

// laptop [pen0 -> penstock] === WireGuard ===> [penstock] gateway --- internet
//
// Each way is tried twice: from the access router, which nothing filters, to see that it works at all, and from the
// laptop.
func TestNoWayRoundABlock(t *testing.T) { eachDatapath(t, noWayRoundABlock) }

// eachDatapath runs a test with packets that cross penstock and with connections that end in it.
func eachDatapath(t *testing.T, test func(t *testing.T, edits ...string)) {
	t.Parallel()
	for _, datapath := range []string{"auto", "terminate"} {
		t.Run(datapath, func(t *testing.T) {
			t.Parallel()
			test(t, "listen:\n", "datapath: "+datapath+"\nlisten:\n")
		})
	}
}

func noWayRoundABlock(t *testing.T, datapath ...string) {
	w := newPolicyWorld(t, datapath...).up(t)
	open, closed := &tryer{w, w.Access}, &tryer{w, w.Laptop}
	through, controls, tried := 0, 0, 0
	for _, group := range [][]way{waysInHTTP(), waysInTLS(), waysInQUIC(), waysInDNS(), waysOnOtherPorts()} {
		for _, way := range group {
			t.Run(way.sentence, func(t *testing.T) {
				tried++
				if !way.futile {
					got, err := way.try(t, open)
					if !got {
						t.Errorf("control: without a filter it does not get through either: %v", err)
					} else {
						controls++
					}
				}
				if got, _ := way.try(t, closed); got {
					through++
					t.Error("it got through")
				}
			})
		}
	}
	t.Logf("ways round a block: %d tried from the laptop, %d of them seen to work without a filter, %d got through", tried, controls, through)
	if tried < 130 {
		t.Errorf("tried %d ways, want 130 or more", tried)
	}
	w.nothingInClear(t)
}

// laptop [pen0 -> penstock] === WireGuard ===> [penstock] gateway --- internet
func TestWhatIsAllowedWorks(t *testing.T) { eachDatapath(t, whatIsAllowedWorks) }

func whatIsAllowedWorks(t *testing.T, datapath ...string) {
	w := newPolicyWorld(t, datapath...).up(t)
	c := &tryer{w, w.Laptop}
	worked := 0
	rows := allowed()
	for _, row := range rows {
		t.Run(row.sentence, func(t *testing.T) {
			ok, err := row.try(t, c)
			if !ok {
				t.Errorf("got %v, want it to work", err)
				return
			}
			worked++
		})
	}
	t.Logf("allowed things: %d tried, %d worked", len(rows), worked)
	w.nothingInClear(t)
}

// allowed is what must work beside the blocks.
func allowed() []way {
	says := func(address, send, want string) func(*testing.T, *tryer) (bool, error) {
		return func(t *testing.T, c *tryer) (bool, error) {
			conn, err := c.dial(t, "tcp", address)
			if err != nil {
				return false, err
			}
			if _, err := io.WriteString(conn, send); err != nil {
				return false, err
			}
			buf := make([]byte, len(want))
			_, err = io.ReadFull(conn, buf)
			return string(buf) == want, err
		}
	}
	get := func(proto, url string) func(*testing.T, *tryer) (bool, error) {
		return func(t *testing.T, c *tryer) (bool, error) {
			client := c.Client(c.host)
			client.Timeout = 2 * tries
			if proto == "HTTP/1.1" {
				client.Transport.(*http.Transport).ForceAttemptHTTP2 = false
			}
			res, err := client.Get(url)
			if err != nil {
				return false, err
			}
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			return strings.HasPrefix(string(body), "this is ") && res.Proto == proto, err
		}
	}
	return []way{
		{"an SSH server that speaks first", says(publicIPv4+":22", "", "SSH-2.0-lab\r\n"), false},
		{"an SMTP server that speaks first", says(publicIPv4+":25", "", "220 lab ESMTP\r\n"), false},
		{"HTTPS by HTTP/2", get("HTTP/2.0", "https://public.example/"), false},
		{"HTTPS by HTTP/1.1", get("HTTP/1.1", "https://public.example/"), false},
		{"plain HTTP", get("HTTP/1.1", "http://public.example/"), false},
		{"plain HTTP on another port", get("HTTP/1.1", "http://public.example:8080/"), false},
		{"plain HTTP on a port that nobody expects", get("HTTP/1.1", "http://public.example:8880/"), false},
		{"HTTPS on a port that nobody expects", get("HTTP/1.1", "https://public.example:4443/"), false},
		{"TLS to an unknown address on such a port", tlsTo(publicIPv4+":4443", "public.example", nil), false},
		{"QUIC on a port that nobody expects", quicTo(newsIPv4+":8443", func(t *testing.T) [][]byte { return [][]byte{quicInitial(t, netlab.NewsSite)} }), false},
		{"single letters to an SSH server", func(t *testing.T, c *tryer) (bool, error) {
			conn, err := c.dial(t, "tcp", publicIPv4+":22")
			if err != nil {
				return false, err
			}
			got := make([]byte, len("SSH-2.0-lab\r\n")+3)
			for _, letter := range []string{"G", "E", "T"} {
				time.Sleep(400 * time.Millisecond)
				if _, err := io.WriteString(conn, letter); err != nil {
					return false, err
				}
			}
			_, err = io.ReadFull(conn, got)
			return strings.HasSuffix(string(got), "GET"), err
		}, false},
		{"the intranet", get("HTTP/2.0", "https://intranet.corp.example/"), false},
		{"a site beside a blocked one in the alphabet", get("HTTP/2.0", "https://news.example/"), false},
		{"HTTP keep-alive, ten requests on one connection", func(t *testing.T, c *tryer) (bool, error) {
			conn, err := c.dial(t, "tcp", publicIPv4+":80")
			if err != nil {
				return false, err
			}
			for range 10 {
				answer, err := ask(conn, "GET / HTTP/1.1\r\nHost: public.example\r\n\r\n")
				if err != nil || answer != "this is public.example\n" {
					return false, fmt.Errorf("got %q, %w", answer, err)
				}
			}
			return true, nil
		}, false},
		{"a WebSocket upgrade", websocket, false},
		{"a TLS hello in small segments, slowly", tlsTo(newsIPv4+":443", "news.example", inSegments(40, 10*time.Millisecond)), false},
		{"TLS without a name, where no rule is strict", tlsTo(publicIPv4+":443", "", nil), false},
		{"TLS to a site that offers ECH to nobody in particular", tlsWith(newsIPv4+":443", greaseECH(), nil), false},
		{"a client on port 443 that waits for the server", func(t *testing.T, c *tryer) (bool, error) {
			conn, err := c.dial(t, "tcp", publicIPv4+":443")
			if err != nil {
				return false, err
			}
			time.Sleep(time.Second) // longer than the budget
			client := tls.Client(conn, &tls.Config{RootCAs: c.CA.Pool(), ServerName: "public.example"})
			return client.HandshakeContext(t.Context()) == nil, nil
		}, false},
		{"a QUIC hello", quicTo(newsIPv4+":443", func(t *testing.T) [][]byte { return [][]byte{quicInitial(t, netlab.NewsSite)} }), false},
		{"an idle connection that goes on", func(t *testing.T, c *tryer) (bool, error) {
			conn, err := c.dial(t, "tcp", "echo.example:7")
			if err != nil {
				return false, err
			}
			time.Sleep(2 * time.Second)
			_, err = io.WriteString(conn, "still here\n")
			buf := make([]byte, 11)
			_, readErr := io.ReadFull(conn, buf)
			return string(buf) == "still here\n", errors.Join(err, readErr)
		}, false},
		{"a half-closed connection", func(t *testing.T, c *tryer) (bool, error) {
			conn, err := c.dial(t, "tcp", "echo.example:7")
			if err != nil {
				return false, err
			}
			if _, err := io.WriteString(conn, "last words"); err != nil {
				return false, err
			}
			if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
				return false, err
			}
			b, err := io.ReadAll(conn)
			return string(b) == "last words", err
		}, false},
		{"a half-closed HTTP request", func(t *testing.T, c *tryer) (bool, error) {
			conn, err := c.dial(t, "tcp", publicIPv4+":80")
			if err != nil {
				return false, err
			}
			if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: public.example\r\nConnection: close\r\n\r\n"); err != nil {
				return false, err
			}
			if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
				return false, err
			}
			b, err := io.ReadAll(conn)
			return strings.HasSuffix(string(b), "this is public.example\n"), err
		}, false},
		{"a foreign resolver, which is answered by penstock's", dnsAsk(netlab.ResolverIPv4+":53", "udp", "public.example", "A", publicIPv4), false},
	}
}
