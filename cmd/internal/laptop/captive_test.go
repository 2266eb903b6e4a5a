package laptop

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"penstock/policy"
	"penstock/router/portal"
	"penstock/router/transport"
)

func TestFailingSince(t *testing.T) {
	now := time.Now()
	at := func(s transport.State, ago time.Duration) transport.Health {
		return transport.Health{State: s, Since: now.Add(-ago)}
	}
	heard := func(s transport.State, ago, last time.Duration) transport.Health {
		h := at(s, ago)
		h.Stats.LastRx = now.Add(-last)
		return h
	}
	tests := []struct {
		name string
		all  []transport.Health
		want time.Duration // how long ago; 0: nothing fails
	}{
		{"no transports fail at nothing", nil, 0},
		{"connecting counts as failing until it succeeds", []transport.Health{at(transport.Connecting, 3*time.Second)}, 3 * time.Second},
		{"so is reconnecting", []transport.Health{at(transport.Reconnecting, time.Second)}, time.Second},
		{"the longest counts", []transport.Health{at(transport.Connecting, time.Second), at(transport.Reconnecting, time.Minute)}, time.Minute},
		{"one that is connected proves the network", []transport.Health{at(transport.Connecting, time.Minute), at(transport.Connected, time.Hour)}, 0},
		{"offline, down and blocked are not the network's doing",
			[]transport.Health{at(transport.Offline, time.Minute), at(transport.Down, time.Minute), at(transport.Blocked, time.Minute)}, 0},
		{"a server that answers and refuses is no portal", []transport.Health{heard(transport.Connecting, time.Minute, time.Second)}, 0},
		{"nor is one beside it that is silent", []transport.Health{at(transport.Connecting, time.Minute), heard(transport.Reconnecting, time.Minute, time.Second)}, 0},
		{"what was received before the failure does not count", []transport.Health{heard(transport.Reconnecting, time.Minute, 2*time.Minute)}, time.Minute},
		{"nor what was received on another network", []transport.Health{heard(transport.Reconnecting, time.Hour, 50*time.Minute)}, time.Hour},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			since, failing, _ := failingSince(tt.all, now.Add(-40*time.Minute))
			if failing != (tt.want > 0) || failing && !since.Equal(now.Add(-tt.want)) {
				t.Errorf("got %s ago %t, want %s", now.Sub(since), failing, tt.want)
			}
		})
	}
}

func TestCaptivePortalIsShownAndLetOut(t *testing.T) {
	w := newWorld(t, `captive_portal: {window: 3m}`)
	c := w.follower.captive
	found, err := portal.Parse("http://198.51.100.1/login", "lo")
	if err != nil {
		t.Fatal(err)
	}
	var ok, clear bool
	c.look = func(context.Context) (portal.Portal, bool, bool) { return found, ok, clear }
	connecting := func() bool {
		corp, _ := w.egress.Transport("corp")
		return corp.Health().State == transport.Connecting
	}
	w.corp(t)
	for !connecting() {
		<-c.kick
	}
	toPortal := policy.Flow{Network: policy.TCP, Dst: netip.MustParseAddrPort("198.51.100.1:80")}
	start := time.Now()
	want := func(what string, after time.Duration, captive bool, egress string) {
		t.Helper()
		c.step(t.Context(), start.Add(after))
		corp, _ := w.egress.Transport("corp")
		if h := w.follower.Explains(corp.Health()); (h.Reason == transport.ReasonCaptivePortal) != captive {
			t.Errorf("%s: got reason %q %q, captive is %v", what, h.Reason, h.Err, captive)
		}
		if got := w.goes(toPortal); got != egress {
			t.Errorf("%s: the portal is reached via %q, want %q", what, got, egress)
		}
	}
	ok = true
	want("in the first second", time.Second, false, "corp")
	want("after 3 s", 3*time.Second, true, "direct")
	corp, _ := w.egress.Transport("corp")
	if got := w.follower.Explains(corp.Health()).Err; got != "sign in at http://198.51.100.1/login" {
		t.Errorf("got %q in the status, want where to sign in", got)
	}
	want("when the window is over", 4*time.Minute, true, "corp")
	c.moves()
	want("on another network, at first", 5*time.Minute, false, "corp")
	want("and when it is captive too", 6*time.Minute, true, "direct")
	ok, clear = false, true
	want("after signing in", 7*time.Minute, false, "corp")

	c.proved, ok, clear = true, true, false // a transport has connected on this network
	want("when the server falls silent", 30*time.Second, false, "corp")
	want("and stays silent", 8*time.Minute, true, "corp")
}

func TestANetworkWithoutAPortalIsExaminedFourTimes(t *testing.T) {
	for _, row := range []struct {
		name   string
		answer func(c *captive) (ok, clear bool)
	}{
		{"when the network is fine", func(*captive) (bool, bool) { return false, true }},
		{"when nobody answers", func(*captive) (bool, bool) { return false, false }},
	} {
		w := newWorld(t, "")
		c := w.follower.captive
		w.corp(t)
		for corp, _ := w.egress.Transport("corp"); corp.Health().State != transport.Connecting; {
			<-c.kick
		}
		var looks []time.Duration
		start, now := time.Now(), time.Duration(0)
		c.look = func(context.Context) (portal.Portal, bool, bool) {
			looks = append(looks, now)
			ok, clear := row.answer(c)
			return portal.Portal{}, ok, clear
		}
		hour := func() {
			for range 3600 { // a step a second, as when a transport changes its state all the time
				now += time.Second
				c.step(t.Context(), start.Add(now))
			}
		}
		hour()
		if len(looks) != 4 {
			t.Fatalf("%s: got looks at %v, want four", row.name, looks)
		}
		for i := 2; i < len(looks); i++ {
			if looks[i]-looks[i-1] <= looks[i-1]-looks[i-2] {
				t.Errorf("%s: got looks at %v, want growing pauses", row.name, looks)
			}
		}
		c.moves()
		hour()
		if len(looks) != 8 {
			t.Errorf("%s, and then on another network: got looks at %v, want four more", row.name, looks)
		}
	}
}

// A network that blocks transports and names another portal each time must not keep one open for ever.
func TestANetworkOpensFewPortals(t *testing.T) {
	w := newWorld(t, `captive_portal: {window: 3m}`)
	c := w.follower.captive
	w.corp(t)
	for corp, _ := w.egress.Transport("corp"); corp.Health().State != transport.Connecting; {
		<-c.kick
	}
	looks := 0
	c.look = func(context.Context) (portal.Portal, bool, bool) {
		found, err := portal.Parse(fmt.Sprintf("http://198.51.100.%d/", 1+looks%5), "lo")
		if err != nil {
			t.Error(err)
		}
		looks++
		return found, true, false
	}
	start, open := time.Now(), 0
	for minute := range 60 {
		c.step(t.Context(), start.Add(time.Duration(1+minute)*time.Minute))
		if w.core.Conditions().Portal != nil {
			open++
		}
	}
	if open == 0 || open > mostPortals*3 {
		t.Errorf("a portal could be reached in %d of 60 minutes after %d looks, want at most %d windows of 3", open, looks, mostPortals)
	}
}

// The portal is seen once, and then the network falls silent. The looks end, but the window must not stay open for that.
func TestAPortalIsClosedInTime(t *testing.T) {
	for _, window := range []time.Duration{time.Minute, 3 * time.Minute} {
		w := newWorld(t, fmt.Sprintf("captive_portal: {window: %s}", window))
		c := w.follower.captive
		w.corp(t)
		for corp, _ := w.egress.Transport("corp"); corp.Health().State != transport.Connecting; {
			<-c.kick
		}
		found, err := portal.Parse("http://198.51.100.1/login", "lo")
		if err != nil {
			t.Fatal(err)
		}
		ok := true
		c.look = func(context.Context) (portal.Portal, bool, bool) { return found, ok, false }
		start := time.Now().Add(time.Minute)
		next := c.step(t.Context(), start)
		if w.core.Conditions().Portal == nil {
			t.Fatalf("window %s: the portal is not open", window)
		}
		ok = false
		now := time.Duration(0)
		for next > 0 && w.core.Conditions().Portal != nil { // as run does while no transport changes its state
			now += next
			next = c.step(t.Context(), start.Add(now))
		}
		if w.core.Conditions().Portal != nil || now > window {
			t.Errorf("window %s: got open %v after %s, want it closed", window, w.core.Conditions().Portal != nil, now)
		}
	}
}

// The access network can name any host as its portal. That must not open anything internal.
func TestAPortalOpensNothingThatBelongsInside(t *testing.T) {
	w := newWorld(t, `captive_portal: {window: 3m}`)
	for _, row := range []struct {
		name, url string
		opens     bool
	}{
		{"a page on the internet", "http://198.51.100.1/login", true},
		{"an address that a transport keeps inside", "http://10.20.0.10/", false},
		{"a private address that is not on the access network", "http://192.168.50.10/", false},
		{"an IPv6 form of a private address", "http://[64:ff9b::10.20.0.10]/", false},
		{"an address that overlay networks use", "http://100.64.0.10/", false},
		{"a site-local address", "http://[fec0::10]/", false},
		{"this machine", "http://127.0.0.1/", false},
		{"a cloud's metadata service", "http://169.254.169.254/latest/", false},
		{"a name that a rule keeps inside", "http://files.example/", false},
		{"a name below it", "http://deep.files.example/", false},
	} {
		found, err := portal.Parse(row.url, "lo")
		var p *policy.Portal
		if err == nil {
			p, _, err = w.follower.captive.opening(t.Context(), found)
		}
		if opens := err == nil && p != nil; opens != row.opens {
			t.Errorf("%s: opens is %v (%v), want %v", row.name, opens, err, row.opens)
		}
	}
}
