package report

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
	"penstock/cmd/internal/edition"
	"penstock/policy"
)

// whatIf lists what would change a verdict: a decision, a quota, a transport that is not up, another time or another peer. It asks
// the policy about each. changes are the calls among them.
func whatIf(ed *edition.Edition, f policy.Flow, v policy.Verdict) (list []string, changes []control.Change) {
	p := ed.Policy
	turns := func(when string, p *policy.Policy, f policy.Flow) bool {
		w := p.Decide(f)
		if w.Action == v.Action && w.Egress == v.Egress {
			return false
		}
		list = append(list, fmt.Sprintf("%s: %s by rule %s", when, verdictWords(w), w.Rule))
		return true
	}
	changes = callsThatTurn(p, f, v, func(change control.Change, p *policy.Policy) bool {
		w := p.Decide(f)
		switch {
		case change.Call == "allow" && change.Peer == "":
			turns("after penstock allow "+change.Target+" --for 10m", p, f)
		case change.Call == "remove":
			turns("without the decision "+change.Target, p, f)
		}
		return w.Action != v.Action || w.Egress != v.Egress
	})
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
	return list, changes
}

// mostRemovals limits how many decisions are tried without.
const mostRemovals = 16

// callsThatTurn returns the calls about decisions that would change a verdict. try reports whether one does, under a policy.
func callsThatTurn(p *policy.Policy, f policy.Flow, v policy.Verdict, try func(control.Change, *policy.Policy) bool) (changes []control.Change) {
	then := func(change control.Change, decisions []policy.Decision) {
		q := p.WithDecisions(decisions)
		if try(change, q) {
			w := q.Decide(f)
			change.Text = fmt.Sprintf("%s by rule %s", verdictWords(w), w.Rule)
			changes = append(changes, change)
		}
	}
	all := p.Decisions()
	removals := 0
	for i, d := range all {
		if !concerns(d, f) || removals == mostRemovals {
			continue
		}
		removals++
		then(control.Change{Call: "remove", Target: d.ID(), Peer: d.Peer}, slices.Concat(all[:i], all[i+1:]))
	}
	call, block := "allow", false
	if v.Action == policy.Forward {
		call, block = "block", true
	}
	peers := []string{""}
	if f.Peer != "" {
		peers = append(peers, f.Peer)
	}
	for _, target := range allowTargets(f, v) {
		d := policy.Decision{Block: block, Name: target, Until: f.Time.Add(time.Hour)}
		if category, ok := strings.CutPrefix(target, "category:"); ok {
			d.Name, d.Category = "", category
		}
		for _, d.Peer = range peers {
			others := slices.DeleteFunc(slices.Clone(all), func(other policy.Decision) bool { // as the call does: see decisions.Book
				return other.Target() == d.Target() && other.Peer == d.Peer && !other.Always
			})
			then(control.Change{Call: call, Target: target, Peer: d.Peer}, append(others, d))
		}
	}
	return changes
}

// concerns reports whether a decision may be one of those that made a verdict.
func concerns(d policy.Decision, f policy.Flow) bool {
	if d.Peer != "" && d.Peer != f.Peer {
		return false
	}
	return d.Filter || d.Category != "" || slices.ContainsFunc(f.Names, func(n policy.Name) bool {
		return n.Host == d.Name || strings.HasSuffix(n.Host, "."+d.Name)
	})
}

// allowTargets returns the names and categories that a decision could be about.
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
	at, lasting := f.Time.Truncate(time.Minute), p.WithDecisions(lasting(p.Decisions()))
	for range 7 * 24 * 60 {
		at = at.Add(time.Minute)
		then := f
		then.Time = at
		if turns(at.Format("from Mon 15:04"), lasting, then) {
			return
		}
	}
}

// lasting returns the decisions that do not end.
func lasting(list []policy.Decision) []policy.Decision {
	return slices.DeleteFunc(slices.Clone(list), func(d policy.Decision) bool { return !d.Always })
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
