package console

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"penstock/cmd/internal/config"

	"go.uber.org/goleak"

	"penstock/cmd/internal/control"
	"penstock/cmd/internal/ports"
	"penstock/cmd/internal/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// engine is a penstock that says little.
type engine struct {
	control.DNS
	*record.Watchers
}

func (engine) Status(context.Context) (control.Status, error) {
	return control.Status{State: "connected"}, nil
}
func (engine) Reload(context.Context, control.ReloadQuery) (control.Reloaded, error) {
	return control.Reloaded{}, nil
}
func (engine) Drain(context.Context, control.DrainOrder) error   { return nil }
func (engine) DNSFlush(context.Context) error                    { return nil }
func (engine) Samples(context.Context) ([]control.Sample, error) { return nil, nil }

// browser is a client of a console.
type browser struct {
	t      *testing.T
	base   string
	cookie *http.Cookie
	key    string
	change func(*http.Request)
}

// serve runs a console of a penstock that says little until the test ends.
func serve(t *testing.T) (*Server, *record.Book, *browser) {
	t.Helper()
	book := new(record.Book)
	e := engine{Watchers: book.Watchers()}
	s, b := serveConfig(t, control.Config{Process: e, DNS: e, Feed: e})
	return s, book, b
}

// serveConfig runs a console until the test ends.
func serveConfig(t *testing.T, config control.Config) (*Server, *browser) {
	t.Helper()
	l, err := Listen("127.0.0.1:0", net.Listen)
	if err != nil {
		t.Fatal(err)
	}
	s := New(Config{Listener: l, API: control.API(config), Version: "1.2.3"})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		http.DefaultClient.CloseIdleConnections()
	})
	return s, &browser{t: t, base: "http://" + l.Addr().String()}
}

func (b *browser) do(method, path string, body any) *http.Response {
	b.t.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		b.t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(b.t.Context(), method, b.base+path, bytes.NewReader(data))
	if err != nil {
		b.t.Fatal(err)
	}
	if b.cookie != nil {
		r.AddCookie(b.cookie)
	}
	if b.key != "" {
		r.Header.Set(keyHeader, b.key)
	}
	if b.change != nil {
		b.change(r)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp
}

// get makes a request and returns the status and the body.
func (b *browser) get(method, path string, body any) (int, string) {
	b.t.Helper()
	resp := b.do(method, path, body)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// open opens a link, as the page does. It returns the status.
func (b *browser) open(link string) int {
	b.t.Helper()
	_, token, _ := strings.Cut(link, "#t=")
	resp := b.do(http.MethodPost, "/session", map[string]string{"token": token})
	defer resp.Body.Close()
	var out struct{ Key string }
	json.NewDecoder(resp.Body).Decode(&out)
	if resp.StatusCode == http.StatusOK {
		b.key, b.cookie = out.Key, resp.Cookies()[0]
	}
	return resp.StatusCode
}

func link(t *testing.T, s *Server, mayChange bool) string {
	t.Helper()
	l, err := s.Link(control.As(t.Context(), "test", mayChange))
	if err != nil {
		t.Fatal(err)
	}
	return l.URL
}

func TestALinkOpensTheConsoleOnce(t *testing.T) {
	s, _, b := serve(t)
	if status, _ := b.get("POST", "/api/v1/status", nil); status != http.StatusUnauthorized {
		t.Errorf("without a link: got %d, want 401", status)
	}
	url := link(t, s, true)
	if status := b.open(url); status != http.StatusOK {
		t.Fatalf("got %d, want 200", status)
	}
	if !b.cookie.HttpOnly || b.cookie.SameSite != http.SameSiteStrictMode {
		t.Errorf("got cookie %v, want HttpOnly and SameSite=Strict", b.cookie)
	}
	if status, body := b.get("POST", "/api/v1/status", nil); status != http.StatusOK || !strings.Contains(body, `"connected"`) {
		t.Errorf("got %d, %s", status, body)
	}
	if status, body := b.get("POST", "/api/v1/dns/flush", nil); status != http.StatusOK {
		t.Errorf("a change: got %d, %s", status, body)
	}
	if status, body := b.get("GET", "/session", nil); status != http.StatusOK || !strings.Contains(body, `"1.2.3"`) {
		t.Errorf("got %d, %s", status, body)
	}
	other := &browser{t: t, base: b.base}
	if status := other.open(url); status != http.StatusForbidden {
		t.Errorf("the link a second time: got %d, want 403", status)
	}
	if status := other.open(b.base + "/#t=" + strings.Repeat("A", 26)); status != http.StatusForbidden {
		t.Errorf("a guess: got %d, want 403", status)
	}
	if status, _ := b.get("DELETE", "/session", nil); status != http.StatusOK {
		t.Errorf("sign out: got %d", status)
	}
	if status, _ := b.get("POST", "/api/v1/status", nil); status != http.StatusUnauthorized {
		t.Errorf("after signing out: got %d, want 401", status)
	}
}

func TestWhoMayNotComeIn(t *testing.T) {
	s, _, b := serve(t)
	if status := b.open(link(t, s, true)); status != http.StatusOK {
		t.Fatal(status)
	}
	for _, test := range []struct {
		name   string
		path   string
		change func(*http.Request)
		want   int
	}{
		{"the page's own request", "/api/v1/dns/flush", func(*http.Request) {}, http.StatusOK},
		{"the same from localhost", "/api/v1/dns/flush", func(r *http.Request) { r.Host = strings.Replace(r.Host, "127.0.0.1", "localhost", 1) }, http.StatusOK},
		{"another program that was sent the cookie", "/api/v1/dns/flush", func(r *http.Request) { r.Header.Del(keyHeader) }, http.StatusUnauthorized},
		{"a guessed key", "/api/v1/status", func(r *http.Request) { r.Header.Set(keyHeader, strings.Repeat("A", 26)) }, http.StatusUnauthorized},
		{"the key without the cookie", "/api/v1/status", func(r *http.Request) { r.Header.Del("Cookie") }, http.StatusUnauthorized},
		{"a cookie that another port has set beside ours", "/api/v1/status", func(r *http.Request) {
			r.Header.Set("Cookie", s.cookie()+"=theirs; "+r.Header.Get("Cookie"))
		}, http.StatusOK},
		{"a name that leads here (DNS rebinding)", "/api/v1/status", func(r *http.Request) { r.Host = "evil.example:80" }, http.StatusForbidden},
		{"another port's name", "/api/v1/status", func(r *http.Request) { r.Host = "localhost:1" }, http.StatusForbidden},
		{"another origin", "/api/v1/status", func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") }, http.StatusForbidden},
		{"an opaque origin", "/api/v1/status", func(r *http.Request) { r.Header.Set("Origin", "null") }, http.StatusForbidden},
		{"another port of this host", "/api/v1/status", func(r *http.Request) { r.Header.Set("Origin", "http://127.0.0.1:1") }, http.StatusForbidden},
		{"a form of another site", "/session", func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }, http.StatusForbidden},
		{"another port, as browsers say it", "/api/v1/status", func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-site") }, http.StatusForbidden},
		{"a link of its own", "/api/v1/console", func(*http.Request) {}, http.StatusNotImplemented},
		{"a path that leads out of the calls", "/api/v1/../../session", func(*http.Request) {}, http.StatusForbidden},
		{"10 MB", "/session", func(r *http.Request) {
			r.Body = io.NopCloser(strings.NewReader(`{"token":"` + strings.Repeat("a", 10<<20) + `"}`))
			r.ContentLength = -1
		}, http.StatusBadRequest},
	} {
		t.Run(test.name, func(t *testing.T) {
			other := *b
			other.t, other.change = t, test.change
			if status, body := other.get("POST", test.path, struct{}{}); status != test.want {
				t.Errorf("got %d, want %d: %s", status, test.want, body)
			}
		})
	}
	for _, path := range []string{"/assets/../console.go", "/assets/%2e%2e/console.go", "/assets//etc/passwd", "/assets/", "/web/index.html"} {
		if status, body := b.get("GET", path, nil); status == http.StatusOK {
			t.Errorf("%s: got %d, %q", path, status, body)
		}
	}
	resp := b.do("GET", "/", nil)
	resp.Body.Close()
	if csp := resp.Header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'; script-src 'self';") || strings.Contains(csp, "unsafe") {
		t.Errorf("got %q", csp)
	}
}

func TestTheNamesOfAServer(t *testing.T) {
	for _, test := range []struct {
		address, host string
		want          bool
	}{
		{"127.0.0.1:9478", "127.0.0.1:9478", true},
		{"127.0.0.1:9478", "localhost:9478", true},
		{"127.0.0.1:9478", "127.0.0.1", false},
		{"127.0.0.1:9478", "localhost", false},
		{"127.0.0.1:9480", "127.0.0.1:94", false},
		{"127.0.0.1:80", "127.0.0.1", true},
		{"127.0.0.1:80", "127.0.0.1:80", true},
		{"127.0.0.1:80", "localhost", true},
		{"127.0.0.1:80", "evil.example", false},
		{"[::1]:80", "[::1]", true},
	} {
		if got := names(test.address, test.host); got != test.want {
			t.Errorf("%s at %s: got %v, want %v", test.host, test.address, got, test.want)
		}
	}
}

func TestWhoMayOnlyReadLocksNobodyOut(t *testing.T) {
	var s sessions
	now := time.Unix(1e9, 0)
	enter := func(readOnly bool) (cookie, key string) {
		t.Helper()
		token, _, err := s.invite(readOnly, now)
		if err != nil {
			t.Fatal(err)
		}
		cookie, key, _, err = s.begin(token, now)
		if err != nil {
			t.Fatal(err)
		}
		return cookie, key
	}
	cookie, key := enter(false)
	now = now.Add(time.Second)
	for range 2 * maxSessions {
		enter(true)
	}
	if _, err := s.find(cookie, key, now); err != nil {
		t.Errorf("the session of who may change something: %v", err)
	}
	for range maxTokens {
		if _, _, err := s.invite(true, now); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := s.invite(false, now); err != nil {
		t.Errorf("a link for who may change something: %v", err)
	}
}

func TestGuessesDoNotFillTheLog(t *testing.T) {
	s, _, b := serve(t)
	var said bytes.Buffer
	s.log = slog.New(slog.NewTextHandler(&said, nil))
	for range 20 {
		if status := b.open(b.base + "/#t=" + strings.Repeat("A", 26)); status != http.StatusForbidden {
			t.Fatalf("got %d, want 403", status)
		}
	}
	if n := strings.Count(said.String(), "a link was refused"); n != 1 {
		t.Errorf("got %d lines of 20 guesses, want 1:\n%s", n, said.String())
	}
}

func TestGuessesAreLoggedAfterTheClockWasSetBack(t *testing.T) {
	s, _, b := serve(t)
	var said bytes.Buffer
	s.log = slog.New(slog.NewTextHandler(&said, nil))
	s.refused.Store(time.Now().Add(24 * time.Hour).UnixNano()) // the clock was a day ahead then
	if status := b.open(b.base + "/#t=" + strings.Repeat("A", 26)); status != http.StatusForbidden {
		t.Fatalf("got %d, want 403", status)
	}
	if !strings.Contains(said.String(), "a link was refused") {
		t.Error("a guess is not in the log")
	}
}

func TestWhoMayOnlyReadChangesNothing(t *testing.T) {
	s, _, b := serve(t)
	if status := b.open(link(t, s, false)); status != http.StatusOK {
		t.Fatal(status)
	}
	if status, _ := b.get("POST", "/api/v1/status", nil); status != http.StatusOK {
		t.Errorf("reading: got %d, want 200", status)
	}
	for _, call := range []string{"dns/flush", "reload", "drain"} {
		if status, _ := b.get("POST", "/api/v1/"+call, struct{}{}); status != http.StatusForbidden {
			t.Errorf("%s: got %d, want 403", call, status)
		}
	}
}

func TestLinksAndSessionsAreBounded(t *testing.T) {
	var s sessions
	now := time.Unix(1e9, 0)
	for range maxTokens {
		if _, _, err := s.invite(true, now); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := s.invite(true, now); err == nil {
		t.Error("one link too many: got no error")
	}
	now = now.Add(tokenLife)
	token, _, err := s.invite(true, now)
	if err != nil {
		t.Fatalf("after the others are over: %v", err)
	}
	if _, _, _, err := s.begin(token, now.Add(tokenLife)); err == nil {
		t.Error("a link that is over: got no error")
	}
	var first [2]string
	for i := range maxSessions + 1 {
		token, _, _ := s.invite(false, now)
		cookie, key, _, err := s.begin(token, now)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = [2]string{cookie, key}
		}
		now = now.Add(time.Second)
	}
	if len(s.open) != maxSessions {
		t.Errorf("got %d sessions, want %d", len(s.open), maxSessions)
	}
	if _, err := s.find(first[0], first[1], now); err == nil {
		t.Error("the session that was used least recently is still open")
	}
}

// follow opens a stream of events and returns its lines.
func (b *browser) follow(after int64) (*http.Response, *bufio.Scanner) {
	b.t.Helper()
	other := *b
	other.change = func(r *http.Request) {
		if after != 0 {
			r.Header.Set("Last-Event-ID", fmt.Sprint(after))
		}
	}
	resp := other.do("POST", "/api/v1/events", struct{}{})
	return resp, bufio.NewScanner(resp.Body)
}

// until reads lines up to one that begins with a prefix.
func until(t *testing.T, lines *bufio.Scanner, prefix string) string {
	t.Helper()
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), prefix) {
			return lines.Text()
		}
	}
	t.Fatalf("the events ended before %q: %v", prefix, lines.Err())
	return ""
}

func TestEventsResume(t *testing.T) {
	s, book, b := serve(t)
	if status := b.open(link(t, s, true)); status != http.StatusOK {
		t.Fatal(status)
	}
	resp, lines := b.follow(0)
	until(t, lines, "event: status")
	if line := until(t, lines, "data: "); !strings.Contains(line, `"transports":[]`) {
		t.Errorf("a penstock without transports: got %s, want an empty list of them", line)
	}
	book.Flow(func() control.Flow { return control.Flow{Host: "first.example"} })
	if line := until(t, lines, "id: "); line != "id: 1" {
		t.Errorf("got %q, want id: 1", line)
	}
	if line := until(t, lines, "data: "); !strings.Contains(line, "first.example") {
		t.Errorf("got %q", line)
	}
	resp.Body.Close()
	book.Question(func() control.Question { return control.Question{Host: "second.example"} })
	resp, lines = b.follow(1)
	defer resp.Body.Close()
	until(t, lines, "id: 2")
	if line := until(t, lines, "data: "); !strings.Contains(line, "second.example") {
		t.Errorf("got %q", line)
	}
}

func TestSigningOutEndsTheEvents(t *testing.T) {
	s, _, b := serve(t)
	if status := b.open(link(t, s, true)); status != http.StatusOK {
		t.Fatal(status)
	}
	resp, lines := b.follow(0)
	defer resp.Body.Close()
	until(t, lines, "event: status")
	if status, _ := b.get("DELETE", "/session", nil); status != http.StatusOK {
		t.Fatal(status)
	}
	late := time.AfterFunc(20*time.Second, func() {
		t.Error("they go on")
		resp.Body.Close()
	})
	defer late.Stop()
	for lines.Scan() {
	}
}

func TestManyStreams(t *testing.T) {
	s, _, b := serve(t)
	if status := b.open(link(t, s, false)); status != http.StatusOK {
		t.Fatal(status)
	}
	open, refused := 0, 0
	for range 200 {
		resp, _ := b.follow(0)
		defer resp.Body.Close()
		switch resp.StatusCode {
		case http.StatusOK:
			open++
		case http.StatusTooManyRequests:
			refused++
		}
	}
	admin := &browser{t: t, base: b.base}
	admin.open(link(t, s, true))
	resp, _ := admin.follow(0)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("who may change something, beside many who may not: got %d, want 200", resp.StatusCode)
	}
	if open == 0 || open+refused != 200 || refused == 0 {
		t.Errorf("got %d streams and %d refused, want some of both and 200 in all", open, refused)
	}
	if status, _ := b.get("POST", "/api/v1/status", nil); status != http.StatusOK {
		t.Errorf("beside them: got %d, want 200", status)
	}
}

func TestATakenPortCostsTheConsoleAlone(t *testing.T) {
	squatter, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer squatter.Close()
	cfg := &config.Config{Console: config.Console{Listen: squatter.Addr().String()}}
	p := ports.New(nil, nil)
	page, offered := Attach(cfg, control.Config{}, p, net.Listen, "")
	if _, err := offered.Console.Link(t.Context()); !errors.Is(err, control.ErrNotOffered) {
		t.Errorf("a link: got %v, want that there is none yet", err)
	}
	if got := p.Troubles(); len(got) != 1 || !strings.HasPrefix(got[0], "console.listen is not served") {
		t.Errorf("got troubles %q, want one", got)
	}
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	if err := errors.Join(page.Run(stopped), page.Close()); err != nil {
		t.Errorf("no console: %v", err)
	}
	squatter.Close()
	page, offered = Attach(cfg, control.Config{}, p, net.Listen, "")
	if link, err := offered.Console.Link(t.Context()); err != nil || !strings.HasPrefix(link.URL, "http://"+cfg.Console.Listen+"/#t=") {
		t.Errorf("a free port: got %+v, %v, want a link", link, err)
	}
	if err := page.Close(); err != nil {
		t.Error(err)
	}
	if page, offered = Attach(new(config.Config), control.Config{}, p, net.Listen, ""); offered.Console != nil || errors.Join(page.Run(stopped), page.Close()) != nil {
		t.Errorf("without console.listen: got %v", offered.Console)
	}
}
