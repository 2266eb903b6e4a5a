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

// Listen opens a loopback address and port for a Server.
func Listen(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	if at, ok := l.Addr().(*net.TCPAddr); !ok || !at.IP.IsLoopback() {
		l.Close()
		return nil, fmt.Errorf("%s is not a loopback address: others could reach the console there", address)
	}
	return l, nil
}

// Attach opens the console of a configuration, and returns what the control socket serves with it: links to the console, too. Without
// console.listen the server is nil, which is ready to use and does nothing. So it is if the port is taken: any user of this host can
// do that, and must not keep penstock from running. "penstock console" serves the page itself then.
func Attach(cfg *config.Config, c control.Config, version string) (*Server, control.Config) {
	if cfg.Console.Listen == "" {
		return nil, c
	}
	l, err := Listen(cfg.Console.Listen)
	if err != nil {
		cmp.Or(c.Logger, slog.New(slog.DiscardHandler)).Warn("the console is not served: stop the program that uses its port, or choose another in console.listen",
			"listen", cfg.Console.Listen, "err", err)
		return nil, c
	}
	s := New(Config{Listener: l, API: control.API(c), Version: version, Log: c.Logger}) // the page itself makes no links
	c.Console = s
	return s, c
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
	if s == nil {
		return nil
	}
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
	if s == nil {
		return nil
	}
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
