package stack

import (
	"context"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"penstock/stack/packet"
)

func TestDatagramsAreCountedBothWays(t *testing.T) {
	m := NewMetrics(prometheus.NewRegistry())
	_, w := newWire(t, Config{Metrics: m, Handle: Waiting(func(_ context.Context, r *Request) {
		if c, err := r.Accept(); err == nil {
			c.Write(make([]byte, 3000))
		}
	})}, nil)
	w.send(udpFrom(addr("10.0.0.2:100"), web, make([]byte, 50)))
	sent := 0.0
	for range 3 {
		sent += float64(len(w.expect("a fragment of the answer", func(p packet.Packet) bool { return p.Fragment }).Raw))
	}
	for _, row := range []struct {
		name           string
		traffic        traffic
		packets, bytes float64
	}{
		{"in", m.in, 1, 78},
		{"out", m.out, 3, sent},
	} {
		eventually(t, row.name+" is counted", func() bool {
			return testutil.ToFloat64(row.traffic.packets) == row.packets && testutil.ToFloat64(row.traffic.bytes) == row.bytes
		})
	}
}
