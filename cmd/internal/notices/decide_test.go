package notices

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"penstock/cmd/internal/control"
)

var start = time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)

// after is so many seconds after start.
func after(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }

// blockedAt is a refused question.
func blockedAt(seconds int, id, host, category string) control.Flow {
	return control.Flow{ID: id, Proto: "dns", Src: "10.77.0.1:4000", Host: host, Verdict: "block", Rule: "no-" + category, Category: category, Start: after(seconds), End: after(seconds)}
}

// told is what a notice says, on one line.
func told(list []notice) string {
	var lines []string
	for _, n := range list {
		lines = append(lines, n.title+": "+strings.ReplaceAll(n.body, "\n", ", "))
	}
	return strings.Join(lines, "; ")
}

func connected() control.Status {
	return control.Status{State: "connected", Verdict: "connected via corp", Started: start.Add(-time.Hour)}
}

func TestBlocksAreToldOnceAndTogether(t *testing.T) {
	peers := blockedAt(1, "q5", "casino.example", "gambling")
	peers.Peer = "ana"
	unnamed := blockedAt(1, "6", "", "gambling")
	by := func(uid uint32) []control.Flow {
		f := blockedAt(1, "q1", "casino.example", "gambling")
		f.UID = &uid
		return []control.Flow{f}
	}
	uncategorised := blockedAt(1, "7", "router.lan", "")
	for _, row := range []struct {
		name   string
		wanted []string
		denied []control.Flow // in each look
		want   string
	}{
		{"one", nil, []control.Flow{blockedAt(1, "q1", "casino.example", "gambling")}, "casino.example is blocked: by rule no-gambling (gambling)"},
		{"a site with two names is one", nil, []control.Flow{blockedAt(1, "q1", "www.casino.co.uk", "gambling"), blockedAt(1, "2", "api.casino.co.uk", "gambling")},
			"www.casino.co.uk is blocked: by rule no-gambling (gambling)"},
		{"a page of two sites", nil, []control.Flow{blockedAt(1, "q1", "casino.example", "gambling"), blockedAt(2, "q2", "x.adult", "adult")},
			"2 sites are blocked: casino.example, by rule no-gambling (gambling), x.adult, by rule no-adult (adult)"},
		{"what was blocked before we looked", nil, []control.Flow{blockedAt(-1, "q1", "casino.example", "gambling")}, ""},
		{"what a peer asked for", nil, []control.Flow{peers}, ""},
		{"what another person asked for", nil, by(1001), ""},
		{"what the user asked for", nil, by(1000), "casino.example is blocked: by rule no-gambling (gambling)"},
		{"what a service asked for", nil, by(101), "casino.example is blocked: by rule no-gambling (gambling)"},
		{"what has no name", nil, []control.Flow{unnamed}, ""},
		{"what is in no category", nil, []control.Flow{uncategorised}, ""},
		{"a rule that is wanted", []string{"no-"}, []control.Flow{uncategorised}, "router.lan is blocked: by rule no-"},
		{"a category that is wanted", []string{"adult"}, []control.Flow{blockedAt(1, "q1", "casino.example", "gambling"), blockedAt(1, "q2", "x.adult", "adult")},
			"x.adult is blocked: by rule no-adult (adult)"},
		{"an address for a name", nil, []control.Flow{blockedAt(1, "q1", "203.0.113.9", "gambling")}, "203.0.113.9 is blocked: by rule no-gambling (gambling)"},
	} {
		d := newDecider(start, 1000, row.wanted)
		var all []string
		for i := 1; i < 60; i += 2 {
			if text := told(d.look(after(i), connected(), nil, row.denied)); text != "" {
				all = append(all, text)
			}
		}
		if got := strings.Join(all, "; "); got != row.want {
			t.Errorf("%s: got %q, want %q", row.name, got, row.want)
		}
	}
}

func TestASiteIsToldOnceAnHourAndSixNoticesAre(t *testing.T) {
	d := newDecider(start, 1000, nil)
	var at []int
	for i := 0; i < 2*3600; i += 2 { // asked for every two seconds
		if len(d.look(after(i), connected(), nil, []control.Flow{blockedAt(i, fmt.Sprint("q", i), "casino.example", "gambling")})) > 0 {
			at = append(at, i)
		}
	}
	if len(at) != 2 || at[1]-at[0] < 3600 || at[1]-at[0] > 3610 {
		t.Errorf("got notices of one site after %v seconds, want one an hour", at)
	}
	d, at = newDecider(start, 1000, nil), nil
	for i := 0; i < 2*3600; i += 10 { // always another site
		for look := range 5 {
			f := blockedAt(i, fmt.Sprint("q", i), fmt.Sprintf("site%d.example", i), "gambling")
			if len(d.look(after(i+2*look), connected(), nil, []control.Flow{f})) > 0 {
				at = append(at, i)
			}
		}
	}
	if len(at) < 12 || len(at) > 13 || at[6]-at[0] < 3600 {
		t.Errorf("got notices after %v seconds, want six an hour", at)
	}
	if len(d.sites) > 2*perHour || len(d.blocks) > perHour {
		t.Errorf("%d sites and %d notices are kept", len(d.sites), len(d.blocks))
	}
}

func TestAFloodIsOneNotice(t *testing.T) {
	d := newDecider(start, 1000, nil)
	var flood []control.Flow
	for i := range 500 {
		flood = append(flood, blockedAt(1, fmt.Sprint("q", i), fmt.Sprintf("site%d.example", i), "gambling"))
	}
	d.look(after(1), connected(), nil, flood)
	list := d.look(after(4), connected(), nil, flood)
	if len(list) != 1 || len(list[0].flows) != mostHeld || strings.Count(list[0].body, "\n") != named || !strings.HasSuffix(list[0].body, "and 45 others") {
		t.Errorf("got %s", told(list))
	}
}

func TestAfterARestartItsNumbersBeginAnew(t *testing.T) {
	d := newDecider(start, 1000, nil)
	d.look(after(1), connected(), nil, []control.Flow{blockedAt(1, "q1", "casino.example", "gambling")})
	d.look(after(4), connected(), nil, []control.Flow{blockedAt(1, "q1", "casino.example", "gambling")})
	s := connected()
	s.Started = after(5)
	f := blockedAt(6, "q1", "x.adult", "adult")
	d.look(after(6), s, nil, []control.Flow{f})
	if got, want := told(d.look(after(8), s, nil, []control.Flow{f})), "x.adult is blocked: by rule no-adult (adult)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestChangesOfStateThatMatterAreTold(t *testing.T) {
	state := func(name string) func() (control.Status, error) {
		return func() (control.Status, error) {
			s := connected()
			s.State, s.Verdict = name, name+" via corp"
			return s, nil
		}
	}
	up := state("connected")
	gone := func() (control.Status, error) {
		return control.Status{}, fmt.Errorf("%w: nobody listens", control.ErrNotRunning)
	}
	refused := func() (control.Status, error) { return control.Status{}, control.ErrNoPermission }
	asks := func() (control.Status, error) {
		s := connected()
		s.Transports = []control.TransportStatus{{Name: "corp", SignIn: "https://login.example"}, {Name: "lab"}}
		return s, nil
	}
	waits := func() (control.Status, error) {
		return control.Status{State: "waiting", Transports: []control.TransportStatus{{Name: "corp", SignIn: "Your code", SignInWhy: "the session token has expired"}}}, nil
	}
	paused := func() (control.Status, error) {
		s := connected()
		s.PausedUntil = time.Now().Add(1000 * time.Hour)
		return s, nil
	}
	for _, row := range []struct {
		name  string
		looks []func() (control.Status, error) // each stands for 12 seconds
		want  string
	}{
		{"nothing changes", []func() (control.Status, error){up, up, up}, ""},
		{"it was never connected", []func() (control.Status, error){state("connecting"), state("connecting"), up}, ""},
		{"lost, and back", []func() (control.Status, error){up, state("reconnecting"), state("offline"), up, up},
			"The connection is lost: reconnecting via corp; Connected again: connected via corp"},
		{"the machine sleeps", []func() (control.Status, error){up, state("quiesced"), up}, ""},
		{"somebody takes it down", []func() (control.Status, error){up, state("down"), up}, ""},
		{"penstock has stopped", []func() (control.Status, error){up, gone, up}, "penstock does not run: penstock is not running: nobody listens; Connected again: connected via corp"},
		{"nobody may look", []func() (control.Status, error){up, refused, up}, ""},
		{"its user must sign in, twice", []func() (control.Status, error){up, asks, asks, up, asks},
			"Sign in to corp: https://login.example, Run: penstock login corp; Sign in to corp: https://login.example, Run: penstock login corp"},
		{"a connection that waits for its user is not lost, too", []func() (control.Status, error){up, waits, waits, up},
			"Sign in to corp: Your code, Run: penstock login corp, Because the session token has expired"},
		{"paused", []func() (control.Status, error){up, paused, paused, up}, "The filter is paused: until " + time.Now().Add(1000*time.Hour).Local().Format("15:04") + "; The filter works again: connected via corp"},
		{"it was paused before", []func() (control.Status, error){paused, paused}, ""},
	} {
		d := newDecider(start, 1000, nil)
		var list []notice
		for i, look := range row.looks {
			s, err := look()
			for j := range 7 {
				list = append(list, d.look(after(14*i+2*j), s, err, nil)...)
			}
		}
		if got := told(list); got != row.want {
			t.Errorf("%s: got %q, want %q", row.name, got, row.want)
		}
	}
	d := newDecider(start, 1000, nil)
	n := 0
	for i := 0; i < 3600; i += 2 { // a minute up, a minute not
		s := connected()
		if i/60%2 == 1 {
			s.State = "reconnecting"
		}
		n += len(d.look(after(i), s, nil, nil))
	}
	if n != perHour {
		t.Errorf("a link that flaps was told %d times in an hour, want %d", n, perHour)
	}
}
