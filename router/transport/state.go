package transport

import (
	"encoding/json"
	"time"
)

// State is the state of a transport.
//
//	down -> connecting -> connected <-> reconnecting
//
// waiting, offline, blocked and quiesced can be entered from each of the last three and lead back to reconnecting, or waiting to
// what it came from.
type State uint8

// The states. The zero State is down.
const (
	Down         State = iota // not wanted
	Connecting                // wanted, and never connected since
	Connected                 // bytes were received through it, and it has not been lost since
	Reconnecting              // was connected, and connects again
	Offline                   // the host has no path to the endpoint, so no attempt is made
	Blocked                   // only the user can fix it
	Waiting                   // the peer wants its user to sign in; nothing is tried before that
	Quiesced                  // the machine sleeps, or is about to
)

var stateNames = [...]string{"down", "connecting", "connected", "reconnecting", "offline", "blocked", "waiting", "quiesced"}

// States are all states, in order.
func States() []State {
	return []State{Down, Connecting, Connected, Reconnecting, Offline, Blocked, Waiting, Quiesced}
}

// String is the state's name in status, metrics and events.
func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return "unknown"
}

// MarshalJSON gives the name.
func (s State) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }

// Health is a snapshot of a transport: the one value that status, metrics and events read.
type Health struct {
	Name       string
	State      State
	Degraded   bool   // connected, but flapping or slow to answer probes
	Reason     Reason // of the last change of state
	Err        string // the last failure; empty while connected
	Since      time.Time
	Stats      Stats // sums over all drivers that served this transport
	Reconnects uint64
	Attempt    int       // failed attempts in a row
	Retry      time.Time // when the next attempt is due; zero if none is scheduled
}

// Timing holds the constants of a Tunnel. A zero field means the default that its comment names.
type Timing struct {
	Sample        time.Duration // between looks at the counters; default 1 s
	SleepGap      time.Duration // a gap between looks that means the machine slept; default 6 s
	Traffic       time.Duration // sent but nothing received for this long: probe; default 2 s
	Doubt         time.Duration // the same if the peer has other endpoints; a keepalive does not count as sent; default 600 ms
	CallAfter     time.Duration // as Doubt: call all endpoints, that in use first; default 1 s
	CallOthers    time.Duration // between the call of the endpoint in use and those of the others; default 300 ms
	HeadStart     time.Duration // on a new path, of the endpoint in use before the others are called; default 100 ms
	CallAgain     time.Duration // from the last call until all are called anew; default 1 s
	Idle          time.Duration // nothing either way for this long: probe; default 120 s
	ProbeEvery    time.Duration // between probes; default 150 ms: sixteen lost in a row are not chance at 20 % loss
	ProbeWindow   time.Duration // probing under traffic without an answer for this long is a timeout; default 2.5 s
	IdleWindow    time.Duration // the same when idle; default 15 s
	ConnectFirst  time.Duration // limit of the first answer in the first attempt; doubles; default 4 s
	ConnectMost   time.Duration // limit of the first answer in any attempt; default 15 s
	Rebind        time.Duration // wait for an answer on a new path before a new handshake; default 1 s
	Settled       time.Duration // connected for this long forgets earlier failures; default 30 s
	FlapWindow    time.Duration // more than FlapCount reconnects within it is flapping; default 1 min
	FlapCount     int           // default 6
	DialWait      time.Duration // how long a dial waits for a transport that is not up; default 5 s
	JumpQueue     time.Duration // path changes and wakes skip the back-off at most this often; default 10 s
	Demand        time.Duration // a dial that waits for the transport ends the back-off after this long; default 2 s
	FailoverAfter time.Duration // a group leaves a member that is not connected for this long; default 5 s
}

func (t Timing) withDefaults() Timing {
	def := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	def(&t.Sample, time.Second)
	def(&t.SleepGap, 6*time.Second)
	def(&t.Traffic, 2*time.Second)
	def(&t.Doubt, 600*time.Millisecond)
	def(&t.CallAfter, time.Second)
	def(&t.CallOthers, 300*time.Millisecond)
	def(&t.HeadStart, 100*time.Millisecond)
	def(&t.CallAgain, time.Second)
	def(&t.Idle, 120*time.Second)
	def(&t.ProbeEvery, 150*time.Millisecond)
	def(&t.ProbeWindow, 2500*time.Millisecond)
	def(&t.IdleWindow, 15*time.Second)
	def(&t.ConnectFirst, 4*time.Second)
	def(&t.ConnectMost, 15*time.Second)
	def(&t.Rebind, time.Second)
	def(&t.Settled, 30*time.Second)
	def(&t.FlapWindow, time.Minute)
	def(&t.DialWait, 5*time.Second)
	def(&t.JumpQueue, 10*time.Second)
	def(&t.Demand, 2*time.Second)
	def(&t.FailoverAfter, 5*time.Second)
	if t.FlapCount == 0 {
		t.FlapCount = 6
	}
	return t
}

// backoff is the wait before the attempt that follows n failed ones.
func backoff(n int) time.Duration {
	steps := [...]time.Duration{0, 1, 2, 4, 8, 15, 30}
	return steps[min(n, len(steps)-1)] * time.Second
}
