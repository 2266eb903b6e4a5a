package console

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
	"penstock/cmd/internal/door"
	"penstock/cmd/internal/ports"
)

// maxConns is how many connections may be open at once. A page holds two or three.
const maxConns = 256

// Config is what a Server serves.
type Config struct {
	// Listener is where. It must be on loopback.
	Listener net.Listener
	// API answers the calls of package control, "POST /v1/NAME".
	API http.Handler
	// Version is shown on the page.
	Version string
	Log     *slog.Logger // nil: no log
}

// Server serves the console.
type Server struct {
	config   Config
	log      *slog.Logger
	sessions sessions
	refused  atomic.Int64 // when a refused link was logged, in nanoseconds since 1970
	http     *http.Server
}

// Listen opens a loopback address and port for a Server. open is net.Listen, or another that does the same.
func Listen(address string, open func(network, address string) (net.Listener, error)) (net.Listener, error) {
	at, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil, err
	}
	if !at.IP.IsLoopback() {
		return nil, fmt.Errorf("%s is not a loopback address: others could reach the console there", address)
	}
	return open("tcp", at.String())
}

// Page is the console of a configuration: a Server as soon as its port is free. A nil Page is that of a configuration without one.
type Page struct {
	port   *ports.Port
	server atomic.Pointer[Server] // nil: the port is not open
}

// Attach opens the console of a configuration, and returns what the control socket serves with it: links to the console, too.
// Without console.listen the page is nil, which is ready to use and does nothing. Any user of this host can take the port, and must
// not keep penstock from running: until it is free, "penstock console" serves the page itself. open is as for Listen.
func Attach(cfg *config.Config, c control.Config, p *ports.Ports, open func(network, address string) (net.Listener, error), version string) (*Page, control.Config) {
	if cfg.Console.Listen == "" {
		return nil, c
	}
	page, api := new(Page), control.API(c) // the page itself makes no links
	page.port, _ = p.Open("console.listen", func() (net.Listener, error) {
		l, err := Listen(cfg.Console.Listen, open)
		if err == nil {
			page.server.Store(New(Config{Listener: l, API: api, Version: version, Log: c.Logger}))
		}
		return l, err
	})
	c.Console = page
	return page, c
}

// Run serves until ctx ends. It returns nil when ctx ended it.
func (p *Page) Run(ctx context.Context) error {
	if p == nil {
		return nil
	}
	return p.port.Serve(ctx, func(ctx context.Context, _ net.Listener) error { return p.server.Load().Run(ctx) })
}

// Close frees the port. It is needed only if Run is never called. It is idempotent.
func (p *Page) Close() error {
	if p == nil {
		return nil
	}
	return p.port.Close()
}

// Link makes a link that opens the console once, with the rights of the caller in ctx. The error is control.ErrNotOffered while the
// port is not open.
func (p *Page) Link(ctx context.Context) (control.ConsoleLink, error) {
	s := p.server.Load()
	if s == nil {
		return control.ConsoleLink{}, control.ErrNotOffered
	}
	return s.Link(ctx)
}

// New returns a server that owns config.Listener.
func New(config Config) *Server {
	s := &Server{config: config, log: cmp.Or(config.Log, slog.New(slog.DiscardHandler))}
	s.http = &http.Server{
		Handler:           s.routes(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	return s
}

// Run serves until ctx ends. It returns nil when ctx ended it.
func (s *Server) Run(ctx context.Context) error {
	s.http.BaseContext = func(net.Listener) context.Context { return ctx } // ends the streams of events
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if s.http.Shutdown(grace) != nil {
			s.http.Close()
		}
	})
	guarded := &door.Door{Most: maxConns, MostPerSource: maxConns}
	err := s.http.Serve(guarded.Guard(s.config.Listener))
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("the console on %s: %w", s.config.Listener.Addr(), err)
}

// Close frees the port. It is needed only if Run is never called. It is idempotent.
func (s *Server) Close() error {
	s.http.Close()
	s.config.Listener.Close()
	return nil
}

// Link makes a link that opens the console once, with the rights of the caller in ctx.
func (s *Server) Link(ctx context.Context) (control.ConsoleLink, error) {
	readOnly := !control.MayChange(ctx)
	token, until, err := s.sessions.invite(readOnly, time.Now())
	if err != nil {
		return control.ConsoleLink{}, err
	}
	return control.ConsoleLink{URL: fmt.Sprintf("http://%s/#t=%s", s.config.Listener.Addr(), token), Until: until, ReadOnly: readOnly}, nil
}
