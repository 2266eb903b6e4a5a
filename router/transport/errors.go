package transport

import (
	"errors"
	"fmt"
	"time"
)

// ErrNotUp is what a dial through a transport returns while the transport is not up. Nothing was sent.
var ErrNotUp = errors.New("transport is not up")

var (
	errAsked = errors.New("the user asked for a new session")
	errPath  = errors.New("no answer on the new path")
)

// Reason is why a transport changed state. The set is closed: it labels metrics.
type Reason string

// Reasons for a change of state.
const (
	ReasonNone               Reason = ""
	ReasonManual             Reason = "manual"
	ReasonKeepaliveTimeout   Reason = "keepalive_timeout"
	ReasonPathChange         Reason = "path_change"
	ReasonWake               Reason = "wake"
	ReasonMoved              Reason = "moved"
	ReasonHandshakeFailed    Reason = "handshake_failed"
	ReasonAuthFailed         Reason = "auth_failed"
	ReasonSignIn             Reason = "sign_in"
	ReasonEndpointUnresolved Reason = "endpoint_unresolved"
	ReasonFlapping           Reason = "flapping"
	ReasonCaptivePortal      Reason = "captive_portal"
	ReasonError              Reason = "error"
)

// ErrKeepaliveTimeout is the loss of a connected transport that received nothing for longer than its liveness rules
// allow.
type ErrKeepaliveTimeout struct {
	Transport              string
	LastReceived, LastSent time.Time
}

func (e ErrKeepaliveTimeout) Error() string {
	return fmt.Sprintf("transport %s: keepalive timeout: nothing received since %s", e.Transport, e.LastReceived.Format(time.TimeOnly))
}

// BlockedError is a failure that only the user can fix: a bad key, rejected credentials, a bad configuration. With ReasonSignIn the
// user has to sign in, and the transport waits.
type BlockedError struct {
	Reason Reason
	Err    error
}

func (e *BlockedError) Error() string { return e.Err.Error() }

func (e *BlockedError) Unwrap() error { return e.Err }

// ReasonedError is a failure worth another try, with the reason that status and metrics show.
type ReasonedError struct {
	Reason Reason
	Err    error
}

func (e *ReasonedError) Error() string { return e.Err.Error() }

func (e *ReasonedError) Unwrap() error { return e.Err }
