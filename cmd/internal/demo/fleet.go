package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"penstock/cmd/internal/control"
	"penstock/cmd/internal/fleet"
	"penstock/cmd/internal/fleet/bundle"
)

// quiet is how long the stream of requests runs while nothing happens.
const quiet = 2 * time.Second

// RunFleet shows two gateways of one site, which take their configuration from signed bundles in NATS. It kills the gateway that
// serves a laptop, and starts it again. Then it publishes a bundle that blocks a site, and one that was changed after it was signed. It
// prints what that did to the laptop's requests, and what the gateways made of the bundles. The error is nil only if all went as
// expected. Stay and Console have no effect.
func RunFleet(ctx context.Context, o Options) (err error) {
	w, s, closing, err := buildFleet(ctx, o)
	defer func() { err = errors.Join(err, closing()) }()
	if err != nil {
		return err
	}
	c, err := w.control(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := awaitConnected(ctx, c, o.Stderr); err != nil {
		return err
	}
	d := &fleetDemo{w: w, s: s, serves: s.members[0], other: s.members[1], progress: o.Stderr}
	if err := d.run(ctx); err != nil {
		return err
	}
	if !d.print(o.Stdout) {
		return errNotAsPromised
	}
	seen, err := w.seen()
	if err != nil {
		return err
	}
	fmt.Fprintln(o.Stdout, "\n"+seen)
	return nil
}

// fleetDemo is what happens in the demo of a fleet, and what was measured.
type fleetDemo struct {
	w             fleetWorld
	s             *site
	serves, other member // the one that is killed, and the other
	progress      io.Writer

	stream   *stream
	phases   []phase
	sums     []tally
	verdicts []verdict
}

// The phases of the stream.
const (
	phaseBefore = iota
	phaseKilled
	phaseAfter
	phaseBundle
)

// verdict is a row of the second table.
type verdict struct {
	what, at, got string
	took          time.Duration // since it was published; 0: no time was measured
	ok            bool
}

// run lets everything happen.
func (d *fleetDemo) run(ctx context.Context) (err error) {
	// The other gateway must know of the laptop before it can take it over.
	serving := func(peers int) func(control.FleetGateway) bool {
		return func(g control.FleetGateway) bool {
			return g.State == fleet.Serving && g.Generation == 1 && g.Peers == peers
		}
	}
	if err := d.s.sees(ctx, d.other.name, d.serves.name, serving(1)); err != nil {
		return err
	}
	if err := d.s.sees(ctx, d.serves.name, d.other.name, serving(0)); err != nil {
		return err
	}
	if d.stream, err = newStream(ctx, d.w, publicSite); err != nil {
		return err
	}
	err = d.change(ctx)
	all := d.stream.end()
	if err == nil {
		d.sums = tallies(all, d.phases, phaseKilled)
	}
	return err
}

// change kills a gateway, starts it again and publishes bundles, while the stream goes on.
func (d *fleetDemo) change(ctx context.Context) error {
	if err := d.pass(ctx, "before", d.serves); err != nil {
		return err
	}
	fmt.Fprintf(d.progress, "killing %s, which serves the laptop, with SIGKILL\n", d.serves.name)
	if err := d.w.kill(d.serves); err != nil {
		return err
	}
	recovered, err := d.stream.answered(ctx, d.other.outer, d.stream.now())
	if err != nil {
		return err
	}
	if err := d.end(ctx, fmt.Sprintf("%s is killed, until %s answers", d.serves.name, d.other.name), d.other, recovered); err != nil {
		return err
	}
	// A gateway that says goodbye is seen as leaving.
	silent := func(g control.FleetGateway) bool { return g.State == fleet.Silent }
	if err := d.s.sees(ctx, d.other.name, d.serves.name, silent); err != nil {
		return err
	}
	if err := d.pass(ctx, "after", d.other); err != nil {
		return err
	}
	fmt.Fprintf(d.progress, "starting %s again\n", d.serves.name)
	if err := d.w.run(ctx, d.serves); err != nil {
		return err
	}
	back := func(g control.FleetGateway) bool { return g.State == fleet.Serving }
	if err := d.s.sees(ctx, d.other.name, d.serves.name, back); err != nil {
		return err
	}
	if err := d.bundles(ctx); err != nil {
		return err
	}
	return d.pass(ctx, fmt.Sprintf("%s starts again, and two bundles come", d.serves.name), d.other)
}

// pass lets some time pass, and ends a phase.
func (d *fleetDemo) pass(ctx context.Context, what string, at member) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(quiet):
	}
	return d.end(ctx, what, at, d.stream.now())
}

// end ends a phase in which a gateway serves at last. The last phase has no end.
func (d *fleetDemo) end(ctx context.Context, what string, at member, until time.Duration) error {
	f, err := d.s.fleet(ctx, at.name)
	if err != nil {
		return err
	}
	if len(d.phases) == phaseBundle {
		until = math.MaxInt64
	}
	d.phases = append(d.phases, phase{what: what, until: until, generation: f.Generation})
	return nil
}

// bundles publishes a bundle that blocks a site, and one that was changed after it was signed.
func (d *fleetDemo) bundles(ctx context.Context) error {
	target := "http://" + gamblingSite + "/"
	before, err := get("http", gamblingSite, "")(ctx, d.w)
	if err != nil {
		return err
	}
	d.add(verdict{what: target + " from the laptop, before", at: d.other.name, got: before, ok: before == "this is "+gamblingSite})
	fmt.Fprintf(d.progress, "signing and publishing a bundle that blocks %s\n", gamblingSite)
	if err := d.s.block(); err != nil {
		return err
	}
	published := time.Now()
	signed, err := d.s.publish(ctx, 2)
	if err != nil {
		return err
	}
	took, err := d.each(ctx, published, func(f *control.Fleet) bool { return f.Generation == 2 })
	if err != nil {
		return err
	}
	for i, g := range d.s.members {
		e, err := d.s.explain(ctx, g.name, target)
		if err != nil {
			return err
		}
		d.add(verdict{
			what: "bundle 2, which blocks " + gamblingSite, at: g.name, took: took[i],
			got: fmt.Sprintf("in force; %s: %s, rule %s", gamblingSite, e.Verdict, e.Rule), ok: e.Verdict == "block" && e.Rule == "no-gambling",
		})
	}
	after, err := get("http", gamblingSite, "")(ctx, d.w)
	if err != nil {
		return err
	}
	refused := []string{"no such name", "refused", "a page that says why not"}
	d.add(verdict{what: target + " from the laptop, after", at: d.other.name, got: after, ok: slices.Contains(refused, after)})
	return d.forge(ctx, signed)
}

// forge publishes a bundle that was changed after it was signed.
func (d *fleetDemo) forge(ctx context.Context, signed bundle.Signed) error {
	forged, err := altered(signed, 2, 3)
	if err != nil {
		return err
	}
	fmt.Fprintln(d.progress, "publishing a bundle whose signature is bad")
	published := time.Now()
	if err := d.s.put(ctx, forged); err != nil {
		return err
	}
	own := func(f *control.Fleet) control.FleetGateway {
		i := slices.IndexFunc(f.Gateways, func(g control.FleetGateway) bool { return g.Name == f.Gateway })
		return f.Gateways[max(i, 0)]
	}
	took, err := d.each(ctx, published, func(f *control.Fleet) bool { return own(f).Refused == 3 || f.Generation != 2 })
	if err != nil {
		return err
	}
	for i, g := range d.s.members {
		f, err := d.s.fleet(ctx, g.name)
		if err != nil {
			return err
		}
		why := own(f).Fault
		_, short, _ := strings.Cut(why, ": ")
		d.add(verdict{
			what: "bundle 3, whose signature is bad", at: g.name, took: took[i],
			got: fmt.Sprintf("refused, %s; %d stays in force", short, f.Generation),
			ok:  f.Generation == 2 && own(f).Refused == 3 && strings.HasPrefix(why, bundle.ErrUnsigned.Error()),
		})
	}
	return nil
}

// each waits until good is true at every gateway, and returns how long after since that was first seen.
func (d *fleetDemo) each(ctx context.Context, since time.Time, good func(*control.Fleet) bool) ([]time.Duration, error) {
	took := make([]time.Duration, len(d.s.members))
	err := await(ctx, "a bundle was not taken by all gateways", func() (bool, error) {
		all := true
		for i, g := range d.s.members {
			if took[i] > 0 {
				continue
			}
			f, err := d.s.fleet(ctx, g.name)
			if err != nil {
				return false, err
			}
			if good(f) {
				took[i] = time.Since(since)
			} else {
				all = false
			}
		}
		return all, nil
	})
	return took, err
}

func (d *fleetDemo) add(v verdict) { d.verdicts = append(d.verdicts, v) }

// print prints both tables. It reports whether all results were as expected.
func (d *fleetDemo) print(out io.Writer) bool {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "A REQUEST EVERY %v\tSENT\tANSWERED\tLONGEST GAP\tSERVED BY\tBUNDLE\t\n", askEvery)
	all := true
	mark := func(ok bool, want string) string {
		if ok {
			return "ok"
		}
		all = false
		return "NOT AS EXPECTED: want " + want
	}
	for i, sum := range d.sums {
		p := d.phases[i]
		served, want, ok := d.names(sum.by), "", false
		switch at := d.other; i {
		case phaseKilled:
			want = fmt.Sprintf("answers by %s at last, bundle 1", at.name)
			ok = strings.HasSuffix(served, at.name) && p.generation == 1
		default:
			generation := uint64(1)
			if i == phaseBefore {
				at = d.serves
			} else if i == phaseBundle {
				generation = 2
			}
			want = fmt.Sprintf("all answered, by %s, bundle %d", at.name, generation)
			ok = sum.sent > 0 && sum.answered == sum.sent && served == at.name && p.generation == generation
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%s\t%s\t%d\t%s\n", p.what, sum.sent, sum.answered, seconds(sum.gap), served, p.generation, mark(ok, want))
	}
	t.Flush()
	fmt.Fprintln(out)
	fmt.Fprintln(t, "PUBLISHED, OR TRIED\tAT\tWHAT HAPPENED\tTOOK\t")
	for _, v := range d.verdicts {
		took := ""
		if v.took > 0 {
			took = fmt.Sprintf("%d ms", v.took.Milliseconds())
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", v.what, v.at, oneLine(v.got), took, mark(v.ok, "another result"))
	}
	t.Flush()
	return all
}

// names returns the names of the gateways with these addresses, in this order.
func (d *fleetDemo) names(addrs []string) string {
	var names []string
	for _, a := range addrs {
		name := a
		for _, g := range d.s.members {
			if g.outer.String() == a {
				name = g.name
			}
		}
		names = append(names, name)
	}
	return strings.Join(names, ", then ")
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
