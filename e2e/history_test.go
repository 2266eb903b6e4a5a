package e2e

import (
	"errors"
	"os"
	"strings"
	"testing"
)

// laptop [pen0 -> penstock that is killed and started again] === WireGuard ===> [penstock] gateway --- internet
func TestTheHistoryOutlivesPenstock(t *testing.T) {
	t.Parallel()
	w := newPolicyWorld(t, "metrics:", "history: {file: history.db}\nmetrics:").up(t)
	attempt{"", "curl https://public.example/", "this is public.example", nil}.on(t, w.Laptop)
	attempt{"", "curl --resolve casino.example:443:203.0.113.20 https://casino.example/", "", cutOff()}.on(t, w.Laptop)
	listed := func() error {
		r := w.laptop.cli(t, "history", "--since", "1h")
		lines := strings.Split(r.stdout, "\n")
		for _, want := range []string{"tcp|public.example|via corp|rest", "question|public.example|A ", "tcp|casino.example|block|no-gambling (gambling)"} {
			found := false
			for _, line := range lines {
				has := true
				for _, part := range strings.Split(want, "|") {
					has = has && strings.Contains(line, part)
				}
				found = found || has
			}
			if !found {
				return errors.New("no " + want + " in " + r.String())
			}
		}
		return nil
	}
	eventually(t, "both sites are in the history", listed)
	info, err := os.Stat(w.path("history.db"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: got %v, %v, want 0600", info, err)
	}
	w.write(t, "second.yaml", "listen: {wireguard: {address: 10.66.0.1/24, listen_port: 51999, private_key: {file: gateway.key}}}\nhistory: {file: history.db}\nrules: {name: rest, do: direct}\n")
	if r := run(t, w.Laptop, built("penstock"), "--socket", w.path("second.sock"), "run", "-c", w.path("second.yaml")); r.code != 5 || !strings.Contains(r.stderr, "another penstock keeps its history there") {
		t.Errorf("another penstock with the same history: got %s, want exit code 5", r)
	}

	w.laptop.kill(t)
	w.laptop.start(t)
	w.connected(t)
	if err := listed(); err != nil {
		t.Errorf("after a kill: %v", err)
	}
	for _, row := range []struct {
		args []string
		want string
	}{
		{[]string{"history", "--blocked", "--host", "example", "--json"}, `"verdict":"block"`},
		{[]string{"history", "totals", "--by", "category"}, "gambling"},
		{[]string{"history", "totals", "--by", "hour", "--rule", "no-gambling"}, ":00"},
		{[]string{"history", "export", "--kind", "flow", "--text", "CASINO"}, ",casino.example,block,no-gambling,gambling,"},
	} {
		if r := w.laptop.cli(t, row.args...); r.code != 0 || !strings.Contains(r.stdout, row.want) {
			t.Errorf("%q: got %s, want %q", row.args, r, row.want)
		}
	}
}
