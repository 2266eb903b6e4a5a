package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"penstock/e2e/netlab"
)

// readiness waits until the gateway's readyz has a status, and wants a text in its answer.
func (w *world) readiness(t *testing.T, status int, text string) {
	t.Helper()
	eventually(t, fmt.Sprintf("the gateway's readyz says %d", status), func() error {
		got, body := w.get(t, w.Gateway, "http://"+monitor+"/readyz")
		if got != status || !strings.Contains(body, text) {
			return fmt.Errorf("it says %d: %s", got, body)
		}
		return nil
	})
}

// internet -x- [penstock, health] gateway -x- intranet
func TestAGatewayWithoutItsLinksIsNotReady(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const target = "wiki.corp.example:80"
	w.edit(t, "gateway.yaml", "rules:\n", "health: ["+target+"]\nrules:\n  - {name: health, match: {domain: wiki.corp.example, port: 80}, do: direct}\n")
	w.gateway = start(t, w.Gateway, w.path("gateway.yaml"))
	w.readiness(t, http.StatusOK, "ok")
	if out := w.gateway.must(t, "status"); !strings.Contains(out, "\nhealth "+target+" reached for ") {
		t.Errorf("status: got\n%s", out)
	}
	links := func(up bool) {
		t.Helper()
		if err := errors.Join(w.Gateway.SetLink("wan", up), w.Gateway.SetLink("intra", up)); err != nil {
			t.Fatal(err)
		}
	}
	links(false)
	w.readiness(t, http.StatusServiceUnavailable, "health target "+target+" is not reached: ")
	if r := w.gateway.cli(t, "status"); r.code != 4 || !strings.HasPrefix(r.stdout, "degraded: health target "+target+" is not reached: ") {
		t.Errorf("status: got %s; want exit code 4 and the target first", r)
	}
	if n := w.metric(t, w.Gateway, fmt.Sprintf("penstock_health_target_up{target=%q}", target)); n != 0 {
		t.Errorf("metrics: got %v for a target that is not reached, want 0", n)
	}
	links(true)
	w.readiness(t, http.StatusOK, "ok")
	w.edit(t, "gateway.yaml", "do: direct}\n", "do: block}\n")
	w.gateway.must(t, "reload")
	w.readiness(t, http.StatusServiceUnavailable, "rule health refuses it")
}

// laptop: wireguard-go, nc === WireGuard ===> [penstock, drained] gateway --- intranet
func TestAGatewayThatIsDrainedServesUntilItsFlowsAreOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.gateway = start(t, w.Gateway, w.path("gateway.yaml"))
	stock(t, w.Laptop, w.path("corp.conf"), "10.20.0.0/24")
	w.readiness(t, http.StatusOK, "ok")
	flow := dial(t, w.Laptop, "tcp", fmt.Sprintf("%s:%d", netlab.IntranetIPv4, netlab.EchoPort))
	if r := w.gateway.cli(t, "drain", "--for", "300ms"); r.code != 4 || !strings.Contains(r.stderr, "flows that are left: 1") {
		t.Errorf("drain with a live flow: got %s, want exit code 4 and the number", r)
	}
	w.readiness(t, http.StatusServiceUnavailable, "draining")
	if r := w.gateway.cli(t, "status"); r.code != 4 || !strings.HasPrefix(r.stdout, "draining: ") {
		t.Errorf("status: got %s, want exit code 4 and draining first", r)
	}
	if err := w.carriesOnce(patience); err != nil {
		t.Errorf("what arrives while it drains: %v", err)
	}
	flow.Close()
	if out := w.gateway.must(t, "drain", "--for", "20s"); out != "no flows are left\n" {
		t.Errorf("drain: got %q", out)
	}
	w.gateway.must(t, "drain", "--off")
	w.readiness(t, http.StatusOK, "ok")
}
