package daemon

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"penstock/cmd/internal/acme"
	"penstock/cmd/internal/config"
	"penstock/cmd/internal/fleet"
)

// deployed reads a file of deploy.
func deployed(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "deploy", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// metricNames returns the names of all metrics of a daemon, including the suffixes of histograms, and of a gateway of a fleet or with
// certificates by ACME.
func metricNames(t *testing.T) map[string]bool {
	t.Helper()
	d := built(t, laptopText)
	member := &config.Config{Fleet: &config.Fleet{Site: "lab", Gateway: "a"}, Site: new(config.Site)}
	if _, err := fleet.New(t.Context(), fleet.Config{Live: func() *config.Config { return member }, Registry: d.registry}); err != nil {
		t.Fatal(err)
	}
	acme.Open(acme.Config{Settings: new(config.ACME), Sites: func() []config.ACMESite { return nil }, Registry: d.registry})
	ch := make(chan *prometheus.Desc)
	go func() { d.registry.Describe(ch); close(ch) }()
	names := make(map[string]bool)
	fqName := regexp.MustCompile(`fqName: "([^"]+)"`)
	for desc := range ch {
		if m := fqName.FindStringSubmatch(desc.String()); m != nil {
			names[m[1]] = true
		}
	}
	return names
}

func TestQueriesNameRealMetrics(t *testing.T) {
	real := metricNames(t)
	used := make(map[string]bool)
	suffix := regexp.MustCompile(`_(bucket|sum|count)$`)
	for _, file := range []string{"alerts.yml", "grafana-dashboard.json"} {
		for _, name := range regexp.MustCompile(`\b(penstock|process|go)_[a-z_]+`).FindAllString(deployed(t, file), -1) {
			if base := suffix.ReplaceAllString(name, ""); real[base] {
				name = base
			}
			used[name] = true
			if !real[name] {
				t.Errorf("deploy/%s asks for %s, which penstock does not have", file, name)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(real)) {
		if strings.HasPrefix(name, "penstock_") && !used[name] {
			t.Errorf("%s is in no panel and no alert of deploy: an operator will not see it", name)
		}
	}
}

// TestAlertsAreExplained: each alert has a section in the runbook, and a test that it fires.
func TestAlertsAreExplained(t *testing.T) {
	runbook := deployed(t, filepath.Join("..", "docs", "runbook.md"))
	tests := deployed(t, "alerts_test.yml")
	alerts := regexp.MustCompile(`(?m)^ +- alert: (\w+)\n(?: .*\n)*?.*runbook: "docs/runbook.md#(\w+)"`).FindAllStringSubmatch(deployed(t, "alerts.yml"), -1)
	if all := strings.Count(deployed(t, "alerts.yml"), "- alert: "); len(alerts) != all || all == 0 {
		t.Errorf("%d of %d alerts name a section of docs/runbook.md", len(alerts), all)
	}
	for _, a := range alerts {
		if a[2] != strings.ToLower(a[1]) || !strings.Contains(runbook, "\n## "+a[1]+"\n") {
			t.Errorf("docs/runbook.md has no section %s, or %q is not its anchor", a[1], a[2])
		}
		if !strings.Contains(tests, `alertname="`+a[1]+`"`) {
			t.Errorf("deploy/alerts_test.yml does not show that %s fires", a[1])
		}
	}
}

// TestAlertsAreRules needs promtool.
func TestAlertsAreRules(t *testing.T) {
	tool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed")
	}
	for _, args := range [][]string{{"check", "rules", "alerts.yml"}, {"test", "rules", "alerts_test.yml"}} {
		cmd := exec.CommandContext(t.Context(), tool, args...)
		cmd.Dir = filepath.Join("..", "..", "..", "deploy")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
}

// TestThePrometheusOfThePageIsGood needs promtool.
func TestThePrometheusOfThePageIsGood(t *testing.T) {
	tool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed")
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"prometheus.yml": snippet(t, "prometheus-config"), "penstock-alerts.yml": deployed(t, "alerts.yml")} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), tool, "check", "config", "prometheus.yml")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestUnitsAreHardened needs systemd-analyze. The early unit may be more exposed: it runs for a moment, without a network, and
// must not depend on a mount namespace.
func TestUnitsAreHardened(t *testing.T) {
	tool, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	for unit, exposure := range map[string]string{"penstock.service": "30", "penstock-lockdown.service": "35"} {
		cmd := exec.CommandContext(t.Context(), tool, "security", "--offline=true", "--threshold="+exposure, "--no-pager",
			filepath.Join("..", "..", "..", "deploy", unit))
		if out, err := cmd.CombinedOutput(); err != nil {
			if bytes.Contains(out, []byte("unrecognized option")) {
				t.Skip("this systemd-analyze cannot look at files")
			}
			t.Errorf("%s: %v\n%s", unit, err, out)
		}
	}
}
