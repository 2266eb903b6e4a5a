// Package acme gets certificates from an authority by ACME (RFC 8555), keeps them in files, and gets new ones before they expire.
//
// To read it, start at (*Certificates).Run. Each name has a certificate of its own. The authority finds out that a name is ours at port
// 80 of it, where we serve one path (http-01), or at port 443, where a page of ours answers (tls-alpn-01).
//
// It does not say what is served meanwhile to those who come: the owners of the pages do.
package acme

import (
	"cmp"
	"context"
	"crypto"
	"crypto/tls"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"penstock/cmd/internal/config"
)

const (
	lookEvery   = 5 * time.Second // at the clock, and at what wants a certificate
	orderLimit  = 3 * time.Minute // for all of an order
	firstPause  = 2 * time.Minute // after a failure; each further one doubles it. So there are five attempts in the first hour, which is what Let's Encrypt allows (2025)
	longestWait = 6 * time.Hour
	limitedWait = time.Hour          // at least, after the authority has had too many requests
	limitedMost = 7 * 24 * time.Hour // that it can make us wait
)

// Config is what Certificates work with. All of it must be set, but Registry and Log.
type Config struct {
	Settings *config.ACME
	Port80   bool // Serve will be called with a listener that the authority reaches at port 80
	Port443  bool // a page with a configuration from Answering is reached at port 443
	// Sites returns what wants a certificate now.
	Sites func() []config.ACMESite
	// Dial opens a connection of penstock's own.
	Dial func(ctx context.Context, via, network, address string) (net.Conn, error)
	// Key returns the key that the certificate of a page must be for, or nil for a new one each time.
	Key      func(site string) (crypto.Signer, error)
	Registry prometheus.Registerer
	Log      *slog.Logger
}

// Certificates are those that an authority issues to this gateway. Its methods may be called concurrently. Nil Certificates are none.
type Certificates struct {
	Config
	store   store
	open    challenges
	metrics metrics
	pause   time.Duration // firstPause, but in tests
	every   time.Duration // lookEvery, but in tests

	mu    sync.Mutex // guards below, which only Run changes
	hosts map[string]*host
}

// host is a name that has a certificate, or should have.
type host struct {
	sites    []string         // the pages under it
	cert     *tls.Certificate // never changed; nil: none
	unkept   bool             // it is in no file
	failures int              // one after the other
	next     time.Time        // there is no attempt before
	fault    string           // of the last attempt; "": none
	kept     attempt          // for the next start, in a file; only Run reads it
}

// Open reads the certificates that were issued before. It returns nil without settings.
func Open(c Config) *Certificates {
	if c.Settings == nil {
		return nil
	}
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	k := &Certificates{Config: c, store: store{c.Settings.Folder}, metrics: newMetrics(c.Registry), pause: firstPause, every: lookEvery, hosts: make(map[string]*host)}
	k.follow()
	return k
}

// Certificate returns the certificate for a host, or nil if there is none that is valid now.
func (c *Certificates) Certificate(name string) *tls.Certificate {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if h := c.hosts[strings.ToLower(name)]; h != nil && h.valid(time.Now()) {
		return h.cert
	}
	return nil
}

// valid reports whether there is a certificate that has not expired. Whether it is valid already is not asked: our clock may be slow.
func (h *host) valid(now time.Time) bool { return h.cert != nil && now.Before(h.cert.Leaf.NotAfter) }

// renewal is when a certificate is to be renewed: when a third of its time is left, as authorities recommend.
func (h *host) renewal() time.Time {
	end := h.cert.Leaf.NotAfter
	return end.Add(-end.Sub(h.cert.Leaf.NotBefore) / 3)
}

// Trouble says which pages have no certificate after an attempt to get one, and why, or returns "".
func (c *Certificates) Trouble() string { return strings.Join(c.troubles(false), "; ") }

// Warnings say which certificates could not be renewed, and why, while the former ones are still valid.
func (c *Certificates) Warnings() []string { return c.troubles(true) }

func (c *Certificates) troubles(valid bool) (list []string) {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for _, name := range slices.Sorted(maps.Keys(c.hosts)) {
		h := c.hosts[name]
		if h.fault == "" || h.valid(now) != valid {
			continue
		}
		what := "has no certificate from the authority"
		if valid {
			what = "has a certificate until " + h.cert.Leaf.NotAfter.Local().Format(time.DateTime) + ", which cannot be renewed"
			if h.unkept {
				what = "has a certificate that a restart would lose"
			}
		}
		list = append(list, fmt.Sprintf("%s %s: %s; the next attempt is at %s", strings.Join(h.sites, " and "), what, h.fault, h.next.Local().Format(time.DateTime)))
	}
	return list
}

// Run gets what is missing and renews what is to be renewed, one after the other, until ctx ends.
func (c *Certificates) Run(ctx context.Context) error {
	if c == nil {
		return nil
	}
	tick := time.NewTicker(c.every)
	defer tick.Stop()
	for {
		c.follow()
		for _, name := range c.due(time.Now()) {
			c.renew(ctx, name)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// follow takes over which pages want a certificate now, and reads the certificates of those that are new.
func (c *Certificates) follow() {
	sites := make(map[string][]string)
	for _, s := range c.Sites() {
		sites[s.Host] = append(sites[s.Host], s.Key)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.hosts, func(name string, h *host) bool {
		if sites[name] == nil {
			c.metrics.forget(h.sites)
		}
		return sites[name] == nil
	})
	for name, keys := range sites {
		h := c.hosts[name]
		if h == nil {
			h = new(host)
			cert, err := c.store.load(name)
			switch {
			case err != nil:
				c.Log.Error("a stored certificate cannot be used: the authority is asked for another", "host", name, "err", err)
			case cert != nil:
				h.cert = cert
				c.Log.Info("a stored certificate is in force", "host", name, "until", cert.Leaf.NotAfter)
			}
			c.recall(name, h, time.Now())
			c.hosts[name] = h
		}
		if !slices.Equal(h.sites, keys) {
			c.metrics.forget(h.sites)
			h.sites = keys
		}
		c.metrics.show(h)
	}
}

// due returns the names for which something is to be done.
func (c *Certificates) due(now time.Time) (names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(c.hosts)) {
		if h := c.hosts[name]; !now.Before(h.next) && (h.cert == nil || h.unkept || !now.Before(h.renewal()) || !c.fits(h)) {
			names = append(names, name)
		}
	}
	return names
}

// fits reports whether a certificate is for the key that its pages want.
func (c *Certificates) fits(h *host) bool {
	key, err := c.key(h.sites)
	return err != nil || key == nil || same(h.cert.Leaf.PublicKey, key.Public()) // without its key nothing better can be had
}

// key returns the key that one of the pages wants, or nil.
func (c *Certificates) key(sites []string) (crypto.Signer, error) {
	for _, s := range sites {
		if key, err := c.Key(s); key != nil || err != nil {
			return key, err
		}
	}
	return nil, nil
}

// renew makes one attempt to get a certificate, or to keep one that could not be kept, and notes what comes of it.
func (c *Certificates) renew(ctx context.Context, name string) {
	c.mu.Lock()
	h := c.hosts[name]
	cert, unkept, kept := h.cert, h.unkept, h.kept
	c.mu.Unlock()
	var err error
	var answered bool
	if unkept {
		err = c.store.save(name, cert)
	} else {
		cert, answered, err = c.obtain(ctx, name, h)
	}
	if ctx.Err() != nil && cert == nil { // penstock stops
		if !answered {
			c.keep(ctx, name, h, kept)
		}
		return
	}
	c.mu.Lock()
	c.noteLocked(ctx, name, cert, err)
	if err == nil || answered {
		kept = c.lastLocked(name, time.Now())
	}
	c.mu.Unlock()
	c.keep(ctx, name, h, kept)
}

// noteLocked notes what came of an attempt: a certificate, an error, or both if it cannot be kept.
func (c *Certificates) noteLocked(ctx context.Context, name string, cert *tls.Certificate, err error) {
	h, now := c.hosts[name], time.Now()
	if cert != nil && cert != h.cert {
		c.Log.Info("the authority has issued a certificate", "host", name, "until", cert.Leaf.NotAfter)
	}
	if cert != nil {
		h.cert, h.unkept = cert, err != nil
		c.metrics.show(h)
	}
	if err == nil {
		h.failures, h.fault, h.next = 0, "", now.Add(rest(cert.Leaf.NotAfter.Sub(now), c.pause))
		return
	}
	h.failures++
	h.fault = explain(err, c.Settings, name)
	h.next = now.Add(wait(err, h.failures, c.pause))
	level, what := slog.LevelError, "no certificate was issued; the former one stays in use, if there is one"
	switch {
	case h.unkept:
		what = "a certificate cannot be kept: a restart would lose it"
	case h.valid(now):
		level = slog.LevelWarn
	}
	c.Log.Log(ctx, level, what, "host", name, "for", strings.Join(h.sites, ","), "reason", h.fault, "next", h.next)
}

// rest is how long there is no attempt after a success, when so much is left of the certificate. If our clock is fast, what was issued is
// to be renewed at once, and the authority would be asked without end.
func rest(left, least time.Duration) time.Duration { return max(least, min(left/3, longestWait)) }

// wait is how long there is no attempt after a failure.
func wait(err error, failures int, first time.Duration) time.Duration {
	d := min(first<<min(failures-1, 20), longestWait)
	if asked, limited := limitOf(err); limited {
		d = max(d, min(asked, limitedMost), limitedWait)
	}
	return d + rand.N(d/10+1)
}

// obtain gets a certificate and keeps it. If it can be got but not kept, both certificate and error are set. answered is whether the
// authority has answered anything: then the attempt may count for its limits. Whatever ends penstock meanwhile, the attempt is kept.
func (c *Certificates) obtain(ctx context.Context, name string, h *host) (cert *tls.Certificate, answered bool, err error) {
	if err := c.store.prepare(); err != nil {
		return nil, false, err // before the authority is asked: it issues only so many
	}
	key, err := c.key(h.sites)
	if err != nil {
		return nil, false, err
	}
	if key == nil {
		if key, err = newKey(); err != nil {
			return nil, false, err
		}
	}
	now, failures := time.Now(), h.failures+1
	c.keep(ctx, name, h, attempt{Of: c.of(name), Failures: failures, At: now, Next: now.Add(wait(nil, failures, c.pause)), Fault: interrupted})
	ctx, cancel := context.WithTimeout(ctx, orderLimit)
	defer cancel()
	heard := new(atomic.Bool)
	chain, err := c.order(ctx, name, key, h.failures, heard)
	if err != nil {
		return nil, heard.Load(), err
	}
	if cert, err = certificateOf(name, chain, key, time.Now()); err != nil {
		return nil, true, err
	}
	return cert, true, c.store.save(name, cert)
}
