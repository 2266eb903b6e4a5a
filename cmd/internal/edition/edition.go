// Package edition compiles a configuration into one immutable value, the Edition.
//
// Compile is the only way from a configuration to something that runs. check, run, reload and its dry run all call it, so
// they accept the same configurations. An Edition is compiled completely or not at all. Live holds the current one behind one
// pointer. Live also holds what somebody has decided meanwhile, and former editions for explanations.
//
// It opens no socket and changes nothing on the host.
package edition

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/egress"
	"penstock/cmd/internal/gateway"
	"penstock/cmd/internal/ingress"
	"penstock/cmd/internal/lists"
	"penstock/cmd/internal/privatedns"
	"penstock/dnsproxy/records"
	"penstock/policy"
	"penstock/router/clients"
)

// Edition is everything that a configuration means. It is immutable.
type Edition struct {
	Number  uint64 // counts the editions put in force by this process, from 1; 0 until this one is
	Config  *config.Config
	Policy  *policy.Policy
	Lists   *lists.Content
	Clients *clients.Book
	Egress  *egress.Plan
	Gateway *gateway.Plan    // nil without listen.wireguard
	Phones  *privatedns.Plan // nil without dns.serve
	Proxy   *ingress.Plan    // who may use listen.proxy
	Status  []lists.Status
	Names   *records.Book // that penstock knows by itself; nil if there are none

	untested []string // warnings about tests to addresses that nobody has

	uncertain []string  // what others will find wrong with certificates
	broken    []string  // files of certificates that cannot be used
	at        time.Time // when Clients and Gateway had the peers that might connect

	// Asks says which facts about the program that sends a flow the rules need. Looking them up is expensive.
	Asks policy.Asked
}

// Sources are what Compile needs besides the configuration.
type Sources struct {
	Lists  *lists.Lists
	Before *clients.Book // of the current edition, so that peers that stay keep their keys; may be nil
}

// TestsError says which of the configuration's own tests fail.
type TestsError struct{ Failed []error }

// Error returns a sentence for each failed test.
func (e *TestsError) Error() string { return errors.Join(e.Failed...).Error() }

// Unwrap returns the failures one by one.
func (e *TestsError) Unwrap() []error { return e.Failed }

// AsFaults turns an error of Compile into a *config.Error, for callers that treat a failed test like any other fault.
func AsFaults(err error) error {
	if tests, ok := errors.AsType[*TestsError](err); ok {
		return faults(tests.Failed...)
	}
	return err
}

// Compile compiles a configuration. It reads lists, keys and profiles, and changes nothing. The error is a *config.Error
// with every fault, or a *TestsError if tests fail. With a *TestsError, Compile returns the edition too.
func Compile(ctx context.Context, cfg *config.Config, from Sources) (*Edition, error) {
	now := time.Now()
	e := &Edition{Config: cfg, Clients: clients.NewBook(newBookPeers(cfg, now), from.Before), at: now}
	var errs []error
	fail := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	var err error
	if e.Egress, err = egress.NewPlan(cfg); err != nil {
		fail(err)
		e.Egress = new(egress.Plan) // so that the rest can still be checked
	}
	e.Gateway, err = gateway.NewPlan(cfg, now)
	fail(err)
	e.Phones, err = privatedns.NewPlan(cfg)
	fail(err)
	fail(e.checkCertificates(from.Before == nil))
	e.Proxy, err = ingress.NewPlan(cfg)
	fail(err)
	e.Lists, err = readLists(ctx, from.Lists, cfg)
	fail(err)
	e.Policy, err = policy.New(policyConfig(cfg, e.Lists.Set))
	fail(err)
	e.Names, err = e.names(now)
	fail(err)
	fail(e.checkDNS())
	if len(errs) > 0 {
		return nil, faults(errs...)
	}
	e.Status = from.Lists.Status(e.Lists)
	e.Asks = e.Policy.Asks()
	var failed []error
	results, untested := e.Tests()
	e.untested = untested
	for _, r := range results {
		if r.Err != nil {
			failed = append(failed, r.Err)
		}
	}
	if len(failed) > 0 {
		return e, &TestsError{failed}
	}
	return e, nil
}

// Files returns every file that the edition was made from, in no order, without those of a bundle: whoever has bundles keeps them.
func (e *Edition) Files() []string {
	files := slices.Concat(e.Config.Files, e.Config.Inputs, e.Egress.Files())
	return slices.DeleteFunc(files, e.Config.Fleet.Has)
}

// Kept returns what a copy of the configuration has instead of files: of a certificate that cannot be used now, what the copy
// before had, because the next start needs one.
func (e *Edition) Kept(before config.Former) config.Former {
	return func(file string) (text []byte, ok bool) {
		if slices.Contains(e.broken, file) {
			return before(file)
		}
		return e.Config.Kept(file)
	}
}

// Warnings returns one sentence for each probable mistake: surprises of the short form, rules that no flow can reach, ignored
// profile lines, tests that are left out, and missing lists.
func (e *Edition) Warnings() []string {
	list := slices.Concat(e.Config.Warnings(), e.Policy.Warnings(), e.Egress.Warnings(), e.nameless(), e.untested)
	for _, s := range e.Status {
		if s.Err != nil {
			list = append(list, fmt.Sprintf("category %s: %v", s.Category, s.Err))
		}
		if s.LeftOut != "" {
			list = append(list, fmt.Sprintf("category %s: list %s: left out: %s", s.Category, s.List, s.LeftOut))
		}
	}
	return slices.Concat(list, e.uncertain, e.Lists.Empty())
}

// checkCertificates looks at the certificates of what listens. Only at the start they must be some that can be used: whoever renews
// them while penstock runs must not be able to keep a peer from being removed.
func (e *Edition) checkCertificates(start bool) error {
	wrong, broken := config.CertificateFaults(e.Config)
	if serve := e.Config.DNS.Serve; serve != nil && !serve.ACME {
		cert, err := privatedns.LoadCertificate(serve)
		if err != nil {
			wrong = append(wrong, privatedns.CertificateFault(e.Config, err))
			broken = append(broken, serve.Certificate, serve.Key.File)
		} else if text := privatedns.Warning(serve, cert); text != "" {
			e.uncertain = append(e.uncertain, text)
		}
	}
	for _, f := range config.CertificateFiles(e.Config) {
		leaf, err := f.Leaf()
		if err != nil {
			continue // it is among those that are wrong
		}
		text := f.Expires(leaf, time.Now())
		if f.Use != "dns.serve" { // see privatedns.Warning
			text += f.Expired(leaf, time.Now())
		}
		if text != "" {
			e.uncertain = append(e.uncertain, text)
		}
	}
	if start {
		return faultsOf(wrong)
	}
	e.broken = broken
	for _, f := range wrong {
		e.uncertain = append(e.uncertain, f.Message)
	}
	return nil
}

// After returns the edition that can replace old in a running penstock. It takes the settings that only a restart can change
// from old. The error is a *config.Error if the new settings do not work with those.
func (e *Edition) After(old *Edition) (*Edition, error) {
	next, cfg := *e, *e.Config
	cfg.Listen, cfg.Transports, cfg.StateDir, cfg.Managed, cfg.ACME = old.Config.Listen, old.Config.Transports, old.Config.StateDir, old.Config.Managed, old.Config.ACME
	cfg.Fleet = config.FleetAfter(old.Config.Fleet, e.Config.Fleet)
	next.Config, next.Egress, next.Gateway = &cfg, old.Egress, nil
	next.Proxy = e.Proxy.After(old.Proxy)
	if old.Gateway != nil {
		next.Gateway = old.Gateway.WithPeersOf(e.Gateway)
	}
	var err error
	if next.Names, err = next.names(next.at); err == nil {
		err = next.checkDNS()
	}
	if err != nil {
		return nil, faults(err)
	}
	return &next, nil
}

// At returns the edition with the peers that may connect at a time, and whether they differ from those of e: some have expired,
// or the clock was wrong.
func (e *Edition) At(now time.Time) (next *Edition, changed bool) {
	same := true
	for _, p := range e.Config.Peers.All() {
		same = same && (p.Expires.IsZero() || p.State(now) == p.State(e.at))
	}
	if same {
		return e, false
	}
	copied := *e
	copied.at, copied.Clients = now, clients.NewBook(newBookPeers(e.Config, now), e.Clients)
	if e.Gateway != nil {
		copied.Gateway = e.Gateway.At(now)
	}
	copied.Names, _ = copied.names(now) // Compile has reported what is wrong with them
	return &copied, true
}

// bookPeers are those peers of a configuration that may connect at a time, as its book of clients wants them.
type bookPeers struct {
	cfg *config.Config
	of  []int32 // their entries; nil: all
}

func newBookPeers(cfg *config.Config, now time.Time) bookPeers {
	p := bookPeers{cfg: cfg}
	if !cfg.Peers.Any(func(c config.Peer) bool { return c.State(now) != "" }) {
		return p
	}
	p.of = make([]int32, 0, cfg.Peers.Len())
	for i, c := range cfg.Peers.All() {
		if c.State(now) == "" {
			p.of = append(p.of, int32(i))
		}
	}
	return p
}

// Len returns how many there are.
func (p bookPeers) Len() int {
	if p.of == nil {
		return p.cfg.Peers.Len()
	}
	return len(p.of)
}

// At returns the i-th.
func (p bookPeers) At(i int) clients.Peer {
	if p.of != nil {
		i = int(p.of[i])
	}
	c := p.cfg.Peers.At(i)
	return clients.Peer{Name: c.Name, ID: c.ID(), Groups: c.Groups, Addrs: c.AllowedIPs}
}

// faults joins errors into one *config.Error. A *config.Error keeps its faults. The text of any other error contains the
// position.
func faults(errs ...error) error {
	e := &config.Error{}
	for _, err := range errs {
		if given, ok := errors.AsType[*config.Error](err); ok {
			e.Faults = append(e.Faults, given.Faults...)
			continue
		}
		for _, one := range unjoined(err) {
			if f := (config.Fault{Message: one.Error()}); !slices.Contains(e.Faults, f) {
				e.Faults = append(e.Faults, f)
			}
		}
	}
	return e
}
