package router

import (
	"context"
	"net"
	"net/netip"
	"sync"

	"penstock/policy"
	"penstock/stack/localport"
)

// mappings give the datagram flows that a client sends from one port one local port for each egress, whoever they go to (RFC
// 4787, REQ-1). A mapping lasts as long as one of its flows.
type mappings struct {
	mu   sync.Mutex // guards below
	live map[mappingKey]*mapping
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
	key := mappingKey{f.Client, f.Src, egress}
	one := m.take(key)
	c, err := one.dial(ctx, dial)
	if err != nil {
		m.give(key)
		return nil, err
	}
	return &heldConn{Conn: c, closed: sync.OnceFunc(func() { m.give(key) })}, nil
}

func (m *mapping) dial(ctx context.Context, dial func(context.Context) (net.Conn, error)) (net.Conn, error) {
	m.mu.Lock()
	port := m.port
	if port != 0 {
		m.mu.Unlock()
		return dial(localport.With(ctx, port))
	}
	defer m.mu.Unlock()
	c, err := dial(localport.With(ctx, 0))
	if err == nil {
		if local, ok := c.LocalAddr().(*net.UDPAddr); ok {
			m.port = local.AddrPort().Port()
		}
	}
	return c, err
}

func (m *mappings) take(key mappingKey) *mapping {
	m.mu.Lock()
	defer m.mu.Unlock()
	one := m.live[key]
	if one == nil {
		if m.live == nil {
			m.live = make(map[mappingKey]*mapping)
		}
		one = new(mapping)
		m.live[key] = one
	}
	one.flows++
	return one
}

func (m *mappings) give(key mappingKey) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if one := m.live[key]; one.flows > 1 {
		one.flows--
		return
	}
	delete(m.live, key)
}
