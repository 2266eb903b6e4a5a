package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"penstock/cmd/internal/control"
	"penstock/cmd/internal/fleet/bundle"
	"penstock/cmd/internal/fleet/store"
)

const (
	lookTime  = 2 * time.Second  // that a look listens to the gateways
	lookLimit = 10 * time.Second // until a store answers
)

// Look returns how a site looks from its store, for somebody who is at none of its gateways. It takes a little over 2 s. A gateway
// that says nothing in that time is silent. Without the name of a site it is the only one that the store has.
//
// What a store says is not believed: neither who has signed the bundle is checked nor who has written the reports. Generation is 0 if
// the store has no bundle that can be read. The error is a store.ErrNone if the store has nothing of the site, or says why the
// store cannot be reached.
func Look(ctx context.Context, s store.Store, site string) (*control.Fleet, error) {
	if site == "" {
		only, err := onlySite(ctx, s)
		if err != nil {
			return nil, err
		}
		site = only
	}
	m, err := newestOf(ctx, s, site)
	if err != nil {
		return nil, err
	}
	heard, err := listen(ctx, s, site)
	if err != nil {
		return nil, err
	}
	f := &control.Fleet{Site: site, Connected: true}
	names := sortedNames(heard)
	if m != nil {
		f.Generation, names = m.Generation, nil
		for _, g := range m.Gateways {
			names = append(names, g.Name)
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("the store has neither a bundle of site %s nor reports of its gateways: %w", site, store.ErrNone)
	}
	for _, name := range names {
		o, state := heard[name], Silent
		if o.State == Leaving || !o.heard.IsZero() {
			state = o.State
		}
		f.Gateways = append(f.Gateways, o.gateway(name, state))
	}
	return f, nil
}

// newestOf returns the manifest of a site's bundle in a store; nil if there is none that can be read.
func newestOf(ctx context.Context, s store.Store, site string) (*bundle.Manifest, error) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	e, err := s.Get(ctx, store.Truth, site)
	if errors.Is(err, store.ErrNone) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the bundle of site %s: %w", site, err)
	}
	m, err := bundle.Signed(e.Value).Manifest()
	if err != nil {
		return nil, nil // the gateways say so too, and go on with the one that they have
	}
	return m, nil
}

// onlySite returns the site of a store that has one.
func onlySite(ctx context.Context, s store.Store) (string, error) {
	var sites []string
	err := watchFor(ctx, s, store.Truth, "", 0, func(e store.Entry, _ bool) {
		if len(e.Value) > 0 {
			sites = append(sites, e.Key)
		}
	})
	switch {
	case err != nil:
		return "", err
	case len(sites) == 0:
		return "", fmt.Errorf("the store has no bundle of any site: %w", store.ErrNone)
	case len(sites) > 1:
		slices.Sort(sites)
		return "", fmt.Errorf("the store has several sites: name one of %s", strings.Join(sites, ", "))
	}
	return sites[0], nil
}

// listen returns the gateways of a site by name, with the last report of each. Those that have said nothing meanwhile were never
// heard.
func listen(ctx context.Context, s store.Store, site string) (map[string]other, error) {
	heard := make(map[string]other)
	err := watchFor(ctx, s, store.State, site, lookTime, func(e store.Entry, fresh bool) {
		name, ok := strings.CutPrefix(e.Key, site+".")
		var o other
		switch {
		case !ok:
		case len(e.Value) == 0:
			delete(heard, name)
		case json.Unmarshal(e.Value, &o.Report) == nil:
			if fresh {
				o.heard = time.Now()
			}
			heard[name] = o
		}
	})
	return heard, err
}

// watchFor calls changed with the values of a bucket, one at a time, and then for some time with each change, which is fresh.
func watchFor(ctx context.Context, s store.Store, b store.Bucket, prefix string, more time.Duration, changed func(e store.Entry, fresh bool)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	limit := time.AfterFunc(lookLimit, cancel)
	defer limit.Stop()
	var mu sync.Mutex // a store may call back from several goroutines
	complete := false
	err := s.Watch(ctx, b, prefix, func(e store.Entry) {
		mu.Lock()
		defer mu.Unlock()
		if e.Key == "" {
			complete = true
			limit.Reset(more)
			return
		}
		changed(e, complete)
	})
	mu.Lock()
	defer mu.Unlock()
	switch {
	case complete && ctx.Err() != nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("the store of the fleet does not answer: %w", err)
	}
	return fmt.Errorf("the store of the fleet cannot be read: %w", err)
}
