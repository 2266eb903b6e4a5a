package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// MonitorConfig is what a Monitor serves.
type MonitorConfig struct {
	Listen   string              // TCP address, for example 127.0.0.1:9477
	Gatherer prometheus.Gatherer // of /metrics
	// Ready returns nil when data flows, else the reason why not. Nil: never ready.
	Ready  func() error
	Logger *slog.Logger
}

// Monitor serves /metrics, /healthz and /readyz over plain HTTP, for GET and HEAD only.
type Monitor struct {
	log      *slog.Logger
	listener net.Listener
	http     *http.Server
}

// NewMonitor opens the port.
func NewMonitor(config MonitorConfig) (*Monitor, error) {
	log := cmp.Or(config.Logger, slog.New(slog.DiscardHandler))
	listener, err := net.Listen("tcp", config.Listen)
	if err != nil {
		return nil, fmt.Errorf("metrics.listen %s: %w", config.Listen, err)
	}
	mux := http.NewServeMux()
	errorLog := slog.NewLogLogger(log.Handler(), slog.LevelWarn)
	mux.Handle("GET /metrics", promhttp.HandlerFor(config.Gatherer, promhttp.HandlerOpts{
		EnableOpenMetrics: true,
		ErrorLog:          errorLog,
	}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		err := errors.New("starting")
		if config.Ready != nil {
			err = config.Ready()
		}
		if err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintln(w, err)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return &Monitor{log: log, listener: listener, http: &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          errorLog,
	}}, nil
}

// Addr is the address served: the port that was chosen if the configured one is 0.
func (m *Monitor) Addr() net.Addr { return m.listener.Addr() }

// Run serves until ctx ends and returns nil then.
func (m *Monitor) Run(ctx context.Context) error {
	if err := serve(ctx, m.http, m.listener); err != nil {
		return fmt.Errorf("metrics.listen %s: %w", m.listener.Addr(), err)
	}
	return nil
}

// Close frees the port. It is needed only if Run is never called. It is idempotent.
func (m *Monitor) Close() error {
	m.http.Close()
	m.listener.Close()
	return nil
}
