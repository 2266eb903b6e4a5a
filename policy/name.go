package policy

import "penstock/policy/blocklist"

// CanonicalName returns the form in which names are compared everywhere: lower case, A-labels, no trailing dot, no port.
// It fails on addresses and on what cannot be a host name. It is idempotent and does not allocate for a canonical name.
func CanonicalName(s string) (string, error) { return blocklist.CanonicalName(s) }
