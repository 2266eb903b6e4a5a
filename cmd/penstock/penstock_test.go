package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
)

// TestMain makes penstock a command of the scripts: the real command line, with a daemon that only says what it was
// asked for.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"penstock": func() {
			e := newEnv()
			e.run = func(_ context.Context, c *config.Config, o runOptions) error {
				o.Logger.Info("run", "config", c.Path, "socket", o.Socket)
				if c.Listen.WireGuard != nil {
					return c.Err("listen.wireguard.listen_port", "port 51820 is in use", "stop what uses it, or choose another")
				}
				return os.ErrPermission
			}
			e.check = func(_ context.Context, c *config.Config) (checkReport, error) {
				r := checkReport{Rules: len(c.Rules), Tests: len(c.Tests)}
				for _, test := range c.Tests {
					if test.Expect.Action != "block" {
						r.Failed = append(r.Failed, test.Pos.String()+": got block, want "+test.Expect.String())
					}
				}
				return r, nil
			}
			os.Exit(execute(context.Background(), e, os.Args[1:]))
		},
	})
}

// TestScripts runs the command line. Each script has a fake daemon at $PENSTOCK_SOCKET.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			socket := filepath.Join(env.WorkDir, "run", "control.sock")
			env.Setenv("PENSTOCK_SOCKET", socket)
			env.Setenv("GORACE", "atexit_sleep_ms=0") // the race detector would rest for a second after each command
			return fakeDaemon(env, socket)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits,
		},
	})
}

// exits runs a command and wants its exit code: exits CODE penstock ARGS...
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND ARGS...")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := "0"
	var exit interface{ ExitCode() int }
	if errors.As(err, &exit) {
		code = string(rune('0' + exit.ExitCode()))
	}
	if code != args[0] {
		ts.Fatalf("got exit code %s (%v), want %s", code, err, args[0])
	}
}

// fakeDaemon serves fixed answers until the script ends.
func fakeDaemon(env *testscript.Env, socket string) error {
	now := time.Now()
	server, err := control.New(control.Config{
		Socket: socket,
		Status: func(context.Context) (control.Status, error) {
			return control.Status{
				State: "connected", Degraded: true, Verdict: "connected via corp, received 0.4 s ago, filter on\x1b[2J", Started: now,
				Version: "v0.1.0", Config: filepath.Join(env.WorkDir, "gateway.yaml"), Listen: []string{"tun pen0"}, PolicyGeneration: 3,
				Transports: []control.TransportStatus{
					{Name: "corp", Kind: "wireguard", State: "connected", Degraded: true, Reason: "flapping", Since: now, LastRx: now, RxBytes: 123456, TxBytes: 12, Endpoint: "192.0.2.1:51820", Reconnects: 2},
					{Name: "legacy", Kind: "openvpn", State: "blocked", Reason: "auth_failed", Error: "the server refused the password"},
				},
				Flows: control.FlowCounts{Active: 1, Forwarded: 5, Denied: 2},
			}, nil
		},
		Flows: func(_ context.Context, q control.FlowQuery) ([]control.Flow, error) {
			if q.Denied {
				return []control.Flow{{ID: "f2", Proto: "tcp", Src: "10.77.0.2:5001", Dst: "203.0.113.7:443", Peer: "ana", Host: "x.bet", HostSource: "sni",
					Verdict: "block", Rule: "no-gambling", Category: "gambling", Start: now, End: now}}, nil
			}
			return []control.Flow{{ID: "f1", Proto: "tcp", Src: "10.77.0.2:5000", Dst: "10.0.0.80:443", Host: "intranet.corp.example", HostSource: "dns",
				Verdict: "via", Via: "corp", Rule: "intranet", TxBytes: 2048, RxBytes: 5 << 20, Start: now}}, nil
		},
		KillFlow: func(_ context.Context, id string) error {
			if id != "f1" {
				return errors.New("there is no live flow " + id)
			}
			return nil
		},
		Explain: func(_ context.Context, q control.ExplainQuery) (control.Explanation, error) {
			if q.Target != "https://x.bet" {
				return control.Explanation{Target: q.Target, Verdict: "direct", Rule: "rest"}, nil
			}
			return control.Explanation{
				Target: q.Target, Verdict: "block", Rule: "no-gambling", Position: "/etc/penstock.yaml:7", Category: "gambling", Protocol: "tcp",
				Peer: q.From, Groups: []string{"staff"}, Names: []control.Name{{Host: "x.bet", Source: "sni"}, {Host: "cdn.example", Source: "dns"}},
				Hits:  []control.ListHit{{Category: "gambling", List: "/lists/g.txt", Line: 12, Entry: "bet"}},
				Notes: []string{"as cdn.example it would be direct by rest"},
			}, nil
		},
		Rules: func(context.Context) (control.Rules, error) {
			return control.Rules{Generation: 3, Rules: []control.RuleStatus{{Name: "no-gambling", Position: "/etc/penstock.yaml:7:5", Match: "category gambling", Do: "block", Hits: 2, LastHit: now}, {Name: "rest", Do: "via corp"}}}, nil
		},
		Reload: func(_ context.Context, q control.ReloadQuery) (control.Reloaded, error) {
			if _, err := config.Load(filepath.Join(env.WorkDir, "gateway.yaml")); err != nil {
				return control.Reloaded{}, err
			}
			return control.Reloaded{Generation: 4, Changed: []string{"rules"}, Restart: []string{"listen.tun"}, Blocked: 1}, nil
		},
		Up: func(_ context.Context, q control.Steer) error {
			if q.Name == "nowhere" {
				return errors.New(`there is no transport "nowhere"`)
			}
			return nil
		},
		DNSQuery: func(_ context.Context, q control.DNSQuery) (control.DNSAnswer, error) {
			return control.DNSAnswer{Name: q.Name, Type: q.Type, Rcode: "NXDOMAIN", Rule: "no-gambling", Category: "gambling", Took: 0.00012}, nil
		},
		Lists: func(context.Context) ([]control.ListStatus, error) {
			return []control.ListStatus{{Category: "gambling", List: "built in", Entries: 300}}, nil
		},
		ListLookup: func(_ context.Context, name string) ([]control.ListHit, error) {
			if name != "x.bet" {
				return nil, nil
			}
			return []control.ListHit{{Category: "gambling", List: "/lists/g.txt", Line: 12, Entry: "bet"}}, nil
		},
		Allow: func(_ context.Context, q control.AllowQuery) (control.Allowed, error) {
			return control.Allowed{Target: q.Target, Until: now.Add(q.For)}, nil
		},
		Peers: func(context.Context) ([]control.PeerStatus, error) {
			return []control.PeerStatus{{Name: "ana", Addresses: []string{"10.78.0.2/32"}, Groups: []string{"staff"}}}, nil
		},
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
