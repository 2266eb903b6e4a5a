package pathmon

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// road imitates the kernel: it answers what it was told to answer last.
type road struct {
	mu       sync.Mutex // guards below
	path     Path
	ok       bool
	endpoint netip.Addr
	told     []string
	start    time.Time
	events   chan struct{}
}

var (
	link  = Path{Interface: "wlan0", Source: netip.MustParseAddr("192.168.1.10"), Default4: true} // to a neighbour, from wifi
	wifi  = Path{Interface: "wlan0", Gateway: netip.MustParseAddr("192.168.1.1"), Source: netip.MustParseAddr("192.168.1.10"), Default4: true}
	cable = Path{Interface: "eth0", Gateway: netip.MustParseAddr("10.0.0.1"), Source: netip.MustParseAddr("10.0.0.9"), Default4: true}
)

// follow runs a monitor in a bubble and returns the road that it follows.
func follow(t *testing.T) *road {
	t.Helper()
	r := &road{path: wifi, ok: true, events: make(chan struct{}, 1), start: time.Now()}
	m := New(Config{
		Endpoint: func() netip.Addr { r.mu.Lock(); defer r.mu.Unlock(); return r.endpoint },
		Changed:  r.changed,
	})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		m.follow(ctx, r.events, func(endpoint netip.Addr) (Path, bool) {
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.path == link && !endpoint.IsValid() {
				return wifi, r.ok
			}
			return r.path, r.ok
		})
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	synctest.Wait()
	return r
}

func (r *road) changed(p Path, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	where := p.Interface
	if !ok {
		where = "none"
	}
	r.told = append(r.told, fmt.Sprintf("%s at %d ms", where, time.Since(r.start).Milliseconds()))
}

// leads changes the endpoint, and tells of nothing.
func (r *road) leads(endpoint string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.endpoint = netip.MustParseAddr(endpoint)
}

// becomes changes the answer and tells of it, after a while.
func (r *road) becomes(after time.Duration, p Path, ok bool) {
	time.Sleep(after)
	r.mu.Lock()
	r.path, r.ok = p, ok
	r.mu.Unlock()
	select {
	case r.events <- struct{}{}:
	default:
	}
	synctest.Wait()
}

func TestPathsAreTold(t *testing.T) {
	const ms = time.Millisecond
	tests := []struct {
		name string
		do   func(r *road)
		want []string
	}{
		{"a change that does not change the answer is nothing", func(r *road) { r.becomes(ms, wifi, true) }, nil},
		{"a loss is told at once", func(r *road) { r.becomes(10*ms, Path{}, false) }, []string{"none at 10 ms"}},
		{"a second loss is no news", func(r *road) { r.becomes(10*ms, Path{}, false); r.becomes(10*ms, Path{}, false) }, []string{"none at 10 ms"}},
		{"another path is told when nothing has changed for 250 ms",
			func(r *road) { r.becomes(10*ms, cable, true) }, []string{"eth0 at 260 ms"}},
		{"the same path is told again after a loss",
			func(r *road) { r.becomes(10*ms, Path{}, false); r.becomes(90*ms, wifi, true) }, []string{"none at 10 ms", "wlan0 at 350 ms"}},
		{"a path that comes back before it was told is nothing",
			func(r *road) { r.becomes(10*ms, cable, true); r.becomes(100*ms, wifi, true) }, nil},
		{"a storm of 40 path changes is one", func(r *road) {
			for i := range 40 {
				p := cable
				p.Source = netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 10)})
				r.becomes(20*ms, p, true)
			}
		}, []string{"eth0 at 1020 ms"}},
		{"a storm that does not end is told after 1 s", func(r *road) {
			for i := range 100 {
				p := cable
				p.Source = netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 10)})
				r.becomes(15*ms, p, true)
			}
		}, []string{"eth0 at 1015 ms", "eth0 at 1750 ms"}},
		{"a cable that is pulled and plugged 40 times is one loss and one path", func(r *road) {
			for range 40 {
				r.becomes(10*ms, Path{}, false)
				r.becomes(10*ms, wifi, true)
			}
		}, []string{"none at 10 ms", "wlan0 at 1050 ms"}},
		{"another endpoint has another path, which is no change", func(r *road) {
			r.leads("192.0.2.8")
			r.becomes(10*ms, wifi, true)
			r.leads("192.0.2.9")
			r.becomes(10*ms, cable, true)
		}, nil},
		{"nor is it one where the endpoint was not known before", func(r *road) {
			r.leads("192.0.2.9")
			r.becomes(10*ms, link, true)
		}, nil},
		{"but then another default route is one", func(r *road) {
			r.leads("192.0.2.9")
			r.becomes(10*ms, cable, true)
		}, []string{"eth0 at 260 ms"}},
		{"no path to another endpoint is a loss", func(r *road) {
			r.leads("192.0.2.9")
			r.becomes(10*ms, Path{}, false)
		}, []string{"none at 10 ms"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := follow(t)
				tt.do(r)
				time.Sleep(2 * time.Second)
				synctest.Wait()
				r.mu.Lock()
				defer r.mu.Unlock()
				want := append([]string{"wlan0 at 0 ms"}, tt.want...)
				if !slices.Equal(r.told, want) {
					t.Errorf("got %q, want %q", r.told, want)
				}
			})
		})
	}
}

func TestChangingIsToldAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path, got := wifi, []bool(nil)
		m := New(Config{Changed: func(Path, bool) {}, Changing: func(is bool) { got = append(got, is) }})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { m.follow(ctx, nil, func(netip.Addr) (Path, bool) { return path, true }) })
		synctest.Wait()
		path = cable
		for range 3 {
			m.Check()
			synctest.Wait()
		}
		path = wifi
		for range 3 {
			m.Check()
			synctest.Wait()
		}
		cancel()
		wg.Wait()
		if want := []bool{true, false}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v: once when it changes, once when it is back", got, want)
		}
	})
}

func TestCheckAsksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []bool
		m := New(Config{Changed: func(_ Path, ok bool) { told = append(told, ok) }})
		ctx, cancel := context.WithCancel(t.Context())
		ok := true
		var wg sync.WaitGroup
		wg.Go(func() { m.follow(ctx, nil, func(netip.Addr) (Path, bool) { return wifi, ok }) })
		synctest.Wait()
		ok = false
		m.Check()
		synctest.Wait()
		cancel()
		wg.Wait()
		if want := []bool{true, false}; !slices.Equal(told, want) {
			t.Errorf("got %v, want %v", told, want)
		}
	})
}
