package enrol

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"rsc.io/qr/coding"

	"penstock/router/transport/wireguard"
)

// browser starts Chromium and returns a context for it. The test is skipped where there is none.
func browser(t *testing.T) context.Context {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("chromium is not installed")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("ignore-certificate-errors", true), chromedp.Flag("no-proxy-server", true))
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // its sandbox does not run as root
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*time.Minute)
	t.Cleanup(cancel)
	allocator, stop := chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(stop)
	tab, closeTab := chromedp.NewContext(allocator)
	t.Cleanup(closeTab)
	return tab
}

// evaluate is the value of an expression on the page.
func evaluate[T any](t *testing.T, tab context.Context, expression string) T {
	t.Helper()
	v, err := chromedp.Run(tab, chromedp.Evaluate[T](expression))
	if err != nil {
		t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// visit opens a page.
func visit(t *testing.T, tab context.Context, url string) {
	t.Helper()
	if _, err := chromedp.Run(tab, chromedp.Navigate("about:blank")); err != nil { // a new fragment alone loads nothing
		t.Fatal(err)
	}
	if _, err := chromedp.Run(tab, chromedp.Navigate(url)); err != nil {
		t.Fatal(err)
	}
}

func TestABrowserJoins(t *testing.T) {
	tab := browser(t)
	w := newWorld(t).open(t)
	link := w.invite(t, "ana")
	text := func(id string) string {
		return evaluate[string](t, tab, `document.getElementById("`+id+`").textContent`)
	}
	shown := func(id string) bool { return evaluate[bool](t, tab, `!document.getElementById("`+id+`").hidden`) }
	const click = `document.getElementById("join").click()` + `, true`

	visit(t, tab, link.Reveal())
	if !shown("start") || shown("problem") || evaluate[string](t, tab, "location.href") != w.listen.URL+joinPath {
		t.Errorf("the page does not offer to join, or the token stays in the address: %s", evaluate[string](t, tab, "location.href"))
	}
	if w.count(isAccepted) != 0 {
		t.Fatal("it joins before anybody asks it to")
	}
	evaluate[bool](t, tab, click)
	eventually(t, "the browser has joined", func() bool { return shown("done") })
	file, err := wireguard.ParseConfig(strings.NewReader(evaluate[string](t, tab, `document.getElementById("config").value`)), "config")
	if err != nil {
		t.Fatal(err)
	}
	if peers := w.Config().Peers.Slice(); len(peers) != 1 || peers[0].PublicKey != file.PrivateKey.Public().String() || text("name") != "ana" {
		t.Errorf("got %q and the peers %+v, want ana with the key that the browser has made", text("name"), peers)
	}
	if !shown("code") || !evaluate[bool](t, tab, `document.getElementById("download").href.startsWith("blob:")`) {
		t.Error("there is no code, or no file to download")
	}
	if others := evaluate[string](t, tab, `performance.getEntriesByType("resource").map((e) => e.name).filter((n) => !n.startsWith(location.origin + "/join")).join()`); others != "" {
		t.Errorf("the page asked for %s", others)
	}

	evaluate[bool](t, tab, `saved = true`) // nothing asks whether to leave
	visit(t, tab, link.Reveal())
	evaluate[bool](t, tab, click)
	eventually(t, "the page says that the link is used", func() bool { return text("problem") == "This invitation is not valid: ask for a new one." })
	if shown("done") || shown("start") {
		t.Error("the page goes on")
	}

	visit(t, tab, w.listen.URL+joinPath+"#abc")
	if !strings.HasPrefix(text("problem"), "This link is not complete") || shown("start") {
		t.Errorf("half a link: got %q", text("problem"))
	}

	// A browser that cannot make the key.
	evaluate[bool](t, tab, `crypto.subtle.generateKey = () => Promise.reject(new Error("NotSupportedError")), true`)
	evaluate[bool](t, tab, click)
	eventually(t, "the page says that the browser is too old", func() bool { return strings.HasPrefix(text("problem"), "This browser cannot make a WireGuard key") })
}

func TestThePagesCodesAreThoseOfAnotherEncoder(t *testing.T) {
	tab := browser(t)
	w := newWorld(t).open(t)
	visit(t, tab, w.listen.URL+joinPath)
	evaluate[bool](t, tab, `import("/join-qr.js").then((m) => { window.qrMatrix = m.qrMatrix }), true`)
	eventually(t, "the module is there", func() bool { return evaluate[bool](t, tab, `typeof qrMatrix === "function"`) })
	capacity := 0
	for version := coding.Version(coding.MinVersion); version <= 25; version++ {
		head := 12
		if version > 9 {
			head = 20
		}
		least := capacity + 1
		capacity = version.DataBytes(coding.L) - (head+7)/8
		for _, n := range []int{least, (least + capacity) / 2, capacity} {
			text := strings.Repeat("PrivateKey = äöü/+ 0123456789\n", 50)[:n]
			text = strings.ToValidUTF8(text, "?") // as long, or a byte shorter
			for len(text) < n {
				text += "."
			}
			plan, err := coding.NewPlan(version, coding.L, 0)
			if err != nil {
				t.Fatal(err)
			}
			want, err := plan.Encode(coding.String(text))
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			for y := range want.Size {
				for x := range want.Size {
					if want.Black(x, y) {
						b.WriteByte('1')
					} else {
						b.WriteByte('0')
					}
				}
				b.WriteByte('\n')
			}
			got := evaluate[string](t, tab, fmt.Sprintf(`qrMatrix(%q).map((row) => row.join("") + "\n").join("")`, text))
			if got != b.String() {
				t.Errorf("version %d, %d bytes: the codes differ", version, n)
			}
		}
	}
	if !evaluate[bool](t, tab, fmt.Sprintf(`qrMatrix("x".repeat(%d)) === null`, capacity+1)) {
		t.Error("a text that is too long has a code")
	}
}
