package transport

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m := NewMetrics(reg)
	m.state(&Health{Name: "corp", State: Connected, Stats: Stats{LastRx: time.Unix(1700000000, 500e6)}})
	m.state(&Health{Name: "lab", State: Blocked})
	m.reconnect("corp", ReasonKeepaliveTimeout)
	m.reconnect("corp", ReasonKeepaliveTimeout)
	const want = `
# HELP penstock_transport_last_rx_timestamp_seconds When the transport last received an authenticated packet, in seconds since 1970.
# TYPE penstock_transport_last_rx_timestamp_seconds gauge
penstock_transport_last_rx_timestamp_seconds{transport="corp"} 1.7000000005e+09
# HELP penstock_transport_reconnects_total Losses of a connected transport, by reason.
# TYPE penstock_transport_reconnects_total counter
penstock_transport_reconnects_total{reason="keepalive_timeout",transport="corp"} 2
# HELP penstock_transport_up 1 while the transport is connected: bytes were received through it.
# TYPE penstock_transport_up gauge
penstock_transport_up{transport="corp"} 1
penstock_transport_up{transport="lab"} 0
`
	err := testutil.GatherAndCompare(reg, strings.NewReader(want), "penstock_transport_last_rx_timestamp_seconds", "penstock_transport_reconnects_total", "penstock_transport_up")
	if err != nil {
		t.Error(err)
	}
	if n, err := testutil.GatherAndCount(reg, "penstock_transport_state"); err != nil || n != 2*len(States()) {
		t.Errorf("got %d states, %v; want %d for each transport", n, err, len(States()))
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("lint: got %v, %v", problems, err)
	}
	var none *Metrics // counts nothing, and does not fail
	none.state(&Health{})
	none.reconnect("corp", ReasonError)
}

func TestStatesHaveNames(t *testing.T) {
	seen := make(map[string]bool)
	for _, s := range States() {
		name, err := s.MarshalJSON()
		if err != nil || seen[string(name)] || s.String() == "unknown" {
			t.Errorf("state %d: got %s, %v; want a name of its own", s, name, err)
		}
		seen[string(name)] = true
	}
	if got := State(99).String(); got != "unknown" {
		t.Errorf("got %q for a state that does not exist", got)
	}
}

// TestOrdersDecideByTheClock reads orders whose timer has not kicked yet.
func TestOrdersDecideByTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrders()
		defer o.close()
		o.steer(true, 6*time.Second)
		if n := o.read(); !n.down {
			t.Error("got up, want down at once")
		}
		<-o.kick
		time.Sleep(6*time.Second - time.Nanosecond)
		if n := o.take(); !n.down || n.redo != "" {
			t.Errorf("got %+v just before the time is over, want down", n)
		}
		time.Sleep(time.Nanosecond)
		if n := o.take(); n.down || n.redo != ReasonManual {
			t.Errorf("got %+v when the time is over, want up by a new session", n)
		}
		<-o.kick // of the timer
		o.steer(false, time.Second)
		o.close()
		time.Sleep(time.Minute)
		if n := o.read(); n.down {
			t.Error("got down from an order that was closed")
		}
	})
}
