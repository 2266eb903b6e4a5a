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
	Gatherer prometheus.Gatherer // of /metrics
	// Ready returns nil when data flows, else the reason why not. Nil: never ready.
	Ready  func() error
	Logger *slog.Logger
}

// Monitor serves /metrics, /healthz and /readyz over plain HTTP, for GET and HEAD only.
type Monitor struct {
	http *http.Server
}

// NewMonitor returns a monitor that serves nothing before Run.
func NewMonitor(config MonitorConfig) *Monitor {
	log := cmp.Or(config.Logger, slog.New(slog.DiscardHandler))
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
	return &Monitor{http: &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          errorLog,
	}}
}

// Run serves on l until ctx ends, closes it, and returns nil then. It is called once.
func (m *Monitor) Run(ctx context.Context, l net.Listener) error {
	if err := serve(ctx, m.http, l); err != nil {
		return fmt.Errorf("metrics.listen %s: %w", l.Addr(), err)
	}
	return nil
}
