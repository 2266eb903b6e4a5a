package openvpn

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// badLink is a UDP path between clients and a server that loses and reorders packets.
type badLink struct {
	server netip.AddrPort
	front  *net.UDPConn
	wg     sync.WaitGroup

	mu     sync.Mutex // guards below
	random *rand.Rand
	loss   float64
	closed bool
	backs  map[netip.AddrPort]*net.UDPConn
}

// startBadLink loses a share of the packets each way and delays a fifth of the rest by up to 20 ms.
func startBadLink(t testing.TB, server netip.AddrPort, loss float64) *badLink {
	t.Helper()
	front, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	l := &badLink{server: server, front: front, random: rand.New(rand.NewPCG(1, 2)), loss: loss, backs: make(map[netip.AddrPort]*net.UDPConn)}
	l.wg.Go(l.forward)
	t.Cleanup(func() {
		l.mu.Lock()
		l.closed = true
		for _, b := range l.backs {
			_ = b.Close()
		}
		l.mu.Unlock()
		_ = front.Close()
		l.wg.Wait()
	})
	return l
}

func (l *badLink) port() int { return l.front.LocalAddr().(*net.UDPAddr).Port }

func (l *badLink) forward() {
	b := make([]byte, 4096)
	for {
		n, from, err := l.front.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		back := l.backOf(from)
		if back == nil {
			return
		}
		l.pass(append([]byte(nil), b[:n]...), func(p []byte) { _, _ = back.Write(p) })
	}
}

func (l *badLink) backOf(client netip.AddrPort) *net.UDPConn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b := l.backs[client]; b != nil || l.closed {
		return b
	}
	back, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(l.server))
	if err != nil {
		return nil
	}
	l.backs[client] = back
	l.wg.Go(func() {
		b := make([]byte, 4096)
		for {
			n, err := back.Read(b)
			if err != nil {
				return
			}
			l.pass(append([]byte(nil), b[:n]...), func(p []byte) { _, _ = l.front.WriteToUDPAddrPort(p, client) })
		}
	})
	return back
}

func (l *badLink) pass(packet []byte, send func([]byte)) {
	l.mu.Lock()
	lost, late := l.random.Float64() < l.loss, time.Duration(0)
	if l.random.IntN(5) == 0 {
		late = time.Duration(1+l.random.IntN(20)) * time.Millisecond
	}
	l.mu.Unlock()
	switch {
	case lost:
	case late > 0:
		time.AfterFunc(late, func() { send(packet) })
	default:
		send(packet)
	}
}
