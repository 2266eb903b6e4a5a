// Package door bounds the connections that strangers hold open at a listener, in all and from each source.
//
// It knows no protocol, and does not say who may come in.
package door

import (
	"net"
	"net/netip"
	"sync"
)

// Door bounds the connections of all listeners that it guards together. Those that are too many are closed, and none waits.
type Door struct {
	Most          int    // connections at once
	MostPerSource int    // of one source
	Turned        func() // told of each connection that is closed. It must be fast; may be nil

	mu      sync.Mutex // guards below
	all     int
	sources map[netip.Prefix]int
}

// Source is what counts as one: an IPv4 address, or the /64 of IPv6 that one host may have.
func Source(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	p, _ := addr.Prefix(bits) // fails only for a zone or too many bits
	return p
}

// Guard returns a listener whose connections have found room.
func (d *Door) Guard(l net.Listener) net.Listener { return guarded{l, d} }

// Held returns how many connections are open.
func (d *Door) Held() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.all
}

func (d *Door) enter(from netip.Prefix) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.all >= d.Most || d.sources[from] >= d.MostPerSource {
		return false
	}
	if d.sources == nil {
		d.sources = make(map[netip.Prefix]int)
	}
	d.all++
	d.sources[from]++
	return true
}

func (d *Door) leave(from netip.Prefix) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all--
	if d.sources[from]--; d.sources[from] == 0 {
		delete(d.sources, from)
	}
}

type guarded struct {
	net.Listener
	door *Door
}

// Accept returns the next connection that there is room for.
func (g guarded) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		var from netip.Prefix
		if addr, err := netip.ParseAddrPort(c.RemoteAddr().String()); err == nil {
			from = Source(addr.Addr())
		}
		if g.door.enter(from) {
			return &visitor{Conn: c, leave: sync.OnceFunc(func() { g.door.leave(from) })}, nil
		}
		if g.door.Turned != nil {
			g.door.Turned()
		}
		c.Close()
	}
}

// visitor is a connection that makes room when it closes.
type visitor struct {
	net.Conn
	leave func()
}

// Close closes the connection.
func (v *visitor) Close() error {
	defer v.leave()
	return v.Conn.Close()
}
