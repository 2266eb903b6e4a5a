package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
	"penstock/cmd/internal/edition"
	"penstock/policy"
	"penstock/router"
)

// awaitReload reloads at each signal.
func (d *Daemon) awaitReload(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.opts.Reload:
			if _, err := d.reload(ctx, control.ReloadQuery{}); err != nil {
				d.log.Error("reload refused; the previous policy stays in force", "err", err)
			}
		}
	}
}

// reload rereads the configuration. The current edition stays in force until the new one has compiled and passed its tests.
// Flows and tunnels survive, except flows of clients that are gone. If reload succeeds, the new edition is in force
// everywhere when it returns.
func (d *Daemon) reload(ctx context.Context, q control.ReloadQuery) (res control.Reloaded, err error) {
	read := func(now *config.Config) (*config.Config, error) {
		if q.PeersOnly {
			return now.ReloadPeers()
		}
		return now.Reload()
	}
	return d.replace(ctx, q, read, func() error { return nil })
}

// rereadAll reloads, and ends what the new edition would refuse.
func (d *Daemon) rereadAll(ctx context.Context) error {
	_, err := d.reload(ctx, control.ReloadQuery{KillDenied: true})
	return err
}

// useBundle puts a bundle of the fleet in force, after accept.
func (d *Daemon) useBundle(ctx context.Context, dir string, generation uint64, accept func() error) error {
	_, err := d.replace(ctx, control.ReloadQuery{KillDenied: true}, func(now *config.Config) (*config.Config, error) {
		return config.ReloadBundle(now, dir, generation)
	}, accept)
	return err
}

// replace puts in force what read makes of the present configuration, after accept, which is called once all else has worked.
func (d *Daemon) replace(ctx context.Context, q control.ReloadQuery, read func(*config.Config) (*config.Config, error), accept func() error) (res control.Reloaded, err error) {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	if !q.DryRun {
		defer func() { d.status.ReloadEnded(q.PeersOnly, err) }()
	}
	old := d.live.Now()
	cfg, err := read(old.Config)
	if err != nil {
		return res, err
	}
	next, err := d.live.Compile(ctx, cfg)
	if err != nil {
		return res, edition.AsFaults(err)
	}
	res.Changed, _ = edition.Changes(old.Config, cfg)
	_, res.Restart = edition.Changes(d.began, cfg) // what an earlier reload left for a restart still waits
	if next, err = next.After(old); err != nil {
		return res, err
	}
	if q.DryRun {
		p := next.Policy.WithDecisions(old.Policy.Decisions())
		res.Generation = old.Number
		for _, c := range d.rejudge(next, p) {
			if c.Now.Action != policy.Forward {
				res.Blocked++
			} else {
				res.Rerouted++
			}
		}
		return res, nil
	}
	if err := accept(); err != nil {
		return res, err
	}
	d.warn(next)
	res.Warnings = next.Warnings()
	if err = d.use(next); err != nil && d.live.Now() == old {
		return res, err
	}
	now := d.live.Now()
	if failed := d.laptop.UseAlwaysOn(ctx, now.Config.AlwaysOn); failed != nil {
		err = errors.Join(err, fmt.Errorf("the new rules are in force, but not all settings of the host: %w", failed))
	}
	d.dns.Follow()
	// Rejudge after the switch: a flow that began in between is either in the table or was judged by the new edition.
	res.Generation = now.Number
	end := make(map[uint64]bool)
	for _, c := range d.rejudge(now, now.Policy) {
		if c.Now.Action == policy.Forward {
			res.Rerouted++
			continue
		}
		res.Blocked++
		end[c.Flow.ID] = q.KillDenied || regrouped(d.live, now, c.Flow.Facts)
	}
	res.Killed = d.router.Kill(func(f router.Flow) bool { return end[f.ID] })
	d.follow.Reloaded()
	d.status.Waits(res.Restart)
	d.status.RunsCopy(nil)
	d.keep(next)
	if len(res.Restart) > 0 {
		d.log.Warn("these changes wait for a restart", "sections", res.Restart)
	}
	d.log.Info("configuration reloaded", "changed", res.Changed, "generation", res.Generation, "blocked", res.Blocked, "ended", res.Killed)
	return res, err
}

// use puts an edition in force and ends what belongs to peers that are gone. If there is an error, the edition is in force or
// nothing has changed. The caller holds reloading.
func (d *Daemon) use(next *edition.Edition) error {
	now := d.live.Now()
	if d.gateway == nil {
		d.endClients(now, d.live.Use(next))
		return nil
	}
	if err := d.gateway.Withdraw(now.Gateway, next.Gateway); err != nil {
		return errors.Join(err, d.gateway.Use(now.Gateway))
	}
	d.endClients(now, d.live.Use(next))
	// An address can go to a new peer only after the flows of its old peer have ended.
	if err := d.gateway.Use(next.Gateway); err != nil {
		return fmt.Errorf("the new rules are in force, but the gateway could not add the new peers: %w", err)
	}
	return nil
}

// folders is the folders of peers, for gateway.Watch and enrol.
type folders struct{ d *Daemon }

func (f folders) Config() *config.Config { return f.d.live.Config() }

func (f folders) Look() (now config.Seen, changed bool) { return f.d.live.Config().Look() }

func (f folders) Read(ctx context.Context) error {
	_, err := f.d.reload(ctx, control.ReloadQuery{PeersOnly: true})
	return err
}

func (f folders) Expire(now time.Time) error {
	f.d.reloading.Lock()
	defer f.d.reloading.Unlock()
	next, changed := f.d.live.Now().At(now)
	if !changed {
		return nil
	}
	f.d.log.Info("who may connect has changed, because peers have expired")
	defer f.d.dns.Follow() // who has expired has no name any more
	return f.d.use(next)
}

// rejudge judges the forwarded live flows again, by a policy and with the clients of an edition.
func (d *Daemon) rejudge(e *edition.Edition, p *policy.Policy) []router.Change {
	changed := d.router.Rejudge(func(f *policy.Flow) bool {
		ok := d.live.DescribeIn(e, f)
		f.Place = e.PlaceFor(f.Client, f.Dst.Addr(), d.ways().direct.Reserved)
		f.Now = d.live.Conditions()
		return ok
	}, p.Decide)
	return slices.DeleteFunc(changed, func(c router.Change) bool { return c.Flow.Verdict.Action != policy.Forward })
}

// endChanged ends the live flows that would get another verdict now, or only those that would be refused.
func (d *Daemon) endChanged(refused bool) int {
	end, now := make(map[uint64]bool), d.live.Now()
	for _, c := range d.rejudge(now, now.Policy) {
		end[c.Flow.ID] = !refused || c.Now.Action != policy.Forward
	}
	return d.router.Kill(func(f router.Flow) bool { return end[f.ID] })
}

// regrouped reports whether a flow's client is gone, or its groups or its user have changed since the flow was judged.
func regrouped(l *edition.Live, e *edition.Edition, f policy.Flow) bool {
	then := f
	return !l.DescribeIn(e, &f) || !slices.Equal(f.Groups, then.Groups) || f.User != then.User
}

// endClients ends everything that belongs to clients that are gone, and what others have open to them. before is the edition that
// they were in.
func (d *Daemon) endClients(before *edition.Edition, gone []uint64) {
	if len(gone) == 0 {
		return
	}
	n := d.router.Kill(func(f router.Flow) bool {
		to, _ := before.Clients.Peer(f.Facts.Dst.Addr())
		return slices.Contains(gone, f.Facts.Client) || f.Egress == policy.EgressPeers && slices.Contains(gone, to)
	})
	if d.gateway != nil {
		d.gateway.CloseClients(gone) // waits for what the others still had on the way to them
	}
	for _, key := range gone {
		d.dns.CloseClient(key)
	}
	d.log.Info("removed peers and ended their flows", "peers", len(gone), "flows", n)
}

// warn logs probable mistakes in an edition.
func (d *Daemon) warn(e *edition.Edition) {
	for _, w := range e.Warnings() {
		d.log.Warn(w)
	}
}
