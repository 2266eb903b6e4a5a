package transport

import (
	"context"
	"time"
)

// Driver carries packets between an inner device (a stack) and one encrypted transport.
// It knows nothing of retries, sleep or policy: Tunnel decides when, a Driver knows how.
// All methods but Stats and Close are called by one goroutine at a time.
type Driver interface {
	// Connect brings up a new session. It returns nil once bytes were received from the peer,
	// or the reason why none were. It replaces a session that is still up and keeps the inner
	// device, so flows survive. A *BlockedError means that trying again cannot help.
	Connect(ctx context.Context) error
	// Probe sends something that a living peer must answer. It does not wait for the answer,
	// which shows as growth of Stats().RxBytes.
	Probe(ctx context.Context) error
	// Rebind closes and recreates the transport's sockets and keeps the session.
	Rebind() error
	// Stats never blocks.
	Stats() Stats
	// Close ends the session and waits for the driver's goroutines. Where the protocol can, it
	// tells the peer. It is idempotent.
	Close() error
}

// Caller is a Driver whose peer can be reached at several endpoints. When the one in use is silent, Tunnel calls the others too.
type Caller interface {
	// Call sends something that a living peer must answer, and does not wait. Call(0) sends it to the endpoint in use, and
	// Call(i) to the i-th of the Stats().Others known beside it, as part of the last Call(0). The endpoint that answers first is
	// the one in use from then on. It is called by the goroutine that calls Driver's methods.
	Call(i int) error
}

// Stats are a driver's counters since it was made. They only ever grow.
type Stats struct {
	RxBytes, TxBytes uint64    // encrypted bytes; only authenticated packets count as received
	LastRx, LastTx   time.Time // zero: never
	LastHandshake    time.Time // last completed handshake or renegotiation; zero: never
	Endpoint         string    // the peer's current address:port, empty while unknown
	Others           int       // how many addresses are known beside Endpoint; see Caller
}
