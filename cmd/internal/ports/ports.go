// Package ports opens ports on which no traffic depends, such as that of the metrics. Any user of the host can take such a port
// first, and must not keep penstock from running: it is tried again until it is free, and said meanwhile.
//
// Ports that traffic depends on do not belong here: without them penstock does not start.
package ports

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// tryEvery is the pause between two attempts.
const tryEvery = 5 * time.Second

// Ports are the ports of a penstock. Its methods may be called concurrently.
type Ports struct {
	log   *slog.Logger
	taken *prometheus.GaugeVec // by key of the configuration
	every time.Duration

	mu       sync.Mutex        // guards below
	troubles map[string]string // by key: why it is not open
}

// New returns Ports that are none yet. Registry and log may be nil.
func New(registry prometheus.Registerer, log *slog.Logger) *Ports {
	p := &Ports{log: cmp.Or(log, slog.New(slog.DiscardHandler)), every: tryEvery, troubles: make(map[string]string), taken: prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "penstock_port_taken", Help: "1 while another program has a port of the configuration that no traffic depends on, by its key.",
	}, []string{"key"})}
	if registry != nil {
		registry.MustRegister(p.taken)
	}
	return p
}

// Troubles says which ports are not open and why, in the order of their keys. Nil Ports have none.
func (p *Ports) Troubles() []string {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []string
	for _, key := range slices.Sorted(maps.Keys(p.troubles)) {
		list = append(list, fmt.Sprintf("%s is not served: %s; it is tried again every %v", key, p.troubles[key], p.every))
	}
	return list
}

// Port is a port that is open, or that is tried again.
type Port struct {
	ports    *Ports
	key      string
	open     func() (net.Listener, error)
	listener net.Listener // nil: it is tried again
}

// Open opens the port of a key of the configuration. The Port is never nil and belongs to the caller, who calls Serve or Close. The
// error says why it is not open, but for ports that are taken; such an error may be a mistake of the configuration.
func (p *Ports) Open(key string, open func() (net.Listener, error)) (*Port, error) {
	port := &Port{ports: p, key: key, open: open}
	err := port.try()
	if isTaken(err) {
		err = nil
	}
	return port, err
}

// try opens the port, and notes what comes of it. It logs what is new.
func (p *Port) try() error {
	l, err := p.open()
	s := p.ports
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.troubles[p.key]
	if err == nil {
		p.listener = l
		delete(s.troubles, p.key)
		s.taken.WithLabelValues(p.key).Set(0)
		if before != "" {
			s.log.Info("a port is free now, and is served", "key", p.key)
		}
		return nil
	}
	s.troubles[p.key] = err.Error()
	s.taken.WithLabelValues(p.key).Set(1)
	if before != err.Error() {
		s.log.Warn("a port is not served: stop the program that uses it, or choose another. It is tried again", "key", p.key, "err", err)
	}
	return err
}

// Serve hands the listener to serve, which closes it, as soon as the port is open. It returns what serve does, or nil if ctx ends
// before.
func (p *Port) Serve(ctx context.Context, serve func(context.Context, net.Listener) error) error {
	tick := time.NewTicker(p.ports.every)
	defer tick.Stop()
	for p.listener == nil {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			_ = p.try() // it is noted
		}
	}
	return serve(ctx, p.listener)
}

// Close frees the port. It is needed only if Serve is never called, does no harm after it, and is idempotent.
func (p *Port) Close() error {
	if p.listener != nil {
		p.listener.Close()
	}
	return nil
}

// wsaAddrInUse is what Windows says of a port that is taken.
const wsaAddrInUse = syscall.Errno(10048)

func isTaken(err error) bool {
	no, ok := errors.AsType[syscall.Errno](err)
	return ok && (no == syscall.EADDRINUSE || runtime.GOOS == "windows" && no == wsaAddrInUse)
}
