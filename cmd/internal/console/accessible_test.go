package console

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"penstock/cmd/internal/control"
	"penstock/cmd/internal/record"
)

// gateway is a house that offers all calls, so that all pages have something to show.
type gateway struct {
	*house
	control.Transports
}

func (gateway) Peers(context.Context) ([]control.PeerStatus, error) {
	now := time.Now()
	return []control.PeerStatus{
		{Name: "ana", Addresses: []string{"10.77.0.2/32"}, Groups: []string{"staff"}, State: "active", LastHandshake: now, User: "ana@corp.example", Rate: &control.PeerRate{Up: 1e6, Down: 5e6},
			Quota: &control.PeerQuota{LimitBytes: 1e9, UsedBytes: 4e8, Over: "block"}},
		{Name: "ben", Addresses: []string{"10.77.0.3/32"}, State: "disabled", Disabled: true},
		{Name: "eve", Addresses: []string{"10.77.0.4/32"}, State: "expired", Expires: now.Add(-time.Hour), Quota: &control.PeerQuota{LimitBytes: 1e9, UsedBytes: 2e9, Over: "1Mbit", Spent: true}},
	}, nil
}
func (gateway) PeerQuotaReset(context.Context, string) error { return nil }
func (gateway) SignOut(context.Context, string) error        { return nil }

func (g gateway) SetPeerAccess(_ context.Context, a control.PeerAccess) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	end := "as it was"
	if a.Expires != nil {
		end = a.Expires.Format(time.DateOnly)
	}
	g.order("access of %s disabled %t until %s", a.Name, a.Disabled, end)
	return nil
}

func (gateway) Invite(_ context.Context, q control.InviteQuery) (control.Invited, error) {
	return control.Invited{Name: q.Name, Link: "https://gw.example:8443/join#c2VjcmV0", Until: time.Now().Add(q.For), Pinned: true}, nil
}
func (gateway) Invitations(context.Context) ([]control.Invitation, error) {
	return []control.Invitation{{Name: "zoe", Groups: []string{"staff"}, State: "open", Until: time.Now().Add(time.Hour)}}, nil
}
func (gateway) Uninvite(context.Context, string) error { return nil }

func (g gateway) Rules(ctx context.Context) (control.Rules, error) {
	out, err := g.house.Rules(ctx)
	out.Tests = []control.RuleTest{{Position: "penstock.yaml:30", From: "ana", To: "https://intranet.corp.example", Expect: "via corp", Got: "via corp", Rule: "intranet"},
		{Position: "penstock.yaml:31", To: "site.bet", Expect: "block", Got: "direct", Rule: "rest", Error: "penstock.yaml:31: test from here to site.bet: got direct, want block"}}
	return out, err
}

func (gateway) Lists(context.Context) ([]control.ListStatus, error) {
	return []control.ListStatus{{Category: "gambling", List: "bets.txt", Entries: 3, Updated: day, Next: time.Now().Add(3 * time.Hour)}, {Category: "adult", List: "https://lists.example/adult.txt", Error: "no answer"}}, nil
}
func (gateway) ListLookup(_ context.Context, name string) ([]control.ListHit, error) {
	return []control.ListHit{{Category: "gambling", List: "bets.txt", Line: 7, Entry: name}, {Category: "gambling", List: "ok.txt", Line: 1, Entry: name, Allow: true}}, nil
}
func (gateway) ListRefresh(context.Context) error { return nil }

func (g gateway) Records(context.Context, control.RecordQuery) (control.Records, error) {
	var out control.Records
	for i := range min(50, len(g.past)) {
		out.Records = append(out.Records, control.Record{ID: int64(100 - i), Flow: &g.past[i]})
	}
	return out, nil
}
func (gateway) Totals(_ context.Context, q control.TotalsQuery) (control.Totals, error) {
	var out control.Totals
	for i := range 6 {
		one := control.Total{Key: fmt.Sprintf("%s-%d.example", q.By, i), Allowed: uint64(50 - i), Blocked: uint64(i), TxBytes: 1000, RxBytes: 5000}
		if q.By == "hour" || q.By == "day" {
			one.Time = time.Now().Add(time.Duration(i-6) * time.Hour).Truncate(time.Hour)
		}
		out.Totals = append(out.Totals, one)
	}
	return out, nil
}

func (gateway) Doctor(context.Context) ([]control.Finding, error) {
	return []control.Finding{{Name: "clock", Result: control.ResultOK, Found: "right"}, {Name: "port", Result: control.ResultFault, Found: "taken", Mend: "stop the other program"},
		{Name: "leak", Result: control.ResultNotChecked, Found: "no network"}, {Name: "path", Result: control.ResultWarning, Found: "slow"}}, nil
}

// axe is what looks for faults that keep people who cannot see, or not well, from using a page. It is run in the page by the
// browser's debugger, which the page's policy does not bind.
func axe(t *testing.T) string {
	t.Helper()
	code, err := os.ReadFile("testdata/axe/axe.min.js")
	if err != nil {
		t.Fatal(err)
	}
	return string(code)
}

// faults returns what axe finds in what the page shows.
func (t tab) faults(what string) string {
	t.Helper()
	found, err := chromedp.Run(t.ctx, chromedp.Evaluate[string](`axe.run(document, {resultTypes: ["violations"], runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]})
		.then(({violations}) => violations.map((v) => v.id + ": " + v.help + "\n" + v.nodes.slice(0, 5).map((n) => "    " + n.html.slice(0, 300) + "\n    " + n.failureSummary.replace(/\s+/g, " ")).join("\n")).join("\n"))`, chromedp.EvalAwaitPromise))
	if err != nil {
		t.Fatalf("%s: axe did not run: %v", what, err)
	}
	return found
}

func (t tab) accessible(what string) {
	t.Helper()
	if found := t.faults(what); found != "" {
		t.Errorf("%s is not accessible:\n%s", what, found)
	}
}

func TestEverybodyCanUseThePages(t *testing.T) {
	page := openTab(t)
	book := new(record.Book)
	g := gateway{house: furnish(300, book)}
	g.house.past[0].Host = strings.Repeat("long", 12) + ".example"
	s, _ := serveConfig(t, control.Config{Process: g, Flows: g, Policy: g, Decisions: g, Transports: g, DNS: g, Lists: g, Peers: g, Invites: g, History: g, Feed: g, Doctor: g})
	run(page, chromedp.EmulateViewport(1280, 800))
	run(page, chromedp.Navigate(link(t, s, true)))
	page.is("it is open", `document.querySelector("#main h1")`)
	run(page, chromedp.Evaluate[bool](axe(t)+"\ntrue"))
	page.eval(`document.querySelector("#main h1").insertAdjacentHTML("afterend", "<button id=mute></button>")`)
	if found := page.faults("a button without a name"); !strings.Contains(found, "button-name") {
		t.Errorf("axe does not see it: it found %q", found)
	}
	page.eval(`document.querySelector("#mute").remove()`)

	press := func(selector, text string) {
		t.Helper()
		button := fmt.Sprintf(`[...document.querySelectorAll(%q)].find((e) => e.textContent.startsWith(%q))`, selector, text)
		page.is("there is a button "+text, button)
		page.eval(button + `.click()`)
	}
	close := func() {
		t.Helper()
		page.eval(`document.querySelector("dialog [aria-label=Close]").click()`)
		page.is("the dialog is closed", `!document.querySelector("dialog")`)
	}
	pages := []struct {
		name, there string            // what says that all of it is there
		open        map[string]func() // what can be opened on it
	}{
		{"now", `document.querySelector(".transports") && document.querySelectorAll(".chart canvas").length === 2`, map[string]func(){
			"help": func() {
				press(".foot button, .phone-only button", "Keys")
				page.is("it is open", `document.querySelector("dialog")`)
			},
		}},
		{"flows", `document.querySelector(".grid-body .row")`, nil},
		{"questions", `document.querySelector(".grid")`, nil},
		{"why?target=site.bet", `document.querySelector(".path .step")`, nil},
		{"rules", `document.querySelectorAll("table").length === 3`, map[string]func(){
			"block": func() { press("#main button", "Block …"); page.is("it is open", `document.querySelector("dialog")`) },
		}},
		{"lists", `document.querySelector("table")`, nil},
		{"clients", `document.querySelectorAll("table").length === 2`, map[string]func(){
			"invite": func() {
				press("#main button", "Add a peer")
				page.is("it is open", `document.querySelector("dialog input")`)
			},
			"access": func() {
				page.eval(`[...document.querySelectorAll("#main [aria-haspopup]")].find((e) => e.getAttribute("aria-label").endsWith("eve")).click()`)
				press("[role=menuitem]", "Access ends")
				page.is("it is open", `document.querySelector("dialog input")`)
			},
		}},
		{"history", `document.querySelector(".chart canvas")`, nil},
		{"health", `document.querySelector("table")`, nil},
	}
	for _, look := range []struct {
		name, theme   string
		width, height int64
	}{{"light", "light", 1280, 800}, {"dark", "dark", 1280, 800}, {"phone", "light", 360, 740}, {"dark-phone", "dark", 360, 740}} {
		run(page, chromedp.EmulateViewport(look.width, look.height))
		page.eval(fmt.Sprintf(`document.documentElement.dataset.theme = %q`, look.theme))
		for _, p := range pages {
			name, _, _ := strings.Cut(p.name, "?")
			page.eval(`location.hash = "#/` + p.name + `"`)
			page.is(name+" is shown", `document.querySelector("nav a[aria-current]")?.getAttribute("href") === "#/`+name+`" && document.querySelector("#main h1") && `+p.there)
			page.accessible(look.name + " " + name)
			page.is(name+" fits "+look.name, `document.documentElement.scrollWidth <= innerWidth && document.querySelector("#main").scrollWidth <= document.querySelector("#main").clientWidth`)
			page.shot("all-" + look.name + "-" + name)
			for what, open := range p.open {
				if what == "help" && look.width < 720 {
					continue // it is on another page there
				}
				open()
				page.accessible(look.name + " " + name + ", " + what)
				page.shot("all-" + look.name + "-" + name + "-" + what)
				close()
			}
		}
	}
}

func TestThePeersPageChangesWhoMayConnect(t *testing.T) {
	page := openTab(t)
	book := new(record.Book)
	g := gateway{house: furnish(0, book)}
	s, _ := serveConfig(t, control.Config{Process: g, Flows: g, Policy: g, Peers: g, Feed: g}) // it invites nobody
	run(page, chromedp.EmulateViewport(1280, 800))
	run(page, chromedp.Navigate(link(t, s, true)))
	page.is("it is open", `document.querySelector("#main h1")`)
	page.eval(`location.hash = "#/clients"`)
	page.is("the peers are there", `document.querySelectorAll("#main tbody tr").length === 3`)
	page.is("nobody is invited, and why is said", `!document.querySelector("#main").innerText.includes("Add a peer") && document.querySelector("#main").innerText.includes("set listen: {enrol: …}")`)
	choose := func(peer, item string) {
		t.Helper()
		page.eval(fmt.Sprintf(`[...document.querySelectorAll("#main [aria-haspopup]")].find((e) => e.getAttribute("aria-label").endsWith(%q)).click()`, " "+peer))
		page.is(item+" is offered", fmt.Sprintf(`[...document.querySelectorAll("[role=menuitem]")].some((e) => e.textContent === %q)`, item))
		page.eval(fmt.Sprintf(`[...document.querySelectorAll("[role=menuitem]")].find((e) => e.textContent === %q).click()`, item))
	}
	says := func(text string) {
		t.Helper()
		page.is("the page says: "+text, fmt.Sprintf(`[...document.querySelectorAll(".note")].some((e) => e.textContent.includes(%q))`, text))
	}
	choose("ana", "Disable")
	says("ana is disabled")
	choose("ben", "Enable")
	says("ben may connect again")
	choose("eve", "Access ends …")
	page.is("the dialog is there", `document.querySelector("dialog .primary").disabled`)
	page.eval(`(() => { const e = document.querySelector("#access-until"); e.value = "2031-05-06"; e.dispatchEvent(new Event("input", {bubbles: true})); })()`)
	page.is("it can be set", `!document.querySelector("dialog .primary").disabled`)
	page.eval(`document.querySelector("dialog .primary").click()`)
	says("eve may connect until 2031-05-06")
	choose("eve", "Access ends …")
	page.is("the dialog is there", `document.querySelector("dialog")`)
	page.eval(`[...document.querySelectorAll("dialog .button")].find((e) => e.textContent === "It never ends").click()`)
	says("eve may connect.")
	g.mu.Lock()
	defer g.mu.Unlock()
	want := "access of ana disabled true until as it was, access of ben disabled false until as it was, access of eve disabled false until 2031-05-0X, access of eve disabled false until 0001-01-01"
	got := strings.Join(g.orders, ", ")
	for _, day := range []string{"5", "6", "7"} { // of UTC
		got = strings.Replace(got, "2031-05-0"+day, "2031-05-0X", 1)
	}
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
