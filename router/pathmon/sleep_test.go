package pathmon

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// machine imitates one that sleeps: its wall clock goes on while nothing runs.
type machine struct {
	mu      sync.Mutex // guards below
	slept   time.Duration
	told    []string
	prepare chan bool
}

func (m *machine) say(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.told = append(m.told, fmt.Sprintf(format, args...))
}

func (m *machine) sleeps(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.slept += d
}

func (m *machine) signal(sleeping bool) {
	m.prepare <- sleeping
	synctest.Wait()
}

func TestSleepIsNoticed(t *testing.T) {
	tests := []struct {
		name string
		do   func(m *machine)
		want []string
	}{
		{"a machine that does not sleep is left alone", func(*machine) { time.Sleep(time.Minute) }, nil},
		{"a jump of the clock is a wake", func(m *machine) { m.sleeps(time.Minute); time.Sleep(6 * time.Second) }, []string{"woke after 1m5s"}},
		{"2 s more than a tick are a busy machine", func(m *machine) { m.sleeps(2 * time.Second); time.Sleep(6 * time.Second) }, nil},
		{"a clock that is set back is no sleep", func(m *machine) { m.sleeps(-time.Hour); time.Sleep(time.Minute) }, nil},
		{"what the system said is not found again by the clock", func(m *machine) {
			m.signal(true)
			m.sleeps(time.Minute)
			m.signal(false)
			time.Sleep(time.Minute)
		}, []string{"sleeping", "woke after 1m0s"}},
		{"a tick between waking and the system's word does not count twice", func(m *machine) {
			m.signal(true)
			m.sleeps(time.Minute)
			time.Sleep(6 * time.Second)
			m.signal(false)
			time.Sleep(time.Minute)
		}, []string{"sleeping", "woke after 1m6s"}},
		{"a wake that the system does not tell of is found by the clock", func(m *machine) {
			m.signal(true)
			m.sleeps(time.Minute)
			time.Sleep(time.Minute)
		}, []string{"sleeping", "woke after 1m5s"}},
		{"sleep, wake and sleep end in sleep", func(m *machine) {
			m.signal(true)
			m.sleeps(time.Minute)
			m.signal(false)
			m.signal(true)
			time.Sleep(20 * time.Second)
		}, []string{"sleeping", "woke after 1m0s", "sleeping"}},
		{"a bus that goes away leaves the clock", func(m *machine) {
			close(m.prepare)
			m.sleeps(time.Minute)
			time.Sleep(6 * time.Second)
		}, []string{"woke after 1m5s"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &machine{prepare: make(chan bool)}
				s := NewSleep(SleepConfig{
					Sleeping: func() { m.say("sleeping") },
					Woke:     func(d time.Duration) { m.say("woke after %s", d) },
					Now:      func() time.Time { m.mu.Lock(); defer m.mu.Unlock(); return time.Now().Add(m.slept) },
				})
				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				wg.Go(func() { s.watch(ctx, m.prepare) })
				synctest.Wait()
				tt.do(m)
				synctest.Wait()
				cancel()
				wg.Wait()
				if !slices.Equal(m.told, tt.want) {
					t.Errorf("got %q, want %q", m.told, tt.want)
				}
			})
		})
	}
}

func TestSleepRunsWhereNobodyTellsOfIt(t *testing.T) {
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+t.TempDir()+"/none")
	s := NewSleep(SleepConfig{Woke: func(time.Duration) {}})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ctx); err != nil {
		t.Error(err)
	}
}
