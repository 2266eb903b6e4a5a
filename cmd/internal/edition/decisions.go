package edition

import (
	"slices"

	"penstock/policy"
)

// SetDecisions puts decisions in force, instead of those before, and returns the policy that was in force until then.
func (l *Live) SetDecisions(list []policy.Decision) (before *policy.Policy) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now.Load()
	l.decisions = slices.Clone(list)
	l.useLocked(now)
	return now.Policy
}
