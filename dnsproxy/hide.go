package dnsproxy

import (
	"context"

	"github.com/miekg/dns"

	"penstock/dnsproxy/records"
	"penstock/dnsproxy/wire"
)

// hide answers ex that there is no such name, and takes ownership of it. The answer is the one that a name beside it gets which is not
// ours: it may come from us, as in a closed domain or in one of special use, or from upstreams, with the SOA of their zone. Upstreams
// are asked only for that, and not for the name. The domain of a split zone exists: see sighting.hide.
func (o ours) hide(ctx context.Context) {
	ex, e := o.ex, o.ex.own
	ex.absent, ex.out = true, ex.out[:0]
	switch {
	case o.st.zones[ex.q.Host()] != nil:
		ex.absent = false
		ex.out = authoritative(wire.AppendNegative(ex.out, &ex.q, dns.RcodeSuccess, records.DefaultTTL, wire.EDE{}))
	case e.Closed && !e.Reverse.IsValid():
		ex.out = authoritative(wire.AppendNegative(ex.out, &ex.q, dns.RcodeNameError, records.DefaultTTL, wire.EDE{}))
	case ex.special(o.st):
		wire.Shorten(ex.out, o.st.settings.Block.TTL)
	default:
		o.hideInZone(ctx)
		return
	}
	ex.result = resultBlocked
	o.finish(ctx, ex)
}

// hideInZone hides a name as a zone that others know would.
func (o ours) hideInZone(ctx context.Context) {
	s := o.sight(o.ex, o.st)
	switch {
	case s.knowsZone():
	case !o.tasks.begin():
		o.ex.settle(resultDropped, o.ex.out[:0])
		o.finish(ctx, o.ex)
		return
	default:
		go o.askForZone(ctx, s)
		return
	}
	o.ex.settle(resultBlocked, s.noSuchName())
	o.finish(ctx, o.ex)
}

func (o ours) askForZone(ctx context.Context, s *sighting) {
	defer o.tasks.end()
	clientCtx, cancel := o.tasks.context(context.WithoutCancel(ctx), o.ex.flow.Client)
	defer cancel()
	s.asking(clientCtx).knowsZone()
	if o.ex.settle(resultBlocked, s.noSuchName()); clientCtx.Err() != nil {
		o.ex.settle(resultDropped, o.ex.out[:0])
	}
	o.finish(ctx, o.ex)
}

// knowsZone reports whether the zone that the name is in is known, from what is above the name and above the host that it belongs to.
func (s *sighting) knowsZone() bool {
	above := s.ex.q.Attributes()
	if s.ex.q.HostBehind(above) != "" {
		above++
	}
	e := s.entry(above, dns.TypeSOA)
	if e != nil {
		s.zone = e.Zone
	}
	return e != nil
}
