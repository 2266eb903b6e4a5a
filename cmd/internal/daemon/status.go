package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"penstock/cmd/internal/control"
	"penstock/policy"
	"penstock/router/transport"
)

// overall is the state of the process: that of the transports in use, the worst of them first. A gateway that needs no
// transport is connected once its port is open.
func (d *Daemon) overall() transport.Health {
	worst := transport.Health{State: transport.Connected, Since: d.started}
	rank := []transport.State{
		transport.Connected, transport.Quiesced, transport.Reconnecting, transport.Connecting,
		transport.Offline, transport.Down, transport.Blocked,
	}
	for _, h := range d.inUse() {
		switch a, b := slices.Index(rank, h.State), slices.Index(rank, worst.State); {
		case worst.Name == "", a > b:
			degraded := worst.Degraded
			worst = h
			worst.Degraded = worst.Degraded || degraded
		case h.Degraded:
			worst.Degraded = true
		}
	}
	return d.captive.explains(worst)
}

// inUse are the transports that rules and DNS upstreams name; of a group, the member that carries new flows.
func (d *Daemon) inUse() []transport.Health {
	cfg := d.config()
	names := make(map[string]bool)
	for _, r := range cfg.Rules {
		names[r.Do.Via] = true
	}
	for _, u := range cfg.DNS.Upstreams {
		names[u.Via] = true
	}
	for _, s := range cfg.DNS.Split {
		for _, u := range s.Upstream {
			names[u.Via] = true
		}
	}
	var list []transport.Health
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if t := d.egress.tunnels[name]; t != nil {
			list = append(list, t.Health())
		} else if g := d.egress.groups[name]; g != nil {
			list = append(list, g.Current().Health())
		}
	}
	return list
}

// ready is nil when data flows, else the reason why not.
func (d *Daemon) ready() error {
	h := d.overall()
	if h.State == transport.Connected {
		return nil
	}
	return errors.New(verdict(h, ""))
}

// verdict is one line for a person about a transport's health.
func verdict(h transport.Health, filter string) string {
	var b strings.Builder
	b.WriteString(h.State.String())
	if h.Name != "" {
		b.WriteString(" via " + h.Name)
	}
	if h.Degraded {
		b.WriteString(", degraded")
	}
	if h.State != transport.Connected && h.Reason != "" {
		fmt.Fprintf(&b, " (%s)", h.Reason)
	}
	switch {
	case h.Name == "":
	case h.Stats.LastRx.IsZero():
		b.WriteString(", nothing received yet")
	default:
		fmt.Fprintf(&b, ", received %s ago", time.Since(h.Stats.LastRx).Round(100*time.Millisecond))
	}
	if h.Err != "" && h.State != transport.Connected {
		b.WriteString(": " + h.Err)
	}
	return b.String() + filter
}

// status is what is true now.
func (d *Daemon) status(context.Context) (control.Status, error) {
	h := d.overall()
	filter := ", filter on"
	stale := 0
	for _, l := range d.rules.status() {
		if l.Err != nil {
			stale++
		}
	}
	if stale > 0 {
		filter += fmt.Sprintf(", %d lists missing", stale)
	}
	filter += d.onDemand.words()
	s := control.Status{
		State: h.State.String(), Degraded: h.Degraded, Verdict: verdict(h, filter), Reason: string(h.Reason),
		Since: h.Since, Started: d.started, Version: d.opts.Version, Config: d.config().Path, Listen: d.listening(),
		PolicyGeneration: d.rules.generation(),
	}
	d.mu.Lock()
	s.ReloadError = d.reloadErr
	d.mu.Unlock()
	s.Flows.Active = d.router.Active()
	s.Flows.Forwarded, s.Flows.Denied = d.recent.counts()
	for _, name := range slices.Sorted(maps.Keys(d.egress.tunnels)) {
		t := d.egress.tunnels[name]
		s.Transports = append(s.Transports, transportStatus(t.kind, t.Health()))
	}
	for _, name := range slices.Sorted(maps.Keys(d.egress.groups)) {
		current := d.egress.groups[name].Current()
		t := transportStatus("failover", current.Health())
		t.Name, t.Active = name, current.Name
		s.Transports = append(s.Transports, t)
	}
	return s, nil
}

func transportStatus(kind string, h transport.Health) control.TransportStatus {
	return control.TransportStatus{
		Name: h.Name, Kind: kind, State: h.State.String(), Degraded: h.Degraded, Reason: string(h.Reason), Error: h.Err,
		Since: h.Since, LastRx: h.Stats.LastRx, RxBytes: h.Stats.RxBytes, TxBytes: h.Stats.TxBytes,
		Endpoint: h.Stats.Endpoint, Reconnects: h.Reconnects,
	}
}

// action is a verdict in the words of the configuration.
func action(v policy.Verdict) (word, via string) {
	switch {
	case v.Action == policy.Drop:
		return "drop", ""
	case v.Action != policy.Forward:
		return "block", ""
	case v.Egress == policy.EgressDirect, v.Egress == policy.EgressDNS:
		return v.Egress, ""
	}
	return "via", v.Egress
}
