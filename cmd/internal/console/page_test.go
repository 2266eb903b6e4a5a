package console

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"penstock/cmd/internal/control"
	"penstock/cmd/internal/qr"
	"penstock/cmd/internal/record"
)

// mostWeight bounds the files of the page, compressed, in octets.
const mostWeight = 100_000

func TestFilesOfOthersAreThoseThatAreNamed(t *testing.T) {
	var named []struct {
		File, Package, Version, Licence, SHA256 string
		TestsOnly                               bool `json:"tests_only"`
	}
	list, err := web.ReadFile("web/vendor/vendor.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(list, &named); err != nil {
		t.Fatal(err)
	}
	known := []string{"vendor.json", "LICENSES.txt"}
	for _, n := range named {
		known = append(known, n.File)
		data, err := os.ReadFile(filepath.Join("web", "vendor", filepath.FromSlash(n.File)))
		if err != nil {
			t.Error(err)
			continue
		}
		if _, err := web.Open(path.Join("web/vendor", n.File)); (err != nil) != n.TestsOnly {
			t.Errorf("%s: it is in the page if it is not for tests only: tests_only is %t, and opening it says %v", n.File, n.TestsOnly, err)
		}
		if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != n.SHA256 || n.Package == "" || n.Version == "" || n.Licence == "" {
			t.Errorf("%s is not the file of %s %s that vendor.json names: .ci/console-vendor says what differs", n.File, n.Package, n.Version)
		}
	}
	files, err := web.ReadDir("web/vendor")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !slices.Contains(known, f.Name()) {
			t.Errorf("vendor.json does not name %s", f.Name())
		}
	}
}

func TestThePageIsSmallAndAsksNobodyElse(t *testing.T) {
	weight := 0
	weigh := func(data []byte) {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		w.Write(data)
		w.Close()
		weight += b.Len()
	}
	weigh(qr.Script())
	elsewhere := regexp.MustCompile(`(?:src|href|action)="https?:|(?:fetch|import)\(["'` + "`" + `]https?:|url\(["']?https?:|@import|\bstyle="|\bon[a-z]+="|innerHTML|insertAdjacentHTML|document\.write`)
	err := fs.WalkDir(web, "web", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := web.ReadFile(path)
		if err != nil {
			return err
		}
		weigh(data)
		if found := elsewhere.Find(data); found != nil && !strings.Contains(path, "/vendor/") {
			t.Errorf("%s has %q: the page asks no other host, and puts no text of strangers into its markup", path, found)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if weight > mostWeight {
		t.Errorf("got %d octets compressed, want at most %d", weight, mostWeight)
	}
}

// nasty are names that strangers have chosen.
var nasty = []string{"<img src=x onerror=window.hurt=1>", "evil\u202egpj.exe", "a\x07b\u200bc.example", `"><script>window.hurt=1</script>`, strings.Repeat("long", 60) + ".example"}

// house is a penstock with a few flows.
type house struct {
	engine
	mu     sync.Mutex // guards below
	live   []control.Flow
	past   []control.Flow
	orders []string
}

func (h *house) order(format string, args ...any) {
	h.orders = append(h.orders, fmt.Sprintf(format, args...))
}

func (h *house) Status(context.Context) (control.Status, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return control.Status{State: "reconnecting", Reason: "no answer for 25 s", Verdict: "reconnecting via corp, filter on", Since: day, Started: day, Version: "1.2.3", Listen: []string{"tun pen0"},
		Transports: []control.TransportStatus{{Name: "corp", Kind: "wireguard", State: "reconnecting", Error: "the handshake did not complete"}}, Flows: control.FlowCounts{Active: len(h.live)}}, nil
}

func (h *house) Flows(_ context.Context, q control.FlowQuery) ([]control.Flow, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case q.Denied:
		return slices.DeleteFunc(slices.Clone(h.past), func(f control.Flow) bool { return f.Verdict != "block" }), nil
	case q.Recent:
		return slices.Concat(h.past, h.live), nil
	}
	return slices.Clone(h.live), nil
}

func (h *house) KillFlow(_ context.Context, id string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.order("kill %s", id)
	h.live = slices.DeleteFunc(h.live, func(f control.Flow) bool { return f.ID == id })
	return nil
}

func (h *house) Explain(_ context.Context, q control.ExplainQuery) (control.Explanation, error) {
	if q.Flow == "gone" {
		return control.Explanation{}, errors.New("flow gone is not live")
	}
	return control.Explanation{Target: "site.bet", Verdict: "block", Rule: "no-gambling", Position: "penstock.yaml:21", Category: "gambling", Because: "the name is in the category gambling",
		Names: []control.Name{{Host: "site.bet", Source: "sni"}}, Hits: []control.ListHit{{Category: "gambling", List: "bets.txt", Line: 7, Entry: "site.bet"}}, Shadowed: []string{"rest"},
		Notes: []string{"after penstock allow site.bet --for 10m: direct by rule rest"}, Then: &control.Explanation{Verdict: "direct", Rule: "rest", Target: q.Flow}}, nil
}

func (h *house) Rules(context.Context) (control.Rules, error) {
	return control.Rules{Rules: []control.RuleStatus{{Name: "lan", Position: "penstock.yaml:20", Match: "cidr: private", Do: "direct"},
		{Name: "no-gambling", Position: "penstock.yaml:21", Match: "category: gambling", Do: "block", Hits: 7, LastHit: day}, {Name: "rest", Position: "penstock.yaml:22", Do: "direct", Hits: 5}}}, nil
}

func (h *house) Allow(_ context.Context, q control.AllowQuery) (control.Allowed, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.order("allow %s for %s", q.Target, q.For)
	return control.Allowed{Target: q.Target, Until: time.Now().Add(q.For)}, nil
}

func (h *house) Block(_ context.Context, q control.BlockQuery) (control.Blocked, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !q.DryRun {
		h.order("block %s always %t", q.Target, q.Always)
	}
	return control.Blocked{Target: q.Target, File: "decisions.yaml", Diff: "--- decisions.yaml\n+++ decisions.yaml\n@@ -0,0 +1 @@\n+- {block: " + q.Target + "}\n"}, nil
}

func (h *house) Decisions(context.Context) (control.Decisions, error) {
	return control.Decisions{Decisions: []control.Decision{{ID: "1", Do: "allow", Target: "other.example", Made: day, By: "console"}}}, nil
}

func (h *house) RemoveDecision(context.Context, control.DecisionRemoval) (control.DecisionRemoved, error) {
	return control.DecisionRemoved{}, nil
}

var day = time.Date(2026, 11, 29, 8, 0, 0, 0, time.UTC)

// furnish returns a house with n flows that are over, and names of strangers among the live ones.
func furnish(n int, book *record.Book) *house {
	h := &house{engine: engine{Watchers: book.Watchers()}}
	for i := range n {
		f := control.Flow{ID: fmt.Sprintf("p%d", i), Proto: "tcp", Src: "10.77.0.2:40000", Dst: "192.0.2.1:443", Host: fmt.Sprintf("h%d.example", i), HostSource: "sni", Verdict: "direct", Rule: "rest",
			TxBytes: 1000, RxBytes: 2000, Start: day.Add(time.Duration(i) * time.Second), End: day.Add(time.Duration(i+3) * time.Second)}
		if i%7 == 0 {
			f.Verdict, f.Rule, f.Category, f.Host = "block", "no-gambling", "gambling", "site.bet"
		}
		h.past = append(h.past, f)
	}
	for i, host := range nasty {
		h.live = append(h.live, control.Flow{ID: fmt.Sprintf("l%d", i), Proto: "tcp", Src: "10.77.0.3:41000", Dst: "192.0.2.9:443", Host: host, Verdict: "via", Via: "corp", Rule: "rest", Start: day.Add(time.Duration(n+i) * time.Second)})
	}
	return h
}

// tab is a browser with the console in it.
type tab struct {
	*testing.T
	ctx   context.Context
	shots string // folder for pictures, from PENSTOCK_SHOTS; empty: none
}

// openTab starts Chromium. The test is skipped where there is none, and fails with the page's first error.
func openTab(t *testing.T) tab {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("chromium is not installed")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.UserDataDir(t.TempDir()), chromedp.Flag("no-proxy-server", true))
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // its sandbox does not run as root
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 5*time.Minute)
	t.Cleanup(cancel)
	allocator, stop := chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(stop)
	page, closePage := chromedp.NewContext(allocator)
	var watching sync.WaitGroup
	watched, unwatch := context.WithCancel(page)
	messages := chromedp.Console(watched)
	watching.Go(func() {
		for m, err := range messages {
			// A browser says by itself that a call was refused, which the tests provoke. Everything else is a fault: so are
			// violations of the page's policy, and calls that this penstock does not offer.
			provoked := m.Source == "network" && strings.Contains(m.URL, "/api/v1/") && (strings.Contains(m.Text, " 401 ") || strings.Contains(m.Text, " 422 "))
			// A reader of events that stalls for 10 s is cut off, and the page goes on with another stream.
			provoked = provoked || m.Source == "network" && strings.HasSuffix(m.URL, "/api/v1/events") && strings.Contains(m.Text, "ERR_INCOMPLETE_CHUNKED_ENCODING")
			if err == nil && (m.IsException() || m.Type == "error") && !provoked {
				t.Errorf("the page's console: %s %s", m, m.URL)
			}
		}
	})
	t.Cleanup(func() {
		unwatch()
		watching.Wait()
		closePage()
	})
	return tab{t, page, os.Getenv("PENSTOCK_SHOTS")}
}

func run[T any](t tab, a chromedp.Action[T]) T {
	t.Helper()
	v, err := chromedp.Run(t.ctx, a)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// is polls a condition of the page.
func (t tab) is(what, expression string) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	expression = "(() => { try { return !!(" + expression + "); } catch { return false; } })()" // not all of the page is there at once
	for !run(t, chromedp.Evaluate[bool](expression)) {
		if time.Now().After(deadline) {
			t.Fatalf("the page does not come to this: %s; it shows %q", what, run(t, chromedp.Evaluate[string](`(document.querySelector("dialog") || document.body).innerText.slice(0, 2000)`)))
		}
		time.Sleep(30 * time.Millisecond)
	}
}

func (t tab) eval(expression string) {
	t.Helper()
	run(t, chromedp.Evaluate[bool](expression+", true"))
}

// shot keeps a picture for people to look at.
func (t tab) shot(name string) {
	t.Helper()
	if t.shots == "" {
		return
	}
	if err := os.WriteFile(filepath.Join(t.shots, name+".png"), run(t, chromedp.CaptureScreenshot()), 0o600); err != nil {
		t.Error(err)
	}
}

func TestABrowserDrivesTheConsole(t *testing.T) {
	page := openTab(t)
	book := new(record.Book)
	h := furnish(3000, book)
	s, b := serveConfig(t, control.Config{Process: h, Flows: h, Policy: h, Decisions: h, DNS: h, Feed: h})
	has := func(text string) string {
		return fmt.Sprintf(`document.querySelector("#main").innerText.includes(%q)`, text)
	}
	run(page, chromedp.EmulateViewport(1280, 800))

	url := link(t, s, true)
	run(page, chromedp.Navigate(url))
	page.is("the first sentence says the state with its reason", has("penstock lost its connection and tries again: no answer for 25 s."))
	page.is("the token has left the address", `location.href === "`+b.base+`/#/now"`)
	page.is("what this penstock does not offer is not shown", `!document.querySelector('nav a[href="#/history"]') && document.querySelector('nav a[href="#/flows"]')`)
	page.shot("now")

	// A list of thousands of rows has a few dozen of them in the page.
	page.eval(`location.hash = "#/flows"`)
	page.is("all flows are there", fmt.Sprintf(`document.querySelector(".grid")?.ariaRowCount === "%d" || document.querySelector(".grid")?.getAttribute("aria-rowcount") === "%[1]d"`, 3000+len(nasty)+1))
	page.is("few are in the page", `document.querySelectorAll(".grid-body .row").length < 80`)
	page.is("names of strangers are text", `!window.hurt && document.querySelectorAll(".grid img, .grid script").length === 0 && [...document.querySelectorAll(".host")].some((e) => e.textContent === "evil\\u202egpj.exe")`)
	page.is("nothing hidden is left in them", `[...document.querySelectorAll(".grid-body .row")].every((e) => !/[\u0000-\u0008\u200b\u202e]/.test(e.textContent))`)
	page.shot("flows")
	page.eval(`document.querySelector(".grid").scrollTop = 34 * 1500`)
	page.is("the middle shows when it is scrolled to", `[...document.querySelectorAll(".grid-body .row")].some((e) => e.textContent.includes("h1500.example"))`)

	// What comes does not move what is seen.
	page.eval(`window.seen = [...document.querySelectorAll(".grid-body .row")].find((e) => e.textContent.includes("h1500.example")), window.top0 = seen.getBoundingClientRect().top`)
	for i := range 5 {
		book.Flow(func() control.Flow {
			f := h.past[0]
			f.ID, f.Start, f.End = fmt.Sprintf("n%d", i), day.Add(2*time.Hour), day.Add(2*time.Hour)
			return f
		})
	}
	page.is("they have come", fmt.Sprintf(`document.querySelector(".grid").getAttribute("aria-rowcount") === "%d"`, 3000+len(nasty)+5+1))
	page.is("nothing has moved", `seen.isConnected && Math.abs(seen.getBoundingClientRect().top - top0) < 1`)

	// The filter, the keys, why, and an exception.
	page.eval(`document.querySelector("[data-search]").focus()`)
	run(page, chromedp.KeyEvent("host:site rule:no-gam -client:10.77.0.3 blocked"))
	page.is("the filter holds", `document.querySelectorAll(".grid-body .row").length > 3 && [...document.querySelectorAll(".grid-body .row")].every((e) => e.textContent.includes("site.bet"))`)
	page.is("the filter is in the address", `location.hash.startsWith("#/flows?q=host")`)
	run(page, chromedp.KeyEvent("\r"))
	run(page, chromedp.KeyEvent("jja"))
	page.is("the page says what it has done", `document.querySelector(".note")?.textContent.startsWith("site.bet is allowed until")`)
	page.eval(`document.querySelector(".grid").dispatchEvent(new KeyboardEvent("keydown", {key: "b", bubbles: true}))`) // a KeyEvent types it as well
	page.is("what would be written is shown first", `document.querySelector("dialog .diff .add")?.textContent === "+- {block: site.bet}" && !document.querySelector("dialog .primary").disabled`)
	page.shot("block")
	page.eval(`document.querySelector("dialog .primary").click()`)
	page.is("it is done", `!document.querySelector("dialog") && [...document.querySelectorAll(".note")].some((e) => e.textContent.startsWith("site.bet is blocked always"))`)
	run(page, chromedp.KeyEvent("\r"))
	page.is("why says which rule decides", has("site.bet is blocked, by rule “no-gambling”."))
	page.is("and where, by which line of which list", has("penstock.yaml:21")+" && "+has("bets.txt:7"))
	page.is("and what it was then", `/^Then:\W+direct by rule rest/.test(document.querySelector(".then").innerText)`)
	page.shot("why")

	page.eval(`document.querySelector(".foot .cut").textContent = "v1.2.3-".repeat(30)`)
	page.is("a long version stays in its place", `document.querySelector(".foot .cut").getBoundingClientRect().right < document.querySelector(".side").getBoundingClientRect().right`)
	page.eval(`location.hash = "#/why?flow=gone&target=site.bet"`)
	page.is("a flow that penstock has forgotten is explained as what it was", has("does not remember this flow")+" && "+has("site.bet is blocked"))
	page.eval(`import("/assets/records.mjs").then(({ why }) => { window.old = why({flow_id: "7", proto: "tcp", host: "a.example", dst: "192.0.2.1:443", start: "2026-11-28T08:00:00Z"}); })`)
	page.is("the number of a flow before the last start is not asked for", `old.flow === "" && old.target === "a.example:443"`)
	page.eval(`import("/assets/records.mjs").then(({ why }) => { window.question = why({flow_id: "q7", proto: "dns", host: "a.example"}); })`)
	page.is("a question has no flow", `!question.flow && question.target === "a.example"`)

	// An address may say anything.
	page.eval(`import("/assets/history.mjs").then(({ period }) => { window.period = (text) => period(new URLSearchParams(text)); })`)
	for _, row := range []struct{ address, want string }{
		{"", `p.hours === 24 && p.from === undefined && !p.wrong`},
		{"hours=168", `p.hours === 168 && !p.wrong`},
		{"from=1764410400000&to=1764414000000", `p.from === 1764410400000 && p.to === 1764414000000 && !p.wrong`},
		{"from=abc&to=1764414000000&hours=6", `p.from === undefined && p.to === undefined && p.hours === 6 && p.wrong.includes("from=abc and to=1764414000000")`},
		{"from=1764410400000", `p.from === undefined && p.wrong.includes("from=1764410400000")`},
		{"from=2&to=1", `p.from === undefined && p.wrong.includes("from=2 and to=1")`},
		{"from=1&to=8640000000000001", `p.from === undefined && p.wrong`},
		{"hours=abc", `p.hours === 24 && p.wrong.includes("hours=abc")`},
		{"hours=-1", `p.hours === 24 && p.wrong`},
		{"hours=1e300", `p.hours === 24 && p.wrong`},
		{"hours=Infinity", `p.hours === 24 && p.wrong`},
	} {
		page.is("the history of the address "+row.address, `window.period && ((p) => `+row.want+`)(period("`+row.address+`"))`)
	}
	page.eval(`import("/assets/chart.mjs").then(({ edges }) => { window.edges = edges; })`)
	page.is("the first hour of a history is drawn as an hour, and not as three years", `window.edges && (([low, high]) => low < 1764410400 && high > 1764410400 && high - low < 7200)(edges([1764410400], 1764410400, 1764410400 + 86400000, true))`)

	page.eval(`location.hash = "#/history?from=abc&to=1"`)
	page.is("the page History says that none is kept", has("No history is kept here"))

	// Another tab opens another link: both go on.
	_, token, _ := strings.Cut(link(t, s, true), "#t=")
	page.eval(`fetch("/session", {method: "POST", body: JSON.stringify({token: "` + token + `"})}).then((r) => r.json()).then((o) => { localStorage.setItem("penstock-key", o.key); window.second = o.key; })`)
	page.is("it is open", `second`)
	page.eval(`location.hash = "#/rules"`)
	page.is("the page goes on", has("no-gambling")+` && localStorage.getItem("penstock-key") === second`)

	// A live flow ends.
	page.eval(`location.hash = "#/flows?q=live"`)
	page.is("the live ones are there", fmt.Sprintf(`document.querySelectorAll(".grid-body .row").length === %d`, len(nasty)))
	run(page, chromedp.KeyEvent("jx"))
	page.is("it is gone", fmt.Sprintf(`document.querySelectorAll(".grid-body .row").length === %d`, len(nasty)-1))
	h.mu.Lock()
	orders := strings.Join(h.orders, ", ")
	h.mu.Unlock()
	if want := fmt.Sprintf("allow site.bet for 1h0m0s, block site.bet always true, kill l%d", len(nasty)-1); orders != want {
		t.Errorf("got %s, want %s", orders, want)
	}

	// All pages show in the light, in the dark and on a phone, and none is wider than the window.
	for _, look := range []struct {
		name, theme   string
		width, height int64
	}{{"light", "light", 1280, 800}, {"dark", "dark", 1280, 800}, {"phone", "light", 360, 740}} {
		run(page, chromedp.EmulateViewport(look.width, look.height))
		page.eval(fmt.Sprintf(`document.documentElement.dataset.theme = %q`, look.theme))
		for _, name := range []string{"now", "flows", "questions", "why?target=site.bet", "rules", "lists", "health"} {
			page.eval(`location.hash = "#/` + name + `"`)
			page.is(name+" is shown", `document.querySelector("nav a[aria-current]")?.getAttribute("href") === "#/`+strings.Split(name, "?")[0]+`" && document.querySelector("#main h1")`)
			page.is(name+" fits "+look.name, `document.documentElement.scrollWidth <= innerWidth && document.querySelector("#main").scrollWidth <= document.querySelector("#main").clientWidth`)
			page.shot(look.name + "-" + strings.Split(name, "?")[0])
		}
	}
	page.is("the page asked no other host", `performance.getEntriesByType("resource").every((e) => e.name.startsWith(location.origin))`)

	// Who may only read sees nothing that changes, and who has left is told how to come back.
	run(page, chromedp.EmulateViewport(1280, 800))
	run(page, chromedp.Navigate("about:blank"))
	run(page, chromedp.Navigate(link(t, s, false)))
	page.is("the state is there", has("penstock lost its connection"))
	page.is("but no order", `![...document.querySelectorAll("#main button")].some((e) => /Reconnect|Allow|Filter only/.test(e.textContent))`)
	page.eval(`[...document.querySelectorAll("button")].find((e) => e.textContent === "Sign out").click()`)
	page.is("the page is locked", `document.body.innerText.trim() === "Open the console with: penstock console"`)

	// Another link unlocks it, and it says why it is locked if nobody has signed out.
	_, token, _ = strings.Cut(link(t, s, true), "#t=")
	page.eval(`location.hash = "#t=` + token + `"`)
	page.is("the state is there again", has("penstock lost its connection"))
	s.sessions.mu.Lock()
	for d := range s.sessions.open { // as a restart does
		s.sessions.drop(d)
	}
	s.sessions.mu.Unlock()
	page.is("the page says why it is locked", `/^Open the console with: penstock console\s+The session is over: penstock has been started again/.test(document.body.innerText.trim())`)
	_, token, _ = strings.Cut(link(t, s, true), "#t=")
	page.eval(`fetch("/session", {method: "POST", body: JSON.stringify({token: "` + token + `"})}).then((r) => r.json()).then((o) => {
			localStorage.setItem("penstock-key", o.key);
			dispatchEvent(new StorageEvent("storage", {key: "penstock-key", newValue: o.key})); // as the browser tells of another tab
		})`)
	page.is("it opens when another tab does", has("penstock lost its connection"))
}
