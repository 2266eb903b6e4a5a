package policy

import (
	"slices"

	"penstock/policy/blocklist"
)

// WithExceptions returns a Policy with the same rules and with list as its exceptions.
//
// An exception applies while Flow.Time is before its Until, and never to a flow without a Time. With a Name, rules that
// block by name (domain, category, seen_in, mismatch) do not match that name and its subdomains. With a Category, that
// category matches nothing. The rules after the lifted one then decide. Blocks by address, port or client alone stay in
// force, and so does a last rule that blocks.
func (p *Policy) WithExceptions(list []Exception) *Policy {
	q := *p
	q.exceptions = slices.Clone(list)
	return &q
}

// WithLists returns a Policy with the same rules and exceptions that uses these lists. See Config.Lists.
func (p *Policy) WithLists(lists func() *blocklist.Set) *Policy {
	q := *p
	q.lists = lists
	return &q
}

// WithEdition returns a Policy with the same rules whose verdicts carry this number.
func (p *Policy) WithEdition(number uint64) *Policy {
	q := *p
	q.edition = number
	return &q
}

// Exceptions returns all exceptions of the Policy, expired ones included. The caller must not change them.
func (p *Policy) Exceptions() []Exception { return p.exceptions }

func (s *scan) inForce(e *Exception) bool {
	return s.flow.Time.Before(e.Until) && !s.flow.Time.IsZero() && (e.Peer == "" || e.Peer == s.flow.Peer)
}

// isSpared reports whether an exception lifts blocks by name for a host.
func (s *scan) isSpared(host string) bool {
	for i := range s.policy.exceptions {
		e := &s.policy.exceptions[i]
		if e.Name != "" && isAtOrBelow(host, e.Name) && s.inForce(e) {
			return true
		}
	}
	return false
}

// mayBeSpared reports whether an exception lifts blocks by name for any host.
func (s *scan) mayBeSpared() bool {
	for i := range s.policy.exceptions {
		if e := &s.policy.exceptions[i]; e.Name != "" && s.inForce(e) {
			return true
		}
	}
	return false
}

// isLifted reports whether an exception turns a category off for this flow.
func (s *scan) isLifted(category string) bool {
	for i := range s.policy.exceptions {
		if e := &s.policy.exceptions[i]; e.Category == category && s.inForce(e) {
			return true
		}
	}
	return false
}

func isAtOrBelow(host, domain string) bool {
	n := len(host) - len(domain)
	return n == 0 && host == domain || n > 0 && host[n-1] == '.' && host[n:] == domain
}
