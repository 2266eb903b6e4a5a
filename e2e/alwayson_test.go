package e2e

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"penstock/e2e/netlab"
)

// chatter sends traffic of five kinds from the laptop, a packet of each every few milliseconds, until the returned
// function is called: what the access router must never see in clear, whatever becomes of penstock meanwhile.
func chatter(t *testing.T, w *world) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var wg sync.WaitGroup
	query := []byte{0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 6, 'c', 'a', 's', 'i', 'n', 'o', 7, 'e', 'x', 'a', 'm', 'p', 'l', 'e', 0, 0, 1, 0, 1}
	uplink := &net.UDPAddr{IP: net.ParseIP(netlab.LaptopIPv4)}
	for _, send := range []func(){
		func() { // TCP
			short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
			defer cancel()
			if c, err := w.Laptop.DialContext(short, "tcp4", publicIPv4+":80"); err == nil {
				c.Close()
			}
		},
		func() { datagram(w.Laptop, nil, newsIPv4+":4000", []byte("in clear")) },
		func() { datagram(w.Laptop, nil, netlab.ResolverIPv4+":53", query) },
		func() { datagram(w.Laptop, nil, "["+publicIPv6+"]:4000", []byte("in clear")) },
		func() { datagram(w.Laptop, uplink, gamblingIPv4+":4000", []byte("in clear")) },
		func() { // ICMP
			_ = w.Laptop.Do(func() error {
				c, err := net.Dial("ip4:icmp", publicIPv4)
				if err == nil {
					_, err = c.Write([]byte{8, 0, 0xf7, 0xfd, 0, 1, 0, 1})
					c.Close()
				}
				return err
			})
		},
	} {
		wg.Go(func() {
			for ctx.Err() == nil {
				send()
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	return func() { cancel(); wg.Wait() }
}

// datagram sends one, from an address if one is given. It may fail: the network may be gone.
func datagram(h *netlab.Host, from *net.UDPAddr, to string, b []byte) {
	_ = h.Do(func() error {
		dst := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to))
		c, err := net.DialUDP("udp", from, dst)
		if err == nil {
			_, err = c.Write(b)
			c.Close()
		}
		return err
	})
}

// carriesOnce opens a connection to the intranet and wants an echo back within a moment.
func (w *world) carriesOnce(limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	c, err := w.Laptop.DialContext(ctx, "tcp", fmt.Sprintf("%s:%d", netlab.IntranetIPv4, netlab.EchoPort))
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("here")); err != nil {
		return err
	}
	_, err = io.ReadFull(c, make([]byte, 4))
	return err
}

// untilCarrying waits until connections to the intranet work, and returns how long that took.
func (w *world) untilCarrying(t *testing.T) time.Duration {
	t.Helper()
	start := time.Now()
	for {
		err := w.carriesOnce(300 * time.Millisecond)
		if err == nil {
			return time.Since(start)
		}
		if time.Since(start) > 2*patience {
			t.Fatalf("nothing is carried after %v: %v\n%s", 2*patience, err, w.laptop.cli(t, "status"))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// soaking says that the tests may take the time that the figures are promised for.
func soaking() bool { return os.Getenv("PENSTOCK_SOAK") == "1" }

// figures collects durations, for a table of medians and maxima at the end.
type figures map[string][]time.Duration

func (f figures) add(what string, d time.Duration) { f[what] = append(f[what], d) }

func (f figures) log(t *testing.T) {
	t.Helper()
	for what, list := range f {
		slices.Sort(list)
		t.Logf("%-50s n=%-3d median %6.0f ms  max %6.0f ms", what, len(list),
			float64(list[len(list)/2].Microseconds())/1000, float64(list[len(list)-1].Microseconds())/1000)
	}
}

// stream is one way of a long TCP connection with the intranet through the tunnel. One end sends the numbers 0, 1, 2 and so on, a few
// hundred a second, and the other checks every byte.
type stream struct {
	got  atomic.Uint64 // numbers that came, each eight bytes
	over chan error
}

func newStream() *stream { return &stream{over: make(chan error, 1)} }

func (s *stream) receive(c net.Conn) { s.over <- receiveNumbers(c, &s.got) }

// openStreams opens a connection to the intranet, with a stream from there, one to there, or both. Either may be nil.
func openStreams(t *testing.T, w *world, port string, down, up *stream) {
	t.Helper()
	l, err := w.Intranet.Listen(t.Context(), "tcp", ":"+port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	run := func(c net.Conn, sends, receives *stream) {
		if sends != nil {
			go sendNumbers(c)
		}
		if receives != nil {
			go receives.receive(c)
		}
	}
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		accepted <- c
		run(c, down, up)
	}()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := w.Laptop.DialContext(ctx, "tcp", netlab.IntranetIPv4+":"+port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		select {
		case c := <-accepted:
			c.Close()
		default:
		}
	})
	run(c, up, down)
}

func sendNumbers(c net.Conn) {
	for n := uint64(0); ; n++ {
		if _, err := c.Write(binary.BigEndian.AppendUint64(nil, n)); err != nil {
			return
		}
		time.Sleep(3 * time.Millisecond)
	}
}

func receiveNumbers(c net.Conn, got *atomic.Uint64) error {
	b := make([]byte, 8)
	for {
		if _, err := io.ReadFull(c, b); err != nil {
			return err
		}
		if n := binary.BigEndian.Uint64(b); n != got.Load() {
			return fmt.Errorf("got number %d, want %d", n, got.Load())
		}
		got.Add(1)
	}
}

// flows wants that the stream still moves, and returns how long it took to.
func (s *stream) flows(t *testing.T, when string) time.Duration {
	t.Helper()
	start, before := time.Now(), s.got.Load()
	eventually(t, "the long stream moves after "+when, func() error {
		select {
		case err := <-s.over:
			t.Fatalf("the long stream ended after %s: %v", when, err)
		default:
		}
		if s.got.Load() == before {
			return fmt.Errorf("still at number %d", before)
		}
		return nil
	})
	return time.Since(start)
}

// laptop [pen0 -> penstock] === WireGuard ===> [penstock] gateway --- intranet
//
//	killed and started again, over and over, while programs talk and the access router watches
func TestThirtyKillsLeakNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t).up(t)
	took := figures{}
	defer chatter(t, w)()
	for range 30 {
		w.laptop.kill(t)
		time.Sleep(50 * time.Millisecond) // a moment in which nobody runs
		start := time.Now()
		w.laptop.start(t)
		w.untilCarrying(t)
		took.add("from start after SIGKILL to carrying", time.Since(start))
	}
	w.nothingInClear(t)
	took.log(t)
}

// laptop [pen0 -> penstock] lan0 --- access  \
//
//	lan1 --- access2 --- internet --- [penstock] gateway --- intranet
func TestOutagesAreSurvived(t *testing.T) {
	t.Parallel()
	w := newWorld(t).up(t)
	second, err := w.Access2.Capture("lan", netlab.Endpoint{Network: "udp", Addr: netip.MustParseAddrPort(netlab.GatewayIPv4 + ":51820")})
	if err != nil {
		t.Fatal(err)
	}
	down, up, bothDown, bothUp := newStream(), newStream(), newStream(), newStream()
	openStreams(t, w, "5001", down, nil)
	openStreams(t, w, "5002", nil, up)
	openStreams(t, w, "8080", bothDown, bothUp) // a web port: it ends in the laptop's penstock too
	w.laptop.carried(t, netlab.IntranetIPv4+":8080", "terminated")
	took := figures{}
	defer chatter(t, w)()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	holeLasts := 5 * time.Second
	if soaking() {
		holeLasts = 30 * time.Second
	}
	for _, row := range []struct {
		name   string
		break_ func()
		mend   func()
		lasts  time.Duration
	}{
		{
			"a black hole", func() { must(w.Access.Blackhole("lan", true)); must(w.Access.Blackhole("wan", true)) },
			func() { must(w.Access.Blackhole("lan", false)); must(w.Access.Blackhole("wan", false)) }, holeLasts,
		},
		{
			"a black hole for answers only", func() { must(w.Access.Blackhole("wan", true)) },
			func() { must(w.Access.Blackhole("wan", false)) }, 5 * time.Second,
		},
		{
			"the link going down", func() { must(w.Disconnect(w.Uplinks[0])) },
			func() { must(w.Connect(w.Uplinks[0], 0)) }, 2 * time.Second,
		},
		{
			"another address on the same link", func() { must(w.Disconnect(w.Uplinks[0])) },
			func() {
				u := w.Uplinks[0]
				u.Addrs = []netip.Prefix{netip.MustParsePrefix("192.168.50.11/24"), netip.MustParsePrefix("fd50::11/64")}
				w.Uplinks[0] = u
				must(w.Connect(u, 0))
			}, 100 * time.Millisecond,
		},
		{
			"a move to another network", func() { must(w.Disconnect(w.Uplinks[0])) },
			func() { must(w.Connect(w.Uplinks[1], 0)) }, 100 * time.Millisecond,
		},
	} {
		row.break_()
		time.Sleep(row.lasts)
		row.mend()
		took.add("from the end of "+row.name+" to carrying", w.untilCarrying(t))
		took.add("from carrying after "+row.name+" to a stream from the intranet", down.flows(t, row.name))
		took.add("from carrying after "+row.name+" to a stream to the intranet", up.flows(t, row.name))
		took.add("from carrying after "+row.name+" to the way from there of a stream both ways", bothDown.flows(t, row.name))
		took.add("from carrying after "+row.name+" to the way to there of a stream both ways", bothUp.flows(t, row.name))
	}
	for _, r := range []netlab.Report{w.capture.Stop(), second.Stop()} {
		if r.Clear > 0 || r.Dropped > 0 {
			t.Errorf("got %d packets in clear and %d not seen, want none: %v", r.Clear, r.Dropped, r.Samples)
		}
	}
	took.log(t)
}

// laptop [pen0 -> penstock] === WireGuard ===> [penstock, killed, stopped] gateway --- intranet
func TestServerTroubleIsNoticed(t *testing.T) {
	t.Parallel()
	w := newWorld(t).up(t)
	took := figures{}
	defer chatter(t, w)()
	t.Run("a server that forgot its sessions is met again", func(t *testing.T) {
		w.gateway.kill(t)
		w.gateway.start(t)
		took.add("from a server without sessions to carrying", w.untilCarrying(t))
	})
	t.Run("a server that stopped answering is not called connected", func(t *testing.T) {
		w.gateway.signal(t, "STOP")
		start := time.Now()
		var reason string
		eventually(t, "the laptop says that it is reconnecting", func() error {
			var s struct{ State, Reason string }
			w.laptop.ask(t, &s, "status")
			reason = s.Reason
			if s.State != "reconnecting" {
				return fmt.Errorf("state %s", s.State)
			}
			return nil
		})
		took.add("from a dead server under traffic to reconnecting", time.Since(start))
		if reason != "keepalive_timeout" && reason != "handshake_failed" {
			t.Errorf("got reason %q, want keepalive_timeout", reason)
		}
		// Policy holds while nothing is connected.
		if r := run(t, w.Laptop, "curl", "-sS", "--max-time", "3", "https://"+gamblingIPv4+"/"); r.code == 0 {
			t.Errorf("a blocked address was reached while the tunnel was down: %s", r)
		}
		w.gateway.signal(t, "CONT")
		took.add("from a server's return to carrying", w.untilCarrying(t))
	})
	w.nothingInClear(t)
	took.log(t)
}

// laptop [pen0 -> penstock, frozen] === WireGuard ===> [penstock] gateway --- intranet
func TestASleepIsNotDeath(t *testing.T) {
	t.Parallel()
	w := newWorld(t).up(t)
	took := figures{}
	lasts := 7 * time.Second // longer than what counts as sleep
	if soaking() {
		lasts = time.Minute
	}
	for range 3 { // as a lid that opens and closes
		w.laptop.signal(t, "STOP")
		time.Sleep(lasts)
		w.laptop.signal(t, "CONT")
		took.add("from the end of a sleep to carrying", w.untilCarrying(t))
	}
	if said := w.laptop.said.String(); strings.Contains(said, "keepalive timeout") {
		t.Errorf("a sleep was taken for death:\n%s", said)
	}
	w.nothingInClear(t)
	took.log(t)
}

// laptop [pen0 -> penstock] lan0 --- access that hands out routes and claims networks
func TestTheAccessNetworkCannotPullTrafficOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t).up(t)
	defer chatter(t, w)()
	for _, row := range []struct{ name, does string }{
		{"a route more specific than the default, as DHCP option 121 sets it", "ip route add 203.0.113.0/24 via 192.168.50.1 dev lan0"},
		{"routes for one host", "ip route add 203.0.113.10/32 via 192.168.50.1 dev lan0; ip route add 10.20.0.10/32 via 192.168.50.1 dev lan0"},
		{"routes for half the internet each", "ip route add 0.0.0.0/1 via 192.168.50.1 dev lan0; ip route add 128.0.0.0/1 via 192.168.50.1 dev lan0"},
		{"an IPv6 route, as a router advertisement sets it", "ip -6 route add 2001:db8:113::/64 via fd50::1 dev lan0"},
		{"an address of the target's network on the LAN", "ip addr add 203.0.113.77/24 dev lan0"},
	} {
		if r := run(t, w.Laptop, "sh", "-c", row.does); r.code != 0 {
			t.Fatalf("%s: %s", row.does, r)
		}
		if err := w.carriesOnce(patience); err != nil {
			t.Errorf("%s: service is lost: %v", row.name, err)
		}
		w.works(t)
	}
	w.nothingInClear(t)
}

// laptop [pen0 -> penstock], whose rules, routes and firewall somebody else tidies away
func TestWhatOthersRemoveIsPutBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t).up(t)
	took := figures{}
	defer chatter(t, w)()
	for _, does := range []string{
		"ip rule del priority 5005", "ip rule del priority 5006", "ip -6 rule del priority 5006", "ip -6 rule del priority 5005", "ip route flush table 7077",
		"ip -6 route flush table 7077", "nft flush ruleset", "ip addr del 10.77.0.1/24 dev pen0", "ip addr del fd77::1/64 dev pen0",
	} {
		before := state(t, w.Laptop)
		if r := run(t, w.Laptop, "sh", "-c", does); r.code != 0 {
			t.Fatalf("%s: %s", does, r)
		}
		start := time.Now()
		eventually(t, "the host is as it was before: "+does, func() error {
			if now := state(t, w.Laptop); !sameSettings(now, before) {
				return fmt.Errorf("(- before, + now)\n%s", difference(before, now))
			}
			return nil
		})
		took.add("from removal to repair", time.Since(start))
		w.untilCarrying(t)
	}
	w.nothingInClear(t)
	took.log(t)
}

// sameSettings compares states without what the kernel counts: handles of nftables, and link-local noise.
func sameSettings(a, b string) bool { return difference(a, b) == "" }
