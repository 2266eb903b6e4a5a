package report

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"penstock/cmd/internal/control"
	"penstock/dnsproxy"
	"penstock/policy"
	"penstock/router"
	"penstock/router/clients"
)

func TestExplain(t *testing.T) {
	w := newWorld(t, text)
	at := func(hour int) time.Time { return time.Date(2026, 3, 4, hour, 0, 0, 0, time.Local) }
	for _, row := range []struct {
		name     string
		q        control.ExplainQuery
		verdict  string // including via and rule
		because  string // part of the text
		address  string
		resolver string
		notes    []string // part of each note
	}{
		{"a name on a list", control.ExplainQuery{Target: "https://casino.example"},
			"block by no-bets", "which is in category bets", "", "NXDOMAIN for casino.example by rule no-bets; else UPSTREAM via direct",
			[]string{"after penstock allow casino.example --for 10m: direct by rule rest", "after penstock allow category:bets --for 10m: direct by rule rest"}},
		{"a name that nobody minds", control.ExplainQuery{Target: "site.example"},
			"direct by rest", "site.example (sni)", "203.0.113.9", "UPSTREAM via direct", nil},
		{"a name with an IPv6 address alone", control.ExplainQuery{Target: "six.example"},
			"direct by rest", "", "2001:db8::9", "UPSTREAM via direct", nil},
		{"a name that is not there", control.ExplainQuery{Target: "nowhere.example"},
			"direct by rest", "", "", "UPSTREAM via direct: NXDOMAIN, no address", nil},
		{"a name for special use", control.ExplainQuery{Target: "printer.local"},
			"direct by rest", "", "", "penstock itself: the name is for special use: NXDOMAIN, no address", nil},
		{"this machine's own name", control.ExplainQuery{Target: "localhost", From: "ana"},
			"block by rest", "", "127.0.0.1", "penstock itself: the name is for special use", nil},
		{"an address on a list, under a name that is on none", control.ExplainQuery{Target: "https://203.0.113.66", SNI: "site.example"},
			"block by no-bets", "the flow goes to 203.0.113.66, which is in category bets", "203.0.113.66", "", nil},
		{"an address on a list", control.ExplainQuery{Target: "tcp://203.0.113.66:22"},
			"block by no-bets", "the flow goes to 203.0.113.66, which is in category bets", "203.0.113.66", "", nil},
		{"an IPv6 address without brackets", control.ExplainQuery{Target: "2001:db8::9"}, "direct by rest", "", "2001:db8::9", "", nil},
		{"a name with a split zone", control.ExplainQuery{Target: "wiki.corp.example"},
			"direct by wiki", "", "10.0.0.5", "UPSTREAM via direct, for corp.example", nil},
		{"a name in two zones: the longer one counts", control.ExplainQuery{Target: "x.deep.corp.example"},
			"direct by rest", "", "", "UPSTREAM via direct, for deep.corp.example: NXDOMAIN, no address", nil},
		{"a schedule that holds", control.ExplainQuery{Target: "games.example", At: at(23)},
			"block by night", "", "", "", []string{"from Thu 06:00: direct by rule rest"}},
		{"a schedule that does not", control.ExplainQuery{Target: "games.example", At: at(12)},
			"direct by rest", "", "203.0.113.7", "UPSTREAM via direct", []string{"from Wed 22:00: block by rule night"}},
		{"a moment that is night elsewhere", control.ExplainQuery{Target: "games.example", At: at(12).In(time.FixedZone("", 12*60*60))},
			"direct by rest", "", "203.0.113.7", "UPSTREAM via direct", nil},
		{"a transport that is not up", control.ExplainQuery{Target: "files.example"},
			"via corp by files", "", "203.0.113.8", "UPSTREAM via direct", []string{"while corp is not up: direct by rule files"}},
		{"a rule for some peers", control.ExplainQuery{Target: "staff.example", From: "ana"},
			"direct by rest", "", "203.0.113.10", "UPSTREAM via direct", []string{"from peer bob: drop by rule staff"}},
		{"an address", control.ExplainQuery{Target: "tcp://192.168.1.9:22"}, "block by lan", "the flow has no name", "192.168.1.9", "", nil},
		{"a claimed name at another address", control.ExplainQuery{Target: "https://192.168.50.10", SNI: "Wiki.corp.example"},
			"direct by wiki", "", "10.0.0.5", "", []string{"our resolver gives 10.0.0.5 for wiki.corp.example, so the flow is dialled there"}},
		{"a claimed name at its address", control.ExplainQuery{Target: "https://10.0.0.5", SNI: "wiki.corp.example"},
			"direct by wiki", "", "10.0.0.5", "", []string{"our resolver gives the address for wiki.corp.example"}},
		{"a claimed name that is not there", control.ExplainQuery{Target: "https://192.168.50.10", SNI: "other.wiki.corp.example"},
			"block by lan", "so the name does not count", "192.168.50.10", "", []string{"our resolver gives no address for other.wiki.corp.example"}},
		{"this machine, for a peer", control.ExplainQuery{Target: "tcp://198.51.100.1:22", From: "ana"},
			"block by rest", "its destination is this machine or a reserved address", "198.51.100.1", "", nil},
		{"this machine's address, for itself", control.ExplainQuery{Target: "tcp://198.51.100.1:22"}, "direct by rest", "", "198.51.100.1", "", nil},
		{"a metadata service", control.ExplainQuery{Target: "http://169.254.169.254", From: "10.99.0.2"}, "block by rest", "reserved address", "169.254.169.254", "", nil},
		{"a network of our own", control.ExplainQuery{Target: "tcp://10.77.0.9:22"}, "drop by lan", "one of penstock's own networks", "10.77.0.9", "", nil},
		{"our own DNS server", control.ExplainQuery{Target: "10.77.0.2:53", Protocol: "udp"}, "dns by dns", "", "10.77.0.2", "", nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			x, err := w.policy.Explain(t.Context(), row.q)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.TrimSpace(x.Verdict+" "+x.Via) + " by " + x.Rule; got != row.verdict {
				t.Errorf("got %s, want %s", got, row.verdict)
			}
			if !strings.Contains(x.Because, row.because) {
				t.Errorf("because: got %q, want %q in it", x.Because, row.because)
			}
			if row.resolver != "" {
				if got, want := x.Resolver, strings.ReplaceAll(row.resolver, "UPSTREAM", w.resolver.Addr.String()); got != want {
					t.Errorf("resolver: got %q, want %q", got, want)
				}
			}
			if got := strings.Join(x.Addresses, " "); row.address != "" && got != row.address {
				t.Errorf("address: got %q, want %q", got, row.address)
			}
			for _, want := range row.notes {
				if !contains(x.Notes, want) {
					t.Errorf("notes: got %q, want %q", x.Notes, want)
				}
			}
			if x.Generation != 1 || x.Position == "" && x.Rule != "dns" {
				t.Errorf("got edition %d and place %q", x.Generation, x.Position)
			}
		})
	}
}

func TestExplainNamesTheLineOfTheList(t *testing.T) {
	w := newWorld(t, text)
	x, err := w.policy.Explain(t.Context(), control.ExplainQuery{Target: "www.casino.example", From: "bob"})
	if err != nil {
		t.Fatal(err)
	}
	if len(x.Hits) != 1 || x.Hits[0].Category != "bets" || x.Hits[0].Line != 2 || x.Hits[0].Entry != "casino.example" {
		t.Errorf("hits: got %+v, want line 2 of the list once", x.Hits)
	}
	if x.Peer != "bob" || !slices.Equal(x.Groups, []string{"guests"}) || x.Protocol != "tcp" || x.Target != "www.casino.example" {
		t.Errorf("got %+v, want it for bob, a guest", x)
	}
	x, err = w.policy.Explain(t.Context(), control.ExplainQuery{Target: "files.example"})
	if err != nil {
		t.Fatal(err)
	}
	if want := "down via corp, nothing received yet"; x.Transport != want {
		t.Errorf("transport: got %q, want %q", x.Transport, want)
	}
}

func TestExplainRefuses(t *testing.T) {
	w := newWorld(t, text)
	for _, row := range []struct {
		name string
		q    control.ExplainQuery
		want string
	}{
		{"a peer that is not there", control.ExplainQuery{Target: "a.example", From: "dan"}, `there is no peer "dan", or it may not connect: see penstock peer list`},
		{"a peer that is disabled", control.ExplainQuery{Target: "a.example", From: "eve"}, `there is no peer "eve", or it may not connect: see penstock peer list`},
		{"a scheme that is not known", control.ExplainQuery{Target: "gopher://a.example"}, `scheme "gopher" is unknown`},
		{"a protocol without a port", control.ExplainQuery{Target: "a.example", Protocol: "udp"}, "udp needs a port"},
		{"a name in the flow that is none", control.ExplainQuery{Target: "a.example", SNI: "a b"}, ""},
		{"a flow that nobody remembers", control.ExplainQuery{Flow: "77"}, "flow 77 is not live and not among the last 1024 that ended"},
	} {
		if _, err := w.policy.Explain(t.Context(), row.q); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want %q", row.name, err, row.want)
		}
	}
}

// snapshot is everything that an explanation could change.
func (w *world) snapshot(t *testing.T) string {
	t.Helper()
	cached := func(name string) string {
		a, err := w.server.Query(t.Context(), policy.Flow{Client: clients.Machine}, name, "A")
		if err != nil {
			t.Fatal(err)
		}
		return a.Cache
	}
	unnamed := w.live.Decide(policy.Flow{Network: policy.TCP, Client: clients.Machine, Dst: netip.MustParseAddrPort("10.0.0.5:443"), Sniffed: true,
		Names: w.server.Names().Lookup(clients.Machine, netip.MustParseAddr("10.0.0.5"))})
	hits := ""
	for _, r := range w.live.Now().Policy.Rules() {
		hits += fmt.Sprint(w.flows.Router.Hits()[r.Name].Count, " ")
	}
	forwarded, denied := w.flows.counts()
	return fmt.Sprintf("names %d, cached %s %s, unnamed flow by %s, hits %s, flows %d %d %d, edition %d, conditions %+v, decisions %d",
		w.server.Names().Len(), cached("wiki.corp.example"), cached("site.example"), unnamed.Rule, hits,
		w.flows.Router.Active(), forwarded, denied, w.live.Now().Number, *w.live.Conditions(), len(w.live.Now().Policy.Decisions()))
}

func TestExplainChangesNothing(t *testing.T) {
	w := newWorld(t, text)
	before := w.snapshot(t)
	if !strings.Contains(before, "names 0, cached miss miss, unnamed flow by lan") {
		t.Fatalf("before: got %s, and a change could not be seen", before)
	}
	for _, q := range []control.ExplainQuery{
		{Target: "https://wiki.corp.example"}, {Target: "https://wiki.corp.example", From: "ana"}, {Target: "https://site.example", From: "192.0.2.9"},
		{Target: "https://192.168.50.10", SNI: "wiki.corp.example"}, {Target: "https://casino.example"},
	} {
		if _, err := w.policy.Explain(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"wiki.corp.example", "site.example"} {
		if _, err := w.dns.DNSQuery(t.Context(), control.DNSQuery{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	if after := w.snapshot(t); after != before {
		t.Errorf("got  %s\nwant %s", after, before)
	}
	// Prove that the snapshot works: a question from a client does change it.
	if _, err := w.server.Confirm(t.Context(), policy.Flow{Client: clients.Machine, Dst: netip.MustParseAddrPort("10.0.0.5:443")}, "wiki.corp.example"); err != nil {
		t.Fatal(err)
	}
	if after := w.snapshot(t); !strings.Contains(after, "names 1, cached hit miss, unnamed flow by wiki") {
		t.Errorf("after a real question: got %s", after)
	}
}

func TestExplainAFlowByThenAndByNow(t *testing.T) {
	w := newWorld(t, text)
	far, got := w.flow(t, clients.Machine, "10.77.0.1:4000", "203.0.113.9:25")
	if got != "accepted" {
		t.Fatalf("the flow was %s", got)
	}
	far.Close()
	past := w.ended(t)
	w.use(t, strings.Replace(text, "{name: rest, do: direct}", "{name: closed, do: block}", 1))
	x, err := w.policy.Explain(t.Context(), control.ExplainQuery{Flow: fmt.Sprint(past.ID)})
	if err != nil {
		t.Fatal(err)
	}
	if x.Verdict != "block" || x.Rule != "closed" || x.Generation != 2 {
		t.Errorf("now: got %s by %s of edition %d", x.Verdict, x.Rule, x.Generation)
	}
	if x.Then == nil || x.Then.Verdict != "direct" || x.Then.Rule != "rest" || x.Then.Generation != 1 || x.Then.Because == "" {
		t.Errorf("then: got %+v", x.Then)
	}
	for range 20 { // more editions than are kept
		w.live.Use(w.live.Now())
	}
	x, err = w.policy.Explain(t.Context(), control.ExplainQuery{Flow: fmt.Sprint(past.ID)})
	if err != nil {
		t.Fatal(err)
	}
	if x.Then.Verdict != "direct" || x.Then.Rule != "rest" || !strings.Contains(x.Then.Because, "edition 1 of the policy is no longer kept") {
		t.Errorf("then, long ago: got %+v", x.Then)
	}
}

// ended waits for the next flow to end.
func (w *world) ended(t *testing.T) router.Flow {
	t.Helper()
	for range 500 {
		if all := w.flows.all(); len(all) > 0 {
			return all[len(all)-1]
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("no flow has ended")
	return router.Flow{}
}

func TestWhyANameIsHidden(t *testing.T) {
	a := dnsproxy.Answer{Decided: "wiki.corp.example"}
	if got, want := whyHidden(a), "hidden: no flow of the client may go to wiki.corp.example"; got != want {
		t.Errorf("by name: got %q, want %q", got, want)
	}
	a.Withheld = netip.MustParseAddr("10.20.0.10")
	if got, want := whyHidden(a), "hidden: no flow of the client may go to 10.20.0.10"; got != want {
		t.Errorf("by address: got %q, want %q", got, want)
	}
}

func TestDNSQuery(t *testing.T) {
	w := newWorld(t, text)
	a, err := w.dns.DNSQuery(t.Context(), control.DNSQuery{Name: "Casino.example"})
	if err != nil {
		t.Fatal(err)
	}
	if a.Rcode != "NXDOMAIN" || a.Rule != "no-bets" || a.Category != "bets" || len(a.Hits) != 1 || a.Hits[0].Line != 2 || a.Upstream != "" {
		t.Errorf("a blocked name: got %+v", a)
	}
	a, err = w.dns.DNSQuery(t.Context(), control.DNSQuery{Name: "site.example", From: "ana"})
	if err != nil {
		t.Fatal(err)
	}
	if a.Rcode != "NOERROR" || len(a.Answers) != 1 || !strings.HasSuffix(a.Answers[0], "203.0.113.9") || a.Cache != "miss" || a.Cached || a.Upstream == "" || a.Decided != "" {
		t.Errorf("a good name: got %+v", a)
	}
	if _, err := w.server.Confirm(t.Context(), policy.Flow{Client: clients.Machine, Dst: netip.MustParseAddrPort("203.0.113.9:443")}, "site.example"); err != nil {
		t.Fatal(err)
	}
	if a, _ = w.dns.DNSQuery(t.Context(), control.DNSQuery{Name: "site.example"}); !a.Cached {
		t.Errorf("after a client asked: got %+v, want it cached", a)
	}
	if err := w.dns.DNSFlush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a, _ = w.dns.DNSQuery(t.Context(), control.DNSQuery{Name: "site.example"}); a.Cached {
		t.Errorf("after a flush: got %+v, want nothing cached", a)
	}
	w.resolver.Add(t, "alias.example. 300 IN CNAME casino.example.")
	if a, _ = w.dns.DNSQuery(t.Context(), control.DNSQuery{Name: "alias.example"}); a.Decided != "casino.example" || a.Rule != "no-bets" || len(a.Hits) != 1 {
		t.Errorf("an alias of a blocked name: got %+v, want the name that decided", a)
	}
	w.resolver.Add(t, "xn--bcher-kva.example. 300 IN A 203.0.113.11")
	if a, _ = w.dns.DNSQuery(t.Context(), control.DNSQuery{Name: "bücher.example"}); len(a.Answers) != 1 || a.Name != "xn--bcher-kva.example" {
		t.Errorf("a name beyond ASCII: got %+v, want it asked for as programs do", a)
	}
	if a, _ = w.dns.DNSQuery(t.Context(), control.DNSQuery{Name: "printer.local"}); a.Rcode != "NXDOMAIN" || !strings.HasPrefix(a.Reason, "a name for special use") {
		t.Errorf("a name for special use: got %+v, want it said", a)
	}
	for _, q := range []control.DNSQuery{{Name: "site.example", From: "dan"}, {Name: "site.example", Type: "NONE"}, {Name: "a..b"}, {Name: "https://site.example"}} {
		if _, err := w.dns.DNSQuery(t.Context(), q); err == nil {
			t.Errorf("%+v was answered", q)
		}
	}
}
