package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"penstock/e2e/netlab"
	"penstock/e2e/netlab/netlabtest"
)

// demo runs "penstock demo --stay" until the test ends. It returns the console's link, and what enters the demo's laptop.
func demo(t *testing.T) (link string, enter []string) {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), built("penstock"), "demo", "--stay")
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "PENSTOCK_NETLAB=") { // or it would take itself for a process that is inside already
			cmd.Env = append(cmd.Env, v)
		}
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	said := new(transcript)
	cmd.Stderr = said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGINT)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the demo ended with %v:\n%s", err, said)
		}
	})
	timer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	lines := bufio.NewScanner(out)
	for lines.Scan() && enter == nil {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) == 1 && strings.HasPrefix(fields[0], "http://127.0.0.1:"):
			link = fields[0]
		case slices.Contains(fields, "curl") && fields[0] == "nsenter":
			enter = fromHere(fields[:slices.Index(fields, "curl")])
		}
	}
	if link == "" || enter == nil {
		t.Fatalf("the demo printed no link to its console, or not how to enter its laptop:\n%s", said)
	}
	go func() {
		for lines.Scan() { // so that it does not wait for a reader
		}
	}()
	return link, enter
}

// shot keeps a picture of a page, for people to look at, in the folder of PENSTOCK_SHOTS.
func shot(t *testing.T, tab context.Context, name string) {
	t.Helper()
	folder := os.Getenv("PENSTOCK_SHOTS")
	if folder == "" {
		return
	}
	picture, err := chromedp.Run(tab, chromedp.CaptureScreenshot())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, name+".png"), picture, 0o644); err != nil {
		t.Fatal(err)
	}
}

// laptop of the demo [pen0 -> penstock: control socket] <- demo: console <- Chromium, outside
func TestTheDemosConsoleInABrowser(t *testing.T) {
	t.Parallel()
	netlabtest.Require(t)
	chromium := program(t, "chromium")
	link, enter := demo(t)
	curl := func(url string) (code int, said string) {
		t.Helper()
		args := append(enter[1:len(enter):len(enter)], "curl", "-sS", "--max-time", "10", "--cacert", netlab.CAFile, url)
		cmd := exec.CommandContext(t.Context(), enter[0], args...)
		out, _ := cmd.CombinedOutput()
		return cmd.ProcessState.ExitCode(), string(out)
	}
	tab := openTab(t, chromium, nil)
	noErrors(t, tab)
	do := func(actions string) {
		t.Helper()
		if _, err := chromedp.Run(tab, chromedp.Evaluate[bool](actions+", true")); err != nil {
			t.Fatal(err)
		}
	}
	shows := func(what, expression string) {
		t.Helper()
		eventually(t, what, func() error {
			ok, err := chromedp.Run(tab, chromedp.Evaluate[bool]("(() => { try { return !!("+expression+"); } catch { return false; } })()"))
			if err == nil && !ok {
				text, _ := chromedp.Run(tab, chromedp.Evaluate[string](`(document.querySelector("dialog") || document.body).innerText.slice(0, 3000)`))
				err = fmt.Errorf("the page shows %q", text)
			}
			return err
		})
	}
	text := func(s string) string { return fmt.Sprintf(`document.querySelector("#main").innerText.includes(%q)`, s) }
	if _, err := chromedp.Run(tab, chromedp.EmulateViewport(1280, 800)); err != nil {
		t.Fatal(err)
	}
	if _, err := chromedp.Run(tab, chromedp.Navigate(link)); err != nil {
		t.Fatal(err)
	}
	shows("the first sentence says that it is connected", text("connected via corp"))
	shows("something is painted", `performance.getEntriesByName("first-contentful-paint").length`)
	paint, err := chromedp.Run(tab, chromedp.Evaluate[float64](`performance.getEntriesByName("first-contentful-paint")[0].startTime`))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("first contentful paint after %.0f ms, on loopback", paint)

	do(`location.hash = "#/flows?q=blocked"`)
	site := netlab.GamblingSite
	if code, said := curl("https://" + site + "/"); code != noSuchName {
		t.Errorf("before: got %d, %s, want no such name", code, said)
	}
	shows("the blocked site appears", `[...document.querySelectorAll(".grid-body .row")].some((e) => e.textContent.includes("`+site+`"))`)
	shot(t, tab, "demo-flows")
	do(`location.hash = "#/why?target=` + site + `"`)
	shows("why says the rule and the list's line", text("no-gambling")+" && "+text("gambling.txt:2"))
	shot(t, tab, "demo-why")
	do(`[...document.querySelectorAll("#main button")].find((b) => /1 h/.test(b.textContent)).click()`)
	shows("the page says until when it is allowed", `[...document.querySelectorAll(".note")].some((e) => e.textContent.startsWith("`+site+` is allowed until"))`)
	eventually(t, "the site loads", func() error {
		if _, said := curl("https://" + site + "/"); !strings.Contains(said, "this is "+site) {
			return errors.New(said)
		}
		return nil
	})
	do(`location.hash = "#/history"`)
	shows("the history has it", text(site))
	shot(t, tab, "demo-history")
	do(`location.hash = "#/now"`)
	shows("the first page is there again", text("connected via corp"))
	if os.Getenv("PENSTOCK_SHOTS") != "" {
		select { // so that the picture has something to show
		case <-t.Context().Done():
		case <-time.After(time.Minute):
		}
	}
	shot(t, tab, "demo-now")

	if _, err := chromedp.Run(tab, chromedp.Evaluate[bool](axe(t)+"\ntrue")); err != nil {
		t.Fatal(err)
	}
	for _, look := range []struct {
		theme         string
		width, height int64
	}{{"light", 1280, 800}, {"dark", 1280, 800}, {"light", 360, 740}, {"dark", 360, 740}} {
		if _, err := chromedp.Run(tab, chromedp.EmulateViewport(look.width, look.height)); err != nil {
			t.Fatal(err)
		}
		do(fmt.Sprintf("document.documentElement.dataset.theme = %q", look.theme))
		for _, page := range []string{"now", "flows", "questions", "why?target=" + site, "rules", "lists", "clients", "history", "health"} {
			name, _, _ := strings.Cut(page, "?")
			do(fmt.Sprintf("location.hash = %q", "#/"+page))
			shows(name+" is there", fmt.Sprintf(`document.querySelector("nav a[aria-current]").getAttribute("href") === "#/%s" && document.querySelector("#main h1") && !document.querySelector("#main").innerText.includes("Asking penstock")`, name))
			faults, err := chromedp.Run(tab, chromedp.Evaluate[string](`axe.run(document, {resultTypes: ["violations"], runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]})
				.then(({violations}) => violations.map((v) => v.id + ": " + v.help + "\n" + v.nodes.slice(0, 5).map((n) => n.html.slice(0, 300)).join("\n")).join("\n"))`, chromedp.EvalAwaitPromise))
			if err != nil {
				t.Fatal(err)
			}
			if faults != "" {
				t.Errorf("%s, %s, %d wide, is not accessible:\n%s", name, look.theme, look.width, faults)
			}
		}
	}
}

// axe is what looks for faults that keep people who cannot see, or not well, from using a page. It is run by the browser's debugger,
// which the page's policy does not bind.
func axe(t *testing.T) string {
	t.Helper()
	code, err := os.ReadFile(filepath.FromSlash("../cmd/internal/console/testdata/axe/axe.min.js"))
	if err != nil {
		t.Fatal(err)
	}
	return string(code)
}

// noErrors fails the test with what the browser reports of the pages of a tab: errors, and violations of their policies.
func noErrors(t *testing.T, tab context.Context) {
	t.Helper()
	ctx, cancel := context.WithCancel(tab)
	messages := chromedp.Console(ctx)
	var reading sync.WaitGroup
	reading.Go(func() {
		for m, err := range messages {
			if err != nil || !m.IsException() && m.Type != "error" {
				continue
			}
			if m.Source == "network" && strings.HasSuffix(m.URL, "/api/v1/events") && strings.Contains(m.Text, "ERR_INCOMPLETE_CHUNKED_ENCODING") {
				t.Logf("the stream of events was cut, and the page has to go on with another: %s", m) // a reader that stalls for 10 s is cut off
				continue
			}
			t.Errorf("the page's console: %s %s", m, m.URL)
		}
	})
	t.Cleanup(func() {
		cancel()
		reading.Wait()
	})
}
