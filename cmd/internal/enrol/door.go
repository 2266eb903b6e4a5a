package enrol

import (
	"net"
	"net/netip"
	"sync"
)

// How many connections are open at once. Those that are too many are closed, and none waits.
const (
	mostConns          = 512
	mostConnsPerSource = 16
)

// door is a listener that bounds its connections.
type door struct {
	net.Listener

	mu      sync.Mutex // guards below
	all     int
	sources map[netip.Prefix]int
}

func newDoor(l net.Listener) *door { return &door{Listener: l, sources: make(map[netip.Prefix]int)} }

// Accept returns the next connection that there is room for.
func (d *door) Accept() (net.Conn, error) {
	for {
		c, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := netip.Prefix{}
		if addr, err := netip.ParseAddrPort(c.RemoteAddr().String()); err == nil {
			from = source(addr.Addr())
		}
		if d.enter(from) {
			return &visitor{Conn: c, leave: sync.OnceFunc(func() { d.leave(from) })}, nil
		}
		c.Close()
	}
}

func (d *door) enter(from netip.Prefix) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.all >= mostConns || d.sources[from] >= mostConnsPerSource {
		return false
	}
	d.all++
	d.sources[from]++
	return true
}

func (d *door) leave(from netip.Prefix) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all--
	if d.sources[from]--; d.sources[from] == 0 {
		delete(d.sources, from)
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
