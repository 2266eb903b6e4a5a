package upstream

import (
	"net"
	"slices"
	"sync"
	"time"
)

const (
	lingerFor = 5 * time.Second // most late answers come within this
	maxLinger = 64              // sockets of one upstream
)

// lingering holds the sockets of queries that were given up while their answer may still come. If it came to a closed socket, the
// kernel would send the resolver an ICMP error that quotes the answer. That packet has no mark of ours, so nothing keeps it from
// leaving in clear.
type lingering struct {
	mu    sync.Mutex // guards below
	conns []net.Conn
	ended bool
}

// keep closes conn after a while.
func (l *lingering) keep(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		conn.Close()
		return
	}
	if len(l.conns) == maxLinger {
		l.conns[0].Close()
		l.conns = slices.Delete(l.conns, 0, 1)
	}
	l.conns = append(l.conns, conn)
	time.AfterFunc(lingerFor, func() { l.over(conn) })
}

func (l *lingering) over(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	conn.Close()
	if i := slices.Index(l.conns, conn); i >= 0 {
		l.conns = slices.Delete(l.conns, i, i+1)
	}
}

// closeAll closes what is left. If for good, keep holds nothing any more.
func (l *lingering) closeAll(forGood bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = l.ended || forGood
	for _, conn := range l.conns {
		conn.Close()
	}
	l.conns = nil
}
