package main

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"penstock/cmd/internal/control"
)

func TestDNSVerdicts(t *testing.T) {
	answer := func(change func(*control.DNSAnswer)) control.DNSAnswer {
		a := control.DNSAnswer{Name: "x.example", Type: "A", Rcode: "NOERROR", Took: 0.0123}
		change(&a)
		return a
	}
	for _, row := range []struct {
		name   string
		answer control.DNSAnswer
		want   string
	}{
		{"an upstream's", answer(func(a *control.DNSAnswer) { a.Upstream = "main" }), "NOERROR for x.example A, from main, in 12.3ms"},
		{"from the cache", answer(func(a *control.DNSAnswer) { a.Cached = true }), "NOERROR for x.example A, from the cache, in 12.3ms"},
		{"from the cache, with its upstream", answer(func(a *control.DNSAnswer) { a.Cached, a.Upstream = true, "main" }),
			"NOERROR for x.example A, from the cache, first from main, in 12.3ms"},
		{"an expired one", answer(func(a *control.DNSAnswer) { a.Cached, a.Cache, a.Upstream = true, "stale", "main" }),
			"NOERROR for x.example A, from the cache although it has expired: no upstream answers, in 12.3ms"},
		{"of our own", answer(func(a *control.DNSAnswer) { a.Source = "record at a.yaml:7" }), "NOERROR for x.example A, known from the record at a.yaml:7, in 12.3ms"},
		{"hidden from a peer", answer(func(a *control.DNSAnswer) {
			a.Rcode, a.Rule, a.Source, a.Reason = "NXDOMAIN", "lan", "peer ana", "hidden: no flow of the client may go to 10.99.0.2"
		}),
			"NXDOMAIN for x.example A, rule lan, known from the peer ana, hidden: no flow of the client may go to 10.99.0.2, in 12.3ms"},
		{"blocked for a name behind it", answer(func(a *control.DNSAnswer) {
			a.Rcode, a.Rule, a.Category, a.Decided = "NXDOMAIN", "ads", "ads", "t.example"
		}),
			"NXDOMAIN for x.example A, rule ads (ads) for t.example, in 12.3ms"},
		{"refused with a reason", answer(func(a *control.DNSAnswer) { a.Rcode, a.Reason = "SERVFAIL", "no upstream\x1b" }),
			"SERVFAIL for x.example A, no upstream?, in 12.3ms"},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := dnsVerdict(plain(row.answer)); got != row.want {
				t.Errorf("got  %s\nwant %s", got, row.want)
			}
		})
	}
}

func TestAnExplanationHasEverythingKnown(t *testing.T) {
	x := control.Explanation{
		Target: "flow 7", Verdict: "via", Via: "corp", Rule: "intranet", Position: "a.yaml:3:5", Because: "the name is in corp.example",
		Protocol: "tcp", Peer: "ana", Groups: []string{"staff", "admins"}, Addresses: []string{"10.0.0.1", "fd00::1"},
		Names: []control.Name{{Host: "wiki.corp.example", Source: "sni"}},
		Hits: []control.ListHit{
			{Category: "ads", List: "/l/a.txt", Line: 3, Entry: "corp.example"},
			{Category: "ads", List: "built in", Entry: "wiki.corp.example", Allow: true},
		},
		Resolver: "10.0.0.53 via corp", Transport: "connected", Datapath: "terminated", Shadowed: []string{"a", "b"},
		Notes: []string{"one", "two"}, Generation: 5,
		Then: &control.Explanation{Verdict: "block", Rule: "rest", Position: "a.yaml:9:5", Category: "ads", Because: "no rule matched",
			Hits: []control.ListHit{{Category: "ads", List: "/l/a.txt", Line: 3, Entry: "corp.example"}}, Generation: 4},
	}
	const want = `flow 7: via corp
rule       intranet, a.yaml:3:5
because    the name is in corp.example
protocol   tcp
peer       ana of staff, admins
names      wiki.corp.example (sni)
addresses  10.0.0.1
           fd00::1
lists      ads: corp.example in /l/a.txt:3
           ads: wiki.corp.example in built in (allowed)
resolver   10.0.0.53 via corp
transport  connected
datapath   terminated
shadowed   a, b
note       one
           two

when it was judged, by policy 4 (now 5): block
rule       rest, a.yaml:9:5
category   ads
because    no rule matched
lists      ads: corp.example in /l/a.txt:3
`
	var b bytes.Buffer
	if err := printExplanation(&b, x); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("explanation (-want +got):\n%s", diff)
	}
}

func TestAStatusOfALaptop(t *testing.T) {
	now := time.Date(2026, 1, 31, 21, 30, 0, 0, time.UTC)
	s := control.Status{
		State: "reconnecting", Verdict: "reconnecting via best", Started: now.Add(-time.Hour), Version: "v1", Config: "/etc/a.yaml",
		ReloadError: "a.yaml:1:1: unknown key", PolicyGeneration: 2, HistoryStopped: "/state/history.db: the disk is full\x1b[2J",
		Transports: []control.TransportStatus{{Name: "best", Kind: "failover", State: "connected", Active: "corp", Since: now.Add(-time.Minute)}},
	}
	var b bytes.Buffer
	if err := printStatus(&b, s, now); err != nil {
		t.Fatal(err)
	}
	const want = `reconnecting via best
up 1h00m, v1, /etc/a.yaml
flows 0 active, 0 forwarded, 0 denied, policy 2
the last reload was refused: a.yaml:1:1: unknown key
the history is not kept at present: /state/history.db: the disk is full?[2J

TRANSPORT  KIND      STATE               SINCE      LAST RX  RX   TX   RECONNECTS  ENDPOINT
best       failover  connected via corp  1m00s ago  never    0 B  0 B  0           -
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
}
