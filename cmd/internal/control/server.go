package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Config is what a Server serves. Calls on an interface that is nil are answered with ErrNotOffered.
type Config struct {
	Socket string       // path; default DefaultSocket()
	Group  string       // its members may read through the socket; empty: only root and the daemon's own user may
	Logger *slog.Logger // nil: no log

	Process    Process
	Flows      FlowTable
	Policy     Policy
	Decisions  DecisionBook
	Transports Transports
	DNS        DNS
	Lists      ListShelf
	Peers      PeerBook   // nil where penstock is no gateway
	Invites    InviteBook // the same
	History    HistoryBook
	Feed       Feed
	Console    Console
	Doctor     Doctor
}

// Server serves the control socket.
type Server struct {
	config   Config
	log      *slog.Logger
	listener net.Listener
	http     *http.Server
	close    sync.Once
}

// New opens the socket and removes one that a dead process left. It is an error if another process serves it.
func New(config Config) (*Server, error) {
	if config.Socket == "" {
		config.Socket = DefaultSocket()
	}
	log := cmp.Or(config.Logger, slog.New(slog.DiscardHandler))
	s := &Server{config: config, log: log}
	listener, err := listen(config.Socket, config.Group)
	if err != nil {
		return nil, fmt.Errorf("control socket %s: %w", config.Socket, err)
	}
	s.listener = listener
	s.http = &http.Server{
		Handler:           guard(API(config)),
		ReadHeaderTimeout: 5 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ConnContext:       asProcess,
	}
	return s, nil
}

// Socket is the path served.
func (s *Server) Socket() string { return s.config.Socket }

// Run serves until ctx ends, lets requests in progress finish for a second, and removes the socket. It returns nil when
// ctx ended it.
func (s *Server) Run(ctx context.Context) error {
	if err := serve(ctx, s.http, s.listener); err != nil {
		return fmt.Errorf("control socket %s: %w", s.config.Socket, err)
	}
	return nil
}

// Close ends Run at once. It is needed only if Run is never called. It is idempotent.
func (s *Server) Close() error {
	s.close.Do(func() {
		s.http.Close()
		s.listener.Close() // removes the socket
	})
	return nil
}

// listen opens the socket with a mode that admits its group only if there is one.
func listen(path, group string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, elsewhere(err)
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	listener, err := listenPrivate(path)
	if err != nil {
		return nil, elsewhere(err)
	}
	if group == "" {
		return listener, nil
	}
	if err := admitGroup(path, group); err != nil {
		listener.Close()
		return nil, err
	}
	return listener, nil
}

// elsewhere adds the mend to the error of a folder that cannot be written.
func elsewhere(err error) error {
	if errors.Is(err, syscall.EROFS) || errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: name a path that penstock can write, with control.socket, PENSTOCK_SOCKET or --socket", err)
	}
	return err
}

// removeStale removes a socket on which nobody listens.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&os.ModeSocket == 0 {
		return errors.New("there is a file that is not a socket; remove it or choose another path with control.socket")
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		conn.Close()
		return errors.New("another penstock is running there; stop it or choose another path with control.socket")
	}
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EAGAIN) || os.IsTimeout(err) { // somebody may listen all the same
		return fmt.Errorf("another penstock may be running there, perhaps of another user; stop it or choose another path with control.socket: %w", err)
	}
	return os.Remove(path)
}
