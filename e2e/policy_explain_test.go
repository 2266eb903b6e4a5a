package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"penstock/e2e/netlab"
)

// laptop [pen0 -> penstock] === WireGuard ===> [penstock] gateway --- internet
func TestExplainTellsTheWholeStory(t *testing.T) {
	t.Parallel()
	w := newPolicyWorld(t, "  - {name: intranet,", "  - {name: evenings, match: {domain: news.example, schedule: [\"22:00-06:00\"]}, do: block}\n  - {name: intranet,").up(t)
	for _, row := range []struct {
		sentence string
		args     []string
		code     int
		want     []string
	}{
		{"a blocked site", []string{"https://www.casino.example/"}, exitBlocked, []string{
			"https://www.casino.example/: block", "no-gambling, " + w.path("laptop.yaml") + ":", "category   gambling",
			"www.casino.example (dns)", "www.casino.example (sni)", w.path("gambling.txt") + ":1", "NXDOMAIN for www.casino.example by rule no-gambling",
			"shadowed   rest", "after penstock allow www.casino.example --for 10m: via corp by rule rest",
		}},
		{"a site of the intranet", []string{"https://intranet.corp.example/"}, 0, []string{
			"via corp", "intranet, " + w.path("laptop.yaml") + ":", "10.20.0.10", "10.99.0.1 via corp, for corp.example", "connected via corp",
		}},
		{"a false name", []string{"https://news.example/", "--sni", "casino.example"}, exitBlocked, []string{"casino.example (sni)", "news.example (dns)", "no-gambling"}},
		{"another time", []string{"https://news.example/", "--at", "23:30"}, exitBlocked, []string{"evenings", "06:00: via corp by rule rest"}},
		{"a time at which it is open", []string{"https://news.example/", "--at", "12:00"}, 0, []string{"rest", "22:00: block by rule evenings"}},
		{"a resolver by its address", []string{"https://8.8.8.8/"}, exitBlocked, []string{"no-other-resolver", "doh: 8.8.8.8 in built in:"}},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			r := w.laptop.cli(t, append([]string{"explain"}, row.args...)...)
			if r.code != row.code {
				t.Errorf("got %s, want exit code %d", r, row.code)
			}
			for _, want := range row.want {
				if !strings.Contains(r.stdout, want) {
					t.Errorf("got\n%s\nwant %q in it", r.stdout, want)
				}
			}
		})
	}
}

// record is what the tests read of a line of the flow log.
type record struct {
	Dst, Host, Verdict, Rule string
	Names                    []struct{ Host, Source string }
	Generation               int `json:"policy_generation"`
}

// laptop [pen0 -> penstock] === WireGuard ===> [penstock] gateway --- internet
func TestTheFlowLogHasWhatWasAllowedAndWhatWasNot(t *testing.T) {
	t.Parallel()
	w := newPolicyWorld(t, "metrics:", "flow_log: {file: flows.json}\nmetrics:").up(t)
	attempt{"", "curl https://public.example/", "this is public.example", nil}.on(t, w.Laptop)
	w.laptop.must(t, "reload")
	attempt{"", "curl --resolve casino.example:443:203.0.113.20 https://casino.example/", "", cutOff()}.on(t, w.Laptop)
	eventually(t, "both are in the flow log", func() error {
		b, err := os.ReadFile(w.path("flows.json"))
		if err != nil {
			return err
		}
		var log []record
		for s := bufio.NewScanner(strings.NewReader(string(b))); s.Scan(); {
			var r record
			if err := json.Unmarshal(s.Bytes(), &r); err != nil {
				t.Fatalf("line %q: %v", s.Text(), err)
			}
			log = append(log, r)
		}
		allowed := slices.IndexFunc(log, func(r record) bool { return r.Verdict == "via" && r.Host == netlab.PublicSite && len(r.Names) == 2 })
		refused := slices.IndexFunc(log, func(r record) bool {
			return r.Verdict == "block" && r.Rule == "no-gambling" && r.Host == netlab.GamblingSite
		})
		if allowed < 0 || refused < 0 {
			return errors.New(string(b))
		}
		if log[refused].Generation <= log[allowed].Generation {
			t.Errorf("after a reload: got policy %d, before it %d", log[refused].Generation, log[allowed].Generation)
		}
		return nil
	})
}
