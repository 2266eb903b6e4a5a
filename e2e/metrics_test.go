package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"penstock/e2e/netlab"
)

// get fetches a page of something that listens on the host's own loopback.
func (w *world) get(t *testing.T, h *netlab.Host, url string) (status int, body string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := w.Client(h).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

// metric is the value of a sample, named with its labels as /metrics prints it; 0 if there is none.
func (w *world) metric(t *testing.T, h *netlab.Host, sample string) float64 {
	t.Helper()
	_, text := w.get(t, h, "http://"+monitor+"/metrics")
	for line := range strings.Lines(text) {
		var v float64
		if rest, ok := strings.CutPrefix(line, sample+" "); ok {
			if _, err := fmt.Sscan(rest, &v); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			return v
		}
	}
	return 0
}

// laptop [pen0 -> penstock] === WireGuard ===> [penstock] gateway --- intranet
//
//	|  /metrics, /healthz, /readyz <- curl, promtool, prometheus
func TestWhatPrometheusSees(t *testing.T) {
	t.Parallel()
	promtool, prometheus := program(t, "promtool"), program(t, "prometheus")
	w := newWorld(t)
	w.write(t, "laptop.yaml", w.read(t, "laptop.yaml")+"captive_portal: {detect: false}\n") // the gateway may come late
	w.watch(t)
	w.laptop = start(t, w.Laptop, w.path("laptop.yaml"))
	t.Run("alive, but not ready before data flows", func(t *testing.T) {
		if status, body := w.get(t, w.Laptop, "http://"+monitor+"/healthz"); status != http.StatusOK {
			t.Errorf("/healthz: got %d %q, want 200", status, body)
		}
		status, body := w.get(t, w.Laptop, "http://"+monitor+"/readyz")
		if status != http.StatusServiceUnavailable || !strings.Contains(body, "corp") {
			t.Errorf("/readyz: got %d %q, want 503 and the transport that is missing", status, body)
		}
		if r := w.laptop.cli(t, "status"); r.code != exitPermission {
			t.Errorf("status: got %s, want exit code 4", r)
		}
		if up := w.metric(t, w.Laptop, `penstock_transport_up{transport="corp"}`); up != 0 {
			t.Errorf("penstock_transport_up: got %v, want 0", up)
		}
	})
	w.gateway = start(t, w.Gateway, w.path("gateway.yaml"))
	w.connected(t)
	w.works(t)
	t.Run("ready once data flows", func(t *testing.T) {
		for _, h := range []*netlab.Host{w.Laptop, w.Gateway} {
			if status, body := w.get(t, h, "http://"+monitor+"/readyz"); status != http.StatusOK {
				t.Errorf("%s: /readyz: got %d %q, want 200", h.Name(), status, body)
			}
		}
	})
	t.Run("promtool finds nothing to complain of", func(t *testing.T) {
		for _, h := range []*netlab.Host{w.Laptop, w.Gateway} {
			_, text := w.get(t, h, "http://"+monitor+"/metrics")
			check := exec.CommandContext(t.Context(), promtool, "check", "metrics")
			check.Stdin = strings.NewReader(text)
			if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("%s: got %s, %v, want nothing", h.Name(), out, err)
			}
		}
	})
	t.Run("what is promised is there, and no name or address of anybody's", func(t *testing.T) {
		_, text := w.get(t, w.Laptop, "http://"+monitor+"/metrics")
		for _, name := range []string{
			"build_info", "state", "transport_up", "flows_total", "flows_active", "bytes_total", "dial_seconds",
			"dial_errors_total", "name_source_total", "category_blocks_total", "dns_queries_total", "dns_seconds",
			"dns_cache_hits_total", "dns_cache_misses_total", "list_entries", "list_last_success_timestamp_seconds",
			"list_failures_total", "policy_generation", "policy_reload_success", "drops_total",
		} {
			if !strings.Contains(text, "\n# TYPE penstock_"+name+" ") {
				t.Errorf("there is no penstock_%s", name)
			}
		}
		for _, private := range []string{netlab.IntranetSite, netlab.GamblingSite, netlab.PublicSite, netlab.IntranetIPv4, publicIPv4, netlab.LaptopIPv4} {
			if strings.Contains(text, private) {
				t.Errorf("/metrics names %s", private)
			}
		}
	})
	t.Run("a real Prometheus scrapes it", func(t *testing.T) {
		dir := t.TempDir()
		config := dir + "/prometheus.yml"
		text := "global: {scrape_interval: 1s}\nscrape_configs: [{job_name: penstock, static_configs: [{targets: [\"" + monitor + "\"]}]}]\n"
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		server := w.Laptop.Command(t.Context(), prometheus, "--config.file="+config, "--storage.tsdb.path="+dir+"/data",
			"--web.listen-address=127.0.0.1:9090", "--log.level=warn")
		said := new(transcript)
		server.Stdout, server.Stderr = said, said
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = server.Process.Kill()
			_ = server.Wait()
		}()
		curl := program(t, "curl")
		eventually(t, "Prometheus knows that the transport is up", func() error {
			var answer struct {
				Data struct {
					Result []struct {
						Metric map[string]string
						Value  [2]any
					}
				}
			}
			r := run(t, w.Laptop, curl, "-sS", "--max-time", "5", "http://127.0.0.1:9090/api/v1/query?query=penstock_transport_up")
			if r.code != 0 {
				return fmt.Errorf("curl: %s\nprometheus: %s", r, said)
			}
			if err := json.Unmarshal([]byte(r.stdout), &answer); err != nil {
				return err
			}
			for _, sample := range answer.Data.Result {
				if sample.Metric["transport"] == "corp" && sample.Value[1] == "1" {
					return nil
				}
			}
			return errors.New(r.stdout)
		})
		for _, query := range dashboard(t) {
			r := run(t, w.Laptop, curl, "-sS", "--max-time", "5", "--data-urlencode", "query="+query, "http://127.0.0.1:9090/api/v1/query")
			if r.code != 0 || !strings.HasPrefix(r.stdout, `{"status":"success"`) {
				t.Errorf("the dashboard's query %s: got %s", query, r)
			}
		}
	})
	w.nothingInClear(t)
}

// dashboard returns the queries of deploy's dashboard, with values for its variables.
func dashboard(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("../deploy/grafana-dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct{ Targets []struct{ Expr string } }
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	var queries []string
	for _, p := range board.Panels {
		for _, q := range p.Targets {
			queries = append(queries, strings.NewReplacer("$instance", ".*", "$__rate_interval", "1m").Replace(q.Expr))
		}
	}
	if len(queries) < 50 {
		t.Errorf("got %d queries of the dashboard, want all", len(queries))
	}
	return queries
}
