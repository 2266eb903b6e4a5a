package router

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"

	"penstock/policy"
	"penstock/stack/localport"
	"penstock/stack/shrink"
)

// mappings give the datagram flows that a client sends from one port one local port for each egress, whoever they go to (RFC
// 4787, REQ-1). A mapping lasts as long as one of its flows.
type mappings struct {
	mu   sync.Mutex // guards below
	live shrink.Map[mappingKey, *mapping]
}

type mappingKey struct {
	client uint64
	src    netip.AddrPort
	egress string
}

type mapping struct {
	flows int // guarded by mappings.mu

	mu   sync.Mutex // held while the first flow dials; guards below
	port uint16     // 0 until a flow has one
}

// dial dials a datagram flow from the port of its mapping. The connection keeps the mapping until it is closed.
func (m *mappings) dial(ctx context.Context, f *policy.Flow, egress string, dial func(context.Context) (net.Conn, error)) (net.Conn, error) {
	one, release := m.hold(f, egress)
	var c net.Conn
	err := one.open(func(port uint16) (used uint16, err error) {
		if c, err = dial(localport.With(ctx, port)); err == nil {
			if local, ok := c.LocalAddr().(*net.UDPAddr); ok {
				used = local.AddrPort().Port()
			}
		}
		return used, err
	})
	if err != nil {
		release()
		return nil, err
	}
	return &heldConn{Conn: c, closed: release}, nil
}

// hold keeps the mapping of a flow until release is called.
func (m *mappings) hold(f *policy.Flow, egress string) (one *mapping, release func()) {
	key := mappingKey{f.Client, f.Src, egress}
	return m.take(key), sync.OnceFunc(func() { m.give(key) })
}

// open has open open a flow from the mapping's port, 0 if it has none yet: the port that this flow gets is the mapping's then.
func (m *mapping) open(open func(port uint16) (used uint16, err error)) error {
	m.mu.Lock()
	return m.openLocked(open)
}

// errDialling says that another flow dials from the same port.
var errDialling = errors.New("another flow of its port is being dialled")

// openNow is open that does not wait for another flow's dial.
func (m *mapping) openNow(open func(port uint16) (used uint16, err error)) error {
	if !m.mu.TryLock() {
		return errDialling
	}
	return m.openLocked(open)
}

// openLocked is open with m.mu held, which it gives back.
func (m *mapping) openLocked(open func(port uint16) (used uint16, err error)) error {
	port := m.port
	if port != 0 {
		m.mu.Unlock()
		_, err := open(port)
		return err
	}
	defer m.mu.Unlock()
	port, err := open(0)
	if err == nil {
		m.port = port
	}
	return err
}

func (m *mappings) take(key mappingKey) *mapping {
	m.mu.Lock()
	defer m.mu.Unlock()
	one := m.live.Get(key)
	if one == nil {
		one = new(mapping)
		m.live.Put(key, one)
	}
	one.flows++
	return one
}

func (m *mappings) give(key mappingKey) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if one := m.live.Get(key); one.flows > 1 {
		one.flows--
		return
	}
	m.live.Delete(key)
}
