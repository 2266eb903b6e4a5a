package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"penstock/e2e/netlab"
)

// laptop [pen0 -> penstock] === WireGuard ===> [penstock] gateway --- intranet: UDP echo
func TestDatagramsArriveWhole(t *testing.T) {
	t.Parallel()
	w := newWorld(t).up(t)
	for _, size := range []int{1, 1200, 1472, 4000, 20000, 60000} {
		for _, row := range []struct{ family, address string }{
			{"IPv4", net.JoinHostPort(netlab.IntranetIPv4, "7")},
			{"IPv6", net.JoinHostPort(netlab.IntranetIPv6, "7")},
		} {
			t.Run(fmt.Sprintf("%d bytes go and come over %s", size, row.family), func(t *testing.T) {
				conn := dial(t, w.Laptop, "udp", row.address)
				want := bytes.Repeat([]byte{byte(size)}, size)
				got, n, err := make([]byte, 65535), 0, error(nil)
				for range 3 { // a server's first answer that is larger than the tunnel tells it so, and is lost, as behind any router
					if _, err := conn.Write(want); err != nil {
						t.Fatal(err)
					}
					conn.SetReadDeadline(time.Now().Add(patience / 4))
					if n, err = conn.Read(got); !errors.Is(err, os.ErrDeadlineExceeded) {
						break
					}
				}
				if err != nil || !bytes.Equal(got[:n], want) {
					t.Errorf("got %d bytes, %v, want %d back", n, err, size)
				}
			})
		}
	}
	t.Run("a closed port is refused", func(t *testing.T) {
		conn := dial(t, w.Laptop, "udp", net.JoinHostPort(netlab.IntranetIPv4, "4"))
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); !isRefused(err) {
			t.Errorf("got %v, want refused", err)
		}
	})
	w.nothingInClear(t)
}

// laptop: ping [pen0 -> penstock] === WireGuard ===> [penstock] gateway --- intranet, internet
func TestPing(t *testing.T) {
	t.Parallel()
	ping := program(t, "ping")
	w := newWorld(t).up(t)
	for _, row := range []struct {
		sentence, to string
		size         int
		answered     bool
	}{
		{"a small one is answered", netlab.IntranetIPv4, 56, true},
		{"a small one over IPv6 is answered", netlab.IntranetIPv6, 56, true},
		{"an empty one is answered", netlab.IntranetIPv4, 0, true},
		{"one that fills a packet is answered", netlab.IntranetIPv4, 1372, true},
		{"one in fragments is answered", netlab.IntranetIPv4, 4000, true},
		{"one in fragments over IPv6 is answered", netlab.IntranetIPv6, 4000, true},
		{"one in many fragments is answered", netlab.IntranetIPv4, 20000, true},
		{"one in many fragments over IPv6 is answered", netlab.IntranetIPv6, 20000, true},
		{"the largest is answered", netlab.IntranetIPv4, 65507, true},
		{"the largest over IPv6 is answered", netlab.IntranetIPv6, 65507, true},
		{"a public site answers", publicIPv4, 56, true},
		{"a public site answers over IPv6", publicIPv6, 56, true},
		{"nobody does not answer", netlab.DeadIPv4, 56, false},
		{"nobody does not answer over IPv6", netlab.DeadIPv6, 56, false},
		{"nobody in the intranet does not answer", "10.20.0.99", 56, false},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			count, wait := "3", "5"
			if !row.answered {
				count, wait = "1", "1"
			}
			r := run(t, w.Laptop, ping, "-n", "-i", "0.05", "-c", count, "-W", wait, "-s", fmt.Sprint(row.size), row.to)
			// ping exits 1 if nothing came, and says so of what did come.
			if got := r.code == 0; got != row.answered || !got && r.code != 1 {
				t.Errorf("got %s\nwant answered: %t", r, row.answered)
			}
		})
	}
	t.Run("the gambling site's address alone is nothing to refuse, until a name says whose it is", func(t *testing.T) {
		if r := run(t, w.Laptop, ping, "-n", "-c", "1", "-W", "5", gamblingIPv4); r.code != 0 {
			t.Errorf("got %s, want an answer", r)
		}
	})
	w.nothingInClear(t)
}

// traces wants that the laptop's traceroute reaches the destination, which is a number of hops away, and that each of them answers.
//
// traceroute itself misses the last answer now and then, although it has come in time, and the kernel limits ICMP errors: a trace
// without an answer is repeated.
func (w *world) traces(t *testing.T, flags, to string, hops int) {
	t.Helper()
	args := append([]string{"-n", "-q", "1", "-N", "1", "-w", "2", "-m", "4"}, strings.Fields(flags)...)
	for attempt := 1; ; attempt++ {
		r := run(t, w.Laptop, program(t, "traceroute"), append(args, to)...)
		t.Logf("%s", r.stdout)
		lines := strings.Split(strings.TrimSpace(r.stdout), "\n")[1:]
		silent := strings.Contains(r.stdout, "*")
		switch {
		case len(lines) == hops && strings.Contains(lines[hops-1], " "+to+" ") && !silent:
			return
		case !silent, attempt == 5:
			t.Fatalf("got %s\nwant the destination after %d hops", r, hops)
		}
	}
}

// laptop [pen0 -> penstock] === WireGuard ===> [penstock] gateway --- intranet
//
// The laptop's TUN and the gateway are hops like any router. The gateway ends flows: beyond it is the destination.
func TestTraceroute(t *testing.T) {
	t.Parallel()
	tracepath := program(t, "tracepath")
	w := newWorld(t).up(t)
	for _, row := range []struct{ how, flags, to string }{
		{"UDP", "", netlab.IntranetIPv4}, {"UDP over IPv6", "", netlab.IntranetIPv6},
		{"QUIC's port", "-U -p 443", netlab.IntranetIPv4},
		{"echo requests", "-I", netlab.IntranetIPv4}, {"echo requests over IPv6", "-I", netlab.IntranetIPv6},
		{"TCP", "-T -p 443", netlab.IntranetIPv4}, {"TCP over IPv6", "-T -p 443", netlab.IntranetIPv6},
	} {
		t.Run(row.how, func(t *testing.T) { w.traces(t, row.flags, row.to, 3) })
	}
	t.Run("tracepath finds the tunnel's MTU on the TUN", func(t *testing.T) {
		r := run(t, w.Laptop, tracepath, "-n", "-m", "6", netlab.IntranetIPv4)
		t.Logf("%s", r.stdout)
		if !strings.Contains(r.stdout, "Resume: pmtu 1420 hops 3") {
			t.Errorf("got %s\nwant that it reaches the destination in three hops and packets of 1420 bytes", r)
		}
	})
	w.nothingInClear(t)
}
