package localport

import (
	"context"
	"testing"
)

func TestThePortComesThroughAContext(t *testing.T) {
	if port, ok := Of(t.Context()); ok {
		t.Errorf("got port %d of a context without one", port)
	}
	for _, want := range []uint16{0, 53, 65535} {
		ctx, cancel := context.WithCancel(With(t.Context(), want))
		defer cancel()
		if got, ok := Of(ctx); got != want || !ok {
			t.Errorf("got port %d, %t, want %d", got, ok, want)
		}
	}
}
