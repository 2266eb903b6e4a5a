package transport

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// peer imitates a driver and the server behind it.
type peer struct {
	mu       sync.Mutex // guards below
	stats    Stats
	silent   bool          // the server answers nothing
	checks   time.Duration // how long the server takes after its first answer
	loss     float64
	rng      *rand.Rand // with loss
	fail     error
	connects int
	probes   int
	rebinds  int
	during   func() // what happens in a rebind, once
	closes   int
}

func (p *peer) set(change func(*peer)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p)
}

func (p *peer) send(n uint64) { p.set(func(p *peer) { p.stats.TxBytes += n }) }

func (p *peer) receive() {
	p.set(func(p *peer) { p.stats.RxBytes += 100; p.stats.LastRx = time.Now() })
}

func (p *peer) Connect(ctx context.Context) error {
	p.mu.Lock()
	p.connects++
	fail, silent := p.fail, p.silent
	p.mu.Unlock()
	if fail != nil {
		return fail
	}
	if silent {
		<-ctx.Done()
		return &ReasonedError{ReasonHandshakeFailed, ctx.Err()}
	}
	p.receive()
	select {
	case <-time.After(p.checks):
		return nil
	case <-ctx.Done():
		return &ReasonedError{ReasonHandshakeFailed, ctx.Err()}
	}
}

func (p *peer) Probe(context.Context) error {
	p.send(32)
	p.mu.Lock()
	p.probes++
	silent := p.silent
	for range 2 { // there and back
		silent = silent || p.rng != nil && p.rng.Float64() < p.loss
	}
	p.mu.Unlock()
	if !silent {
		p.receive()
	}
	return nil
}

func (p *peer) Rebind() error {
	var during func()
	p.set(func(p *peer) { p.rebinds++; during, p.during = p.during, nil })
	if during != nil {
		during()
	}
	return nil
}

func (p *peer) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stats
}
func (p *peer) Close() error { p.set(func(p *peer) { p.closes++ }); return nil }

// run starts a tunnel to p in a synctest bubble.
func run(t *testing.T, p *peer) (*Tunnel, *history) {
	return runDriver(t, p)
}

// runDriver is run for any driver.
func runDriver(t *testing.T, d Driver) (*Tunnel, *history) {
	h := &history{}
	tun := NewTunnel(Config{Name: "corp", New: func() (Driver, error) { return d, nil }, Changed: h.add})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); tun.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	synctest.Wait()
	return tun, h
}

// history is the states that a tunnel went through.
type history struct {
	mu    sync.Mutex
	words []string
}

func (h *history) add(x Health) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := x.State.String()
	if x.Reason != "" {
		w += "(" + string(x.Reason) + ")"
	}
	h.words = append(h.words, w)
}

func (h *history) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.words, " ")
}

// pass lets time go by, in steps in which do is called; the steps let the tunnel's goroutine run.
func pass(d time.Duration, do func()) {
	for range d / (100 * time.Millisecond) {
		if do != nil {
			do()
		}
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
	}
}

func TestTunnel(t *testing.T) {
	rows := []struct {
		name string
		do   func(t *testing.T, tun *Tunnel, p *peer)
		peer *peer
		want string // the states, in order
	}{
		{
			name: "received bytes make it connected",
			do:   func(*testing.T, *Tunnel, *peer) {},
			want: "connecting connected",
		},
		{
			name: "a server that answers nothing is never connected",
			peer: &peer{silent: true},
			do:   func(t *testing.T, tun *Tunnel, p *peer) { pass(60*time.Second, nil) },
			want: "connecting connecting(handshake_failed)",
		},
		{
			name: "a server that answers and then takes its time is asked once",
			peer: &peer{checks: 7 * time.Second},
			do: func(t *testing.T, tun *Tunnel, p *peer) {
				pass(8*time.Second, nil)
				if p.connects != 1 {
					t.Errorf("attempts: got %d, want 1", p.connects)
				}
			},
			want: "connecting connected",
		},
		{
			name: "a server that takes its time is left when the tunnel goes down",
			peer: &peer{checks: time.Hour},
			do: func(t *testing.T, tun *Tunnel, p *peer) {
				pass(8*time.Second, nil)
				tun.Down()
				synctest.Wait()
			},
			want: "connecting down(manual)",
		},
		{
			name: "a server that comes back is found",
			peer: &peer{silent: true},
			do: func(t *testing.T, tun *Tunnel, p *peer) {
				pass(20*time.Second, nil)
				p.set(func(p *peer) { p.silent = false })
				pass(25*time.Second, nil)
			},
			want: "connecting connecting(handshake_failed) connected(handshake_failed)",
		},
		{
			name: "a dead tunnel under traffic is reconnecting within 5 s",
			do: func(t *testing.T, tun *Tunnel, p *peer) {
				p.set(func(p *peer) { p.silent = true })
				start := time.Now()
				for tun.Health().State == Connected && time.Since(start) < time.Minute {
					pass(100*time.Millisecond, func() { p.send(100) })
				}
				if got := time.Since(start); got > 5700*time.Millisecond { // 4.5 s, and the sample of 1 s in which the traffic begins
					t.Errorf("got %v until reconnecting, want at most 4.5 s and one sample", got)
				}
			},
			want: "connecting connected reconnecting(keepalive_timeout)",
		},
		{
			name: "silence both ways is probed and is no alarm",
			do:   func(t *testing.T, tun *Tunnel, p *peer) { pass(10*time.Minute, nil) },
			want: "connecting connected",
		},
		{
			name: "an idle tunnel to a dead server is found out",
			do: func(t *testing.T, tun *Tunnel, p *peer) {
				p.set(func(p *peer) { p.silent = true })
				pass(137*time.Second, nil)
			},
			want: "connecting connected reconnecting(keepalive_timeout)",
		},
		{
			name: "traffic that is answered now and then is no alarm",
			do: func(t *testing.T, tun *Tunnel, p *peer) {
				p.set(func(p *peer) { p.silent = true })
				i := 0
				pass(10*time.Minute, func() {
					p.send(100)
					if i++; i%40 == 0 { // every 4 s
						p.receive()
					}
				})
			},
			want: "connecting connected",
		},
		{
			name: "traffic one way only, ten minutes of it, is no alarm at 20 % loss",
			peer: &peer{loss: 0.2, rng: rand.New(rand.NewPCG(7, 7))},
			do: func(t *testing.T, tun *Tunnel, p *peer) {
				pass(10*time.Minute, func() { p.send(1200) })
				if p.probes == 0 {
					t.Error("got no probe: the row proves nothing")
				}
			},
			want: "connecting connected",
		},
		{
			name: "a wrong key stays blocked until the user acts",
			peer: &peer{fail: &BlockedError{ReasonAuthFailed, errors.New("rejected")}},
			do: func(t *testing.T, tun *Tunnel, p *peer) {
				pass(10*time.Minute, nil)
				if p.connects != 1 {
					t.Errorf("got %d attempts, want 1", p.connects)
				}
				p.set(func(p *peer) { p.fail = nil })
				tun.Reconnect()
				pass(time.Second, nil)
			},
			want: "connecting blocked(auth_failed) connecting(auth_failed) connected(auth_failed)",
		},
		{
			name: "a server that wants its user is tried no more until somebody acts",
			peer: &peer{fail: &BlockedError{ReasonSignIn, errors.New("the server asks for a code")}},
			do: func(t *testing.T, tun *Tunnel, p *peer) {
				pass(10*time.Minute, nil)
				if p.connects != 1 {
					t.Errorf("got %d attempts, want 1", p.connects)
				}
				if err := tun.WaitUp(t.Context()); !errors.Is(err, ErrNotUp) {
					t.Errorf("a dial: got %v, want %v at once", err, ErrNotUp)
				}
				p.set(func(p *peer) { p.fail = nil })
				tun.Reconnect()
				pass(time.Second, nil)
			},
			want: "connecting waiting(sign_in) connecting(sign_in) connected(sign_in)",
		},
		{
			name: "nor is it tried on another network, or after a sleep",
			peer: &peer{fail: &BlockedError{ReasonSignIn, errors.New("the server asks for a code")}},
			do: func(t *testing.T, tun *Tunnel, p *peer) {
				pass(time.Second, nil)
				tun.PathChanged(false)
				pass(time.Minute, nil)
				tun.PathChanged(true)
				pass(time.Minute, nil)
				tun.Quiesce()
				pass(time.Minute, nil)
				tun.Reactivate(time.Hour)
				pass(time.Minute, nil)
				if p.connects != 1 {
					t.Errorf("got %d attempts, want 1", p.connects)
				}
				tun.Down()
				pass(time.Second, nil)
				p.set(func(p *peer) { p.fail = nil })
				tun.Up()
				pass(time.Second, nil)
			},
			want: "connecting waiting(sign_in) offline(path_change) waiting(sign_in) quiesced waiting(sign_in) down(manual) connecting(manual) connected(manual)",
		},
		{
			name: "a session that waits for its user shows it until the server goes on",
			peer: &peer{checks: 10 * time.Minute},
			do: func(t *testing.T, tun *Tunnel, p *peer) {
				tun.AwaitSignIn(true)
				pass(5*time.Minute, nil)
				if err := tun.WaitUp(t.Context()); !errors.Is(err, ErrNotUp) {
					t.Errorf("a dial: got %v, want %v at once", err, ErrNotUp)
				}
				tun.AwaitSignIn(false)
				pass(6*time.Minute, nil)
				if p.connects != 1 {
					t.Errorf("got %d attempts, want 1", p.connects)
				}
			},
			want: "connecting waiting(sign_in) connecting connected",
		},
		{
			name: "a new path while it waits for its user is one more attempt",
			peer: &peer{checks: time.Minute},
			do: func(t *testing.T, tun *Tunnel, p *peer) {
				tun.AwaitSignIn(true)
				pass(time.Second, nil)
				tun.AwaitSignIn(false) // the driver ends what it asked
				tun.PathChanged(true)
				pass(2*time.Minute, nil)
				if p.connects != 2 {
					t.Errorf("got %d attempts, want 2", p.connects)
				}
			},
			want: "connecting waiting(sign_in) connecting connecting(handshake_failed) connected(handshake_failed)",
		},
		{
			name: "a new path rebinds and probes, and is connected again by received bytes",
			do: func(t *testing.T, tun *Tunnel, p *peer) {
				tun.PathChanged(true)
				pass(time.Second, nil)
				if p.rebinds != 1 || p.connects != 1 {
					t.Errorf("got %d rebinds and %d sessions, want 1 and 1", p.rebinds, p.connects)
				}
			},
			want: "connecting connected reconnecting(path_change) connected(path_change)",
		},
		{
			name: "a new path on which nothing comes back gets a new session",
			do: func(t *testing.T, tun *Tunnel, p *peer) {
				p.set(func(p *peer) { p.silent = true })
				tun.PathChanged(true)
				pass(3*time.Second, nil)
				p.set(func(p *peer) { p.silent = false })
				pass(10*time.Second, nil)
			},
			want: "connecting connected reconnecting(path_change) reconnecting(handshake_failed) connected(handshake_failed)",
		},
		{
			name: "no path is offline and burns no attempt",
			do: func(t *testing.T, tun *Tunnel, p *peer) {
				tun.PathChanged(false)
				pass(10*time.Minute, nil)
				if p.connects != 1 {
					t.Errorf("got %d attempts, want 1", p.connects)
				}
				tun.PathChanged(true)
				pass(time.Second, nil)
			},
			want: "connecting connected offline(path_change) reconnecting(path_change) connected(path_change)",
		},
		{
			name: "a storm of path changes during a rebind is one more",
			do: func(t *testing.T, tun *Tunnel, p *peer) {
				p.set(func(p *peer) {
					p.during = func() {
						for range 40 {
							tun.PathChanged(true)
						}
					}
				})
				tun.PathChanged(true)
				pass(time.Second, nil)
				if p.rebinds != 2 {
					t.Errorf("got %d rebinds, want 2", p.rebinds)
				}
			},
			want: "connecting connected reconnecting(path_change) connected(path_change) reconnecting(path_change) connected(path_change)",
		},
		{
			name: "sleep, wake, sleep in quick succession ends asleep",
			do: func(t *testing.T, tun *Tunnel, p *peer) {
				tun.Quiesce()
				tun.Reactivate(time.Second)
				tun.Quiesce()
				pass(10*time.Minute, nil)
			},
			want: "connecting connected quiesced",
		},
		{
			name: "a short sleep keeps the session and proves it",
			do: func(t *testing.T, tun *Tunnel, p *peer) {
				tun.Quiesce()
				pass(time.Second, nil)
				tun.Reactivate(30 * time.Second)
				pass(time.Second, nil)
				if p.closes != 0 {
					t.Errorf("got %d drivers closed, want the same one", p.closes)
				}
			},
			want: "connecting connected quiesced reconnecting connected",
		},
		{
			name: "an order that is given while the machine sleeps holds when it wakes",
			do: func(t *testing.T, tun *Tunnel, p *peer) {
				tun.Quiesce()
				pass(time.Second, nil)
				tun.Down()
				tun.Reactivate(time.Minute)
				pass(time.Minute, nil)
			},
			want: "connecting connected quiesced down(manual)",
		},
		{
			name: "down is down, and up again is another session",
			do: func(t *testing.T, tun *Tunnel, p *peer) {
				tun.Down()
				pass(time.Minute, nil)
				if p.closes != 1 {
					t.Errorf("got %d drivers closed, want 1", p.closes)
				}
				tun.Up()
				pass(time.Second, nil)
			},
			want: "connecting connected down(manual) connecting(manual) connected(manual)",
		},
		{
			name: "down for a while comes up again by itself",
			do: func(t *testing.T, tun *Tunnel, p *peer) {
				tun.DownFor(6 * time.Second)
				pass(5900*time.Millisecond, nil)
				if got := tun.Health().State; got != Down {
					t.Errorf("got %s after 5.9 s, want down", got)
				}
				pass(2*time.Second, nil)
			},
			want: "connecting connected down(manual) connecting(manual) connected(manual)",
		},
		{
			name: "up for a while goes down again by itself",
			do: func(t *testing.T, tun *Tunnel, p *peer) {
				tun.Down()
				pass(time.Second, nil)
				tun.UpFor(6 * time.Second)
				pass(time.Minute, nil)
			},
			want: "connecting connected down(manual) connecting(manual) connected(manual) down(manual)",
		},
		{
			name: "a later order replaces the time of an earlier one",
			do: func(t *testing.T, tun *Tunnel, p *peer) {
				tun.DownFor(6 * time.Second)
				pass(time.Second, nil)
				tun.Up()
				pass(time.Second, nil)
				tun.Down()
				pass(time.Minute, nil)
			},
			want: "connecting connected down(manual) connecting(manual) connected(manual) down(manual)",
		},
		{
			name: "down for a longer while counts from the later order",
			do: func(t *testing.T, tun *Tunnel, p *peer) {
				tun.DownFor(6 * time.Second)
				pass(3*time.Second, nil)
				tun.DownFor(20 * time.Second)
				pass(19*time.Second, nil)
				if got := tun.Health().State; got != Down {
					t.Errorf("got %s 22 s after the first order and 19 s after the second, want down", got)
				}
				pass(3*time.Second, nil)
			},
			want: "connecting connected down(manual) connecting(manual) connected(manual)",
		},
		{
			name: "down for no time is down for good",
			do: func(t *testing.T, tun *Tunnel, p *peer) {
				tun.DownFor(0)
				pass(10*time.Minute, nil)
			},
			want: "connecting connected down(manual)",
		},
		{
			name: "asking for a new session does not cut short the time that a transport is down for",
			do: func(t *testing.T, tun *Tunnel, p *peer) {
				tun.DownFor(6 * time.Second)
				pass(time.Second, nil)
				tun.Reconnect()
				pass(4*time.Second, nil)
				if got := tun.Health().State; got != Down {
					t.Errorf("got %s, want down until its time is over", got)
				}
				pass(3*time.Second, nil)
			},
			want: "connecting connected down(manual) connecting(manual) connected(manual)",
		},
		{
			name: "up for a while ends also while attempts fail",
			peer: &peer{fail: &ReasonedError{ReasonHandshakeFailed, errors.New("no answer")}},
			do: func(t *testing.T, tun *Tunnel, p *peer) {
				tun.UpFor(40 * time.Second)
				pass(time.Minute, nil)
				if got := tun.Health().State; got != Down {
					t.Errorf("got %s after a minute, want down", got)
				}
			},
			want: "connecting connecting(handshake_failed) down(manual)",
		},
		{
			name: "a dial that waits is not kept waiting for the back-off",
			peer: &peer{fail: &ReasonedError{ReasonHandshakeFailed, errors.New("no answer")}},
			do: func(t *testing.T, tun *Tunnel, p *peer) {
				pass(20*time.Second, nil) // by now the back-off is 8 s or more
				p.set(func(p *peer) { p.fail = nil })
				ctx, cancel := context.WithTimeout(t.Context(), 2100*time.Millisecond)
				defer cancel()
				if err := tun.WaitUp(ctx); err != nil {
					t.Errorf("got %v for a dial that waited 2.1 s, want a transport that is up", err)
				}
			},
			want: "connecting connecting(handshake_failed) connected(handshake_failed)",
		},
		{
			name: "a session that the server ends is made anew",
			do: func(t *testing.T, tun *Tunnel, p *peer) {
				tun.Lost(ErrKeepaliveTimeout{Transport: "corp"})
				pass(3*time.Second, nil)
			},
			want: "connecting connected reconnecting(keepalive_timeout) connected(keepalive_timeout)",
		},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := row.peer
				if p == nil {
					p = &peer{}
				}
				tun, h := run(t, p)
				row.do(t, tun, p)
				if got := h.String(); got != row.want {
					t.Errorf("got  %s\nwant %s", got, row.want)
				}
			})
		})
	}
}

func TestTheLimitOfAnAttemptLooksLikeADeadline(t *testing.T) {
	for _, exceeded := range []bool{true, false} {
		want := context.Canceled
		if exceeded {
			want = context.DeadlineExceeded
		}
		ctx, cancel := context.WithCancel(t.Context())
		limited := newLimitedContext(ctx)
		child, end := context.WithTimeout(limited, time.Hour)
		if err := limited.Err(); err != nil {
			t.Errorf("before: got %v", err)
		}
		limited.exceeded.Store(exceeded)
		cancel()
		<-child.Done()
		if got := child.Err(); got != want {
			t.Errorf("exceeded %v: got %v, want %v", exceeded, got, want)
		}
		end()
	}
}

func TestSevenReconnectsAMinuteAreFlapping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tun, _ := run(t, &peer{})
		for range 7 {
			tun.Lost(errors.New("gone"))
			pass(2*time.Second, nil)
		}
		if h := tun.Health(); h.State != Connected || !h.Degraded || h.Reason != ReasonFlapping {
			t.Errorf("got %v degraded=%v %s, want connected, degraded, flapping", h.State, h.Degraded, h.Reason)
		}
		pass(2*time.Minute, nil)
		if tun.Health().Degraded {
			t.Error("still degraded after two quiet minutes")
		}
	})
}

type dialed string

func (d dialed) DialContext(context.Context, string, string) (net.Conn, error) {
	return nil, errors.New("dialled " + string(d))
}

func TestGateFailsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &peer{silent: true}
		tun, _ := run(t, p)
		start := time.Now()
		if _, err := (Gate{tun, dialed("it")}).DialContext(t.Context(), "tcp", "10.0.0.1:80"); !errors.Is(err, ErrNotUp) {
			t.Errorf("got %v, want ErrNotUp", err)
		}
		if got := time.Since(start); got != 5*time.Second {
			t.Errorf("got an answer after %v, want 5 s", got)
		}
		p.set(func(p *peer) { p.silent = false })
		tun.Reconnect()
		pass(time.Second, nil)
		if _, err := (Gate{tun, dialed("it")}).DialContext(t.Context(), "tcp", "10.0.0.1:80"); err == nil || err.Error() != "dialled it" {
			t.Errorf("got %v, want the inner dialer's answer", err)
		}
	})
}

func TestGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pa, pb := &peer{}, &peer{}
		a, _ := run(t, pa)
		b, _ := run(t, pb)
		g := NewGroup("best", []Gate{{a, dialed("a")}, {b, dialed("b")}})
		check := func(want, when string) {
			t.Helper()
			if _, err := g.DialContext(t.Context(), "tcp", "10.0.0.1:80"); err == nil || err.Error() != "dialled "+want {
				t.Errorf("%s: got %v, want dialled %s", when, err, want)
			}
		}
		check("a", "both up")
		pa.set(func(p *peer) { p.silent = true })
		a.Lost(errors.New("gone"))
		pass(6*time.Second, nil)
		check("b", "the preferred one lost for 6 s")
		pa.set(func(p *peer) { p.silent = false })
		a.Reconnect()
		pass(5*time.Second, nil)
		check("b", "the preferred one back for 5 s")
		pass(30*time.Second, nil)
		check("a", "the preferred one back for 35 s")
	})
}
