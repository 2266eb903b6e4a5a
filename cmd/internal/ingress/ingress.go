// Package ingress is the port for programs that speak SOCKS5 or HTTP proxy: it lets clients log in, and makes each connection that
// they ask for a flow of theirs.
//
// Both protocols are on one port, because the first byte tells them apart. Host names are resolved by penstock's DNS server as
// questions of the client, so the flow that follows is judged by name.
//
// It does not judge, dial or relay: the router does, and its answer to the flow becomes that of the proxy.
package ingress

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/handover"
	"penstock/policy"
	"penstock/router"
)

// handshakeTime is how long a client may take until it has logged in and asked for something.
const handshakeTime = 10 * time.Second

// recheckEvery is how often logins are looked at again, because peers expire and passwords change.
const recheckEvery = 500 * time.Millisecond

// Users knows who may come in. It must be safe for concurrent use.
type Users interface {
	// Open returns the login of clients that need not log in. ok is false if all must.
	Open() (l Login, ok bool)
	// Login returns the login of whoever has this name and password.
	Login(name, password string) (l Login, ok bool)
	// Holds reports whether a login is still good.
	Holds(Login) bool
}

// Clients describes clients and resolves names for them, as router.Clients says.
type Clients interface {
	Describe(f *policy.Flow) bool
	Confirm(ctx context.Context, f policy.Flow, host string) ([]netip.Addr, error)
}

// Config is what Open needs. All but Control, Sockets, Log and Registry must be set.
type Config struct {
	Config *config.Config // its listen.proxy and limits
	// Control prepares the socket that listens. May be nil.
	Control func(network, address string, c syscall.RawConn) error
	Sockets *handover.Sockets
	Users   Users
	Clients Clients
	// Handle takes one flow, and returns when it is over.
	Handle func(context.Context, router.Request)
	// Spend counts bytes that a client has sent, or got, and returns how long it must wait before the next; 0 bytes count nothing.
	// If nil, nothing is limited.
	Spend func(client uint64, up bool, n int) (wait time.Duration)

	Log      *slog.Logger          // if nil, nothing is logged
	Registry prometheus.Registerer // of the metrics, which are registered whether there is a port or not; if nil, nothing is counted
}

// Server is an open port. A nil *Server is none.
type Server struct {
	Config
	metrics  *metrics
	listener net.Listener
	most     int // connections at once; one client may have half of them
	attempts attempts
	tasks    tasks

	datagrams places // flows
	waiting   places // bytes

	mu      sync.Mutex // guards below
	present map[*visitor]struct{}
	sources map[netip.Addr]int // of those that have not logged in
	clients map[uint64]int     // of those that have
}

// Open opens the port that the configuration asks for, or returns nil if there is none. Nobody is served before Run.
func Open(ctx context.Context, c Config) (*Server, error) {
	var counts *metrics
	if c.Registry != nil {
		counts = newMetrics(c.Registry)
	}
	listen, limits := c.Config.Listen.Proxy, c.Config.Limits
	if listen == nil {
		return nil, nil
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	lc := net.ListenConfig{Control: c.Control, KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: limits.TCPKeepalive, Interval: limits.TCPKeepaliveInterval,
	}}
	ln, err := c.Sockets.Listen(ctx, lc, "tcp", listen.Address.String())
	if err != nil {
		return nil, config.Refused(c.Config, "listen.proxy.address", "stop the program that uses it or choose another port", err)
	}
	return &Server{
		Config: c, metrics: counts, listener: ln, most: limits.ProxyConnections, attempts: attempts{clock: time.Now, wrong: make(map[source]tally)},
		present: make(map[*visitor]struct{}), sources: make(map[netip.Addr]int), clients: make(map[uint64]int),
		datagrams: places{most: limits.UDPFlows, mostPerClient: limits.UDPFlowsPerClient, clients: make(map[uint64]int)},
		waiting:   places{most: maxWaiting, mostPerClient: maxWaitingEach, clients: make(map[uint64]int)},
	}, nil
}

// Close closes the port, if Run has not.
func (s *Server) Close() error {
	if s == nil {
		return nil
	}
	if err := s.listener.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// Run serves until ctx ends. Then it closes all connections and waits for their flows.
func (s *Server) Run(ctx context.Context) error {
	if s == nil {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	web := newQueue(s.listener.Addr())
	server := s.httpServer(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(web) }) // it ends when it is closed
	wg.Go(func() { s.recheck(ctx) })
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	err := s.accept(ctx, web)
	cancel()
	server.Close()
	web.Close()
	for _, v := range s.visitors() {
		v.Abort()
	}
	wg.Wait()
	s.tasks.end()
	return err
}

// accept takes connections until the listener is closed.
func (s *Server) accept(ctx context.Context, web *queue) error {
	for {
		c, err := s.listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed) || ctx.Err() != nil:
			return nil
		case err != nil: // out of descriptors, or the client is gone already
			s.Log.Warn("cannot accept a connection to listen.proxy", "err", err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		v, reason := s.admit(c.(*net.TCPConn))
		if v == nil {
			s.metrics.refuse(reason)
			abortTCP(c.(*net.TCPConn))
			continue
		}
		if !s.tasks.spawn(func() { s.meet(ctx, v, web) }) {
			v.Close()
		}
	}
}

// meet reads the first byte of a connection and lets the protocol that begins so do the rest.
func (s *Server) meet(ctx context.Context, v *visitor, web *queue) {
	v.SetDeadline(time.Now().Add(handshakeTime))
	switch err := v.peek(); {
	case err != nil:
		s.metrics.refuse(refusedHandshake)
		v.Close()
	case v.isSOCKS():
		s.serveSOCKS(ctx, v)
	case !web.give(v): // the HTTP server owns it from here
		v.Close()
	}
}

// recheck closes connections whose logins do not hold any more, until ctx ends.
func (s *Server) recheck(ctx context.Context) {
	ticker := time.NewTicker(recheckEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		for _, v := range s.visitors() {
			if l := v.login(); l != (Login{}) && !s.Users.Holds(l) {
				s.Log.Debug("a login at listen.proxy has ended", "src", v.src)
				v.Abort()
			}
		}
	}
}

// logIn checks a name and a password.
func (s *Server) logIn(v *visitor, name, password string) (Login, bool) {
	from := sourceOf(v.src.Addr(), name)
	if s.attempts.exhausted(from) {
		s.metrics.login(loginLimited)
		return Login{}, false
	}
	l, ok := s.Users.Login(name, password)
	if !ok {
		s.attempts.failed(from)
		s.metrics.login(loginWrong)
		s.Log.Info("wrong name or password at listen.proxy", "src", v.src)
	}
	return l, ok
}

// tasks are what Run waits for.
type tasks struct {
	wg sync.WaitGroup

	mu   sync.Mutex // guards below
	over bool
}

// begin reports whether a task may begin, which then calls wg.Done when it is over.
func (t *tasks) begin() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return false
	}
	t.wg.Add(1)
	return true
}

// spawn runs f in a goroutine, unless end has been called.
func (t *tasks) spawn(f func()) bool {
	if !t.begin() {
		return false
	}
	go func() {
		defer t.wg.Done()
		f()
	}()
	return true
}

// end lets no more begin, and waits.
func (t *tasks) end() {
	t.mu.Lock()
	t.over = true
	t.mu.Unlock()
	t.wg.Wait()
}

// queue is a listener for connections that others have accepted.
type queue struct {
	addr net.Addr
	came chan net.Conn
	done chan struct{}
	once sync.Once
}

func newQueue(addr net.Addr) *queue {
	return &queue{addr: addr, came: make(chan net.Conn), done: make(chan struct{})}
}

// give hands a connection on, and reports whether anybody took it.
func (q *queue) give(c net.Conn) bool {
	select {
	case q.came <- c:
		return true
	case <-q.done:
		return false
	}
}

func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.came:
		return c, nil
	case <-q.done:
		return nil, http.ErrServerClosed
	}
}

func (q *queue) Close() error {
	q.once.Do(func() { close(q.done) })
	return nil
}

func (q *queue) Addr() net.Addr { return q.addr }
