package daemon

import (
	"context"
	"net/netip"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
	"penstock/cmd/internal/edition"
	"penstock/cmd/internal/egress"
	"penstock/cmd/internal/gateway"
	"penstock/cmd/internal/report"
	"penstock/dnsproxy"
	"penstock/policy"
	"penstock/router"
	"penstock/router/clients"
)

// core implements laptop.Core.
type core struct{ d *Daemon }

func (c core) Config() *config.Config         { return c.d.live.Config() }
func (c core) Conditions() *policy.Conditions { return c.d.live.Conditions() }

func (c core) Change(change func(*policy.Conditions)) {
	d := c.d
	if !d.live.SetConditions(change) {
		return
	}
	tell(d.changed)
	if n := d.endChanged(false); n > 0 { // no flow is moved to another egress
		d.log.Info("flows reset: they would take another egress on this network", "flows", n)
	}
	c.FreshenDNS() // connections to upstreams may need another egress now
}

// OverQuota puts in force which peers have used up their quotas, and ends their flows.
func (c core) OverQuota(peers map[string]bool) {
	c.d.live.SetConditions(func(now *policy.Conditions) { now.OverQuota = peers })
	c.d.router.Kill(func(f router.Flow) bool {
		return peers[f.Facts.Peer] && c.d.live.Decide(f.Facts).Action != policy.Forward
	})
}

// Spend counts what a client has sent or got by proxy, and returns how long it must wait before the next.
func (c core) Spend(client uint64, up bool, n int) time.Duration {
	direction := gateway.Down
	if up {
		direction = gateway.Up
	}
	who, _ := c.d.live.Now().Clients.Client(client)
	return c.d.gateway.Spend(who.ID, direction, n)
}

func (c core) IsInside(host string) bool {
	f := policy.Flow{Client: clients.Machine, Time: time.Now(), Names: []policy.Name{{Host: host, From: policy.FromQuestion}}}
	return c.d.live.Now().Policy.IsInside(f) || edition.IsSplit(host, c.d.dns.Settings())
}

// Answered records a question.
func (c core) Answered(q dnsproxy.Query) {
	c.d.records.Question(func() control.Question { return report.Question(q) })
}

func (c core) Inside() []netip.Prefix { return c.d.live.Now().Egress.Prefixes() }

func (c core) FreshenDNS() {
	c.d.dns.Follow()
	c.d.dns.Reconnect()
}

// moved puts other addresses of the TUN in force and ends the flows of the old ones.
func (d *Daemon) moved(addresses []netip.Prefix) {
	d.reloading.Lock() // a reload that began before would put the former ones back
	defer d.reloading.Unlock()
	before := d.live.Now()
	d.live.Readdress(addresses)
	if d.router == nil {
		return // the start: there are no flows yet
	}
	d.router.Kill(func(f router.Flow) bool {
		return before.Place(f.Facts.Src.Addr()) != d.live.Now().Place(f.Facts.Src.Addr())
	})
	d.dns.Follow()
}

// who describes the senders of flows. It implements router.Clients and dnsproxy.Clients.
type who struct{ d *Daemon }

// Describe adds the facts about a flow's client.
func (w who) Describe(f *policy.Flow) bool {
	now := w.d.live.Now()
	ok := w.d.live.DescribeIn(now, f)
	if f.Client == clients.Machine {
		w.d.laptop.Programs.Describe(f, now.Asks, now.Config.Programs)
	}
	return ok
}

// Searches reports whether Describe may search for a program.
func (w who) Searches(client uint64) bool {
	return client == clients.Machine && w.d.live.Now().Asks.Any()
}

// Names adds the names that the flow's client resolved to its destination.
func (w who) Names(f *policy.Flow) (release func()) {
	names := w.d.dns.Names()
	release = names.Pin(f.Client, f.Dst.Addr()) // pin before reading, so that no name expires in between
	f.Names = names.Lookup(f.Client, f.Dst.Addr())
	return release
}

// Confirm looks up a name that a flow claims with our resolver.
func (w who) Confirm(ctx context.Context, f policy.Flow, host string) ([]netip.Addr, error) {
	return w.d.dns.Confirm(ctx, f, host)
}

// ways implements router.Ways.
type ways struct {
	*egress.Egress
	live   *edition.Live
	direct egress.Direct
}

// Place returns where a destination is, seen from this host.
func (w ways) Place(client uint64, dst netip.Addr) policy.Place {
	return w.live.Now().PlaceFor(client, dst, w.direct.Reserved)
}

// Carrier returns what carries packets to dst through an egress, unless every flow is to end in penstock.
func (w ways) Carrier(egress string, n policy.Network, dst netip.Addr) (router.Carrier, bool) {
	if w.live.Config().Datapath == "terminate" {
		return nil, false
	}
	return w.Egress.Carrier(egress, n, dst)
}
