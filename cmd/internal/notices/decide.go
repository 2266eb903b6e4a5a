package notices

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/publicsuffix"

	"penstock/cmd/internal/control"
	"penstock/cmd/internal/show"
)

const (
	perHour  = 6                // notices about blocks, and as many about the state
	settles  = 2 * time.Second  // a page that opens asks for many names: they are told together
	lostFor  = 10 * time.Second // before a lost connection is told
	mostHeld = 50               // sites in one notice
	named    = 5                // sites that it names
)

// notice is one for the user.
type notice struct {
	kind        string // a newer one of the same kind replaces it; empty: nothing does
	title, body string
	flows       []control.Flow // whose verdict it is about
}

// decider decides what the user is told. It has no clock and asks nobody.
type decider struct {
	wanted []string // categories or rules; empty: all categories
	user   uint32   // who is told; what other people do is not

	begun    time.Time            // of penstock, as far as is known
	from     time.Time            // what was blocked before is not told
	seen     map[string]bool      // IDs of the last answer
	sites    map[string]time.Time // when each was told
	held     []control.Flow       // one of each site that waits to be told
	heldAt   time.Time            // the first of them
	blocks   []time.Time          // notices of the last hour
	states   []time.Time          // the same
	signIns  map[string]bool      // transports that wait for their user, and were told of
	up       bool                 // it was connected before
	lost     time.Time            // since when it is not; zero: it is
	lostTold bool
	paused   bool
	known    bool // there was a status
}

func newDecider(now time.Time, user uint32, wanted []string) *decider {
	return &decider{wanted: wanted, user: user, from: now, sites: make(map[string]time.Time)}
}

// look takes what is true now, or why that is not known, and returns what to tell.
func (d *decider) look(now time.Time, s control.Status, err error, denied []control.Flow) []notice {
	hourAgo := now.Add(-time.Hour)
	old := func(t time.Time) bool { return !t.After(hourAgo) }
	d.blocks, d.states = slices.DeleteFunc(d.blocks, old), slices.DeleteFunc(d.states, old)
	for site, told := range d.sites {
		if old(told) {
			delete(d.sites, site)
		}
	}
	var list []notice
	for _, n := range d.changes(now, s, err) {
		if len(d.states) < perHour {
			d.states = append(d.states, now)
			list = append(list, n)
		}
	}
	if err == nil {
		d.hold(now, s, denied)
	}
	if len(d.held) > 0 && now.Sub(d.heldAt) >= settles {
		if len(d.blocks) < perHour {
			d.blocks = append(d.blocks, now)
			list = append(list, blocked(d.held))
			for _, f := range d.held {
				d.sites[site(f.Host)] = now
			}
		}
		d.held = nil
	}
	return list
}

// changes are those of the state that matter.
func (d *decider) changes(now time.Time, s control.Status, err error) []notice {
	var list []notice
	tell := func(kind, title, body string) { list = append(list, notice{kind: kind, title: title, body: body}) }
	up := err == nil && s.State == "connected"
	switch {
	case up && d.lostTold:
		tell("state", "Connected again", s.Verdict)
		fallthrough
	case up:
		d.up, d.lost, d.lostTold = true, time.Time{}, false
	case err == nil && (s.State == "quiesced" || s.State == "down" || s.State == "waiting"): // the machine sleeps, somebody wants it so, or is asked below
		d.lost = time.Time{}
	case err != nil && !errors.Is(err, control.ErrNotRunning): // nothing is known
	case !d.up:
	case d.lost.IsZero():
		d.lost = now
	case now.Sub(d.lost) > lostFor && !d.lostTold:
		d.lostTold = true
		if err != nil {
			tell("state", "penstock does not run", err.Error())
		} else {
			tell("state", "The connection is lost", s.Verdict)
		}
	}
	if err != nil {
		return list
	}
	if paused := s.PausedUntil.After(now); paused != d.paused {
		d.paused = paused
		switch {
		case !d.known:
		case paused:
			tell("filter", "The filter is paused", "until "+s.PausedUntil.Local().Format("15:04"))
		default:
			tell("filter", "The filter works again", s.Verdict)
		}
	}
	asking := make(map[string]bool)
	for _, t := range s.Transports {
		if t.SignIn == "" {
			continue
		}
		if asking[t.Name] = true; !d.signIns[t.Name] {
			body := t.SignIn + "\nRun: penstock login " + t.Name
			if t.SignInWhy != "" {
				body += "\nBecause " + t.SignInWhy
			}
			tell("sign-in "+t.Name, "Sign in to "+t.Name, body)
		}
	}
	d.signIns = asking
	d.known = true
	return list
}

// hold keeps what was blocked since the last look, one flow of each site.
func (d *decider) hold(now time.Time, s control.Status, denied []control.Flow) {
	if !s.Started.Equal(d.begun) { // its numbers begin anew
		d.begun, d.seen = s.Started, nil
	}
	seen := make(map[string]bool, len(denied))
	for _, f := range denied {
		seen[f.ID] = true
		at := cmp.Or(f.End, f.Start)
		if d.seen[f.ID] || f.Host == "" || f.Peer != "" || at.Before(d.from) || !d.wants(f) || d.ofAnother(f) {
			continue
		}
		if _, told := d.sites[site(f.Host)]; told || len(d.held) == mostHeld {
			continue
		}
		if slices.ContainsFunc(d.held, func(h control.Flow) bool { return site(h.Host) == site(f.Host) }) {
			continue
		}
		if len(d.held) == 0 {
			d.heldAt = now
		}
		d.held = append(d.held, f)
	}
	d.seen = seen
}

func (d *decider) wants(f control.Flow) bool {
	if len(d.wanted) == 0 {
		return f.Category != ""
	}
	return slices.Contains(d.wanted, f.Category) || slices.Contains(d.wanted, f.Rule)
}

// ofAnother reports whether another person did it. What services do may be for anybody: a resolver asks for all.
func (d *decider) ofAnother(f control.Flow) bool {
	const firstPerson = 1000 // UID_MIN of login.defs(5)
	return f.UID != nil && *f.UID >= firstPerson && *f.UID != d.user
}

// site is what people call a name: the domain that somebody has registered.
func site(host string) string {
	if _, err := netip.ParseAddr(host); err == nil {
		return host
	}
	if site, err := publicsuffix.EffectiveTLDPlusOne(host); err == nil {
		return site
	}
	return host
}

// blocked is a notice about flows of different sites.
func blocked(flows []control.Flow) notice {
	n := notice{flows: flows}
	if f := flows[0]; len(flows) == 1 {
		n.title, n.body = f.Host+" is blocked", "by rule "+show.Rule(f.Rule, f.Category)
		return n
	}
	n.title = fmt.Sprintf("%d sites are blocked", len(flows))
	var lines []string
	for i, f := range flows {
		if i == named {
			lines = append(lines, fmt.Sprintf("and %d others", len(flows)-named))
			break
		}
		lines = append(lines, f.Host+", by rule "+show.Rule(f.Rule, f.Category))
	}
	n.body = strings.Join(lines, "\n")
	return n
}
