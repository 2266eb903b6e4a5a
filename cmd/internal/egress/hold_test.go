package egress

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"penstock/router/transport"
)

func TestFlowsAreHeld(t *testing.T) {
	type step struct {
		after time.Duration
		state transport.State
	}
	tests := []struct {
		name  string
		steps []step
		want  []string
	}{
		{"a transport that is connected holds nothing", []step{{0, transport.Connected}}, nil},
		{"a transport that comes back in time resets nothing",
			[]step{{0, transport.Connected}, {time.Second, transport.Reconnecting}, {29 * time.Second, transport.Connected}}, nil},
		{"a transport that stays down loses its flows once",
			[]step{{0, transport.Connected}, {time.Second, transport.Reconnecting}}, []string{"corp at 31s"}},
		{"going from one state of being down to another is one outage",
			[]step{{0, transport.Connected}, {time.Second, transport.Reconnecting}, {20 * time.Second, transport.Offline}, {5 * time.Second, transport.Quiesced}},
			[]string{"corp at 31s"}},
		{"a second outage starts a new hold",
			[]step{{0, transport.Connected}, {time.Second, transport.Offline}, {40 * time.Second, transport.Connected}, {time.Second, transport.Offline}},
			[]string{"corp at 31s", "corp at 1m12s"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				now := transport.Health{Name: "corp", State: transport.Connected}
				var got []string
				start := time.Now()
				h := newHolds(30*time.Second,
					func() []transport.Health { mu.Lock(); defer mu.Unlock(); return []transport.Health{now} },
					func(name string) { got = append(got, fmt.Sprintf("%s at %s", name, time.Since(start))) })
				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				wg.Go(func() { _ = h.run(ctx) })
				for _, s := range tt.steps {
					time.Sleep(s.after)
					mu.Lock()
					now.State = s.state
					mu.Unlock()
					h.changed()
					synctest.Wait()
				}
				time.Sleep(2 * time.Minute)
				cancel()
				wg.Wait()
				if !slices.Equal(got, tt.want) {
					t.Errorf("got %q, want %q", got, tt.want)
				}
			})
		})
	}
}
