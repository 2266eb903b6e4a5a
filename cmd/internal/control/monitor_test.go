package control

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestMonitor(t *testing.T) {
	reg := prometheus.NewRegistry()
	up := prometheus.NewGauge(prometheus.GaugeOpts{Name: "penstock_example", Help: "An example."})
	reg.MustRegister(up)
	var notReady atomic.Pointer[error]
	reason := errors.New("no transport is connected")
	notReady.Store(&reason)
	m := NewMonitor(MonitorConfig{Gatherer: reg, Ready: func() error { return *notReady.Load() }})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx, l) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}()

	get := func(method, path string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+l.Addr().String()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	for _, test := range []struct {
		name, method, path string
		ready              error
		status             int
		body               string
	}{
		{"metrics are served", "GET", "/metrics", nil, 200, "penstock_example 0"},
		{"metrics are served while nothing works", "GET", "/metrics", reason, 200, "penstock_example 0"},
		{"a process that answers lives", "GET", "/healthz", reason, 200, "ok"},
		{"not ready says why", "GET", "/readyz", reason, 503, "no transport is connected"},
		{"ready when data flows", "GET", "/readyz", nil, 200, "ok"},
		{"nothing is changed here", "POST", "/metrics", nil, 405, ""},
		{"the control interface is not here", "POST", "/v1/status", nil, 404, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			notReady.Store(&test.ready)
			status, body := get(test.method, test.path)
			if status != test.status || !strings.Contains(body, test.body) {
				t.Errorf("got %d %q, want %d with %q", status, body, test.status, test.body)
			}
		})
	}
}
