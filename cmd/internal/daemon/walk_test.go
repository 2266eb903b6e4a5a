package daemon

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	miekg "github.com/miekg/dns"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
	"penstock/stack"
	"penstock/stack/link"
)

// The world of the walk is in memory, and every host answers at once: it echoes streams, and its DNS servers give one address
// for every name.
//
//	programs -- pipe -- penstock -- walkWorld
type walkWorld struct {
	nowhere
	asked chan string // "network address" of each dial
}

// walkAddr is the address of every name in the world of the walk (RFC 5737).
const walkAddr = "198.51.100.7"

func (w walkWorld) DialContext(_ context.Context, network, address string) (net.Conn, error) {
	w.asked <- network + " " + address
	near, far := net.Pipe()
	if strings.HasPrefix(network, "udp") {
		go answerQuestions(far)
	} else {
		go func() {
			defer far.Close()
			io.Copy(far, far)
		}()
	}
	return near, nil
}

// answerQuestions is a DNS server that answers every question until c is closed.
func answerQuestions(c net.Conn) {
	defer c.Close()
	buf := make([]byte, miekg.MaxMsgSize)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		query := new(miekg.Msg)
		if query.Unpack(buf[:n]) != nil {
			return
		}
		answer := new(miekg.Msg).SetReply(query)
		if q := query.Question[0]; q.Qtype == miekg.TypeA {
			answer.Answer = []miekg.RR{&miekg.A{
				Hdr: miekg.RR_Header{Name: q.Name, Rrtype: miekg.TypeA, Class: miekg.ClassINET, Ttl: 60}, A: net.ParseIP(walkAddr),
			}}
		}
		packed, err := answer.Pack()
		if err != nil {
			return
		}
		if _, err := c.Write(packed); err != nil {
			return
		}
	}
}

// signal is a log handler that reports when the daemon is running.
type signal struct {
	running chan struct{}
	once    sync.Once
}

func (s *signal) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte("penstock is running")) {
		s.once.Do(func() { close(s.running) })
	}
	return len(line), nil
}

// running is a daemon in the world of the walk, with the programs of its machine.
type running struct {
	*Daemon
	control  control.Config // its control interfaces, called without a socket
	dir      string
	world    walkWorld
	programs *stack.Stack
}

const walkText = `state_dir: state
listen: {tun: {routes: manual, dns: manual}}
dns: {upstreams: [{address: 192.0.2.53}]}
rules:
  - {name: database, match: {port: 5432}, do: direct}
  - {name: no-bets, match: {domain: casino.example}, do: block}
  - {name: rest, do: direct}
`

// run runs a daemon until the test ends.
func run(t *testing.T) *running {
	t.Helper()
	r := &running{dir: t.TempDir(), world: walkWorld{asked: make(chan string, 64)}}
	cfg, err := config.Load(file(t, r.dir, "p.yaml", walkText))
	if err != nil {
		t.Fatal(err)
	}
	near, far := link.Pipe(1500)
	r.programs, err = stack.New(stack.Config{Name: "programs", Addrs: []netip.Prefix{netip.MustParsePrefix("10.77.0.1/24")}, Lossless: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.programs.Close() })
	if err := r.programs.Attach(far); err != nil {
		t.Fatal(err)
	}
	log := &signal{running: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	d, opened, err := build(ctx, cfg, Options{
		TUN: near, Direct: r.world, Socket: filepath.Join(r.dir, "s"), Log: slog.New(slog.NewTextHandler(log, nil)),
	})
	if err != nil {
		cancel()
		t.Fatal(errors.Join(err, opened.close(true)))
	}
	r.Daemon, r.control = d, d.controlConfig(cfg)
	over := make(chan error, 1)
	go func() {
		err := d.run(ctx, &opened)
		over <- errors.Join(err, opened.close(false))
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-over; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-log.running:
	case err := <-over:
		over <- err
		t.Fatal("the daemon ended before it ran")
	case <-time.After(20 * time.Second):
		t.Fatal("the daemon does not run after 20 s")
	}
	return r
}

// open opens a flow as one of the machine's programs. It closes with the test.
func (r *running) open(t *testing.T, network, address string) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := r.programs.DialContext(ctx, network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// talk opens a flow, sends something and returns what came back.
func (r *running) talk(t *testing.T, network, address string, send []byte) []byte {
	t.Helper()
	c := r.open(t, network, address)
	if _, err := c.Write(send); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	n, err := c.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

// flow returns the only flow that the control interface lists, live or ended.
func (r *running) flow(t *testing.T) control.Flow {
	t.Helper()
	list, err := r.control.Flows.Flows(t.Context(), control.FlowQuery{Recent: true})
	if err != nil || len(list) != 1 {
		t.Fatalf("got flows %+v, %v; want the one that was opened", list, err)
	}
	return list[0]
}

// TestTheWalk takes one packet, one question, one reload and one explain through a running daemon. The walk in
// docs/architecture.md lists the functions that they go through. e2e/repo runs each subtest alone and checks that list. It
// subtracts the coverage of start, a daemon without any traffic.
func TestTheWalk(t *testing.T) {
	t.Run("start", func(t *testing.T) {
		if got := run(t).router.Active(); got != 0 {
			t.Errorf("%d flows are live before anybody sent a packet, want none", got)
		}
	})
	t.Run("packet", func(t *testing.T) {
		r := run(t)
		if got := r.talk(t, "tcp", walkAddr+":5432", []byte("hello")); string(got) != "hello" {
			t.Errorf("got %q back, want what was sent", got)
		}
		if got, want := <-r.world.asked, "tcp4 "+walkAddr+":5432"; got != want {
			t.Errorf("the flow was dialled as %q, want %q", got, want)
		}
		if f := r.flow(t); f.Rule != "database" || f.Verdict != "direct" {
			t.Errorf("got verdict %q by rule %q, want direct by database", f.Verdict, f.Rule)
		}
	})
	t.Run("question", func(t *testing.T) {
		r := run(t)
		query, err := new(miekg.Msg).SetQuestion("wiki.example.", miekg.TypeA).Pack()
		if err != nil {
			t.Fatal(err)
		}
		answer := new(miekg.Msg)
		if err := answer.Unpack(r.talk(t, "udp", "10.77.0.2:53", query)); err != nil {
			t.Fatal(err)
		}
		if len(answer.Answer) != 1 || !strings.HasSuffix(answer.Answer[0].String(), walkAddr) {
			t.Errorf("got the answer %v, want %s", answer.Answer, walkAddr)
		}
		if got, want := <-r.world.asked, "udp 192.0.2.53:53"; got != want {
			t.Errorf("the upstream was dialled as %q, want %q", got, want)
		}
		if f := r.flow(t); f.Rule != "dns" || f.Verdict != "dns" {
			t.Errorf("got verdict %q by rule %q, want dns by dns", f.Verdict, f.Rule)
		}
	})
	t.Run("reload", func(t *testing.T) {
		r := run(t)
		c := r.open(t, "tcp", walkAddr+":5432")
		file(t, r.dir, "p.yaml", strings.Replace(walkText, "do: direct", "do: block", 1))
		res, err := r.control.Process.Reload(t.Context(), control.ReloadQuery{KillDenied: true})
		if err != nil {
			t.Fatal(err)
		}
		if res.Generation != 2 || !slices.Equal(res.Changed, []string{"rules"}) || res.Killed != 1 {
			t.Errorf("got %+v, want edition 2 with other rules and the live flow ended", res)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the flow that is blocked now: got %v, want a reset", err)
		}
	})
	t.Run("explain", func(t *testing.T) {
		r := run(t)
		x, err := r.control.Policy.Explain(t.Context(), control.ExplainQuery{Target: "https://wiki.example"})
		if err != nil {
			t.Fatal(err)
		}
		if x.Rule != "rest" || x.Verdict != "direct" || !slices.Equal(x.Addresses, []string{walkAddr}) {
			t.Errorf("got %s to %v by rule %s, want direct to %s by rest", x.Verdict, x.Addresses, x.Rule, walkAddr)
		}
		if got := r.router.Active(); got != 0 {
			t.Errorf("%d flows are live after an explanation, want none", got)
		}
	})
}
