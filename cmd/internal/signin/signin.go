// Package signin signs people in with an account of the company, on a page that the peers of a gateway reach through the tunnel.
//
// The page is an egress: the router hands it flows, so it knows which peer asks by the flow and not by what a browser says. A
// session belongs to the key of a peer. It ends by itself, when the provider no longer knows the account, or when somebody ends it.
//
// It does not decide what a peer may reach: rules do, by the user and the groups that it tells.
package signin

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/edition"
	"penstock/cmd/internal/renewed"
	"penstock/dnsproxy/pipe"
	"penstock/policy"
)

// Bounds of the page.
const (
	maxConns       = 512 // open at once
	maxClientConns = 32  // of one peer
	maxHeader      = 16 << 10
	maxForm        = 4 << 10
	exchangeLimit  = 20 * time.Second // for the questions to the provider about one sign-in
)

// Config is what New needs.
type Config struct {
	Live *edition.Live
	// Dial opens a connection to the provider through an egress.
	Dial func(ctx context.Context, via, network, address string) (net.Conn, error)
	// Changed is called when somebody has signed in or out. It must end the flows that are refused now.
	Changed func()
	// ACME returns the certificate that an authority has issued for a host, or nil. It is for sign_in with acme: true.
	ACME    func(host string) *tls.Certificate
	Log     *slog.Logger // if nil, nothing is logged
	Metrics *Metrics     // if nil, nothing is counted
}

// Service serves the page and keeps the sessions. It is safe for concurrent use.
type Service struct {
	Config
	sessions *sessions
	pending  pendings
	attempts attempts
	provider providers
	http     *http.Server
	conns    *conns
	cert     renewed.Certificate
}

// New reads the sessions that are kept, and tells Live about them.
func New(c Config) (*Service, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	cfg := c.Live.Config()
	key, err := cfg.Listen.WireGuard.PrivateKey.Read()
	if err != nil {
		return nil, fmt.Errorf("sign_in: the key for the sessions: %w", err)
	}
	s := &Service{Config: c, conns: newConns()}
	if s.sessions, err = newSessions(key, c.Metrics); err != nil {
		return nil, fmt.Errorf("sign_in: the key for the sessions: %w", err)
	}
	if cfg.SignIn != nil {
		if err := s.sessions.load(file(cfg), time.Now()); err != nil {
			c.Log.Error("nobody is signed in, because the sessions cannot be read", "file", file(cfg), "err", err)
		}
	}
	s.provider.dial, s.provider.limit = c.Dial, askLimit
	s.http = &http.Server{
		Handler: s.routes(), MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(c.Log.Handler(), slog.LevelDebug),
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: exchangeLimit + 10*time.Second, IdleTimeout: 30 * time.Second,
		ConnContext: withFlow,
	}
	c.Live.Sessions = s
	return s, nil
}

// Run serves the page, ends sessions that are over and asks the provider about the others, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { s.endSessions(ctx) })
	wg.Go(func() { s.recheck(ctx) })
	stop := context.AfterFunc(ctx, func() { s.http.Close() })
	defer stop()
	defer s.provider.close()
	if err := s.http.Serve(s.conns); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("the page for signing in: %w", err)
	}
	return nil
}

// SignedIn returns who has signed in with a peer, and the user's groups. It implements edition.Sessions.
func (s *Service) SignedIn(peer string) (user string, groups []string) {
	one, _ := s.Session(peer)
	return one.User, one.Groups
}

// Session returns the session of a peer, without the provider's token, if the configuration still lets it count.
func (s *Service) Session(peer string) (Session, bool) {
	one, ok := s.sessions.of(peer)
	cfg := s.Live.Config()
	if !ok || over(&one, cfg, time.Now()) != "" {
		return Session{}, false
	}
	one.Until, one.Refresh = until(&one, cfg.SignIn), ""
	return one, true
}

// SignOut ends the session of a peer. It reports whether there was one.
func (s *Service) SignOut(peer, why string) bool {
	one, ok := s.sessions.end(peer, nil)
	if ok {
		s.ended(why, one)
	}
	return ok
}

// ended ends the flows of sessions that are over, and only then writes that down: a slow disk keeps no flow alive.
func (s *Service) ended(why string, list ...Session) {
	if len(list) == 0 {
		return
	}
	s.Changed()
	for _, one := range list {
		s.Log.Info("signed out", "peer", s.nameOf(one.Peer), "user", one.User, "reason", why)
	}
	s.save()
}

// file is the file with the sessions, encrypted with a key made from listen.wireguard.private_key.
func file(cfg *config.Config) string { return filepath.Join(cfg.StateDir, "sign-ins") }

// save keeps the sessions in their file.
func (s *Service) save() {
	cfg := s.Live.Config()
	if err := s.sessions.save(file(cfg), time.Now()); err != nil {
		s.Log.Error("the sessions cannot be kept: after a restart, they are as they were before", "file", file(cfg), "err", err)
	}
}

// nameOf returns the name of the peer with an ID.
func (s *Service) nameOf(id string) string {
	for _, p := range s.Live.Config().Peers.All() {
		if p.ID() == id {
			return p.Name
		}
	}
	return ""
}

// flowKey is the key of the flow in the context of a request.
type flowKey struct{}

// DialContext is never used: the router prefers DialFlow, which knows which peer asks.
func (s *Service) DialContext(context.Context, string, string) (net.Conn, error) {
	return nil, syscall.EAFNOSUPPORT
}

// DialFlow opens a connection to the page for a flow. It implements router.FlowDialer.
func (s *Service) DialFlow(_ context.Context, f policy.Flow) (net.Conn, error) {
	if f.Network != policy.TCP || s.Live.Config().SignIn == nil {
		return nil, syscall.ECONNREFUSED
	}
	near, far := pipe.New(net.TCPAddrFromAddrPort(f.Src), net.TCPAddrFromAddrPort(f.Dst))
	c := &conn{Conn: far, flow: f, from: s.conns}
	var shown net.Conn = c
	if u, err := url.Parse(s.Live.Config().SignInURL()); err == nil && u.Scheme == "https" && f.Dst.Port() != 80 {
		shown = tls.Server(c, &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: s.certificate})
	}
	if !s.conns.add(c, shown) {
		return nil, syscall.ECONNREFUSED
	}
	return near, nil
}

// certificate returns the page's certificate. If a renewed one cannot be read, the former one stays.
func (s *Service) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	settings := s.Live.Config().SignIn
	if settings == nil {
		return nil, errors.New("nobody signs in here any more")
	}
	if settings.ACME {
		if u, err := url.Parse(settings.URL); err == nil {
			if cert := s.ACME(u.Hostname()); cert != nil {
				return cert, nil
			}
		}
		return nil, errors.New("there is no certificate from the authority yet")
	}
	return s.cert.Get(settings, settings.KeyPair, s.Log, "the page for signing in")
}

// withFlow adds the flow that a connection was opened for to the context of its requests.
func withFlow(ctx context.Context, nc net.Conn) context.Context {
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	return context.WithValue(ctx, flowKey{}, nc.(*conn).flow)
}

// conn is the page's end of a connection.
type conn struct {
	*pipe.Conn
	flow policy.Flow
	from *conns
	once sync.Once
}

// Close closes the connection and makes room for another.
func (c *conn) Close() error {
	c.once.Do(func() { c.from.remove(c) })
	return c.Conn.Close()
}

// conns is the listener of the page: connections that the router has opened.
type conns struct {
	came chan net.Conn
	over chan struct{}
	once sync.Once

	mu      sync.Mutex // guards below
	open    int
	clients map[uint64]int
}

func newConns() *conns {
	return &conns{came: make(chan net.Conn, maxConns), over: make(chan struct{}), clients: make(map[uint64]int)}
}

// add reports whether there is room for a connection. Accept returns it as shown.
func (l *conns) add(c *conn, shown net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	client := c.flow.Client
	select {
	case <-l.over:
		return false
	default:
	}
	if l.open == maxConns || l.clients[client] == maxClientConns {
		return false
	}
	l.open++
	l.clients[client]++
	l.came <- shown // has room for all
	return true
}

func (l *conns) remove(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if l.clients[c.flow.Client]--; l.clients[c.flow.Client] == 0 {
		delete(l.clients, c.flow.Client)
	}
}

// Accept waits for the next connection.
func (l *conns) Accept() (net.Conn, error) {
	select {
	case c := <-l.came:
		return c, nil
	case <-l.over:
		return nil, net.ErrClosed
	}
}

// Close ends Accept, and closes what it has not returned.
func (l *conns) Close() error {
	l.once.Do(func() {
		l.mu.Lock()
		close(l.over)
		l.mu.Unlock()
		for {
			select {
			case c := <-l.came:
				c.Close()
			default:
				return
			}
		}
	})
	return nil
}

// Addr says what this is in logs.
func (l *conns) Addr() net.Addr { return &net.TCPAddr{} }
