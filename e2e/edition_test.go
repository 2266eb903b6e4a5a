package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"penstock/e2e/netlab"
)

// penstock check, run, reload --dry-run, reload: one configuration, one answer
func TestCheckRunAndReloadAgree(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.gateway = start(t, w.Gateway, w.path("gateway.yaml"))
	const good = "  split: [{domains: [corp.example], upstream: {address: 10.20.0.10}}]\n"
	zone := func(domains string) string {
		return "  split: [{domains: [corp.example, " + domains + "], upstream: {address: 10.20.0.10}}]\n"
	}
	for _, row := range []struct {
		sentence, dns string
		ok            bool
	}{
		{"a zone and what is below it", zone(`"*.corp.example"`), true},
		{"a zone that is not ASCII", zone("bücher.example"), true},
		{"one name in two zones", good[:len(good)-2] + ", {domains: [a.example], upstream: {address: 10.20.0.10}}, {domains: [\"*.a.example\"], upstream: {address: 10.20.0.11}}]\n", false},
		{"a private domain that is not a name", good + "  allow_private: [\"a..b\"]\n", false},
		{"an upstream that is the gateway itself", "  split: [{domains: [corp.example], upstream: {address: 10.99.0.1}}]\n", false},
		{"an upstream whose port is not a port", "  split: [{domains: [corp.example], upstream: {address: \"tls://1.2.3.4:99999\"}}]\n", false},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			w.edit(t, "gateway.yaml", good, row.dns)
			defer w.edit(t, "gateway.yaml", row.dns, good)
			var before, after struct{ PolicyGeneration int }
			w.gateway.ask(t, &before, "status")
			for _, r := range []struct {
				command string
				result
			}{
				{"check", run(t, w.Gateway, built("penstock"), "check", "-c", w.path("gateway.yaml"))},
				{"reload --dry-run", w.gateway.cli(t, "reload", "--dry-run")},
				{"reload", w.gateway.cli(t, "reload")},
				{"run", w.tryRun(t, "gateway.yaml")},
			} {
				if (r.code == 0) != row.ok {
					t.Errorf("%s: got %s, want success %v", r.command, r.result, row.ok)
				}
				if !row.ok && !strings.Contains(r.stderr, "gateway.yaml:8:") && !strings.Contains(r.stderr, "gateway.yaml:9:") {
					t.Errorf("%s: got %s, want the line that is wrong", r.command, r.result)
				}
			}
			w.gateway.ask(t, &after, "status")
			if changed := before != after; changed != row.ok {
				t.Errorf("after a reload edition %d is in force, before it %d", after.PolicyGeneration, before.PolicyGeneration)
			}
		})
	}
}

// tryRun runs a penstock on the access router, where nothing else listens, until it answers or has ended. If it answers,
// it is stopped, and the exit code is 0.
func (w *world) tryRun(t *testing.T, config string) result {
	t.Helper()
	socket := w.path("try.sock")
	cmd := w.Access.Command(context.WithoutCancel(t.Context()), "env", "XDG_STATE_HOME="+w.path("other-state"), // the gateway holds its own
		built("penstock"), "run", "-c", w.path(config), "--socket", socket)
	var said transcript
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		_ = cmd.Wait() // how it ended is in ProcessState
	}()
	other := &penstock{host: w.Access, socket: socket}
	eventually(t, "it answers or has ended", func() error {
		select {
		case <-over:
			return nil
		default:
		}
		if r := other.cli(t, "status"); strings.HasPrefix(r.stdout, "down: ") || r.stdout == "" {
			return fmt.Errorf("status: %s", r)
		}
		return cmd.Process.Signal(os.Interrupt)
	})
	<-over
	return result{"", said.String(), cmd.ProcessState.ExitCode()}
}

// laptop [pen0 -> penstock] === WireGuard ===> [penstock <- penstock reload] gateway --- intranet
//
// Every bundle swaps a peer for another, opens the intranet to all, and is wrong in one place.
func TestABundleWithOneFaultChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write(t, "more.txt", "more.example\n")
	w.edit(t, "gateway.yaml", "rules:\n", `categories:
  more: {lists: [{file: more.txt}]}
rules:
  - {name: no-more, match: {category: more}, do: block}
`)
	if err := os.Mkdir(w.path("peers.d"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, first := keyPair(t)
	_, second := keyPair(t)
	_, third := keyPair(t)
	peer := func(name, key, addr string) string {
		return fmt.Sprintf("peers:\n  - {name: %s, public_key: %s, allowed_ips: [%s/32]}\n", name, key, addr)
	}
	w.write(t, "peers.d/one.yaml", peer("zoe", third, "10.99.0.9")) // the folder is watched: what is swapped stands elsewhere
	ana, ben := peer("ana", first, "10.99.0.7"), peer("ben", second, "10.99.0.8")
	w.edit(t, "gateway.yaml", "peers:\n", ana)
	w.up(t)
	holding := func() string {
		var list struct {
			Peers []struct{ Name string }
		}
		w.gateway.ask(t, &list, "peer", "list")
		var s struct{ PolicyGeneration int }
		w.gateway.ask(t, &s, "status")
		var rules struct {
			Rules []struct{ Name string }
		}
		w.gateway.ask(t, &rules, "rules")
		verdict, _, _ := strings.Cut(w.gateway.cli(t, "explain", "https://more.example/", "--from", "laptop").stdout, "\n")
		return fmt.Sprintf("edition %d, peers %v, rules %v, %s\n", s.PolicyGeneration, list.Peers, rules.Rules, verdict)
	}
	before := holding()
	live := downloadFrom(t, w, netlab.PublicSite, publicIPv4)
	goodGateway := w.read(t, "gateway.yaml")
	for _, row := range []struct{ sentence, file, old, new string }{
		{"a key that does not exist", "gateway.yaml", "metrics:", "metrix:"},
		{"a rule for a category that does not exist", "gateway.yaml", "category: more", "category: moer"},
		{"a rule that sends to a transport that does not exist", "gateway.yaml", "{name: rest, do: direct}", "{name: rest, do: {via: hq}}"},
		{"a last rule that is missing", "gateway.yaml", "  - {name: rest, do: direct}\n", ""},
		{"a list that is gone", "gateway.yaml", "more.txt", "gone.txt"},
		{"a resolver whose address is not an address", "gateway.yaml", "{address: 203.0.113.53}", "{address: \"203.0.113.53:99999\"}"},
		{"a zone that is split twice", "gateway.yaml", "split: [", "split: [{domains: [\"*.corp.example\"], upstream: {address: 10.20.0.11}}, "},
		{"a resolver that is the gateway itself", "gateway.yaml", "{address: 203.0.113.53}", "{address: 10.99.0.1}"},
		{"a private domain that is not a name", "gateway.yaml", "dns:\n", "dns:\n  allow_private: [\"a..b\"]\n"},
		{"a key file that is gone", "gateway.yaml", "gateway.key", "gone.key"},
		{"a peer's key that is not a key", "gateway.yaml", second, "short"},
		{"a peer with another's address", "gateway.yaml", "10.99.0.8", laptopInner4},
		{"a peer with another's name", "gateway.yaml", "name: ben", "name: laptop"},
		{"a test that does not hold", "gateway.yaml", "metrics:", "tests: [{to: \"https://more.example\", expect: block}]\nmetrics:"},
		{"an include that cannot be read", "gateway.yaml", "include: peers.d/*.yaml", "include: [peers.d/*.yaml, gone.yaml]"},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			defer func() {
				w.write(t, "gateway.yaml", goodGateway)
				w.write(t, "more.txt", "more.example\n")
			}()
			w.edit(t, "gateway.yaml", ana, ben)
			w.edit(t, "gateway.yaml", "rules:\n", "rules:\n  - {name: new, match: {domain: more.example, port: 443}, do: direct}\n")
			w.edit(t, row.file, row.old, row.new)
			for _, args := range [][]string{{"reload", "--dry-run"}, {"reload"}, {"reload", "--kill-denied"}} {
				if r := w.gateway.cli(t, args...); r.code == 0 {
					t.Errorf("%v: got %s, want it refused", args, r)
				}
			}
			if now := holding(); now != before {
				t.Errorf("after a reload that was refused: got\n%s\nwant what was before:\n%s", now, before)
			}
		})
	}
	if err := live.goesOn(t); err != nil {
		t.Errorf("a download over all of it: %v, want it to go on", err)
	}
	// The control: without a fault the bundle comes into force, all of it.
	w.edit(t, "gateway.yaml", ana, ben)
	w.edit(t, "gateway.yaml", "rules:\n", "rules:\n  - {name: new, match: {domain: more.example, port: 443}, do: direct}\n")
	w.gateway.must(t, "reload")
	if now := holding(); !strings.Contains(now, "{ben}") || strings.Contains(now, "{ana}") || !strings.Contains(now, ": direct\n") {
		t.Errorf("after a good reload: got\n%s\nwant ben for ana, and more.example open", now)
	}
	w.nothingInClear(t)
}

// laptop: flows that come and go [pen0 -> penstock <- reloads] === WireGuard ===> [penstock <- reloads] gateway --- internet
func TestReloadsUnderLoad(t *testing.T) {
	t.Run("in short", func(t *testing.T) { reloadUnderLoad(t, built("penstock"), 20) })
	if !soaking() {
		return // what follows builds a second penstock and takes minutes: task soak
	}
	t.Run("with the race detector", func(t *testing.T) {
		if _, err := exec.LookPath("gcc"); err != nil {
			t.Skipf("the race detector needs cgo, and cgo a C compiler: %v", err)
		}
		racy := filepath.Join(t.TempDir(), "penstock")
		build := exec.CommandContext(t.Context(), "go", "build", "-race", "-o", racy, "penstock/cmd/penstock")
		build.Env = append(os.Environ(), "CGO_ENABLED=1")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build with -race: %v\n%s", err, out)
		}
		reloadUnderLoad(t, racy, 200)
	})
}

// reloadUnderLoad reloads both penstocks again and again, each time with other rules, lists, zones and peers, while more
// than 100 flows a second begin and end. The allowed ones work, the blocked ones do not, and no race is reported.
func reloadUnderLoad(t *testing.T, binary string, reloads int) {
	w := newPolicyWorld(t)
	w.watch(t)
	w.gateway = startProgram(t, w.Gateway, w.path("gateway.yaml"), binary)
	w.laptop = startProgram(t, w.Laptop, w.path("laptop.yaml"), binary)
	w.connected(t)
	c := &tryer{w, w.Laptop}
	gateway, laptop := w.read(t, "gateway.yaml"), w.read(t, "laptop.yaml")
	_, guest := keyPair(t)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var over sync.WaitGroup
	var flows, asked atomic.Int64
	for i := range 5 {
		over.Go(func() {
			tick := time.NewTicker(30 * time.Millisecond) // four times 33 a second, and the questions
			defer tick.Stop()
			for ctx.Err() == nil {
				<-tick.C
				switch i {
				case 0:
					if err := reachesBlocked(ctx, c); err != nil {
						t.Error(err)
					}
				case 1:
					datagram(w.Laptop, nil, newsIPv4+":443", []byte("a datagram"))
				case 2:
					_, _ = w.Laptop.Lookup(ctx, netlab.NewsSite) // what counts is that it is asked
					asked.Add(1)
					continue
				default:
					conn, err := w.Laptop.DialContext(ctx, "tcp", newsIPv4+":22")
					if err == nil {
						conn.Close()
					} else if ctx.Err() == nil {
						t.Errorf("an allowed flow: %v", err)
					}
				}
				flows.Add(1)
			}
		})
	}
	// The explanations and lists that an operator asks for meanwhile.
	over.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			for _, p := range []*penstock{w.laptop, w.gateway} {
				p.cli(t, strings.Fields([]string{"explain https://news.example/", "flows", "status", "dns query news.example", "rules"}[i%5])...)
			}
		}
	})
	begun := time.Now()
	for i := range reloads {
		peer, rule, zone := "", "", ""
		if i%2 == 0 {
			peer = "\n  - {name: guest, public_key: " + guest + ", allowed_ips: [10.99.0.7/32], groups: [staff]}"
			rule = fmt.Sprintf("\n  - {name: extra, match: {domain: extra%d.example}, do: block}", i)
		} else {
			zone = "{domains: [other.example], upstream: {address: 10.20.0.10}}, "
		}
		w.write(t, "gambling.txt", fmt.Sprintf("casino.example\nextra%d.example\n", i))
		w.write(t, "gateway.yaml", strings.NewReplacer("peers:", "peers:"+peer, "rules:", "rules:"+rule, "split: [", "split: ["+zone).Replace(gateway))
		w.write(t, "laptop.yaml", strings.Replace(laptop, "rules:", "rules:"+rule, 1))
		w.gateway.must(t, "reload")
		w.laptop.must(t, "reload")
	}
	took := time.Since(begun)
	cancel()
	over.Wait()
	t.Logf("%d reloads of each in %v, %d flows and %d questions meanwhile", reloads, took.Round(time.Millisecond), flows.Load(), asked.Load())
	if flows.Load() < int64(reloads) {
		t.Errorf("%d flows during %d reloads: too few to prove anything", flows.Load(), reloads)
	}
	for _, p := range []*penstock{w.laptop, w.gateway} {
		if strings.Contains(p.said.String(), "DATA RACE") {
			t.Errorf("%s's penstock raced:\n%s", p.host.Name(), p.said.String())
		}
	}
	w.nothingInClear(t)
}
