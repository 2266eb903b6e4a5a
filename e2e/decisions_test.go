package e2e

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"penstock/e2e/netlab"
)

// laptop [pen0 -> penstock <- penstock allow, block, pause] === WireGuard ===> [penstock] gateway --- casino.example
//
//	^ decisions.yaml, which people edit meanwhile
func TestDecisionsLast(t *testing.T) {
	t.Parallel()
	w := newWorld(t).up(t)
	loads := func(t *testing.T, site string) {
		t.Helper()
		attempt{"", "curl http://" + site + "/", "this is " + site + "\n", nil}.on(t, w.Laptop)
	}
	isBlocked := func(t *testing.T, site string) {
		t.Helper()
		attempt{"", "curl http://" + site + "/", "", []int{noSuchName}}.on(t, w.Laptop)
		if r := w.laptop.cli(t, "explain", "http://"+site+"/"); r.code != exitBlocked {
			t.Errorf("explain %s: got %s, want it blocked", site, r)
		}
	}
	file := func() string {
		text, _ := os.ReadFile(w.path("decisions.yaml"))
		return string(text)
	}

	t.Run("a block ends what lives, and the site does not load", func(t *testing.T) {
		loads(t, netlab.PublicSite)
		live := downloadFrom(t, w, netlab.PublicSite, publicIPv4)
		// The flow of what has just loaded may not have ended yet.
		if out := w.laptop.must(t, "block", netlab.PublicSite, "--for", "1h"); !strings.Contains(out, "public.example is blocked until ") || !regexp.MustCompile(`flows that were reset: [12]\n`).MatchString(out) {
			t.Errorf("block: got %s", out)
		}
		live.isCut(t)
		isBlocked(t, netlab.PublicSite) // although its answer was in the cache
		attempt{"", "curl --resolve public.example:80:203.0.113.10 http://public.example/", "This site is blocked", nil}.on(t, w.Laptop)
		attempt{"", "curl --resolve public.example:443:203.0.113.10 https://public.example/", "", refusedOrCutOff()}.on(t, w.Laptop)
		if r := w.laptop.cli(t, "explain", "https://www.public.example/"); r.code != exitBlocked || !strings.Contains(r.stdout, "public.example is blocked by a decision of 2") {
			t.Errorf("explain: got %s", r)
		}
		if out := w.laptop.must(t, "decisions", "rm", netlab.PublicSite); !strings.Contains(out, "block:public.example is taken back") {
			t.Errorf("rm: got %s", out)
		}
		loads(t, netlab.PublicSite)
	})
	t.Run("what is always allowed is so after a restart", func(t *testing.T) {
		isBlocked(t, netlab.GamblingSite)
		if out := w.laptop.must(t, "allow", netlab.GamblingSite, "--always", "--dry-run"); !strings.Contains(out, "\n+  - {allow: \"casino.example\", made: ") || strings.Contains(file(), "casino") {
			t.Errorf("a dry run: got %s\nand the file\n%s", out, file())
		}
		w.laptop.must(t, "allow", netlab.GamblingSite, "--always")
		w.laptop.must(t, "block", netlab.NewsSite, "--for", "1h")
		w.laptop.must(t, "pause", "10m")
		loads(t, netlab.AdultSite)
		w.laptop.stop(t, syscall.SIGTERM)
		w.laptop.start(t)
		w.connected(t)
		loads(t, netlab.GamblingSite)
		isBlocked(t, netlab.NewsSite)
		isBlocked(t, netlab.AdultSite) // a restart ends a pause
		if out := w.laptop.must(t, "decisions"); !strings.Contains(out, "allow:casino.example") || !strings.Contains(out, "uid 0") || strings.Contains(out, "filter") {
			t.Errorf("decisions: got\n%s", out)
		}
	})
	t.Run("an edit by hand is merged", func(t *testing.T) {
		w.edit(t, "decisions.yaml", "decisions:\n", "decisions:\n  - {block: public.example} # for now\n")
		w.laptop.must(t, "allow", "hand.example", "--always")
		isBlocked(t, netlab.PublicSite)
		for _, want := range []string{"# for now\n", "casino.example", "hand.example"} {
			if !strings.Contains(file(), want) {
				t.Errorf("%q is not in\n%s", want, file())
			}
		}
		w.edit(t, "decisions.yaml", "  - {block: public.example} # for now\n", "")
		eventually(t, "it is read again without an order", func() error {
			if r := w.laptop.cli(t, "explain", "http://public.example/"); r.code != 0 {
				return fmt.Errorf("explain: %s", r)
			}
			return nil
		})
	})
	t.Run("a file with a fault opens nothing", func(t *testing.T) {
		good := file()
		w.edit(t, "decisions.yaml", "block: \"news.example\"", "blok: \"news.example\"")
		eventually(t, "status names the place", func() error {
			if r := w.laptop.cli(t, "status"); r.code != 4 || !strings.Contains(r.stdout, w.path("decisions.yaml:")) || !strings.Contains(r.stdout, `unknown key "blok"`) {
				return fmt.Errorf("status: %s", r)
			}
			return nil
		})
		isBlocked(t, netlab.GamblingSite)
		isBlocked(t, netlab.NewsSite)
		if r := w.laptop.cli(t, "allow", netlab.GamblingSite, "--always"); r.code != 1 || !strings.Contains(r.stderr, "left as it is: mend it") {
			t.Errorf("allow --always: got %s", r)
		}
		if n := w.metric(t, w.Laptop, "penstock_decisions_bad_file"); n != 1 {
			t.Errorf("penstock_decisions_bad_file: got %v", n)
		}
		w.laptop.kill(t)
		w.laptop.start(t)
		isBlocked(t, netlab.GamblingSite)
		isBlocked(t, netlab.NewsSite)
		w.write(t, "decisions.yaml", good)
		w.connected(t) // which it is when it is not degraded any more
		eventually(t, "what the file allows is allowed again", func() error {
			if r := w.laptop.cli(t, "explain", "http://casino.example/"); r.code != 0 {
				return fmt.Errorf("explain: %s", r)
			}
			return nil
		})
		loads(t, netlab.GamblingSite)
	})
	t.Run("twenty at once are all in the file", func(t *testing.T) {
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				if r := w.laptop.cli(t, "allow", fmt.Sprintf("at-once%d.example", i), "--always"); r.code != 0 {
					t.Errorf("allow: %s", r)
				}
			})
		}
		wg.Wait()
		if n := strings.Count(file(), "{allow: \"at-once"); n != 20 {
			t.Errorf("got %d of 20 in\n%s", n, file())
		}
	})
	t.Run("whoever is killed while writing leaves whole what was promised", func(t *testing.T) {
		var mu sync.Mutex
		var promised []string
		var wg sync.WaitGroup
		for worker := range 4 {
			wg.Go(func() {
				for i := range 100 {
					name := fmt.Sprintf("killed%d-%d.example", worker, i)
					if r := w.laptop.cli(t, "block", name, "--always"); r.code != 0 {
						return // it is dead
					}
					mu.Lock()
					promised = append(promised, name)
					mu.Unlock()
				}
			})
		}
		eventually(t, "some are made", func() error {
			mu.Lock()
			defer mu.Unlock()
			if len(promised) < 8 {
				return fmt.Errorf("%d", len(promised))
			}
			return nil
		})
		w.laptop.kill(t)
		wg.Wait()
		w.laptop.start(t)
		w.connected(t)
		for _, name := range promised {
			if !strings.Contains(file(), "{block: \""+name+"\"") {
				t.Errorf("%s is not in the file", name)
			}
		}
		if r := w.laptop.cli(t, "decisions"); r.code != 0 || !strings.Contains(r.stdout, promised[len(promised)-1]) {
			t.Errorf("decisions: got %s", r)
		}
	})
	t.Run("when a pause is over, what only it let pass is reset", func(t *testing.T) {
		isBlocked(t, netlab.AdultSite)
		w.laptop.must(t, "pause", "10m")
		var s struct {
			Verdict     string
			PausedUntil time.Time
		}
		if w.laptop.ask(t, &s, "status"); s.PausedUntil.IsZero() || !strings.Contains(s.Verdict, "filter paused until ") {
			t.Errorf("status: got %+v", s)
		}
		live := downloadFrom(t, w, netlab.AdultSite, "203.0.113.21")
		w.laptop.must(t, "pause", "1s") // in the place of the longer one
		live.isCut(t)
		isBlocked(t, netlab.AdultSite)
		w.laptop.must(t, "pause", "10m")
		loads(t, netlab.AdultSite)
		if out := w.laptop.must(t, "resume"); !strings.Contains(out, "the filter is on") {
			t.Errorf("resume: got %s", out)
		}
		isBlocked(t, netlab.AdultSite)
		if r := w.laptop.cli(t, "pause", "61m"); r.code != 1 || !strings.Contains(r.stderr, "at most 60 minutes") {
			t.Errorf("a long pause: got %s", r)
		}
	})
	t.Run("a gateway blocks for one peer", func(t *testing.T) {
		loads(t, netlab.PublicSite) // so the gateway knows the name of the address
		live := downloadFrom(t, w, netlab.PublicSite, publicIPv4)
		if r := w.gateway.cli(t, "block", netlab.PublicSite, "--always", "--peer", "nobody"); r.code != 1 || !strings.Contains(r.stderr, `there is no peer "nobody"`) {
			t.Errorf("for a peer that there is not: got %s", r)
		}
		w.gateway.must(t, "block", netlab.PublicSite, "--always", "--peer", "laptop")
		live.isCut(t)
		attempt{"", "curl --resolve public.example:80:203.0.113.10 http://public.example/", "This site is blocked", nil}.on(t, w.Laptop)
		for from, code := range map[string]int{"laptop": exitBlocked, "": 0} {
			if r := w.gateway.cli(t, "explain", "http://public.example/", "--from", from); r.code != code {
				t.Errorf("explain from %q: got %s, want exit code %d", from, r, code)
			}
		}
		w.gateway.must(t, "decisions", "rm", "block:public.example@laptop")
		loads(t, netlab.PublicSite)
	})
	w.nothingInClear(t)
}
