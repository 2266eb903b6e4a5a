package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"penstock/e2e/netlab"
	"penstock/e2e/netlab/keeper"
)

// managed starts a gateway whose service manager keeps sockets.
func (w *world) managed(t *testing.T) *keeper.Manager {
	t.Helper()
	m, err := keeper.New(w.dir, 32)
	if err != nil {
		t.Fatal(err)
	}
	w.gateway = &penstock{host: w.Gateway, binary: built("penstock"), config: w.path("gateway.yaml"), socket: w.path("gateway.sock"), manage: m.Manage}
	t.Cleanup(func() {
		if w.gateway.over != nil {
			w.gateway.stop(t, syscall.SIGTERM)
		}
		if t.Failed() {
			t.Logf("the gateway said:\n%s", w.gateway.said.String())
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	w.gateway.start(t)
	return m
}

// errand is one way to use a port: it opens a connection, or sends a datagram, and wants an answer.
type errand struct {
	name    string
	from    *netlab.Host
	network string
	address string
	talk    func(net.Conn) error
}

// once runs it once.
func (e errand) once(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := e.from.DialContext(ctx, e.network, e.address)
	if err != nil {
		return err
	}
	defer c.Close()
	limit := patience
	if e.network == "udp" {
		limit /= 10 // a question that was taken and not answered is asked again
	}
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	return e.talk(c)
}

// tally is what became of an errand.
type tally struct {
	runs, again, refused, failed int
	longest                      time.Duration // that it took, with further attempts
	last                         error
}

// crowd runs errands again and again. One that fails is tried twice more, as clients do.
type crowd struct {
	errands []errand
	ctx     context.Context
	cancel  context.CancelFunc
	over    sync.WaitGroup

	mu      sync.Mutex // guards below
	tallies map[string]tally
}

// gather starts a crowd, which leaves when the test ends.
func gather(t *testing.T, errands ...errand) *crowd {
	t.Helper()
	c := &crowd{errands: errands, tallies: make(map[string]tally)}
	c.ctx, c.cancel = context.WithCancel(context.WithoutCancel(t.Context()))
	t.Cleanup(func() { c.leave() })
	for _, e := range errands {
		c.over.Go(func() { c.repeat(e) })
	}
	return c
}

func (c *crowd) repeat(e errand) {
	tick := time.NewTicker(10 * time.Millisecond) // all take turns on the hosts' threads
	defer tick.Stop()
	var n tally
	for ; c.ctx.Err() == nil; <-tick.C {
		began := time.Now()
		var err error
		for range 3 {
			if err = e.once(c.ctx); err == nil || c.ctx.Err() != nil {
				break
			}
			n.again++
			n.last = err
			if errors.Is(err, syscall.ECONNREFUSED) {
				n.refused++
			}
		}
		if c.ctx.Err() != nil {
			return
		}
		if n.runs++; err != nil {
			n.failed++
		}
		n.longest = max(n.longest, time.Since(began))
		c.mu.Lock()
		c.tallies[e.name] = n
		c.mu.Unlock()
	}
}

// now returns what has become of the errands so far, by their names.
func (c *crowd) now() map[string]tally {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.tallies)
}

// proceed waits until each errand was run some more times.
func (c *crowd) proceed(t *testing.T) {
	t.Helper()
	before := c.now()
	eventually(t, "each errand is run again", func() error {
		now := c.now()
		for _, e := range c.errands {
			if now[e.name].runs < before[e.name].runs+3 {
				return fmt.Errorf("%s: %+v", e.name, now[e.name])
			}
		}
		return nil
	})
}

func (c *crowd) leave() {
	c.cancel()
	c.over.Wait()
}

// greet writes a request, and wants an answer that begins as wanted.
func greet(request, wanted string) func(net.Conn) error {
	return func(c net.Conn) error {
		if _, err := io.WriteString(c, request); err != nil {
			return err
		}
		got := make([]byte, len(wanted))
		if _, err := io.ReadFull(c, got); err != nil {
			return err
		}
		if string(got) != wanted {
			return fmt.Errorf("got %q, want %q", got, wanted)
		}
		return nil
	}
}

// aQuestion asks for the address of public.example.
const aQuestion = "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06public\x07example\x00\x00\x01\x00\x01"

// laptop: wireguard-go; clients of all ports === WireGuard, HTTPS, SOCKS5, DNS ===> [penstock, restarted; its service manager] gateway
func TestARestartRefusesNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.edit(t, "gateway.yaml", "include:", "state_dir: state\ninclude:")
	w.edit(t, "gateway.yaml", "listen:\n", "listen:\n  enrol: {url: \""+enrolURL+"\"}\n  proxy: {address: \""+proxyAt+"\"}\n")
	w.edit(t, "gateway.yaml", "dns:\n", "dns:\n  listen: [\""+netlab.GatewayIPv4+":53\"]\n")
	m := w.managed(t)
	stock(t, w.Laptop, w.path("corp.conf"), "10.20.0.0/24")
	w.untilCarrying(t)
	all := []string{
		"tcp/127.0.0.1/9477", "tcp/198.51.100.10/1080", "tcp/198.51.100.10/53", "tcp/__/8443", "udp/0.0.0.0/51820", "udp/198.51.100.10/53", "udp/__/51820",
	}
	if got := m.Names(); !slices.Equal(got, all) {
		t.Errorf("kept: got %q, want %q", got, all)
	}
	callers := gather(t,
		errand{"metrics", w.Gateway, "tcp", monitor, greet("GET /healthz HTTP/1.0\r\n\r\n", "HTTP/1.0 200")},
		errand{"enrolment", w.Laptop, "tcp", netlab.GatewayIPv4 + ":8443", func(c net.Conn) error {
			return tls.Client(c, &tls.Config{InsecureSkipVerify: true}).Handshake() // whose it is, other tests ask
		}},
		errand{"proxy", w.Laptop, "tcp", proxyAt, greet("\x05\x01\x02", "\x05\x02")},
		errand{"DNS over TCP", w.Laptop, "tcp", netlab.GatewayIPv4 + ":53", greet("\x00\x20"+aQuestion, "\x00")},
		errand{"DNS", w.Laptop, "udp", netlab.GatewayIPv4 + ":53", greet(aQuestion, aQuestion[:2])},
		errand{"WireGuard", w.Laptop, "udp", netlab.GatewayIPv4 + ":51820", func(c net.Conn) error {
			// The second datagram would be told that the first was refused.
			for range 2 {
				if _, err := c.Write([]byte("no message of WireGuard's")); err != nil {
					return err
				}
				time.Sleep(5 * time.Millisecond)
			}
			return nil
		}},
	)
	for _, step := range []struct {
		sentence string
		end      func()
	}{
		{"SIGTERM", func() { w.gateway.stop(t, syscall.SIGTERM) }},
		{"SIGKILL", func() { w.gateway.kill(t) }},
		{"SIGTERM, again", func() { w.gateway.stop(t, syscall.SIGTERM) }},
	} {
		callers.proceed(t)
		step.end()
		began := time.Now()
		w.gateway.start(t)
		w.untilCarrying(t)
		t.Logf("%s: a stock peer is carried again after %v", step.sentence, time.Since(began).Round(time.Millisecond))
		if got := m.Names(); !slices.Equal(got, all) {
			t.Errorf("kept after %s: got %q, want %q", step.sentence, got, all)
		}
	}
	callers.proceed(t)
	callers.leave()
	for name, n := range callers.now() {
		t.Logf("%-12s %4d times, %d tried again, the longest took %v", name, n.runs, n.again, n.longest.Round(time.Millisecond))
		if n.refused > 0 || n.failed > 0 {
			t.Errorf("%s: of %d, %d were refused and %d failed at every attempt, want none: %v", name, n.runs, n.refused, n.failed, n.last)
		}
	}

	// Other ports: the old ones are closed, everywhere.
	w.gateway.kill(t)
	w.edit(t, "gateway.yaml", "127.0.0.1:9477", "127.0.0.1:9478")
	w.edit(t, "gateway.yaml", proxyAt, "127.0.0.1:1080")
	w.gateway.start(t)
	for i, name := range all {
		all[i] = strings.NewReplacer("9477", "9478", "198.51.100.10/1080", "127.0.0.1/1080").Replace(name)
	}
	slices.Sort(all)
	eventually(t, "the manager keeps the new sockets alone", func() error {
		if got := m.Names(); !slices.Equal(got, all) {
			return fmt.Errorf("got %q, want %q", got, all)
		}
		return nil
	})
	for _, v := range []errand{{"metrics", w.Gateway, "tcp", monitor, nil}, {"proxy", w.Laptop, "tcp", proxyAt, nil}} {
		if err := v.once(t.Context()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s at its old port: got %v, want it refused", v.name, err)
		}
	}
}

// laptop: wireguard-go, or penstock === WireGuard ===> [penstock, killed and started again; its service manager] gateway
//
// It measures, and asserts nothing: with the sockets that the service manager has kept and without them, in turns.
func TestHowLongPeersAreWithoutAnswers(t *testing.T) {
	if !soaking() {
		return // it takes a minute or two: task soak
	}
	for _, client := range []string{"wireguard-go", "penstock"} {
		t.Run(client, func(t *testing.T) {
			w := newWorld(t)
			w.edit(t, "gateway.yaml", "include:", "state_dir: state\ninclude:")
			m := w.managed(t)
			forget := func() { // the session, so that the next packet begins a handshake
				wg := program(t, "wg")
				key := values(w.read(t, "corp.conf"), "PublicKey")[0]
				for _, args := range [][]string{{"set", "wg0", "peer", key, "remove"}, {"addconf", "wg0", w.path("wg0.bare")}} {
					if r := run(t, w.Laptop, wg, args...); r.code != 0 {
						t.Fatalf("wg %q: %s", args, r)
					}
				}
			}
			if client == "penstock" {
				w.laptop = start(t, w.Laptop, w.path("laptop.yaml"))
				forget = func() {
					w.laptop.must(t, "down", "corp")
					w.laptop.must(t, "up", "corp")
				}
			} else {
				stock(t, w.Laptop, w.path("corp.conf"), "10.20.0.0/24")
			}
			w.untilCarrying(t)
			f := make(figures)
			for range 7 {
				for _, kept := range []bool{false, true} {
					for _, calling := range []bool{false, true} {
						w.gateway.kill(t)
						if !kept {
							m.Stop()
						}
						what := "a session before"
						if calling {
							forget()
							if err := os.Remove(w.path("state/sessions.json")); err != nil { // nor does the gateway know of it
								t.Fatal(err)
							}
							what = "a handshake begun a second before the start"
							_ = w.carriesOnce(time.Second)
						}
						began := time.Now()
						w.gateway.start(t)
						w.untilCarrying(t)
						f.add(fmt.Sprintf("%s, %s, sockets kept: %v", client, what, kept), time.Since(began))
						eventually(t, "the gateway has noted the session", func() error {
							return fresh(w.path("state/sessions.json"), began)
						})
					}
				}
			}
			f.log(t)
		})
	}
}

// fresh returns an error if a file was not written since a time.
func fresh(path string, since time.Time) error {
	at, err := os.Stat(path)
	if err == nil && at.ModTime().Before(since) {
		err = fmt.Errorf("%s is of %v", path, at.ModTime())
	}
	return err
}
