package laptop

import (
	"net/netip"
	"testing"
	"time"

	"penstock/policy"
	"penstock/router/ondemand"
	"penstock/router/pathmon"
	"penstock/router/transport"
)

func TestOnDemandNotes(t *testing.T) {
	home := pathmon.Path{Interface: "wlan0", Gateway: netip.MustParseAddr("192.168.1.1"), Source: netip.MustParseAddr("192.168.1.10")}
	office := pathmon.Path{Interface: "eth0", Gateway: netip.MustParseAddr("10.0.0.1"), Source: netip.MustParseAddr("10.0.0.10")}
	w := newWorld(t, `on_demand: [{if: {interface: eth0}, then: filter_only}]`)
	o := w.follower.onDemand
	files := policy.Flow{
		Network: policy.TCP, Dst: netip.MustParseAddrPort("192.0.2.7:443"),
		Names: []policy.Name{{Host: "files.example", From: policy.FromDNS}}, Sniffed: true,
	}
	other := files
	other.Names = []policy.Name{{Host: "other.example", From: policy.FromDNS}}
	want := func(what, wantFiles, wantOther string) {
		t.Helper()
		if got := w.goes(files); got != wantFiles {
			t.Errorf("%s: files go %q, want %q", what, got, wantFiles)
		}
		if got := w.goes(other); got != wantOther {
			t.Errorf("%s: the rest goes %q, want %q", what, got, wantOther)
		}
	}
	decide := func() { o.decide(t.Context(), o.standing()) }

	want("before anything is known", "corp", "corp")
	o.changed(home, true)
	decide()
	want("at home", "corp", "corp")
	if got := o.words(); got != "" {
		t.Errorf("at home: got %q in the status, want nothing", got)
	}
	o.changed(office, true)
	want("in the office, before it is looked at", "corp", "corp")
	decide()
	want("in the office", "direct", "corp")
	if got := o.words(); got != ", on demand: filter_only" {
		t.Errorf("in the office: got %q in the status", got)
	}
	o.changing(true)
	want("as soon as the path may be another one", "corp", "corp")
	decide()
	want("while that is not clear", "corp", "corp")
	o.changing(false)
	decide()
	want("when it was the old one after all", "direct", "corp")
	o.override(0)
	want("after the user's word", "corp", "corp")
	decide()
	want("while the user's word counts", "corp", "corp")
	o.changed(office, true)
	decide()
	want("on the next network", "direct", "corp")
	n := o.standing()
	o.changed(home, true)
	o.decide(t.Context(), n)
	want("when the answer is about a network that was left", "corp", "corp")
	o.changed(pathmon.Path{}, false)
	want("without a network", "corp", "corp")
}

// leftMeanwhile is a Core during whose first change the network becomes another one.
type leftMeanwhile struct {
	*fakeCore
	leave func()
}

func (c *leftMeanwhile) Change(change func(*policy.Conditions)) {
	if leave := c.leave; leave != nil {
		c.leave = nil
		leave()
	}
	c.fakeCore.Change(change)
}

func TestANetworkThatIsLeftWhileItIsTrustedIsNotTrusted(t *testing.T) {
	office := pathmon.Path{Interface: "eth0", Gateway: netip.MustParseAddr("10.0.0.1"), Source: netip.MustParseAddr("10.0.0.10")}
	w := newWorld(t, `on_demand: [{if: {interface: eth0}, then: filter_only}]`)
	o := w.follower.onDemand
	o.changed(office, true)
	left := make(chan struct{})
	o.core = &leftMeanwhile{w.core, func() {
		go func() {
			defer close(left)
			o.changed(pathmon.Path{Interface: "wlan0", Gateway: office.Gateway, Source: office.Source}, true)
		}()
		select {
		case <-left:
		case <-time.After(100 * time.Millisecond): // it waits for the change, which is as good
		}
	}}
	o.decide(t.Context(), o.standing())
	<-left
	if w.core.Conditions().Trusted {
		t.Error("a network that nobody has looked at is trusted")
	}
}

func TestOnDemandActs(t *testing.T) {
	w := newWorld(t, `on_demand: [{then: connect}]`)
	tun := w.corp(t)
	await := func(want transport.State) {
		t.Helper()
		for start := time.Now(); tun.Health().State != want; time.Sleep(time.Millisecond) {
			if time.Since(start) > 20*time.Second {
				t.Fatalf("the transport did not become %s", want)
			}
		}
	}
	await(transport.Connecting)
	w.follower.onDemand.act(ondemand.Disconnect)
	await(transport.Down)
	w.follower.onDemand.act(ondemand.Ignore)
	if got := tun.Health().State; got != transport.Down {
		t.Errorf("ignore: got %s, want it to stay down", got)
	}
	w.follower.onDemand.act(ondemand.Connect)
	await(transport.Connecting)
}
