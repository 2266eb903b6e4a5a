package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
)

// fake is a penstock that answers every call with the same, but that its server legacy lets its user in who has answered.
type fake struct {
	config   string // path of its configuration
	started  time.Time
	answered *atomic.Bool // nil: never
}

func (f fake) Status(context.Context) (control.Status, error) {
	legacy := control.TransportStatus{Name: "legacy", Kind: "openvpn", State: "blocked", Reason: "auth_failed", Error: "the server refused the password"}
	if f.answered != nil && f.answered.Load() {
		legacy = control.TransportStatus{Name: "legacy", Kind: "openvpn", State: "connected"}
	}
	return control.Status{
		State: "connected", Degraded: true, Verdict: "connected via corp, received 0.4 s ago, filter on\x1b[2J", Started: f.started,
		Version: "v0.1.0", Config: f.config, Listen: []string{"tun pen0"}, PolicyGeneration: 3,
		Transports: []control.TransportStatus{
			{Name: "corp", Kind: "wireguard", State: "connected", Degraded: true, Reason: "flapping", Since: f.started, LastRx: f.started, RxBytes: 123456, TxBytes: 12, Endpoint: "192.0.2.1:51820", Reconnects: 2},
			legacy,
		},
		Flows: control.FlowCounts{Active: 1, Forwarded: 5, Denied: 2},
		Fleet: &control.Fleet{Site: "lab", Gateway: "a", Connected: true, Generation: 7, Gateways: []control.FleetGateway{
			{Name: "a", Region: "eu", State: "serving", Generation: 7, Refused: 8, Fault: "a test fails:\nsite.yaml:9", Peers: 3, Version: "v0.1.0", Heard: f.started},
			{Name: "b", Region: "eu", State: "unfit", Why: "10.20.0.10:443\x1b[2J is not reached", Generation: 7, Peers: 1, Heard: f.started.Add(-time.Hour)},
		}},
		Peers: &control.PeerCounts{Idle: 1, Bad: []control.BadPeers{{File: "/etc/penstock/peers.d/mia.yaml", Error: "its peers are left out: mia.yaml:2:5: not YAML"}}},
	}, nil
}

func (f fake) Reload(context.Context, control.ReloadQuery) (control.Reloaded, error) {
	if _, err := config.Load(f.config); err != nil {
		return control.Reloaded{}, err
	}
	return control.Reloaded{Generation: 4, Changed: []string{"rules"}, Restart: []string{"listen.tun"}, Blocked: 1}, nil
}

func (f fake) Drain(context.Context, control.DrainOrder) error { return nil }

func (f fake) Flows(_ context.Context, q control.FlowQuery) ([]control.Flow, error) {
	if q.Denied {
		return []control.Flow{{ID: "f2", Proto: "tcp", Src: "10.77.0.2:5001", Dst: "203.0.113.7:443", Peer: "ana", Host: "x.bet", HostSource: "sni",
			Verdict: "block", Rule: "no-gambling", Category: "gambling", Start: f.started, End: f.started}}, nil
	}
	return []control.Flow{{ID: "f1", Proto: "tcp", Src: "10.77.0.2:5000", Dst: "10.0.0.80:443", Host: "intranet.corp.example", HostSource: "dns",
		Verdict: "via", Via: "corp", Rule: "intranet", TxBytes: 2048, RxBytes: 5 << 20, Start: f.started}}, nil
}

// Records has the records 30, 20 and 10, in pages of one. One page has none, because the search took its time.
func (f fake) Records(_ context.Context, q control.RecordQuery) (control.Records, error) {
	id := (q.Before - 1) / 10 * 10
	switch {
	case q.Before == 0 && q.Text == "":
		id = 30
	case q.Before == 0 || q.Before == 30:
		return control.Records{More: true, Next: 25, Searched: f.started, Records: []control.Record{}}, nil
	}
	return control.Records{More: id > 10, Next: id, Records: []control.Record{{ID: id, Question: &control.Question{Proto: "dns", Src: "10.77.0.2:5353", Peer: "ana", Host: "=x\x1b.bet",
		Type: "A", Verdict: "block", Rule: "no-gambling", Category: "gambling", Result: "blocked", Start: f.started, End: f.started}}}}, nil
}

func (fake) Totals(context.Context, control.TotalsQuery) (control.Totals, error) {
	return control.Totals{Totals: []control.Total{{Key: "x.bet", Allowed: 1, Blocked: 2, TxBytes: 3, RxBytes: 4096}}}, nil
}

func (fake) KillFlow(_ context.Context, id string) error {
	if id != "f1" {
		return errors.New("there is no live flow " + id)
	}
	return nil
}

func (fake) Explain(_ context.Context, q control.ExplainQuery) (control.Explanation, error) {
	if q.Target != "https://x.bet" {
		return control.Explanation{Target: q.Target, Verdict: "direct", Rule: "rest"}, nil
	}
	return control.Explanation{
		Target: q.Target, Verdict: "block", Rule: "no-gambling", Position: "/etc/penstock.yaml:7", Category: "gambling", Protocol: "tcp",
		Peer: q.From, Groups: []string{"staff"}, Names: []control.Name{{Host: "x.bet", Source: "sni"}, {Host: "cdn.example", Source: "dns"}},
		Hits:  []control.ListHit{{Category: "gambling", List: "/lists/g.txt", Line: 12, Entry: "bet"}},
		Notes: []string{"as cdn.example it would be direct by rest"},
	}, nil
}

func (f fake) Rules(context.Context) (control.Rules, error) {
	return control.Rules{Generation: 3, Rules: []control.RuleStatus{
		{Name: "no-gambling", Position: "/etc/penstock.yaml:7:5", Match: "category gambling", Do: "block", Hits: 2, LastHit: f.started},
		{Name: "rest", Do: "via corp"},
	}, Tests: []control.RuleTest{
		{Position: "/etc/penstock.yaml:9:5", From: "ana", To: "x.bet", Expect: "block", Got: "block", Rule: "no-gambling"},
		{Position: "/etc/penstock.yaml:10:5", To: "y.bet", Expect: "block", Got: "via corp", Rule: "rest", Error: "it does not hold"},
	}}, nil
}

func (f fake) Allow(_ context.Context, q control.AllowQuery) (control.Allowed, error) {
	a := control.Allowed{Target: q.Target, Peer: q.Peer, Until: f.started.Add(q.For)}
	if q.Always {
		a.Until, a.File, a.Diff = time.Time{}, "/var/lib/penstock/decisions.yaml", "--- a\n+++ a\n@@ -1,0 +1,1 @@\n+  - {allow: \"x.bet\"}\n"
	}
	return a, nil
}

func (f fake) Block(_ context.Context, q control.BlockQuery) (control.Blocked, error) {
	return control.Blocked{Target: q.Target, Peer: q.Peer, Until: f.started.Add(q.For), Ended: 2, Warning: "a restart ends it: the disk is full"}, nil
}

func (f fake) Decisions(context.Context) (control.Decisions, error) {
	return control.Decisions{Decisions: []control.Decision{
		{ID: "block:category:games@ana", Do: "block", Target: "category:games", Peer: "ana", By: "uid 0\x1b[2J", Kept: true, Note: "there is no category \"games\""},
		{ID: "allow:filter", Do: "allow", Target: "filter", Until: f.started},
	}}, nil
}

func (fake) RemoveDecision(_ context.Context, q control.DecisionRemoval) (control.DecisionRemoved, error) {
	if q.ID == "x.bet" {
		return control.DecisionRemoved{}, errors.New(`there is no decision "x.bet": see penstock decisions`)
	}
	return control.DecisionRemoved{ID: q.ID, Ended: 1}, nil
}

func (fake) Up(_ context.Context, q control.Steer) error {
	if q.Name == "nowhere" {
		return errors.New(`there is no transport "nowhere"`)
	}
	return nil
}

func (fake) Down(context.Context, control.Steer) error      { return control.ErrNotOffered }
func (fake) Reconnect(context.Context, control.Steer) error { return nil }

func (fake) DNSQuery(_ context.Context, q control.DNSQuery) (control.DNSAnswer, error) {
	return control.DNSAnswer{Name: q.Name, Type: q.Type, Rcode: "NXDOMAIN", Rule: "no-gambling", Category: "gambling", Took: 0.00012}, nil
}

func (fake) DNSFlush(context.Context) error { return nil }

func (fake) Lists(context.Context) ([]control.ListStatus, error) {
	return []control.ListStatus{{Category: "gambling", List: "built in", Entries: 300}}, nil
}

func (fake) ListLookup(_ context.Context, name string) ([]control.ListHit, error) {
	if name != "x.bet" {
		return nil, nil
	}
	return []control.ListHit{{Category: "gambling", List: "/lists/g.txt", Line: 12, Entry: "bet"}}, nil
}

func (fake) ListRefresh(context.Context) error { return nil }

func (f fake) Answer(_ context.Context, q control.AnswerQuery) error {
	if q != (control.AnswerQuery{Transport: "legacy", ID: 7, User: "ana", Answer: "123456"}) {
		return fmt.Errorf("got the answer %+v", q)
	}
	f.answered.Store(true)
	return nil
}

func (f fake) SignIns(_ context.Context, q control.Steer) ([]control.SignIn, error) {
	return map[string][]control.SignIn{
		"":       {{Transport: "corp", URL: "http://10.99.0.1/", Needed: true}, {Transport: "lab", URL: "http://10.98.0.1/", User: "ana@corp.example", Until: f.started}},
		"lab":    {{Transport: "lab", URL: "http://10.98.0.1/", User: "ana@corp.example", Until: f.started}},
		"legacy": {{Transport: "legacy", ID: 7, Needed: true, Question: "Your code", NeedUser: true}},
		"evil":   {{Transport: "evil", URL: "file:///etc/passwd", Needed: true}},
	}[q.Name], nil
}

func (fake) SetPeerAccess(context.Context, control.PeerAccess) error { return nil }

func (fake) SignOut(_ context.Context, name string) error {
	if name != "ana" {
		return errors.New("nobody has signed in with peer " + name)
	}
	return nil
}

func (fake) Peers(context.Context) ([]control.PeerStatus, error) {
	return []control.PeerStatus{{Name: "ana", Addresses: []string{"10.78.0.200/32"}, Groups: []string{"staff"}, State: "idle"}}, nil
}

func (f fake) Invite(_ context.Context, q control.InviteQuery) (control.Invited, error) {
	if q.For != 48*time.Hour || len(q.Groups) != 1 || len(q.AllowedIPs) != 1 {
		return control.Invited{}, fmt.Errorf("the fake invites nobody like %+v", q)
	}
	return control.Invited{Name: q.Name, Link: "https://gw.example:8443/join#TOKEN.PIN", Until: f.started.Add(q.For), Pinned: true}, nil
}

func (f fake) Invitations(context.Context) ([]control.Invitation, error) {
	return []control.Invitation{{Name: "ana", Groups: []string{"staff"}, State: "open", Made: f.started, Until: f.started}}, nil
}

func (fake) Uninvite(_ context.Context, name string) error {
	if name != "ana" {
		return errors.New("there is no invitation for " + name)
	}
	return nil
}

func (fake) PeerQuotaReset(_ context.Context, name string) error {
	if name != "ana" {
		return fmt.Errorf("there is no peer %q with a quota that may connect", name)
	}
	return nil
}

// serveFake serves a fake until the script ends.
func serveFake(env *testscript.Env, socket string) error {
	f := fake{config: filepath.Join(env.WorkDir, "gateway.yaml"), started: time.Now(), answered: new(atomic.Bool)}
	server, err := control.New(control.Config{
		Socket: socket, Process: f, Flows: f, Policy: f, Decisions: f, Transports: f, DNS: f, Lists: f, Peers: f, Invites: f, History: f,
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	env.Defer(func() {
		cancel()
		<-done
	})
	return nil
}
