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
	c := control.Config{
		Socket: socket, Group: d.cfg.Control.Group, Logger: d.log,
		Status: d.status, Flows: d.flows, Explain: d.explain, Rules: d.ruleStatus, DNSQuery: d.dnsQuery, Lists: d.lists,
		ListLookup: func(_ context.Context, name string) ([]control.ListHit, error) {
			host, err := policy.CanonicalName(name)
			if err != nil {
				return nil, err
			}
			return d.lookup(host), nil
		},
		KillFlow: d.killFlow, Reload: d.reload, Up: d.up, Down: d.down, Reconnect: d.reconnect,
		DNSFlush: func(context.Context) error { d.dns.Flush(); return nil },
		Allow:    d.allow,
	}
	if d.gateway != nil {
		c.Peers = d.peers
	}
	return c
}

func (d *Daemon) up(_ context.Context, s control.Steer) error {
	return d.steer(s, func(t *tunnel) { t.Up() }, func(t *tunnel) { t.Down() })
}

func (d *Daemon) down(_ context.Context, s control.Steer) error {
	return d.steer(s, func(t *tunnel) { t.Down() }, func(t *tunnel) { t.Up() })
}

func (d *Daemon) reconnect(_ context.Context, s control.Steer) error {
	return d.steer(s, func(t *tunnel) { t.Reconnect() }, nil)
}

// steer gives an order to transports, and takes it back after a while if that is asked for.
func (d *Daemon) steer(s control.Steer, order, back func(*tunnel)) error {
	tunnels, err := d.egress.steered(s.Name)
	if err != nil {
		return err
	}
	for _, t := range tunnels {
		order(t)
	}
	if s.For > 0 && back != nil {
		time.AfterFunc(s.For, func() {
			for _, t := range tunnels {
				back(t)
			}
		})
	}
	return nil
}

// reload reads the configuration again. The policy in force stays until the new one has compiled and its tests hold;
// flows and tunnels live on.
func (d *Daemon) reload(ctx context.Context, q control.ReloadQuery) (res control.Reloaded, err error) {
	if !q.DryRun {
		defer func() { d.reloadEnded(err) }()
	}
	old := d.config()
	cfg, err := config.Load(old.Path)
	if err != nil {
		return res, err
	}
	p, lists, err := d.rules.compile(ctx, cfg)
	if err != nil {
		return res, err
	}
	res.Changed, res.Restart = changes(old, cfg)
	decide := p.Decide
	changed := d.router.Changed(decide)
	blocked := make(map[uint64]bool)
	for _, f := range changed {
		facts := f.Facts
		facts.Sniffed = true
		if decide(facts).Action != policy.Forward {
			blocked[f.ID] = true
		}
	}
	res.Blocked, res.Rerouted, res.Generation = len(blocked), len(changed)-len(blocked), d.rules.generation()
	if q.DryRun {
		return res, nil
	}
	dns, err := d.dnsConfig(cfg)
	if err != nil {
		return res, err
	}
	if d.gateway != nil {
		if err := d.gateway.setPeers(cfg.Peers); err != nil {
			return res, err
		}
	}
	if err := d.dns.SetConfig(dns); err != nil {
		return res, err
	}
	d.rules.put(p, lists)
	d.metrics.lists(lists.status)
	d.mu.Lock()
	cfg.Listen, cfg.Transports = old.Listen, old.Transports // what needs a restart stays as it is
	d.cfg = cfg
	d.mu.Unlock()
	res.Generation = d.rules.generation()
	if q.KillDenied {
		res.Killed = d.router.Kill(func(f router.Flow) bool { return blocked[f.ID] })
	}
	d.log.Info("configuration reloaded", "changed", res.Changed, "generation", res.Generation)
	return res, nil
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
		if slices.Contains([]string{"listen", "transports", "metrics", "control", "limits", "flow_log", "always_on"}, name) {
			restart = append(restart, name)
		}
	}
	return changed, restart
}

// allow lifts a block for a while.
func (d *Daemon) allow(_ context.Context, q control.AllowQuery) (control.Allowed, error) {
	e := policy.Exception{Peer: q.Peer, Until: time.Now().Add(q.For)}
	if category, ok := strings.CutPrefix(q.Target, "category:"); ok {
		if !slices.Contains(categoryNames(d.config()), category) {
			return control.Allowed{}, fmt.Errorf("there is no category %q", category)
		}
		e.Category = category
	} else {
		host, err := policy.CanonicalName(q.Target)
		if err != nil {
			return control.Allowed{}, err
		}
		e.Name = host
	}
	d.rules.except(e)
	d.log.Info("a block is lifted for a while", "target", q.Target, "peer", q.Peer, "until", e.Until)
	return control.Allowed{Target: q.Target, Peer: q.Peer, Until: e.Until}, nil
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
		Name: a.Name, Type: a.Type, Rcode: a.Rcode, Answers: a.Records, Upstream: a.Upstream,
		Cached: a.Cache == "hit" || a.Cache == "stale", Took: a.Duration.Seconds(),
	}
	if a.Verdict.Action != policy.Forward {
		res.Rule, res.Category = a.Verdict.Rule, a.Verdict.Category
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
