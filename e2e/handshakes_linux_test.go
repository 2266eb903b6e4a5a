package e2e

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/sys/unix"

	"penstock/e2e/netlab"
)

// initiations are WireGuard handshake initiations to a gateway whose public key is known, each with its own random content and a right
// first MAC, so that only what they carry shows that they are nobody's (WireGuard whitepaper, 5.4.2 and 5.4.4).
func initiations(t *testing.T, public string, n int) [][]byte {
	t.Helper()
	key, err := base64.StdEncoding.DecodeString(public)
	if err != nil {
		t.Fatal(err)
	}
	label := blake2s.Sum256(append([]byte("mac1----"), key...))
	all := make([][]byte, n)
	for i := range all {
		b := make([]byte, 148)
		if _, err := rand.Read(b); err != nil {
			t.Fatal(err)
		}
		copy(b, []byte{1, 0, 0, 0})
		mac, err := blake2s.New128(label[:])
		if err != nil {
			t.Fatal(err)
		}
		mac.Write(b[:116])
		copy(b[116:], mac.Sum(nil))
		clear(b[132:])
		all[i] = b
	}
	return all
}

// strange is datagrams that somebody on the internet sends to a gateway.
type strange struct {
	name   string
	change func(initiation []byte) []byte // nil: none
	from   func(i int) netip.Addr
}

// stranges are floods of what nobody's peer sends.
func stranges() []strange {
	one := func(int) netip.Addr { return silent(0) }
	typed := func(kind byte, size int) func([]byte) []byte {
		return func(b []byte) []byte {
			b = append(b, make([]byte, size)...)[:size]
			copy(b, []byte{kind, 0, 0, 0})
			return b
		}
	}
	changed := func(at int) func([]byte) []byte {
		return func(b []byte) []byte { b[at] ^= 1; return b }
	}
	return []strange{
		{"handshakes from many addresses", nil, silent},
		{"handshakes from one address", nil, one},
		{"handshakes with a wrong second MAC", changed(132), silent},
		{"handshakes with a wrong first MAC", changed(116), silent},
		{"answers to no handshake", typed(2, 92), silent}, // whose first MAC is wrong: the door does not look at it
		{"data of no session", typed(4, 148), silent},
	}
}

// of returns initiations as s has them.
func (s strange) of(initiations [][]byte) [][]byte {
	if s.change == nil {
		return initiations
	}
	all := make([][]byte, len(initiations))
	for i, b := range initiations {
		all[i] = s.change(append([]byte(nil), b...))
	}
	return all
}

// spoofed sends datagrams from the internet as if they came from other addresses, and returns how many and how fast.
func (w *world) spoofed(t *testing.T, to netip.AddrPort, from func(i int) netip.Addr, datagrams [][]byte, n, rate int) poured {
	t.Helper()
	var fd int
	err := w.Internet.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	packets := make([][]byte, len(datagrams))
	for i, d := range datagrams {
		b := make([]byte, 8, 8+len(d)) // without a checksum
		binary.BigEndian.PutUint16(b[2:], to.Port())
		binary.BigEndian.PutUint16(b[4:], uint16(8+len(d)))
		packets[i] = append(b, d...)
	}
	dst := &unix.SockaddrInet4{Addr: to.Addr().As4()}
	p, err := pour(n, rate, func(i int) error {
		b := packets[i%len(packets)]
		binary.BigEndian.PutUint16(b, uint16(1024+i%60000))
		return unix.Sendto(fd, fromSource(unix.IPPROTO_UDP, from(i), to.Addr(), b), 0, dst)
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// goodput is how many bytes a second come while does runs.
func goodput(got *atomic.Int64, does func()) float64 {
	before, began := got.Load(), time.Now()
	does()
	return float64(got.Load()-before) / time.Since(began).Seconds()
}

// laptop: wireguard-go, a download === WireGuard ===> udp 51820 [penstock] gateway --- intranet: source
// internet: handshakes of nobody, from many addresses ---> udp 51820
//
// The same datagrams at a port that nobody reads are the baseline: they take the sender's and the kernel's part of the machine.
func TestHandshakesOfNobodyLeaveRoomForALiveSession(t *testing.T) {
	if !soaking() {
		t.Parallel()
	}
	w := newWorld(t)
	sh(t, w.Internet, "ip route add blackhole "+silentNet)
	w.gateway = start(t, w.Gateway, w.path("gateway.yaml"))
	stock(t, w.Laptop, w.path("corp.conf"), "10.20.0.0/24", "10.99.0.0/24")
	serveSource(t, w)
	unread, err := w.Gateway.ListenPacket(t.Context(), "udp", netlab.GatewayIPv4+":51821")
	if err != nil {
		t.Fatal(err)
	}
	defer unread.Close()
	conn := dial(t, w.Laptop, "tcp", source)
	if err := conn.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	var got atomic.Int64
	go func() {
		for b := make([]byte, 64<<10); ; {
			n, err := conn.Read(b)
			got.Add(int64(n))
			if err != nil {
				return
			}
		}
	}()
	public := w.fill.Replace("GATEWAY_PUBLIC")
	n := ofSize(500_000, 20_000)
	datagrams := initiations(t, public, 10_000)
	eventually(t, "the download has begun", func() error {
		if got.Load() < 1<<20 {
			return io.ErrNoProgress
		}
		return nil
	})
	before := w.gateway.rss(t)
	lasts := time.Duration(n) * time.Second / 50_000
	alone := goodput(&got, func() { time.Sleep(lasts) })
	var past float64
	pour := func(port string, s strange) (float64, poured) {
		var p poured
		rate := goodput(&got, func() {
			p = w.spoofed(t, netip.MustParseAddrPort(netlab.GatewayIPv4+":"+port), s.from, s.of(datagrams), n, 50_000)
		})
		return rate, p
	}
	for i, s := range stranges() {
		if i > 0 && !soaking() {
			break
		}
		var aside poured
		past, aside = pour("51821", s)
		under, at := pour("51820", s)
		t.Logf("Mbit/s alone %.0f; beside %d %s at %.0f a second at a port that nobody reads %.0f; at the gateway's, %.0f a second, %.0f: %.2f of alone, %.2f of beside the others; resident %d MiB, then %d",
			alone*8e-6, aside.sent, s.name, aside.rate, past*8e-6, at.rate, under*8e-6, under/alone, under/past, before>>20, w.gateway.rss(t)>>20)
		if under == 0 {
			t.Errorf("%s: the session came to a standstill", s.name)
		}
	}
	eventually(t, "the session goes on as before", func() error {
		if now := goodput(&got, func() { time.Sleep(time.Second) }); now < past/2 {
			return fmt.Errorf("%.0f Mbit/s", now*8e-6)
		}
		return nil
	})
}
