package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"penstock/cmd/internal/clock"
	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
	"penstock/cmd/internal/edition"
	"penstock/router/hostnet"
	"penstock/router/hostnet/direct"
	"penstock/router/transport/wireguard"
)

const (
	askLimit  = 3 * time.Second // for the running penstock, which most looks need
	loadLimit = 2 * time.Second // for the configuration, as well
	lookLimit = 5 * time.Second // for each other look
	slowAfter = 2 * time.Second // until Slow is told
	mostOpen  = 64              // looks that have not ended, some in spite of their limit: then none is begun any more
)

// SystemConfig is the configuration of the system's penstock.
const SystemConfig = "/etc/penstock/config.yaml"

// Running is a penstock that runs. *control.Client is one.
type Running interface {
	Status(context.Context) (control.Status, error)
	Lists(context.Context) (control.Lists, error)
	// Doctor is what it finds itself. It is asked where this process has not the rights to look.
	Doctor(context.Context) (control.Findings, error)
}

// Config says what a Patient is.
type Config struct {
	// File is the configuration; empty: that of the running penstock, or else the system's.
	File string
	// Running is the penstock that runs. It is nil where Absent says why none can be asked.
	Running Running
	Absent  error
	// Inside says that Running is this process.
	Inside bool
	// Load returns the configuration of a file, and Check what penstock check says of it. Nil: not checked.
	Load  func(file string) (*config.Config, error)
	Check func(context.Context, *config.Config) Checked
	// Slow is told, every 2 s, what is still looked at. May be nil.
	Slow func(looks []string)
}

// Patient is who is examined. It is safe for concurrent use.
type Patient struct {
	cfg  Config
	busy chan struct{} // capacity 1: an examination is under way
	mu   sync.Mutex    // guards below
	open []string      // names of looks that have not ended
}

// New returns a Patient. It looks at nothing yet.
func New(cfg Config) *Patient { return &Patient{cfg: cfg, busy: make(chan struct{}, 1)} }

// Examine makes all checks. It takes at most 10 s, and fails only if ctx ends first.
func (p *Patient) Examine(ctx context.Context) ([]control.Finding, error) {
	select {
	case p.busy <- struct{}{}:
		defer func() { <-p.busy }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	over := make(chan struct{})
	defer close(over)
	wg.Go(func() { p.tellSlow(over) })
	f := p.collect(ctx)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return Judge(&f.Facts, f.theirs), nil
}

// tellSlow tells Config.Slow what is still looked at until over is closed.
func (p *Patient) tellSlow(over <-chan struct{}) {
	tick := time.NewTicker(slowAfter)
	defer tick.Stop()
	for p.cfg.Slow != nil {
		select {
		case <-tick.C:
			p.mu.Lock()
			names := slices.Sorted(slices.Values(p.open))
			p.mu.Unlock()
			if len(names) > 0 {
				p.cfg.Slow(names)
			}
		case <-over:
			return
		}
	}
}

// collected is the facts, and what the running penstock found itself.
type collected struct {
	Facts
	theirs []control.Finding
}

// collect looks up all facts, those at once that need no other.
func (p *Patient) collect(ctx context.Context) collected {
	f := collected{Facts: Facts{Now: time.Now(), Built: committed()}}
	first := p.round(ctx, askLimit)
	look(first, "rights", &f.Rights, rights)
	look(first, "the running penstock", &f.Running, p.status)
	first.wait()
	f.Absent = errors.Is(p.cfg.Absent, control.ErrNotRunning)
	first = p.round(ctx, loadLimit)
	look(first, "configuration", &f.Config, func(context.Context) (*config.Config, error) { return p.load(f.Running.Is.Config) })
	first.wait()
	if invalid, ok := errors.AsType[*config.Error](first.failed["configuration"]); ok {
		f.Invalid = invalid.Error()
	}
	p.collectRest(ctx, &f)
	return f
}

// collectRest looks up what needs the configuration or the state.
func (p *Patient) collectRest(ctx context.Context, f *collected) {
	rest, cfg, running := p.round(ctx, lookLimit), f.Config.Is, f.Running.Known
	look(rest, "TUN device", &f.Device, device)
	look(rest, "kernel", &f.Kernel, kernelOffers)
	look(rest, "nftables", &f.Nftables, nftables)
	look(rest, "interfaces", &f.Links, links)
	look(rest, "routes", &f.Routes, routes)
	look(rest, "resolver", &f.Resolver, func(context.Context) (Resolver, error) { return resolver() })
	look(rest, "ways", &f.Ways, func(context.Context) ([]direct.Way, error) { return ways() })
	look(rest, "unit", &f.Unit, unit)
	look(rest, "other VPNs", &f.OtherVPNs, func(context.Context) ([]direct.Other, error) { return hostnet.LookForOthers(tunOf(&f.Facts)) })
	if running {
		look(rest, "lists", &f.Lists, func(ctx context.Context) ([]control.ListStatus, error) {
			answer, err := p.cfg.Running.Lists(ctx)
			return answer.Lists, err
		})
	}
	var theirs Fact[[]control.Finding]
	if running && !p.cfg.Inside && !f.Rights.Is.NetAdmin {
		look(rest, "the running penstock's own checks", &theirs, func(ctx context.Context) ([]control.Finding, error) {
			answer, err := p.cfg.Running.Doctor(ctx)
			return answer.Findings, err
		})
	}
	if cfg != nil {
		if p.cfg.Check != nil {
			look(rest, "penstock check", &f.Checked, func(ctx context.Context) (Checked, error) { return p.cfg.Check(ctx, cfg), nil })
		}
		look(rest, "clock", &f.Past, func(context.Context) (wireguard.Past, error) {
			return clock.Record{File: edition.HandshakeFile(cfg, true), Files: func() []string { return cfg.Files }}.Past(), nil
		})
		look(rest, "ports", &f.Sockets, func(ctx context.Context) ([]Socket, error) { return sockets(ctx, portsOf(cfg)) })
		look(rest, "secrets", &f.Secrets, func(context.Context) ([]SecretFile, error) { return secretFiles(cfg), nil })
		look(rest, "disks", &f.Disks, func(context.Context) ([]Disk, error) { return disks(cfg) })
		look(rest, "files of transports", &f.Behind, func(context.Context) (map[string][]netip.Prefix, error) { return networksOf(cfg), nil })
		if !running { // else the state of a transport says more
			look(rest, "endpoints", &f.Endpoints, func(ctx context.Context) ([]Endpoint, error) { return endpoints(ctx, cfg) })
		}
	}
	look(rest, "state file", &f.Left, func(context.Context) (hostnet.Left, error) { return hostnet.Look(stateFile(cfg)) })
	rest.wait()
	f.theirs = theirs.Is
}

// status asks the running penstock.
func (p *Patient) status(ctx context.Context) (control.Status, error) {
	if p.cfg.Running == nil {
		return control.Status{}, p.cfg.Absent
	}
	return p.cfg.Running.Status(ctx)
}

// load loads the configuration; running is the path of that of the running penstock.
func (p *Patient) load(running string) (*config.Config, error) {
	path := p.cfg.File
	for _, other := range []string{running, SystemConfig} {
		if path == "" {
			path = other
		}
	}
	if p.cfg.Load == nil {
		return nil, errors.New("there is none")
	}
	if !p.cfg.Inside {
		switch err := readable(path); {
		case errors.Is(err, fs.ErrPermission):
			return nil, fmt.Errorf("this user may not read %s: run this with sudo", path)
		case errors.Is(err, fs.ErrNotExist) && p.cfg.File == "" && running == "":
			return nil, fmt.Errorf("there is no %s: name the configuration with -c FILE", path)
		}
	}
	return p.cfg.Load(path)
}

// release is when a package was committed, in seconds since 1970. The linker sets it, because a package is built without the
// repository: -X penstock/cmd/internal/doctor.release=1764000000.
var release string

// committed is when this program was committed; zero if that is not known.
func committed() time.Time {
	if seconds, err := strconv.ParseInt(release, 10, 64); err == nil {
		return time.Unix(seconds, 0)
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return time.Time{}
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.time" {
			at, _ := time.Parse(time.RFC3339, s.Value) // zero where it is something else
			return at
		}
	}
	return time.Time{}
}

// readable returns why a file cannot be opened.
func readable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}

// round is looks that are under way at the same time.
type round struct {
	p      *Patient
	ctx    context.Context
	cancel context.CancelFunc
	tell   []func() // stores the result of a look
	failed map[string]error
}

func (p *Patient) round(ctx context.Context, limit time.Duration) *round {
	r := &round{p: p, failed: make(map[string]error)}
	r.ctx, r.cancel = context.WithTimeout(ctx, limit)
	return r
}

// look begins to look something up. The result is in fact after wait.
func look[T any](r *round, name string, fact *Fact[T], f func(context.Context) (T, error)) {
	type result struct {
		is  T
		err error
	}
	if !r.p.begin(name) {
		*fact = Fact[T]{Why: "earlier checks still hang: a disk or a service does not answer"}
		return
	}
	done := make(chan result, 1)
	go func() {
		defer r.p.end(name)
		is, err := f(r.ctx)
		done <- result{is, err}
	}()
	r.tell = append(r.tell, func() {
		select {
		case <-r.ctx.Done():
		case got := <-done:
			done <- got
		}
		select { // both may be true
		case got := <-done:
			*fact = Fact[T]{Is: got.is, Known: got.err == nil}
			if r.failed[name] = got.err; got.err != nil {
				fact.Why = whyNot(got.err)
			}
		default:
			*fact = Fact[T]{Why: "no answer in time"}
		}
	})
}

// wait waits until all looks are over, or their time is.
func (r *round) wait() {
	for _, tell := range r.tell {
		tell()
	}
	r.cancel()
}

// begin notes that a look is under way, unless too many hang.
func (p *Patient) begin(name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.open) >= mostOpen {
		return false
	}
	p.open = append(p.open, name)
	return true
}

func (p *Patient) end(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.open, name); i >= 0 {
		p.open = slices.Delete(p.open, i, i+1)
	}
}

// whyNot says in a few words why something could not be looked up.
func whyNot(err error) string {
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return "not checked on this system"
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	return first
}

// tunOf is the name of our TUN, "" if there is none.
func tunOf(f *Facts) string {
	for _, l := range f.Running.Is.Listen {
		if name, ok := strings.CutPrefix(l, "tun "); ok {
			return name
		}
	}
	if f.Config.Is != nil && f.Config.Is.Listen.TUN != nil {
		return f.Config.Is.Listen.TUN.Name
	}
	return ""
}

// stateFile is the journal of what was changed on the host.
func stateFile(cfg *config.Config) string {
	if cfg == nil || cfg.Listen.TUN == nil {
		return config.DefaultStateFile()
	}
	return cfg.Listen.TUN.StateFile
}

// Inside returns a Patient that is the running penstock itself: what it offers, and its configuration with its warnings.
func Inside(c control.Config, cfg func() *config.Config, warnings func() []string) *Inner {
	return &Inner{New(Config{
		Running: own{c}, Inside: true,
		Load:  func(string) (*config.Config, error) { return cfg(), nil },
		Check: func(context.Context, *config.Config) Checked { return Checked{Warnings: warnings()} },
	})}
}

// Inner is a control.Doctor.
type Inner struct{ patient *Patient }

// Doctor examines the running penstock.
func (i *Inner) Doctor(ctx context.Context) ([]control.Finding, error) { return i.patient.Examine(ctx) }

// own is this process as a Running.
type own struct{ c control.Config }

func (o own) Status(ctx context.Context) (control.Status, error) { return o.c.Process.Status(ctx) }

func (o own) Lists(ctx context.Context) (control.Lists, error) {
	list, err := o.c.Lists.Lists(ctx)
	return control.Lists{Lists: list}, err
}

func (o own) Doctor(context.Context) (control.Findings, error) { return control.Findings{}, nil }
