package router

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"penstock/policy"
)

// TestTheTableLosesNoFact sets every field of a policy.Flow, those that somebody adds later too.
func TestTheTableLosesNoFact(t *testing.T) {
	var f policy.Flow
	fields := reflect.ValueOf(&f).Elem()
	at := time.Unix(1, 2)
	for i := range fields.NumField() {
		set(t, fields.Type().Field(i).Name, fields.Field(i))
	}
	f.Time = at
	kept := keep(&f)
	if got := kept.flow(at); !reflect.DeepEqual(got, f) {
		t.Errorf("got %+v, want %+v", got, f)
	}
	none := policy.Flow{}
	kept = keep(&none)
	if got := kept.flow(time.Time{}); !reflect.DeepEqual(got, none) {
		t.Errorf("got %+v, want no facts", got)
	}
}

// set gives a field a value that is not its zero value.
func set(t *testing.T, name string, v reflect.Value) {
	t.Helper()
	switch v.Kind() {
	case reflect.Uint8, reflect.Uint32, reflect.Uint64:
		v.SetUint(3)
	case reflect.String:
		v.SetString(name)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
	case reflect.Struct:
		switch v.Interface().(type) {
		case netip.AddrPort:
			v.Set(reflect.ValueOf(netip.MustParseAddrPort("192.0.2.7:99")))
		case time.Time:
			v.Set(reflect.ValueOf(time.Unix(1, 2)))
		}
	}
	if v.IsZero() {
		t.Fatalf("no value for %s, a %s", name, v.Type())
	}
}

// TestTheTableSaysWhenAFlowWasJudged: a request may come hours after its flow has begun, and another schedule is in force by then.
func TestTheTableSaysWhenAFlowWasJudged(t *testing.T) {
	table, start := newTable(), time.Unix(1000, 0)
	e := table.begin(&policy.Flow{Time: start}, start.Add(time.Microsecond))
	for _, at := range []time.Time{start, start.Add(3 * time.Hour)} {
		e.judged(&policy.Flow{Time: at}, policy.Verdict{})
		if got := e.snapshot().Facts.Time; !got.Equal(at) {
			t.Errorf("got a flow that was judged at %v, want %v", got, at)
		}
	}
}

// TestTheTableAgreesWithASet begins and ends flows at random.
func TestTheTableAgreesWithASet(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	table := newTable()
	live := map[*entry]bool{}
	most := 0
	for step := range 40_000 {
		if grows := step/10_000%2 == 0; grows == (rng.IntN(10) > 0) {
			live[table.begin(&policy.Flow{}, time.Time{})] = true
		} else {
			for e := range live {
				table.remove(e)
				table.remove(e) // does nothing
				delete(live, e)
				break
			}
		}
		most = max(most, len(live))
		if len(table.flows) != len(live) {
			t.Fatalf("step %d: got %d flows, want %d", step, len(table.flows), len(live))
		}
		if step%500 > 0 {
			continue
		}
		seen := map[*entry]bool{}
		for i, e := range table.entries() {
			seen[e] = true
			if int(e.index) != i {
				t.Fatalf("step %d: flow %d has index %d", step, i, e.index)
			}
		}
		if !maps.Equal(seen, live) {
			t.Fatalf("step %d: the table has other flows", step)
		}
	}
	if room := cap(table.flows); most < 5000 || room > most/2 {
		t.Errorf("of %d flows %d are left, and room for %d", most, len(live), room)
	}
}
