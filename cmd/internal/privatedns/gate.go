package privatedns

import (
	"net"
	"net/netip"
	"sync"

	"penstock/dnsproxy"
)

const (
	maxConns       = 1024 // of all listeners
	maxConnsOneSrc = 128  // of one address, behind which there may be many phones
)

// gate bounds the connections from strangers, whoever they turn out to be.
type gate struct {
	turned func() // told of each connection that is closed. It must be fast

	mu    sync.Mutex // guards below
	total int
	from  map[uint64]int
}

// enter takes a place for a connection.
func (g *gate) enter(key uint64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.total >= maxConns || g.from[key] >= maxConnsOneSrc {
		return false
	}
	if g.from == nil {
		g.from = make(map[uint64]int)
	}
	g.total++
	g.from[key]++
	return true
}

func (g *gate) leave(key uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.total--
	if g.from[key]--; g.from[key] == 0 {
		delete(g.from, key)
	}
}

// gated is a listener whose connections pass a gate.
type gated struct {
	net.Listener
	gate *gate
}

// Accept closes the connections for which there is no place, and returns the next one.
func (l gated) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		key := dnsproxy.AddressKey(source(conn.RemoteAddr().String()).Addr())
		if l.gate.enter(key) {
			return &gatedConn{Conn: conn, leave: sync.OnceFunc(func() { l.gate.leave(key) })}, nil
		}
		l.gate.turned()
		conn.Close()
	}
}

// gatedConn gives its place back when it closes.
type gatedConn struct {
	net.Conn
	leave func()
}

func (c *gatedConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}

// source reads the address of a client.
func source(text string) netip.AddrPort {
	a, err := netip.ParseAddrPort(text)
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
