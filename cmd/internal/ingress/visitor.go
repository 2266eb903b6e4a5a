package ingress

import (
	"net"
	"net/http"
	"net/netip"
	"sync"

	"penstock/cmd/internal/door"
	"penstock/cmd/internal/ingress/socks"
)

// visitor is one connection to the port.
type visitor struct {
	*net.TCPConn
	server *Server
	src    netip.AddrPort
	closed sync.Once

	first  byte // that was read to tell the protocol
	peeked bool // first is still to be read

	mu    sync.Mutex      // guards below
	who   Login           // zero until it has logged in
	ways  *http.Transport // of plain HTTP requests; nil until there is one
	gone  bool
	flows int // for plain HTTP requests
}

// maxFlows is how many flows one connection may have for plain HTTP requests: one in use, some idle, some closing.
const maxFlows = 16

// admit enters a connection in the tables, unless there are too many: in all, or from one source without a login, so that
// somebody who never logs in cannot keep the others out.
func (s *Server) admit(c *net.TCPConn) (v *visitor, reason string) {
	addr, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return nil, refusedHandshake
	}
	src := addr.AddrPort()
	src = netip.AddrPortFrom(src.Addr().Unmap().WithZone(""), src.Port())
	from := door.Source(src.Addr()).Addr()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case len(s.present) >= s.most:
		return nil, refusedCrowded
	case s.sources[from] >= max(s.most/8, 1):
		return nil, refusedShare
	}
	v = &visitor{TCPConn: c, server: s, src: src}
	s.present[v] = struct{}{}
	s.sources[from]++
	s.metrics.open(len(s.present))
	return v, ""
}

// enter moves a visitor to the client that it has logged in as. It returns false if that has too many, or if the visitor has
// logged in as another one before.
func (s *Server) enter(v *visitor, l Login) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.who == l {
		return true
	}
	if v.who != (Login{}) || v.gone {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.clients[l.Client] >= max(s.most/2, 1) {
		s.metrics.refuse(refusedShare)
		return false
	}
	s.clients[l.Client]++
	less(s.sources, door.Source(v.src.Addr()).Addr())
	v.who = l
	s.metrics.login(loginAccepted)
	return true
}

// leave takes a visitor out of the tables.
func (s *Server) leave(v *visitor) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.gone = true
	if v.ways != nil {
		v.ways.CloseIdleConnections()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.present, v)
	if v.who == (Login{}) {
		less(s.sources, door.Source(v.src.Addr()).Addr())
	} else {
		less(s.clients, v.who.Client)
	}
	s.metrics.open(len(s.present))
}

// less counts one less.
func less[K comparable](counts map[K]int, key K) {
	if counts[key]--; counts[key] <= 0 {
		delete(counts, key)
	}
}

// visitors returns the open connections.
func (s *Server) visitors() []*visitor {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*visitor, 0, len(s.present))
	for v := range s.present {
		list = append(list, v)
	}
	return list
}

func (v *visitor) login() Login {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.who
}

// addFlow counts a flow, unless there are too many.
func (v *visitor) addFlow() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.flows == maxFlows {
		return false
	}
	v.flows++
	return true
}

func (v *visitor) endFlow() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.flows--
}

// peek reads the first byte, which Read returns again.
func (v *visitor) peek() error {
	var b [1]byte
	if _, err := v.TCPConn.Read(b[:]); err != nil {
		return err
	}
	v.first, v.peeked = b[0], true
	return nil
}

func (v *visitor) isSOCKS() bool { return v.first == socks.Version }

// Read reads what the client sends, from its first byte on.
func (v *visitor) Read(b []byte) (int, error) {
	if v.peeked && len(b) > 0 {
		b[0], v.peeked = v.first, false
		return 1, nil
	}
	return v.TCPConn.Read(b)
}

// Close closes the connection and leaves the tables.
func (v *visitor) Close() error {
	v.closed.Do(func() { v.server.leave(v) })
	return v.TCPConn.Close()
}

// Abort does the same, with a reset.
func (v *visitor) Abort() {
	v.SetLinger(0)
	v.Close()
}

func abortTCP(c *net.TCPConn) {
	c.SetLinger(0)
	c.Close()
}
