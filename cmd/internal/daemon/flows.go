package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"sync"

	"penstock/cmd/internal/control"
	"penstock/policy"
	"penstock/router"
)

// remembered is how many finished flows are kept for flows and explain.
const remembered = 1024

// recent is the flows that ended last, and counts of all.
type recent struct {
	mu                sync.Mutex // guards below
	ring              []router.Flow
	next              int
	forwarded, denied uint64
}

func newRecent() *recent { return &recent{ring: make([]router.Flow, 0, remembered)} }

func (r *recent) add(f router.Flow) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f.Verdict.Action == policy.Forward {
		r.forwarded++
	} else {
		r.denied++
	}
	if len(r.ring) < remembered {
		r.ring = append(r.ring, f)
		return
	}
	r.ring[r.next] = f
	r.next = (r.next + 1) % remembered
}

func (r *recent) counts() (forwarded, denied uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.forwarded, r.denied
}

// all are the flows that are remembered, oldest first.
func (r *recent) all() []router.Flow {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append(append([]router.Flow(nil), r.ring[r.next:]...), r.ring[:r.next]...)
}

// flow is a flow as the control API and the flow log show it.
func (d *Daemon) flow(f router.Flow) control.Flow {
	name := f.Name()
	c := control.Flow{
		ID: strconv.FormatUint(f.ID, 10), Proto: f.Facts.Network.String(), Src: f.Facts.Src.String(),
		Dst: f.Facts.Dst.String(), Peer: f.Facts.Peer, Host: name.Host,
		Rule: f.Verdict.Rule, Category: f.Verdict.Category, TxBytes: f.TxBytes, RxBytes: f.RxBytes,
		Start: f.Start, End: f.End, Reason: f.Err, Generation: f.Generation,
	}
	if name.Host != "" {
		c.HostSource = name.From.String()
	}
	for _, n := range f.Facts.Names {
		c.Names = append(c.Names, control.Name{Host: n.Host, Source: n.From.String()})
	}
	c.Verdict, c.Via = action(f.Verdict)
	if f.Egress != f.Verdict.Egress {
		c.Via = f.Egress
	}
	return c
}

// flows are the live flows, or the finished ones, that a query selects.
func (d *Daemon) flows(_ context.Context, q control.FlowQuery) ([]control.Flow, error) {
	var all []router.Flow
	if q.Denied || q.Recent {
		all = d.recent.all()
	}
	if !q.Denied {
		all = append(all, d.router.Flows()...)
	}
	list := []control.Flow{}
	for _, f := range all {
		if q.Peer != "" && f.Facts.Peer != q.Peer || q.Denied && f.Verdict.Action == policy.Forward {
			continue
		}
		list = append(list, d.flow(f))
	}
	return list, nil
}

func (d *Daemon) killFlow(_ context.Context, id string) error {
	n, err := strconv.ParseUint(id, 10, 64)
	if err != nil {
		return fmt.Errorf("flow %q: a flow's id is a number: penstock flows lists them", id)
	}
	if d.router.Kill(func(f router.Flow) bool { return f.ID == n }) == 0 {
		return fmt.Errorf("there is no live flow %s: penstock flows lists them", id)
	}
	return nil
}

// findFlow finds a live or remembered flow.
func (d *Daemon) findFlow(id string) (router.Flow, error) {
	for _, f := range append(d.router.Flows(), d.recent.all()...) {
		if strconv.FormatUint(f.ID, 10) == id {
			return f, nil
		}
	}
	return router.Flow{}, fmt.Errorf("flow %s is neither live nor among the last %d that ended", id, remembered)
}

// client is the inner address of a peer, for questions asked in its name.
func (d *Daemon) client(name string) (netip.AddrPort, error) {
	if name == "" {
		if t := d.cfg.Listen.TUN; t != nil && len(t.Address) > 0 {
			return netip.AddrPortFrom(t.Address[0].Addr(), 0), nil
		}
		return netip.AddrPortFrom(netip.IPv4Unspecified(), 0), nil
	}
	if a, err := netip.ParseAddr(name); err == nil {
		return netip.AddrPortFrom(a, 0), nil
	}
	for _, p := range d.config().Peers {
		if p.Name == name && len(p.AllowedIPs) > 0 {
			return netip.AddrPortFrom(p.AllowedIPs[0].Addr(), 0), nil
		}
	}
	return netip.AddrPort{}, fmt.Errorf("there is no peer %q", name)
}
