package report

import (
	"fmt"
	"strings"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/edition"
	"penstock/policy"
)

// whatIf lists what would change a verdict: an exception, a quota, a transport that is not up, another time or another peer. It asks
// the policy about each.
func whatIf(ed *edition.Edition, f policy.Flow, v policy.Verdict) []string {
	p := ed.Policy
	var list []string
	turns := func(when string, p *policy.Policy, f policy.Flow) bool {
		w := p.Decide(f)
		if w.Action == v.Action && w.Egress == v.Egress {
			return false
		}
		list = append(list, fmt.Sprintf("%s: %s by rule %s", when, verdictWords(w), w.Rule))
		return true
	}
	if v.Action != policy.Forward {
		for _, target := range allowTargets(f, v) {
			e := policy.Exception{Name: target, Until: f.Time.Add(time.Hour)}
			if category, ok := strings.CutPrefix(target, "category:"); ok {
				e = policy.Exception{Category: category, Until: e.Until}
			}
			turns("after penstock allow "+target+" --for 10m", p.WithExceptions(append(p.Exceptions()[:len(p.Exceptions()):len(p.Exceptions())], e)), f)
		}
	}
	if v.Cause == policy.ByQuota {
		within, now := f, *f.Now
		now.OverQuota, within.Now = nil, &now
		turns("within its quota, as after penstock peer quota reset "+f.Peer, p, within)
	}
	if v.Action == policy.Forward {
		down := f
		down.Down = v.Egress
		turns("while "+v.Egress+" is not up", p, down)
	}
	if v.Cause == policy.BySignIn {
		then := f
		then.User = "somebody"
		turns("once somebody without groups of their own has signed in", p, then)
	}
	whatIfTime(p, f, turns)
	whatIfPeer(ed.Config, f, func(when string, f policy.Flow) bool { return turns(when, p, f) })
	return list
}

// allowTargets returns the names and categories that an exception could be for.
func allowTargets(f policy.Flow, v policy.Verdict) []string {
	var targets []string
	seen := make(map[string]bool)
	for _, n := range f.Names {
		if !seen[n.Host] {
			seen[n.Host] = true
			targets = append(targets, n.Host)
		}
	}
	if v.Category != "" {
		targets = append(targets, "category:"+v.Category)
	}
	return targets
}

// whatIfTime searches the coming week for the first time at which a schedule changes the verdict.
func whatIfTime(p *policy.Policy, f policy.Flow, turns func(string, *policy.Policy, policy.Flow) bool) {
	if f.Time.IsZero() || !hasSchedule(p) {
		return
	}
	at := f.Time.Truncate(time.Minute)
	for range 7 * 24 * 60 {
		at = at.Add(time.Minute)
		then := f
		then.Time = at
		if turns(at.Format("from Mon 15:04"), p.WithExceptions(nil), then) {
			return
		}
	}
}

func hasSchedule(p *policy.Policy) bool {
	for _, r := range p.Rules() {
		for m := &r.Match; m != nil; m = m.Not {
			if len(m.Schedule) > 0 {
				return true
			}
		}
	}
	return false
}

// mostPeers limits how many peers with another verdict are listed.
const mostPeers = 4

// whatIfPeer asks for each configured peer.
func whatIfPeer(cfg *config.Config, f policy.Flow, turns func(string, policy.Flow) bool) {
	told := 0
	for _, peer := range edition.PolicyPeers(cfg) {
		if peer.Name == f.Peer || told == mostPeers {
			continue
		}
		other := f
		other.Peer, other.Groups, other.User = peer.Name, peer.Groups, ""
		if turns("from peer "+peer.Name, other) {
			told++
		}
	}
}

func verdictWords(v policy.Verdict) string {
	word, via := words(v)
	return strings.TrimSpace(word + " " + via)
}
