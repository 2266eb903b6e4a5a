package acme

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	protocol "golang.org/x/crypto/acme"

	"penstock/cmd/internal/config"
)

var one = big.NewInt(1)

func TestTheFirstCertificateAndARestart(t *testing.T) {
	t.Parallel()
	a, o := newAuthority(t, 0), options{folder: filepath.Join(t.TempDir(), "acme")}
	g := o.start(t, a)
	first := g.untilIssued(t, nil)
	if left := time.Until(first.Leaf.NotAfter); left < 80*24*time.Hour || first.Leaf.VerifyHostname(name) != nil || len(first.Certificate) < 2 {
		t.Errorf("got a certificate for %v for another %v with %d in its chain, want one for %s for 90 days with its issuer", first.Leaf.DNSNames, left, len(first.Certificate), name)
	}
	if g.Trouble() != "" || len(g.Warnings()) > 0 {
		t.Errorf("trouble: got %q and %q, want none", g.Trouble(), g.Warnings())
	}
	for _, m := range []string{"expiry", "renewal"} {
		want := float64(first.Leaf.NotAfter.Unix())
		if m == "renewal" {
			want -= 30 * 24 * 3600
		}
		got := testutil.ToFloat64(map[string]*prometheus.GaugeVec{"expiry": g.metrics.expiry, "renewal": g.metrics.renewal}[m].WithLabelValues("listen.enrol"))
		if got < want-10 || got > want+10 {
			t.Errorf("%s: the metric says %v, want %v", m, got, want)
		}
	}
	if problems, err := testutil.GatherAndLint(g.registry); err != nil || len(problems) > 0 {
		t.Errorf("metrics: %v, %v", problems, err)
	}
	for _, f := range files(t, o.folder, "") {
		info, err := os.Stat(filepath.Join(o.folder, f))
		if err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
			t.Errorf("%s: got mode %v, %v; want 0600", f, info.Mode(), err)
		}
	}
	g.stop()
	asked := a.asked.Load()
	again := o.start(t, a)
	if c := again.Certificate(name); c == nil || !sameLeaf(c, first) {
		t.Error("after a restart there is another certificate, or none")
	}
	again.stop()
	o.looked(t, a)
	if n := a.asked.Load() - asked; n != 0 {
		t.Errorf("after a restart the authority was asked %d times, want never", n)
	}
}

func TestAnAuthorityThatIsDownHoldsNothingUp(t *testing.T) {
	t.Parallel()
	a, o := newAuthority(t, 0), options{folder: t.TempDir()}
	a.behave(down)
	g := o.start(t, a)
	g.until(t, "a failure", func() bool {
		return strings.Contains(g.Trouble(), "listen.enrol has no certificate from the authority: 127.0.0.1:")
	})
	if c := g.Certificate(name); c != nil {
		t.Error("there is a certificate that nobody issued")
	}
	a.behave(nil)
	g.untilIssued(t, nil)
	if g.Trouble() != "" {
		t.Errorf("trouble: got %q, want none any more", g.Trouble())
	}
}

func TestACertificateThatExpiresTonight(t *testing.T) {
	t.Parallel()
	a, o := newAuthority(t, 0), options{folder: t.TempDir()}
	old := keep(t, o.folder, name, 6*time.Hour)
	a.behave(down)
	g := o.start(t, a)
	g.until(t, "a failure", func() bool {
		return len(g.Warnings()) == 1 && strings.Contains(g.Warnings()[0], "which cannot be renewed: 127.0.0.1:")
	})
	if c := g.Certificate(name); c == nil || !sameLeaf(c, old) {
		t.Error("the former certificate is not served while the authority is down")
	}
	if g.Trouble() != "" {
		t.Errorf("trouble: got %q, want none while the certificate is valid", g.Trouble())
	}
	a.behave(nil)
	if c := g.untilIssued(t, old); time.Until(c.Leaf.NotAfter) < 80*24*time.Hour {
		t.Errorf("the renewed certificate is valid until %v", c.Leaf.NotAfter)
	}
	if list := g.Warnings(); len(list) > 0 {
		t.Errorf("warnings: got %q, want none any more", list)
	}
}

func TestAnExpiredCertificateIsNotServed(t *testing.T) {
	t.Parallel()
	a, o := newAuthority(t, 0), options{folder: t.TempDir()}
	old := keep(t, o.folder, name, -time.Minute)
	a.behave(down)
	g := o.start(t, a)
	g.until(t, "a failure", func() bool { return g.Trouble() != "" })
	if g.Certificate(name) != nil {
		t.Error("a certificate is served that has expired")
	}
	a.behave(nil)
	g.untilIssued(t, old)
}

func TestRenewalsGoOn(t *testing.T) {
	t.Parallel()
	a, o := newAuthority(t, 6*time.Second), options{folder: t.TempDir()} // renewed after 4 s
	g := o.start(t, a)
	second := g.untilIssued(t, g.untilIssued(t, nil))
	g.untilIssued(t, second)
	if n := a.accounts.Load(); n != 1 {
		t.Errorf("%d accounts were made, want one", n)
	}
}

func TestWhatTheAuthorityGetsWrong(t *testing.T) {
	t.Parallel()
	problem := func(w http.ResponseWriter, status int, kind, detail string) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(status)
		if err := json.NewEncoder(w).Encode(map[string]string{"type": "urn:ietf:params:acme:error:" + kind, "detail": detail}); err != nil {
			t.Error(err)
		}
	}
	at := func(path string, answer func(w http.ResponseWriter)) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasPrefix(r.URL.Path, path) {
				return false
			}
			answer(w)
			return true
		}
	}
	for _, row := range []struct {
		name    string
		instead func(http.ResponseWriter, *http.Request) bool
		want    string
	}{
		{"a page in the place of the directory", at("/dir", func(w http.ResponseWriter) { fmt.Fprint(w, "<html>Welcome to our hotel") }),
			"does not answer as an authority does while it makes an account: invalid character '<'"},
		{"an endless directory", at("/dir", func(w http.ResponseWriter) { fmt.Fprint(w, `{"newNonce": "`+strings.Repeat("a", 2*maxAnswer)) }), "request body too large"},
		{"an empty directory", at("/dir", func(w http.ResponseWriter) { fmt.Fprint(w, `{}`) }), "does not answer as an authority does"},
		{"a name that it does not issue for", at("/order-plz", func(w http.ResponseWriter) { problem(w, 403, "rejectedIdentifier", "not\nthis\x1b[31m one.") }), "refuses: not this [31m one; the next"},
		{"too many requests without a kind", at("/order-plz", func(w http.ResponseWriter) { w.WriteHeader(429) }), "has had too many requests"},
		{"a fault of its own", at("/order-plz", func(w http.ResponseWriter) { problem(w, 500, "serverInternal", "out of ink") }), "refuses: out of ink"},
		{"no certificate", at("/certZ/", func(w http.ResponseWriter) {
			fmt.Fprint(w, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
		}), "x509"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			a := newAuthority(t, 0)
			a.behave(row.instead)
			g := options{folder: t.TempDir(), pause: time.Hour}.start(t, a)
			g.until(t, "a failure", func() bool { return g.Trouble() != "" })
			if got := g.Trouble(); !strings.Contains(got, row.want) {
				t.Errorf("got %q, want it to say %q", got, row.want)
			}
			if n := strings.Count(g.log.String(), "no certificate was issued"); n != 1 {
				t.Errorf("the log has %d lines about it, want one:\n%s", n, g.log)
			}
			if left := files(t, g.folder, "certificate-"); len(left) > 0 {
				t.Errorf("a certificate is kept: %v", left)
			}
		})
	}
}

func TestTooManyRequestsAreNotRepeated(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, 0)
	var asked atomic.Int64
	a.behave(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/order-plz" {
			return false
		}
		asked.Add(1)
		w.Header().Set("Content-Type", "application/problem+json")
		w.Header().Set("Retry-After", "7200")
		w.WriteHeader(http.StatusTooManyRequests)
		fmt.Fprint(w, `{"type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many certificates for example.com"}`)
		return true
	})
	began := time.Now()
	g := options{folder: t.TempDir()}.start(t, a)
	g.until(t, "a failure", func() bool {
		return strings.Contains(g.Trouble(), "has had too many requests: too many certificates for example.com")
	})
	g.mu.Lock()
	next := g.hosts[name].next
	g.mu.Unlock()
	if next.Before(began.Add(2 * time.Hour)) {
		t.Errorf("the next attempt is %v later, and the authority wants none for two hours", next.Sub(began))
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("it was asked %d times, want once", n)
	}
}

func TestWaits(t *testing.T) {
	limited := func(after string) error {
		return during("takes an order", &protocol.Error{StatusCode: 429, ProblemType: "urn:ietf:params:acme:error:rateLimited", Header: http.Header{"Retry-After": {after}}})
	}
	for _, row := range []struct {
		what     string
		err      error
		failures int
		want     time.Duration
	}{
		{"once", context.DeadlineExceeded, 1, 2 * time.Minute},
		{"four times", context.DeadlineExceeded, 4, 16 * time.Minute},
		{"a thousand times", context.DeadlineExceeded, 1000, longestWait},
		{"too many requests, and it does not say for how long", limited(""), 1, limitedWait},
		{"too many requests until tomorrow", limited("86400"), 1, 24 * time.Hour},
		{"too many requests, for ever", limited("999999999"), 1, limitedMost},
		{"too many requests, until a time that is over", limited("Mon, 02 Jan 2006 15:04:05 GMT"), 1, limitedWait},
	} {
		if got := wait(row.err, row.failures, firstPause); got < row.want || got > row.want+row.want/10+time.Second {
			t.Errorf("%s: got %v, want %v and up to a tenth more", row.what, got, row.want)
		}
	}
}

func TestAFolderThatCannotBeWrittenAsksNobody(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, 0)
	folder := filepath.Join(t.TempDir(), "file", "acme")
	if err := os.WriteFile(filepath.Dir(folder), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	g := options{folder: folder}.start(t, a)
	g.until(t, "a failure", func() bool {
		return strings.Contains(g.Trouble(), "it cannot be kept: let penstock's user, and its service, write state_dir")
	})
	if n := a.asked.Load(); n != 0 {
		t.Errorf("the authority was asked %d times for what cannot be kept", n)
	}
	if err := os.Remove(filepath.Dir(folder)); err != nil {
		t.Fatal(err)
	}
	g.untilIssued(t, nil)
}

func TestACertificateThatCouldNotBeKeptIsKeptLater(t *testing.T) {
	t.Parallel()
	a, folder := newAuthority(t, 0), filepath.Join(t.TempDir(), "acme")
	must := func(err error) {
		if err != nil {
			t.Error(err)
		}
	}
	away := sync.OnceFunc(func() { // a file stands in the place of the folder
		must(os.Rename(folder, folder+".away"))
		must(os.WriteFile(folder, nil, 0o600))
	})
	a.behave(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/certZ/") {
			away()
		}
		return false
	})
	g := options{folder: folder}.start(t, a)
	first := g.untilIssued(t, nil)
	g.until(t, "two attempts to keep it", func() bool { return strings.Count(g.log.String(), "a certificate cannot be kept") == 2 })
	if list := g.Warnings(); len(list) != 1 || !strings.Contains(list[0], "listen.enrol has a certificate that a restart would lose: it cannot be kept") {
		t.Errorf("warnings: got %q", list)
	}
	must(os.Remove(folder))
	must(os.Rename(folder+".away", folder))
	g.until(t, "nothing to warn of", func() bool { return len(g.Warnings()) == 0 })
	if kept, err := g.store.load(name); err != nil || kept == nil || !sameLeaf(kept, first) {
		t.Errorf("kept: got %v, %v; want the certificate that was issued", kept, err)
	}
	if n := a.orders.Load(); n != 1 {
		t.Errorf("%d orders were made, want one", n)
	}
}

// A clock may be so fast that what was just issued is to be renewed.
func TestAFastClockAsksTheAuthorityNowAndThen(t *testing.T) {
	t.Parallel()
	g := options{folder: t.TempDir()}.open(newAuthority(t, 0))
	old := keep(t, g.folder, name, 24*time.Hour)
	g.mu.Lock()
	g.noteLocked(t.Context(), name, old, nil)
	g.mu.Unlock()
	if names := g.due(time.Now().Add(longestWait - time.Minute)); len(names) > 0 {
		t.Errorf("just issued, and valid for a day: the authority is asked for another in less than %v", longestWait)
	}
	if names := g.due(time.Now().Add(longestWait + time.Minute)); len(names) != 1 {
		t.Error("it is not renewed any more")
	}
}

func TestWhatIsDamagedIsMadeAnew(t *testing.T) {
	t.Parallel()
	a, o := newAuthority(t, 0), options{folder: t.TempDir()}
	g := o.start(t, a)
	first := g.untilIssued(t, nil)
	g.stop()
	for _, f := range files(t, o.folder, "") {
		path := filepath.Join(o.folder, f)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, text[:len(text)/2], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	g = o.start(t, a)
	g.untilIssued(t, first)
	for _, want := range []string{"a stored certificate cannot be used", "the account with the authority is damaged"} {
		if !strings.Contains(g.log.String(), want) {
			t.Errorf("the log does not say %q:\n%s", want, g.log)
		}
	}
}

func TestAFileThatOthersCanReadIsNotUsed(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a mode says nothing about access here")
	}
	t.Parallel()
	a, o := newAuthority(t, 0), options{folder: t.TempDir()}
	old := keep(t, o.folder, name, 80*24*time.Hour)
	if err := os.Chmod(store{o.folder}.path(name), 0o644); err != nil {
		t.Fatal(err)
	}
	g := o.start(t, a)
	g.untilIssued(t, old)
	if !strings.Contains(g.log.String(), "chmod 600") {
		t.Errorf("the log does not say what was wrong:\n%s", g.log)
	}
}

func TestAnotherNameInTheConfiguration(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, 0)
	var host atomic.Value
	host.Store(name)
	o := options{folder: t.TempDir(), sites: func() []config.ACMESite {
		return []config.ACMESite{{Key: "listen.enrol", Host: host.Load().(string)}, {Key: "sign_in", Host: host.Load().(string)}}
	}}
	g := o.start(t, a)
	g.untilIssued(t, nil)
	host.Store("other.example.com")
	g.until(t, "a certificate for the new name", func() bool { return g.Certificate("Other.Example.com") != nil })
	if g.Certificate(name) != nil {
		t.Error("there still is a certificate for the old name")
	}
	if n := a.orders.Load(); n != 2 {
		t.Errorf("%d orders were made for two names of two pages, want 2", n)
	}
	host.Store(name)
	g.until(t, "the certificate for the old name, which is kept", func() bool { return g.Certificate(name) != nil })
	if n := a.orders.Load(); n != 2 {
		t.Errorf("%d orders were made, want none for a name whose certificate is kept", n)
	}
}

func TestAKillInTheMiddle(t *testing.T) {
	t.Parallel()
	a, o := newAuthority(t, 0), options{folder: t.TempDir()}
	reached, over := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	a.behave(func(_ http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/finalize-order/") {
			return false
		}
		if once.CompareAndSwap(false, true) {
			close(reached)
		}
		<-over
		panic(http.ErrAbortHandler)
	})
	g := o.start(t, a)
	select {
	case <-reached:
	case <-time.After(patience):
		t.Fatalf("no order was finished. The log:\n%s", g.log)
	}
	g.stop()
	close(over)
	if strings.Contains(g.log.String(), "no certificate was issued") {
		t.Errorf("a stop is called a failure:\n%s", g.log)
	}
	if left := files(t, o.folder, "certificate-"); len(left) > 0 {
		t.Errorf("%v is left of an order that was not finished", left)
	}
	a.behave(nil)
	o.start(t, a).untilIssued(t, nil)
	if n := a.accounts.Load(); n != 1 {
		t.Errorf("%d accounts were made, want the one from before", n)
	}
}

// looked starts a gateway and waits until it has looked several times whether something is to be done.
func (o options) looked(t *testing.T, a *authority) *gateway {
	t.Helper()
	done := make(chan struct{})
	var looks atomic.Int64
	if o.sites == nil {
		o.sites = func() []config.ACMESite { return []config.ACMESite{{Key: "listen.enrol", Host: name}} }
	}
	sites := o.sites
	o.sites = func() []config.ACMESite {
		if looks.Add(1) == 5 {
			close(done)
		}
		return sites()
	}
	g := o.start(t, a)
	<-done
	return g
}

// TestARestartKeepsWaiting: however often penstock restarts, the authority is asked as if it had not.
func TestARestartKeepsWaiting(t *testing.T) {
	t.Parallel()
	refuse := func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/order-plz" {
			w.WriteHeader(http.StatusForbidden)
		}
		return r.URL.Path == "/order-plz"
	}
	other := func() []config.ACMESite { return []config.ACMESite{{Key: "listen.enrol", Host: "other.example.com"}} }
	change := func(change func(*attempt)) func(*testing.T, store) {
		return func(t *testing.T, s store) {
			a, err := s.attempt(name)
			if err != nil {
				t.Fatal(err)
			}
			change(&a)
			if err := s.keep(name, a); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, row := range []struct {
		name    string
		instead func(http.ResponseWriter, *http.Request) bool
		before  func(*options)
		file    func(*testing.T, store)
		again   bool   // it asks at once
		says    string // in the log, or in the trouble if it waits
	}{
		{"a refusal", refuse, func(*options) {}, nil, false, "listen.enrol has no certificate from the authority: 127.0.0.1:"},
		{"another name", refuse, func(o *options) { o.sites = other }, nil, true, ""},
		{"another directory", refuse, func(o *options) { o.query = "?new" }, nil, true, "the configuration has changed"},
		{"another mail address", refuse, func(o *options) { o.email = "other@corp.example.com" }, nil, true, "the configuration has changed"},
		{"another way to be asked", refuse, func(o *options) { o.port443 = true }, nil, true, "the configuration has changed"},
		{"no answer", down, func(*options) {}, nil, true, ""},
		{"a wait that is over", refuse, func(*options) {}, change(func(a *attempt) { a.Next = a.At }), true, ""},
		{"a clock that was in the future", refuse, func(*options) {}, change(func(a *attempt) { a.At, a.Next = a.At.AddDate(1, 0, 0), a.Next.AddDate(1, 0, 0) }), true, "it is in the future"},
		{"a wait for a year", refuse, func(*options) {}, change(func(a *attempt) { a.Next = a.Next.AddDate(1, 0, 0) }), true, "it cannot be"},
		{"a failure of last week", refuse, func(*options) {}, change(func(a *attempt) { a.At, a.Next = a.At.AddDate(0, 0, -7), a.Next.AddDate(0, 0, -7) }), true, "it was long ago"},
		{"a damaged file", refuse, func(*options) {}, func(t *testing.T, s store) {
			if err := os.WriteFile(s.attemptPath(name), []byte(`{"of": "`), 0o600); err != nil {
				t.Error(err)
			}
		}, true, "cannot be read, and does not count"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			a, o := newAuthority(t, 0), options{folder: t.TempDir(), pause: time.Hour}
			a.behave(row.instead)
			g := o.start(t, a)
			g.until(t, "a failure", func() bool { return g.Trouble() != "" })
			g.stop()
			if row.file != nil {
				row.file(t, g.store)
			}
			asked := a.asked.Load()
			row.before(&o)
			g = o.looked(t, a)
			if row.again {
				g.until(t, "a question to the authority", func() bool { return a.asked.Load() > asked })
			} else if n := a.asked.Load() - asked; n != 0 {
				t.Errorf("after a restart the authority was asked %d times, want never", n)
			}
			if said := g.log.String() + g.Trouble(); !strings.Contains(said, row.says) {
				t.Errorf("got\n%s\nwant it to say %q", said, row.says)
			}
			if row.again {
				return
			}
			a.behave(nil)
			row.file = change(func(a *attempt) { a.Next = a.At })
			g.stop()
			row.file(t, g.store)
			g = o.start(t, a)
			g.untilIssued(t, nil)
			g.until(t, "nothing is kept of failures", func() bool { return len(files(t, o.folder, "attempt-")) == 0 })
		})
	}
}

// TestFailuresAreCountedAcrossRestarts: each waits longer than the one before.
func TestFailuresAreCountedAcrossRestarts(t *testing.T) {
	t.Parallel()
	a, o := newAuthority(t, 0), options{folder: t.TempDir(), pause: time.Minute}
	a.behave(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/order-plz" {
			w.WriteHeader(http.StatusForbidden)
		}
		return r.URL.Path == "/order-plz"
	})
	for failures := 1; failures <= 3; failures++ {
		g := o.start(t, a)
		g.until(t, "a failure", func() bool { return strings.Contains(g.log.String(), "no certificate was issued") })
		g.stop()
		last, err := g.store.attempt(name)
		if pause, want := last.Next.Sub(last.At), time.Minute<<(failures-1); err != nil || last.Failures != failures || pause < want {
			t.Fatalf("got %d failures and a wait of %v, %v; want %d and %v", last.Failures, pause, err, failures, want)
		}
		last.Next = last.At // the wait is over
		if err := g.store.keep(name, last); err != nil {
			t.Fatal(err)
		}
	}
}

// TestAPenstockThatDiesWhileTheAuthorityIsAsked waits like one that was refused.
func TestAPenstockThatDiesWhileTheAuthorityIsAsked(t *testing.T) {
	t.Parallel()
	a, o := newAuthority(t, 0), options{folder: t.TempDir(), pause: time.Hour}
	reached, over := make(chan struct{}), make(chan struct{})
	a.behave(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/order-plz" {
			close(reached)
			<-over
			panic(http.ErrAbortHandler)
		}
		return false
	})
	g := o.start(t, a)
	<-reached
	g.stop()
	close(over)
	a.behave(nil)
	asked := a.asked.Load()
	g = o.looked(t, a)
	if n := a.asked.Load() - asked; n != 0 || !strings.Contains(g.Trouble(), interrupted) {
		t.Errorf("after a restart the authority was asked %d times, want never, and the trouble is %q", n, g.Trouble())
	}
}

// TestAFastClockIsRememberedToo: what was just issued is to be renewed, and a restart must not ask for another.
func TestAFastClockIsRememberedToo(t *testing.T) {
	t.Parallel()
	a, o := newAuthority(t, 0), options{folder: t.TempDir()}
	g := o.open(a)
	g.mu.Lock()
	g.noteLocked(t.Context(), name, keep(t, o.folder, name, 24*time.Hour), nil)
	last := g.lastLocked(name, time.Now())
	g.mu.Unlock()
	if err := g.store.keep(name, last); err != nil {
		t.Fatal(err)
	}
	g = o.looked(t, a)
	if n := a.asked.Load(); n != 0 || len(g.Warnings()) != 0 {
		t.Errorf("the authority was asked %d times, want never, and the warnings are %q", n, g.Warnings())
	}
}

func TestTheKeyOfAPageIsKept(t *testing.T) {
	t.Parallel()
	a, o := newAuthority(t, 0), options{folder: t.TempDir()}
	old := keep(t, o.folder, name, 80*24*time.Hour) // for another key
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	o.key = key
	g := o.start(t, a)
	if c := g.untilIssued(t, old); !same(c.Leaf.PublicKey, key.Public()) {
		t.Error("the certificate is for another key than the page's")
	}
	g.stop()
	if c := o.open(a).Certificate(name); c == nil || !same(c.Leaf.PublicKey, key.Public()) {
		t.Error("after a restart the certificate is for another key than the page's")
	}
}

func TestTheAuthorityAsksAtPort443(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, 0)
	g := options{folder: t.TempDir(), no80: true, port443: true}.start(t, a)
	cert := g.untilIssued(t, nil)
	c, err := tls.Dial("tcp", a.port443.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if s := c.ConnectionState(); s.NegotiatedProtocol != "http/1.1" || !s.PeerCertificates[0].Equal(cert.Leaf) {
		t.Errorf("others get %v for %q, want the certificate for http/1.1", s.PeerCertificates[0].Subject, s.NegotiatedProtocol)
	}
	if c, err := tls.Dial("tcp", a.port443.Addr().String(), &tls.Config{InsecureSkipVerify: true, ServerName: name, NextProtos: []string{protocol.ALPNProto}}); err == nil {
		c.Close()
		t.Error("who asks as an authority does gets an answer though there is no challenge")
	}
}

func TestWherePort80IsClosedPort443IsTried(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, 0)
	a.port80.Close()
	options{folder: t.TempDir(), shut80: true, port443: true}.start(t, a).untilIssued(t, nil)
	if n := a.orders.Load(); n != 2 {
		t.Errorf("%d orders were made, want one for each port", n)
	}
}

func TestNothingElseIsServedAtPort80(t *testing.T) {
	g := options{folder: t.TempDir()}.open(&authority{})
	g.open.paths = map[string]string{"/.well-known/acme-challenge/abc": "abc.print"}
	for path, want := range map[string]string{"/.well-known/acme-challenge/abc": "abc.print", "/.well-known/acme-challenge/abd": "404 page not found\n", "/": "404 page not found\n"} {
		w := httptest.NewRecorder()
		g.serveHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Body.String() != want {
			t.Errorf("%s: got %q, want %q", path, w.Body, want)
		}
	}
	w := httptest.NewRecorder()
	g.serveHTTP(w, httptest.NewRequest(http.MethodPost, "/.well-known/acme-challenge/abc", nil))
	if w.Code != http.StatusNotFound {
		t.Errorf("a POST: got %d, want 404", w.Code)
	}
}

func TestWithoutAnAuthority(t *testing.T) {
	var c *Certificates = Open(Config{})
	base := new(tls.Config)
	if c != nil || c.Certificate(name) != nil || c.Answering(base) != base || c.Trouble() != "" || len(c.Warnings()) > 0 || c.Run(t.Context()) != nil {
		t.Error("certificates of nobody do something")
	}
}
