package jetstream

import (
	"errors"
	"testing"

	"penstock/cmd/internal/fleet/store"
)

func TestAConflictTellsTheLastMessage(t *testing.T) {
	for said, want := range map[string]uint64{"wrong last sequence: 12": 12, "wrong last sequence": 0, "wrong last sequence: x": 0, "": 0} {
		c := conflictOf(said)
		if c.last != want || !errors.Is(c, store.ErrConflict) {
			t.Errorf("%q: got %d, %v; want %d and a conflict", said, c.last, c, want)
		}
	}
}
