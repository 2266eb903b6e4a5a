package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"penstock/cmd/internal/control"
	"penstock/policy"
	"penstock/router"
	"penstock/router/clients"
)

func TestARecordDoesNotSayThatThereWereNoPackets(t *testing.T) {
	b, err := json.Marshal(Flow(router.Flow{TxBytes: 5, RxBytes: 7}))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(b); strings.Contains(got, `Pkts":0`) || !strings.Contains(got, `"txBytes":5,"rxBytes":7`) {
		t.Errorf("got %s, want its bytes, and nothing about packets, which nobody has counted", got)
	}
}

func TestFlowsAreShownAsTheyWent(t *testing.T) {
	at := time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
	forward := func(egress string, cause policy.Cause) policy.Verdict {
		return policy.Verdict{Action: policy.Forward, Egress: egress, Rule: "rest", Cause: cause}
	}
	for _, row := range []struct {
		name              string
		verdict           policy.Verdict
		egress, err       string
		want, via, reason string
	}{
		{"blocked", policy.Verdict{Rule: "no-bets", Category: "bets"}, "", "", "block", "", ""},
		{"dropped", policy.Verdict{Action: policy.Drop, Rule: "quiet"}, "", "", "drop", "", ""},
		{"direct", forward("direct", policy.ByRule), "direct", "", "direct", "", ""},
		{"to the DNS server", forward("dns", policy.ByRule), "dns", "", "dns", "", ""},
		{"through a transport", forward("corp", policy.ByRule), "corp", "", "via", "corp", ""},
		{"on a trusted network", forward("direct", policy.ByTrusted), "direct", "", "direct", "", "trusted network"},
		{"to a captive portal", forward("direct", policy.ByPortal), "direct", "", "direct", "", "captive portal"},
		{"past a transport that was not up", forward("corp", policy.ByRule), "direct", "", "direct", "", "fallback: the transport is not up"},
		{"without a name", policy.Verdict{Rule: "rest", Cause: policy.ByUnnamed}, "", "", "block", "", "unnamed: the rule blocks flows without a name"},
		{"under a name that DNS did not give", policy.Verdict{Rule: "no-bets", Cause: policy.BySpoof}, "", "", "block", "", "mismatch: "},
		{"back to us", policy.Verdict{Action: policy.Drop, Rule: "rest", Cause: policy.ByLoop}, "", "", "drop", "", "loop: "},
		{"to a peer", policy.Verdict{Rule: "rest", Cause: policy.ByPeers}, "", "", "block", "", "guard: the destination is a peer"},
		{"to this machine", policy.Verdict{Rule: "rest", Cause: policy.ByGuard}, "", "", "block", "", "guard: "},
		{"to a closed port", forward("direct", policy.ByTrusted), "direct", "dial: connection refused", "direct", "", "dial: connection refused"},
	} {
		got := Flow(router.Flow{
			ID: 7, Verdict: row.verdict, Egress: row.egress, Err: row.err, Start: at, TxBytes: 5, RxBytes: 6,
			Facts: policy.Flow{Network: policy.UDP, Src: netip.MustParseAddrPort("10.99.0.2:4000"), Dst: netip.MustParseAddrPort("203.0.113.9:443"), Peer: "ana",
				Names: []policy.Name{{Host: "cdn.example", From: policy.FromDNS}, {Host: "site.example", From: policy.FromQUIC}}},
		})
		if got.Verdict != row.want || got.Reason != row.reason && !(strings.HasSuffix(row.reason, ": ") && strings.HasPrefix(got.Reason, row.reason)) {
			t.Errorf("%s: got %s because of %q, want %s because of %q", row.name, got.Verdict, got.Reason, row.want, row.reason)
		}
		if got.Via != row.via {
			t.Errorf("%s: got via %q, want %q", row.name, got.Via, row.via)
		}
		if got.ID != "7" || got.Proto != "udp" || got.Host != "site.example" || got.HostSource != "quic" || len(got.Names) != 2 || got.Peer != "ana" ||
			got.Src != "10.99.0.2:4000" || got.Dst != "203.0.113.9:443" || got.TxBytes != 5 || got.RxBytes != 6 || !got.Start.Equal(at) || !got.End.IsZero() {
			t.Errorf("%s: got %+v", row.name, got)
		}
	}
}

func TestFlowsAreListedLiveAndEnded(t *testing.T) {
	w := newWorld(t, text)
	live, got := w.flow(t, clients.Machine, "10.77.0.1:4000", "203.0.113.9:25")
	if got != "accepted" {
		t.Fatalf("a good flow was %s", got)
	}
	go io.WriteString(live, "hello")
	if _, err := io.ReadFull(live, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	ana, _ := w.live.Peer(netip.MustParseAddr("10.99.0.2"))
	if _, got := w.flow(t, ana, "10.99.0.2:4000", "198.51.100.1:22"); got != "refused" && got != "dropped" {
		t.Errorf("a peer's flow to this machine was %s", got)
	}
	if _, got := w.flow(t, clients.Machine, "10.77.0.1:4001", "192.168.1.9:22"); got != "refused" {
		t.Errorf("a blocked flow was %s", got)
	}
	w.ended(t)
	list := func(q control.FlowQuery) string {
		flows, err := w.flows.Flows(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, f := range flows {
			out = append(out, fmt.Sprintf("%s %s by %s", f.Dst, f.Verdict, f.Rule))
		}
		return strings.Join(out, ", ")
	}
	const mine, anas, blocked = "203.0.113.9:25 direct by rest", "198.51.100.1:22 block by rest", "192.168.1.9:22 block by lan"
	for deadline := time.Now().Add(5 * time.Second); len(w.flows.all()) < 2 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
	}
	for _, row := range []struct {
		name string
		q    control.FlowQuery
		want string
	}{
		{"live ones", control.FlowQuery{}, mine},
		{"denied ones, which are not live", control.FlowQuery{Denied: true}, anas + ", " + blocked},
		{"recent ones too, oldest first", control.FlowQuery{Recent: true}, anas + ", " + blocked + ", " + mine},
		{"denied ones of a peer", control.FlowQuery{Denied: true, Peer: "ana"}, anas},
		{"live ones of a peer that has none", control.FlowQuery{Peer: "ana"}, ""},
		{"the newest", control.FlowQuery{Recent: true, Limit: 2}, anas + ", " + blocked},
		{"the newest that was denied", control.FlowQuery{Denied: true, Limit: 1}, blocked},
		{"the largest", control.FlowQuery{Recent: true, Limit: 1, Largest: true}, mine},
		{"those that ended lately", control.FlowQuery{Recent: true, Since: time.Now().Add(time.Hour)}, mine},
		{"those with a text, in any case", control.FlowQuery{Recent: true, Text: "LAN"}, blocked},
		{"those with a text that is none's", control.FlowQuery{Recent: true, Text: "none's"}, ""},
	} {
		if got := list(row.q); got != row.want {
			t.Errorf("%s: got %s, want %s", row.name, got, row.want)
		}
	}
	if flows, _ := w.flows.Flows(t.Context(), control.FlowQuery{Peer: "nobody"}); flows == nil {
		t.Error("no flows are null in JSON, want an empty list")
	}
	flows, _ := w.flows.Flows(t.Context(), control.FlowQuery{})
	for _, id := range []string{"x", "-1", ""} {
		if err := w.flows.KillFlow(t.Context(), id); err == nil || !strings.Contains(err.Error(), "is not a number") {
			t.Errorf("kill %q: got %v", id, err)
		}
	}
	if err := w.flows.KillFlow(t.Context(), "999"); err == nil || !strings.Contains(err.Error(), "there is no live flow 999") {
		t.Errorf("kill a flow that is not there: got %v", err)
	}
	if err := w.flows.KillFlow(t.Context(), flows[0].ID); err != nil {
		t.Error(err)
	}
	live.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := live.Read(make([]byte, 1)); err == nil {
		t.Error("a flow that was killed lives on")
	}
	rules, err := w.policy.Rules(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	hits := make(map[string]uint64)
	for _, r := range rules.Rules {
		if hits[r.Name] = r.Hits; (r.Hits > 0) == r.LastHit.IsZero() {
			t.Errorf("rule %s: %d hits, the last at %v", r.Name, r.Hits, r.LastHit)
		}
	}
	if hits["rest"] != 2 || hits["lan"] != 1 || hits["no-bets"] != 0 {
		t.Errorf("hits: got %v, want 2 of rest, 1 of lan", hits)
	}
}

func TestTheLastFlowsAreRemembered(t *testing.T) {
	flows := new(Flows)
	for i := range uint64(remembered + 100) {
		f := router.Flow{ID: i + 1}
		if i%2 == 0 {
			f.Verdict.Action = policy.Forward
		}
		flows.Add(f)
	}
	all := flows.all()
	if len(all) != remembered || all[0].ID != 101 || all[len(all)-1].ID != remembered+100 {
		t.Errorf("got %d flows from %d to %d, want the last %d, oldest first", len(all), all[0].ID, all[len(all)-1].ID, remembered)
	}
	for i := 1; i < len(all); i++ {
		if all[i].ID != all[i-1].ID+1 {
			t.Fatalf("flow %d follows flow %d", all[i].ID, all[i-1].ID)
		}
	}
	if forwarded, denied := flows.counts(); forwarded+denied != remembered+100 || forwarded != denied {
		t.Errorf("counts: got %d and %d, want all that ever were", forwarded, denied)
	}
}

func TestTheLogTellsWhatGuardAndQuotaRefusedToPeers(t *testing.T) {
	var log bytes.Buffer
	flows := &Flows{Log: slog.New(slog.NewTextHandler(&log, nil))}
	begun := time.Now()
	end := func(peer, dst string, cause policy.Cause, after time.Duration) {
		flows.Add(router.Flow{
			Verdict: policy.Verdict{Rule: "rest", Cause: cause}, End: begun.Add(after),
			Facts: policy.Flow{Peer: peer, Src: netip.MustParseAddrPort("10.99.0.2:4000"), Dst: netip.MustParseAddrPort(dst)},
		})
	}
	end("", "169.254.169.254:80", policy.ByGuard, 0) // a program of this machine
	end("ana", "192.168.1.1:80", policy.ByRule, 0)   // what a rule blocks
	end("ana", "10.99.0.3:22", policy.ByPeers, time.Second)
	end("ana", "10.99.0.4:22", policy.ByPeers, 2*time.Second)
	end("ana", "10.99.0.5:22", policy.ByPeers, 3*time.Second)
	end("bob", "169.254.169.254:80", policy.ByGuard, 12*time.Second)
	end("cleo", "192.0.2.1:80", policy.ByQuota, 24*time.Second)
	said := strings.Split(strings.TrimSpace(log.String()), "\n")
	want := [][]string{
		{`"guard: the destination is a peer"`, "peer=ana", "dst=10.99.0.3:22", "others=0"},
		{`"guard: the destination is this machine or a reserved address"`, "peer=bob", "dst=169.254.169.254:80", "others=2"},
		{`"quota: the peer has used up its quota of this month"`, "peer=cleo", "dst=192.0.2.1:80", "others=0"},
	}
	if len(said) != len(want) {
		t.Fatalf("got %d lines, want %d:\n%s", len(said), len(want), log.String())
	}
	for i, words := range want {
		for _, word := range words {
			if !strings.Contains(said[i], word) {
				t.Errorf("line %d: got %s, want %s in it", i+1, said[i], word)
			}
		}
	}
}
