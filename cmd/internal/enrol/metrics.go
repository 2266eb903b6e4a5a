package enrol

import "github.com/prometheus/client_golang/prometheus"

// reason is how an attempt to join ended, for the log and the metric. Outside, all those about a token look the same.
type reason string

const (
	isAccepted  reason = "accepted"
	isUnknown   reason = "unknown"   // nobody made such a token, or it is long over
	isUsed      reason = "used"      // somebody has joined with it
	isLate      reason = "expired"   // its time is over
	isEarly     reason = "early"     // the clock reads a time before it was made
	isRevoked   reason = "revoked"   // the operator has taken it back
	isLimited   reason = "limited"   // too many attempts: not looked at
	isMalformed reason = "malformed" // no request that a client of ours sends, or no key
	isClash     reason = "clash"     // the name or the key is a peer's by now
	isAway      reason = "away"      // the store of the fleet cannot be reached
	isFailed    reason = "failed"    // the gateway could not: its log says why
)

func reasons() []reason {
	return []reason{isAccepted, isUnknown, isUsed, isLate, isEarly, isRevoked, isLimited, isMalformed, isClash, isAway, isFailed}
}

// newMetric returns the counter of attempts. All its series exist from the start, so that the first failure is an increase.
func newMetric(reg prometheus.Registerer) *prometheus.CounterVec {
	attempts := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "penstock_enrol_attempts_total",
		Help: "Attempts to join the gateway with an invitation, by result.",
	}, []string{"result"})
	for _, r := range reasons() {
		attempts.WithLabelValues(string(r))
	}
	if reg != nil {
		reg.MustRegister(attempts)
	}
	return attempts
}
