package daemon

import (
	"context"
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
	tests := []struct {
		name string
		all  []transport.Health
		want time.Duration // ago; 0: nothing fails
	}{
		{"no transports fail at nothing", nil, 0},
		{"connecting is in vain until it is done", []transport.Health{at(transport.Connecting, 3*time.Second)}, 3 * time.Second},
		{"so is reconnecting", []transport.Health{at(transport.Reconnecting, time.Second)}, time.Second},
		{"the longest counts", []transport.Health{at(transport.Connecting, time.Second), at(transport.Reconnecting, time.Minute)}, time.Minute},
		{"one that is connected proves the network", []transport.Health{at(transport.Connecting, time.Minute), at(transport.Connected, time.Hour)}, 0},
		{"offline, down and blocked are not the network's doing",
			[]transport.Health{at(transport.Offline, time.Minute), at(transport.Down, time.Minute), at(transport.Blocked, time.Minute)}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			since, failing, _ := failingSince(tt.all)
			if failing != (tt.want > 0) || failing && !since.Equal(now.Add(-tt.want)) {
				t.Errorf("got %s ago %t, want %s", now.Sub(since), failing, tt.want)
			}
		})
	}
}

func TestOpeningAdmits(t *testing.T) {
	named := &opening{host: "login.cafe.example", port: 8443}
	literal := &opening{addr: netip.MustParseAddr("192.168.1.1"), port: 80}
	flow := func(network policy.Network, dst string, names ...string) policy.Flow {
		f := policy.Flow{Network: network, Dst: netip.MustParseAddrPort(dst)}
		for _, n := range names {
			f.Names = append(f.Names, policy.Name{Host: n, From: policy.FromDNS})
		}
		return f
	}
	tests := []struct {
		name string
		o    *opening
		f    policy.Flow
		want bool
	}{
		{"nothing without an opening", nil, flow(policy.TCP, "192.168.1.1:80"), false},
		{"TCP to the portal's name", named, flow(policy.TCP, "10.0.0.1:443", "login.cafe.example"), true},
		{"and to its own port", named, flow(policy.TCP, "10.0.0.1:8443", "login.cafe.example"), true},
		{"but to no other", named, flow(policy.TCP, "10.0.0.1:22", "login.cafe.example"), false},
		{"no UDP", named, flow(policy.UDP, "10.0.0.1:443", "login.cafe.example"), false},
		{"no flow without a name", named, flow(policy.TCP, "10.0.0.1:443"), false},
		{"no flow that has another name too", named, flow(policy.TCP, "10.0.0.1:443", "login.cafe.example", "mail.example"), false},
		{"TCP to the portal's address", literal, flow(policy.TCP, "192.168.1.1:80"), true},
		{"but to no other address", literal, flow(policy.TCP, "192.168.1.2:80"), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.o.admits(tt.f); got != tt.want {
				t.Errorf("got %t, want %t", got, tt.want)
			}
		})
	}
}

func TestCaptivePortalIsShownAndLetOut(t *testing.T) {
	d := laptop(t, `captive_portal: {window: 3m}`)
	c := d.captive
	var found portal.Portal
	var ok, clear bool
	c.look = func(context.Context) (portal.Portal, bool, bool) { return found, ok, clear }
	tun := d.egress.tunnels["corp"]
	ctx, cancel := context.WithCancel(t.Context())
	connecting := make(chan struct{}, 100)
	tun.changed = func(h transport.Health) {
		if h.State == transport.Connecting {
			connecting <- struct{}{}
		}
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = tun.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	<-connecting

	toPortal := policy.Flow{Network: policy.TCP, Dst: netip.MustParseAddrPort("192.168.1.1:80")}
	start := time.Now()
	want := func(what string, after time.Duration, reason transport.Reason, egress string) {
		t.Helper()
		c.step(ctx, start.Add(after))
		h := d.overall()
		if got := h.Reason == transport.ReasonCaptivePortal; got != (reason == transport.ReasonCaptivePortal) {
			t.Errorf("%s: got reason %q %q, want %q", what, h.Reason, h.Err, reason)
		}
		if got := d.rules.decide(toPortal).Egress; got != egress {
			t.Errorf("%s: the portal is reached via %q, want %q", what, got, egress)
		}
	}
	found, ok = portal.Portal{URL: "http://192.168.1.1/login", Uplink: "wlan0"}, true
	want("in the first second", time.Second, "", "corp")
	want("after 3 s", 3*time.Second, transport.ReasonCaptivePortal, "direct")
	if got := d.overall().Err; got != "sign in at http://192.168.1.1/login" {
		t.Errorf("got %q in the status, want where to sign in", got)
	}
	want("when the window is over", 4*time.Minute, transport.ReasonCaptivePortal, "corp")
	c.moves()
	want("on another network, at first", 5*time.Minute, "", "corp")
	want("and when it is captive too", 6*time.Minute, transport.ReasonCaptivePortal, "direct")
	ok, clear = false, true
	want("after signing in", 7*time.Minute, "", "corp")

	c.proved, ok, clear = true, true, false // the network has let us connect
	want("when the server falls silent", 30*time.Second, "", "corp")
	want("and stays silent", 8*time.Minute, transport.ReasonCaptivePortal, "corp")
}
