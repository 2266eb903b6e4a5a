package daemon

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
	"penstock/policy"
	"penstock/router"
)

// controlConfig is what the control socket serves.
func (d *Daemon) controlConfig() control.Config {
	socket := d.opts.Socket
	if socket == "" {
		socket = d.cfg.Control.Socket
	}
	o := operations{d}
	c := control.Config{
		Socket: socket, Group: d.cfg.Control.Group, Logger: d.log,
		Process: o, Flows: o, Policy: o, Transports: o, DNS: o, Lists: o,
	}
	if d.gateway != nil {
		c.Peers = o
	}
	return c
}

func (d *Daemon) up(_ context.Context, s control.Steer) error {
	return d.steer(s, (*tunnel).UpFor)
}

func (d *Daemon) down(_ context.Context, s control.Steer) error {
	return d.steer(s, (*tunnel).DownFor)
}

func (d *Daemon) reconnect(_ context.Context, s control.Steer) error {
	tunnels, err := d.egress.steered(s.Name)
	for _, t := range tunnels {
		t.Reconnect()
	}
	return err
}

// steer gives an order to transports, for a while if that is asked for. On demand the decision of the network ends it.
func (d *Daemon) steer(s control.Steer, order func(*tunnel, time.Duration)) error {
	tunnels, err := d.egress.steered(s.Name)
	if err != nil {
		return err
	}
	hold := s.For
	if d.onDemand != nil {
		d.onDemand.override(s.For)
		hold = 0
	}
	for _, t := range tunnels {
		order(t, hold)
	}
	return nil
}

// reload reads the configuration again. The policy in force stays until the new one has compiled and its tests hold;
// flows and tunnels live on. When it returns, the new policy is in force everywhere.
func (d *Daemon) reload(ctx context.Context, q control.ReloadQuery) (res control.Reloaded, err error) {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	if !q.DryRun {
		defer func() { d.reloadEnded(err) }()
	}
	old := d.config()
	cfg, err := config.Load(old.Path)
	if err != nil {
		return res, err
	}
	p, content, err := d.rules.compile(ctx, cfg)
	if err != nil {
		return res, err
	}
	if _, err := d.dnsConfig(cfg); err != nil {
		return res, err
	}
	res.Changed, res.Restart = changes(old, cfg)
	if q.DryRun {
		p = p.WithExceptions(d.rules.current().Exceptions())
		blocked, rerouted := d.affected(p)
		res.Blocked, res.Rerouted, res.Generation = len(blocked), rerouted, d.rules.generation()
		return res, nil
	}
	for _, w := range p.Warnings() {
		d.log.Warn(w)
	}
	if d.gateway != nil {
		if err := d.gateway.setPeers(cfg.Peers); err != nil {
			return res, err
		}
	}
	if err := d.setDNS(cfg); err != nil {
		return res, err
	}
	d.rules.put(p, content)
	d.mu.Lock()
	cfg.Listen, cfg.Transports = old.Listen, old.Transports // what needs a restart stays as it is
	d.cfg = cfg
	d.mu.Unlock()
	// Only now: a flow that began meanwhile is either in the table or was judged by the new policy.
	blocked, rerouted := d.affected(d.rules.current())
	res.Blocked, res.Rerouted, res.Generation = len(blocked), rerouted, d.rules.generation()
	if q.KillDenied {
		res.Killed = d.router.Kill(func(f router.Flow) bool { return blocked[f.ID] })
	}
	if d.onDemand != nil {
		d.onDemand.note(func() {}) // the list may be another one
	}
	d.log.Info("configuration reloaded", "changed", res.Changed, "generation", res.Generation, "blocked", res.Blocked, "ended", res.Killed)
	return res, nil
}

// affected are the live flows that a policy would refuse, and how many it would send elsewhere.
func (d *Daemon) affected(p *policy.Policy) (blocked map[uint64]bool, rerouted int) {
	blocked = make(map[uint64]bool)
	decide := func(f policy.Flow) policy.Verdict { return d.rules.onNetwork(p, f, p.Decide(f)) }
	for _, f := range d.router.Changed(decide) {
		if f.Verdict.Action != policy.Forward {
			continue
		}
		facts := f.Facts
		facts.Sniffed, facts.Time = true, time.Now()
		if decide(facts).Action != policy.Forward {
			blocked[f.ID] = true
		} else {
			rerouted++
		}
	}
	return blocked, rerouted
}

func (d *Daemon) reloadEnded(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reloadErr = ""
	d.metrics.reloaded.Set(1)
	if err != nil {
		d.reloadErr = err.Error()
		d.metrics.reloaded.Set(0)
	}
}

// changes names the sections that differ, and of those the ones that only a restart puts in force.
func changes(old, cfg *config.Config) (changed, restart []string) {
	a, b := reflect.ValueOf(*old), reflect.ValueOf(*cfg)
	for i := range a.NumField() {
		f := a.Type().Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if !f.IsExported() || name == "" || name == "-" || reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			continue
		}
		changed = append(changed, name)
		unwatched := name == "on_demand" && len(old.OnDemand) == 0 // the network is followed only where it was asked about
		if unwatched || slices.Contains([]string{"listen", "transports", "metrics", "control", "limits", "flow_log", "always_on"}, name) {
			restart = append(restart, name)
		}
	}
	return changed, restart
}

// ruleStatus is the rules in order with their use.
func (d *Daemon) ruleStatus(context.Context) (control.Rules, error) {
	res := control.Rules{Generation: d.rules.generation()}
	p := d.rules.current()
	hits := d.router.Hits()
	warnings := p.Warnings()
	for _, r := range p.Rules() {
		s := control.RuleStatus{Name: r.Name, Position: r.Pos.String(), Match: matchText(r.Match), Do: doText(r.Do)}
		s.Hits, s.LastHit = hits[r.Name].Count, hits[r.Name].Last
		for _, w := range warnings {
			if strings.Contains(w, fmt.Sprintf("%q", r.Name)) && s.ShadowedBy == "" {
				s.ShadowedBy = w
			}
		}
		res.Rules = append(res.Rules, s)
	}
	return res, nil
}

// matchText is a match in few words.
func matchText(m policy.Match) string {
	var parts []string
	v := reflect.ValueOf(m)
	for i := range v.NumField() {
		f := v.Field(i)
		if f.IsZero() || v.Type().Field(i).Name == "Not" {
			continue
		}
		if f.Kind() == reflect.Pointer {
			f = f.Elem()
		}
		parts = append(parts, strings.ToLower(v.Type().Field(i).Name)+" "+strings.Trim(fmt.Sprint(f.Interface()), "[]"))
	}
	if m.Not != nil {
		parts = append(parts, "not ("+matchText(*m.Not)+")")
	}
	return strings.Join(parts, ", ")
}

func doText(do policy.Do) string {
	word, via := action(policy.Verdict{Action: do.Action, Egress: do.Egress})
	if via != "" {
		return "via " + via
	}
	return word
}

func (d *Daemon) dnsQuery(ctx context.Context, q control.DNSQuery) (control.DNSAnswer, error) {
	client, err := d.client(q.From)
	if err != nil {
		return control.DNSAnswer{}, err
	}
	a, err := d.dns.Query(ctx, client, q.Name, q.Type)
	if err != nil {
		return control.DNSAnswer{}, err
	}
	res := control.DNSAnswer{
		Name: a.Name, Type: a.Type, Rcode: a.Rcode, Answers: a.Records, Reason: a.Reason, Rule: a.Verdict.Rule, Category: a.Verdict.Category,
		Upstream: a.Upstream, Cache: a.Cache, Cached: a.Cache == "hit" || a.Cache == "stale", Took: a.Duration.Seconds(),
	}
	if host, err := policy.CanonicalName(q.Name); err == nil && a.Decided != "" && a.Decided != host {
		res.Decided = a.Decided
	}
	if a.Decided != "" {
		res.Hits = d.lookup(a.Decided)
	}
	return res, nil
}

func (d *Daemon) lists(context.Context) ([]control.ListStatus, error) {
	var list []control.ListStatus
	for _, s := range d.rules.status() {
		l := control.ListStatus{Category: s.Category, List: s.List, Entries: s.Entries, Updated: s.Updated}
		if s.Err != nil {
			l.Error = s.Err.Error()
		}
		list = append(list, l)
	}
	return list, nil
}

func (d *Daemon) peers(context.Context) ([]control.PeerStatus, error) {
	var list []control.PeerStatus
	live := d.gateway.server.Peers()
	for _, p := range d.config().Peers {
		s := control.PeerStatus{Name: p.Name, Groups: p.Groups, Disabled: p.Disabled}
		for _, a := range p.AllowedIPs {
			s.Addresses = append(s.Addresses, a.String())
		}
		for _, l := range live {
			if l.Name == p.Name {
				s.LastHandshake, s.RxBytes, s.TxBytes = l.LastHandshake, l.RxBytes, l.TxBytes
				if l.Endpoint.IsValid() {
					s.Endpoint = l.Endpoint.String()
				}
			}
		}
		list = append(list, s)
	}
	return list, nil
}
