package report

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"penstock/cmd/internal/control"
	"penstock/dnsproxy"
	"penstock/policy"
	"penstock/router"
)

type forwarding struct{}

func (forwarding) Decide(policy.Flow) policy.Verdict { return policy.Verdict{Action: policy.Forward} }

func TestRefusedQuestionsAreShownWithRefusedFlows(t *testing.T) {
	var log bytes.Buffer
	r, err := router.New(router.Config{Policy: forwarding{}, Clients: who{}, Ways: ways{}})
	if err != nil {
		t.Fatal(err)
	}
	asker := new(policy.Sender)
	flows := &Flows{Router: r, Log: slog.New(slog.NewTextHandler(&log, nil))}
	begun := time.Now()
	ask := func(host, peer string, after time.Duration) {
		flows.Refused(dnsproxy.Refused{
			Src: netip.MustParseAddrPort("10.77.0.1:4000"), Peer: peer, Host: host, Decided: "casino.example",
			Verdict: policy.Verdict{Rule: "no-gambling", Category: "gambling", Edition: 3}, Time: begun.Add(after), Sender: asker,
		})
	}
	ask("casino.example", "", 0)
	ask("bet.example", "anna", time.Second)
	ask("poker.example", "anna", 2*time.Second)
	asker.Is(&policy.Program{UID: 997, Unit: "systemd-resolved.service"}) // after it was refused
	for _, row := range []struct {
		query control.FlowQuery
		want  string
	}{
		{control.FlowQuery{Denied: true}, "q1 casino.example, q2 bet.example, q3 poker.example"},
		{control.FlowQuery{Denied: true, Peer: "anna"}, "q2 bet.example, q3 poker.example"},
		{control.FlowQuery{Recent: true}, ""},
		{control.FlowQuery{}, ""},
	} {
		list, err := flows.Flows(t.Context(), row.query)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range list {
			got = append(got, f.ID+" "+f.Host)
			if want := "question: the name leads to casino.example"; (f.Reason == want) != (f.Host != "casino.example") {
				t.Errorf("%s: got reason %q", f.Host, f.Reason)
			}
			if f.Proto != "dns" || f.Verdict != "block" || f.Rule != "no-gambling" || f.Category != "gambling" || f.Generation != 3 ||
				f.Unit != "systemd-resolved.service" || f.UID == nil || *f.UID != 997 {
				t.Errorf("%s: got %+v", f.Host, f)
			}
		}
		if got := strings.Join(got, ", "); got != row.want {
			t.Errorf("%+v: got %s, want %s", row.query, got, row.want)
		}
	}
	if _, err := flows.find("q2"); err == nil || !strings.Contains(err.Error(), "q2 is a refused DNS question, not a flow: \"penstock explain bet.example\"") {
		t.Errorf("explain --flow q2: got %v, want what to explain instead", err)
	}
	ask("slots.example", "", 11*time.Second)
	said := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(said) != 2 || !strings.Contains(said[0], "host=casino.example") || !strings.Contains(said[1], "host=slots.example") || !strings.Contains(said[1], "others=2") {
		t.Errorf("the log says %q, want the first question, and after ten seconds one that stands for two others", said)
	}
	for i := range 2 * remembered {
		ask(fmt.Sprint("x", i), "", time.Minute)
	}
	list, err := flows.Flows(t.Context(), control.FlowQuery{Denied: true})
	if err != nil || len(list) != remembered {
		t.Errorf("%d questions are kept, %v, want %d", len(list), err, remembered)
	}
}
