package policy

import (
	"slices"

	"penstock/policy/blocklist"
)

// WithExceptions returns a Policy with the same rules and these exceptions in place of those it had.
//
// An exception counts while Flow.Time is before its Until; without a Flow.Time it does not. One with a Name keeps rules
// that block by name (domain, category, seen_in, mismatch) from matching that name and those below it; one with a
// Category keeps that category from matching anything. The rules after it then decide. Blocks by address, port or client
// alone stay, and so does a last rule that blocks.
func (p *Policy) WithExceptions(list []Exception) *Policy {
	q := *p
	q.exceptions = slices.Clone(list)
	return &q
}

// WithLists returns a Policy with the same rules and exceptions that asks for these lists. See Config.Lists.
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

// Exceptions returns the exceptions that the Policy has, in force or expired. The caller must not change them.
func (p *Policy) Exceptions() []Exception { return p.exceptions }

func (s *scan) inForce(e *Exception) bool {
	return s.flow.Time.Before(e.Until) && !s.flow.Time.IsZero() && (e.Peer == "" || e.Peer == s.flow.Peer)
}

// isSpared says whether blocks by name are lifted for a host.
func (s *scan) isSpared(host string) bool {
	for i := range s.policy.exceptions {
		e := &s.policy.exceptions[i]
		if e.Name != "" && isAtOrBelow(host, e.Name) && s.inForce(e) {
			return true
		}
	}
	return false
}

// mayBeSpared says whether there is a name for which blocks by name are lifted.
func (s *scan) mayBeSpared() bool {
	for i := range s.policy.exceptions {
		if e := &s.policy.exceptions[i]; e.Name != "" && s.inForce(e) {
			return true
		}
	}
	return false
}

// isLifted says whether a category matches nothing now.
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
