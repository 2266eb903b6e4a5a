package demo

import (
	"reflect"
	"testing"
	"time"

	"penstock/cmd/internal/fleet/bundle"
)

func TestARequestThatAKillInterruptsBelongsToThatPhase(t *testing.T) {
	const s = time.Second
	phases := []phase{{until: 10 * s}, {until: 20 * s}, {until: 30 * s}}
	got := tallies([]request{
		{1 * s, 2 * s, "a"},
		{8 * s, 9 * s, "a"},
		{9 * s, 18 * s, ""},
		{10 * s, 19 * s, "b"}, // sent before, answered after the kill
		{15 * s, 20 * s, "b"},
		{19 * s, 21 * s, "b"}, // answered in the next phase, sent in this one
		{29 * s, 32 * s, "b"}, // after the end
		{31 * s, 33 * s, ""},
	}, phases, 1)
	want := []tally{
		{sent: 2, answered: 2, gap: 7 * s, by: []string{"a"}},
		{sent: 4, answered: 3, gap: 10 * s, by: []string{"b"}},
		{sent: 2, answered: 1, gap: 11 * s, by: []string{"b"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestAnAlteredBundleIsWellFormedAndUnsigned(t *testing.T) {
	s := &site{dir: t.TempDir(), members: newMembers()}
	if err := s.write(); err != nil {
		t.Fatal(err)
	}
	signed, _, err := s.sign(2)
	if err != nil {
		t.Fatal(err)
	}
	trusted := []bundle.PublicKey{s.operator.Public()}
	if _, err := signed.Verify(trusted); err != nil {
		t.Errorf("before: got %v, want a good signature", err)
	}
	forged, err := altered(signed, 2, 3)
	if err != nil {
		t.Fatal(err)
	}
	if m, err := forged.Manifest(); err != nil || m.Generation != 3 {
		t.Errorf("got %+v, %v, want a manifest of generation 3", m, err)
	}
	if _, err := forged.Verify(trusted); err == nil {
		t.Error("after: the signature is still good")
	}
	if _, err := altered(signed, 1, 3); err == nil {
		t.Error("a bundle of another generation: got no error")
	}
}
