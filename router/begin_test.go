package router

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"

	"penstock/policy"
)

// What Begin returns for each verdict, and what it has done by then.
func TestBeginDoesWhatNeedNotWait(t *testing.T) {
	to := func(action policy.Action, later policy.Later) decide {
		return func(policy.Flow) policy.Verdict { return policy.Verdict{Action: action, Egress: "out", Later: later} }
	}
	signIn := func(policy.Flow) policy.Verdict { return policy.Verdict{SignIn: "staff"} }
	for _, row := range []struct {
		name   string
		policy decide
		port   uint16
		rest   bool
		answer string
		state  string
	}{
		{"forwarded", to(policy.Forward, policy.LaterNothing), 25, false, "", "read"},
		{"judged in line", to(policy.Forward, policy.LaterBlock), 25, false, "", "read"},
		{"refused", to(policy.Refuse, policy.LaterNothing), 25, false, "refused", "not passed"},
		{"dropped", to(policy.Drop, policy.LaterNothing), 25, false, "dropped", "not passed"},
		{"refused with a page", signIn, 80, true, "", "not passed"},
		{"led elsewhere by a name", to(policy.Forward, policy.LaterEgress), 443, true, "", "not passed"},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t, Config{Policy: row.policy, Ways: carrying{}})
			c := &crossed{client: newClient(t)}
			rest := w.Begin(t.Context(), crossingRequest(c, row.port))
			if (rest != nil) != row.rest {
				t.Errorf("something is left to do: got %v, want %v", rest != nil, row.rest)
			}
			if c.client.answer != row.answer || c.state() != row.state {
				t.Errorf("got answer %q and %s, want %q and %s", c.client.answer, c.state(), row.answer, row.state)
			}
			live := 0
			if row.rest || row.state == "read" {
				live = 1
			}
			if got := w.Active(); got != live {
				t.Errorf("got %d live flows, want %d", got, live)
			}
			if rest != nil {
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				rest(ctx)
			}
			w.Kill(func(Flow) bool { return true })
			<-w.ended
		})
	}
}

// A flow that is killed while it begins is reset as soon as something carries it.
func TestAFlowThatIsKilledWhileItIsJudged(t *testing.T) {
	var w *world
	killing := func(v policy.Verdict) decide {
		return func(policy.Flow) policy.Verdict {
			if n := w.Kill(func(Flow) bool { return true }); n != 1 {
				t.Errorf("got %d flows killed, want 1", n)
			}
			return v
		}
	}
	forward := policy.Verdict{Action: policy.Forward, Egress: "out"}
	t.Run("its packets cross", func(t *testing.T) {
		w = newWorld(t, Config{Policy: killing(forward), Ways: carrying{}})
		c := &crossed{client: newClient(t)}
		if rest := w.Begin(t.Context(), crossingRequest(c, 25)); rest != nil {
			t.Error("something is left to do")
		}
		if got := c.state(); got != "aborted" {
			t.Errorf("got %s, want aborted", got)
		}
		<-w.ended
	})
	t.Run("it ends here", func(t *testing.T) {
		w = newWorld(t, Config{Policy: killing(forward), Ways: ways{"out": stuck{}}})
		rest := w.Begin(t.Context(), requestTo(25, newClient(t)))
		if rest == nil {
			t.Fatal("nothing is left to do")
		}
		rest(t.Context()) // the dial is cancelled
		<-w.ended
	})
}

// stuck is a Dialer that dials until it is cancelled.
type stuck struct{}

func (stuck) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// A flow whose packets could cross does not wait for another from the same port that is being dialled, which may take long.
func TestNothingWaitsForTheDialOfAnotherFlow(t *testing.T) {
	var m mappings
	f := policy.Flow{Client: 1}
	dialling, done := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		c, err := m.dial(t.Context(), &f, "out", func(context.Context) (net.Conn, error) {
			close(dialling)
			<-done
			return fromPort{port: 4000}, nil
		})
		if err != nil {
			t.Error(err)
			return
		}
		c.Close()
	})
	<-dialling
	one, release := m.hold(&f, "out")
	open := func(port uint16) (uint16, error) { return port, nil }
	if err := one.openNow(open); !errors.Is(err, errDialling) {
		t.Errorf("got %v, want %v", err, errDialling)
	}
	close(done)
	wg.Wait()
	if err := one.openNow(open); err != nil || one.port != 4000 {
		t.Errorf("got %v and port %d after the dial, want port 4000", err, one.port)
	}
	release()
}
