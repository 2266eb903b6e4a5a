package fleet

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"penstock/cmd/internal/control"
	"penstock/cmd/internal/fleet/bundle"
	"penstock/cmd/internal/fleet/store"
)

// publish puts the manifest of a bundle into a store.
func publish(t *testing.T, s store.Store, site string, generation uint64, gateways ...string) {
	t.Helper()
	key, err := bundle.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	m := bundle.Manifest{Site: site, Generation: generation, Signers: []bundle.PublicKey{key.Public()}}
	for _, name := range gateways {
		id, err := bundle.NewIdentity()
		if err != nil {
			t.Fatal(err)
		}
		m.Gateways = append(m.Gateways, bundle.Gateway{Name: name, Recipient: id.Recipient()})
	}
	signed, err := bundle.Sign(m, key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), store.Truth, site, signed, store.Any); err != nil {
		t.Fatal(err)
	}
}

// states returns the states of gateways in order.
func states(f *control.Fleet) string {
	var all []string
	for _, g := range f.Gateways {
		all = append(all, g.Name+" "+g.State)
	}
	return strings.Join(all, ", ")
}

func TestTheStoreTellsHowAFleetIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 3, false)
		outside := &link{engine: s.engine}
		look := func(site string) *control.Fleet {
			t.Helper()
			f, err := Look(t.Context(), outside, site)
			if err != nil {
				t.Fatal(err)
			}
			return f
		}
		if f := look("lab"); f.Generation != 0 || states(f) != "amsterdam serving, berlin serving, cairo serving" {
			t.Errorf("without a bundle: got generation %d, %s", f.Generation, states(f))
		}
		if _, err := Look(t.Context(), outside, ""); !errors.Is(err, store.ErrNone) {
			t.Errorf("got %v, want that there is no site", err)
		}
		publish(t, outside, "lab", 7, names...)
		s.kill(0)
		s.machines[1].set(func() { s.machines[1].draining = true })
		f := look("")
		if f.Site != "lab" || f.Generation != 7 || !f.Connected || states(f) != "amsterdam silent, berlin draining, cairo serving" {
			t.Errorf("got %+v", f)
		}
		if !f.Gateways[0].Heard.IsZero() || f.Gateways[2].Heard.IsZero() {
			t.Errorf("got %+v, want that one that is killed was not heard", f.Gateways)
		}
		publish(t, outside, "other", 1, "dakar")
		if _, err := Look(t.Context(), outside, ""); err == nil || !strings.Contains(err.Error(), "name one of lab, other") {
			t.Errorf("got %v, want the names of the sites", err)
		}
		if f := look("other"); states(f) != "dakar silent" {
			t.Errorf("got %+v", f)
		}
		if _, err := Look(t.Context(), outside, "nowhere"); !errors.Is(err, store.ErrNone) {
			t.Errorf("got %v, want that there is nothing", err)
		}
		outside.set(true)
		if _, err := Look(t.Context(), outside, "lab"); !errors.Is(err, errCut) {
			t.Errorf("got %v, want that the store is not reached", err)
		}
	})
}

func TestMetricsAreWellFormed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 1, false)
		registry := s.nodes[0].Registry.(*prometheus.Registry)
		families, err := registry.Gather()
		if err != nil || len(families) != 11 {
			t.Fatalf("got %d metrics, %v", len(families), err)
		}
		problems, err := promlint.NewWithMetricFamilies(families).Lint()
		if err != nil || len(problems) > 0 {
			t.Errorf("got %v, %v", problems, err)
		}
	})
}
