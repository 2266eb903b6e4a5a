package main

import (
	"testing"

	"penstock/cmd/internal/control"
)

func TestTheSummaryOfAFleet(t *testing.T) {
	of := func(connected bool, generation uint64, gateways ...control.FleetGateway) control.Fleet {
		return control.Fleet{Site: "lab", Gateway: "a", Connected: connected, Generation: generation, Gateways: gateways}
	}
	gw := func(name, state string, generation uint64) control.FleetGateway {
		return control.FleetGateway{Name: name, State: state, Generation: generation}
	}
	refusing := gw("b", "serving", 7)
	refusing.Refused, refusing.Fault = 8, "its tests fail"
	outside := of(true, 0, gw("a", "serving", 7))
	outside.Gateway = ""
	late := of(true, 8, gw("a", "serving", 7))
	late.Gateway = ""
	silent := make([]control.FleetGateway, 7)
	for i := range silent {
		silent[i] = gw(string(rune('a'+i)), "silent", 0)
	}
	for sentence, row := range map[string]struct {
		fleet control.Fleet
		good  bool
		want  string
	}{
		"all serve": {of(true, 7, gw("a", "serving", 7), gw("b", "serving", 7)), true, "lab: all 2 gateways serve generation 7"},
		"one is silent": {of(true, 7, gw("a", "serving", 7), gw("b", "silent", 7)), false,
			"lab: 1 of 2 gateways serve generation 7: b is silent"},
		"this one is behind": {of(true, 6, gw("a", "serving", 6), gw("b", "serving", 7)), false,
			"lab: 1 of 2 gateways serve generation 7: a has generation 6"},
		"one has refused a bundle": {of(true, 7, gw("a", "serving", 7), refusing), false,
			"lab: 1 of 2 gateways serve generation 7: b has refused generation 8"},
		"the store is away":       {of(false, 7, gw("a", "serving", 7)), false, "lab: all 1 gateways serve generation 7; the store cannot be used"},
		"the store is empty":      {outside, false, "lab: all 1 gateways serve generation 7; the store has no bundle"},
		"the store has a new one": {late, false, "lab: 0 of 1 gateways serve generation 8: a has generation 7"},
		"many are silent": {of(true, 7, silent...), false,
			"lab: 0 of 7 gateways serve generation 7: a is silent, b is silent, c is silent, d is silent, e is silent, and 2 more"},
	} {
		if got, good := fleetSummary(row.fleet), fleetGood(row.fleet); got != row.want || good != row.good {
			t.Errorf("%s: got %q, %v, want %q, %v", sentence, got, good, row.want, row.good)
		}
	}
}
