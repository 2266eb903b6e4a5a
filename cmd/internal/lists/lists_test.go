package lists

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"go.uber.org/goleak"

	"penstock/policy/blocklist"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// keeper is Lists with the Content in force.
type keeper struct {
	*Lists
	current atomic.Pointer[Content]
	clock   atomic.Int64 // seconds that the clock is ahead
}

func newKeeper(dir string) *keeper {
	k := &keeper{}
	k.Lists = New(Config{
		Dir:     dir,
		Current: k.current.Load,
		Replace: func(old, next *Content) bool { return k.current.CompareAndSwap(old, next) },
		Dial: func(ctx context.Context, _, network, address string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		},
		Clock:   func() time.Time { return time.Now().Add(time.Duration(k.clock.Load()) * time.Second) },
		Metrics: NewMetrics(prometheus.NewRegistry()),
	})
	return k
}

// start reads categories, brings them into force and keeps them new until the test ends, or stop is called.
func (k *keeper) start(t *testing.T, categories ...Category) (stop func()) {
	t.Helper()
	k.use(t, categories...)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := k.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(stop)
	return stop
}

func (k *keeper) use(t *testing.T, categories ...Category) {
	t.Helper()
	c, err := k.Read(t.Context(), categories)
	if err != nil {
		t.Fatal(err)
	}
	k.current.Store(c)
	k.Wake()
}

func (k *keeper) has(host string) bool { return k.current.Load().Set().Lookup(host) != 0 }

func (k *keeper) wantHas(t *testing.T, host string, want bool) {
	t.Helper()
	if got := k.has(host); got != want {
		t.Errorf("%s in a category: got %v, want %v; lists: %+v", host, got, want, k.Status(k.current.Load()))
	}
}

// site serves one list and counts.
type site struct {
	*httptest.Server
	body                 atomic.Pointer[string]
	status               atomic.Int32 // other than 200
	asked, sent, revalid atomic.Int32
}

func newSite(t *testing.T, body string) *site {
	s := &site{}
	s.body.Store(&body)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		if code := s.status.Load(); code != 0 {
			w.WriteHeader(int(code))
			return
		}
		b := *s.body.Load()
		tag := fmt.Sprintf(`"%d-%d"`, len(b), strings.Count(b, "a"))
		w.Header().Set("ETag", tag)
		if r.Header.Get("If-None-Match") == tag {
			s.revalid.Add(1)
			w.WriteHeader(http.StatusNotModified)
			return
		}
		s.sent.Add(1)
		fmt.Fprint(w, b)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *site) say(body string) { s.body.Store(&body) }

func subscribed(name string, s *site) Category {
	return Category{Name: name, Sources: []Source{{URL: s.URL + "/list.txt", Via: "direct"}}}
}

func names(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "site%d.example\n", i)
	}
	return b.String()
}

func TestASubscriptionIsFetchedAndKept(t *testing.T) {
	dir := t.TempDir()
	s := newSite(t, "casino.example\n"+names(10))
	k := newKeeper(dir)
	stop := k.start(t, subscribed("bets", s))
	if err := k.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.wantHas(t, "www.casino.example", true)
	k.wantHas(t, "other.example", false)
	if got := testutil.ToFloat64(k.Metrics.entries.WithLabelValues("bets")); got != 11 {
		t.Errorf("penstock_list_entries: got %v, want 11", got)
	}
	sent := s.sent.Load()
	if err := k.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := s.sent.Load(); got != sent {
		t.Errorf("a list that has not changed was sent again: got %d times, want %d", got, sent)
	}
	if s.revalid.Load() == 0 {
		t.Error("got no conditional request, want one")
	}
	stop()

	s.Close() // the next start has no network
	again := newKeeper(dir)
	again.use(t, subscribed("bets", s))
	again.wantHas(t, "www.casino.example", true)
}

func TestACompiledSetIsUsedAtTheNextStart(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(t.TempDir(), "bets.txt")
	write(t, file, "casino.example\n")
	c := Category{Name: "bets", Sources: []Source{{File: file}}}
	k := newKeeper(dir)
	stop := k.start(t, c)
	if err := k.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop()
	if _, ok := newKeeper(dir).readCompiled(k.current.Load().key); !ok {
		t.Fatal("got no compiled set, want one")
	}
	again := newKeeper(dir)
	again.use(t, c)
	again.wantHas(t, "casino.example", true)
	if got := again.current.Load().status[0].Entries; got != 1 {
		t.Errorf("entries: got %d, want 1", got)
	}

	write(t, file, "poker.example\n")
	again.use(t, c)
	again.wantHas(t, "poker.example", true)
	again.wantHas(t, "casino.example", false)
}

func TestWhatIsNotPlausibleIsRefusedAndTheLastGoodStays(t *testing.T) {
	gz := func(n int) string {
		var b strings.Builder
		z := gzip.NewWriter(&b)
		chunk := strings.Repeat("#"+strings.Repeat("x", 63)+"\n", 1<<14)
		for range n {
			z.Write([]byte(chunk))
		}
		z.Close()
		return b.String()
	}
	tests := []struct {
		name string
		body string
		code int
		want error
	}{
		{"a web page", "<!DOCTYPE html><p>not here", 0, blocklist.ErrHTML},
		{"nothing", "", 0, blocklist.ErrEmpty},
		{"less than half of it", names(4), 0, blocklist.ErrHalved},
		{"a company name", names(20) + "corp.example\n", 0, blocklist.ErrNeverBlock},
		{"an endless line", strings.Repeat("a", 1<<20), 0, blocklist.ErrEmpty},
		{"a gzip bomb", gz(270), 0, blocklist.ErrTooLarge},
		{"an error of the server", "", 500, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t, "casino.example\n"+names(10))
			k := newKeeper(t.TempDir())
			c := subscribed("bets", s)
			c.Sources[0].NeverBlock = []string{"intranet.corp.example"}
			k.start(t, c)
			if err := k.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.say(tt.body)
			s.status.Store(int32(tt.code))
			err := k.Refresh(t.Context())
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("Refresh: got %v, want %v", err, tt.want)
			}
			k.wantHas(t, "casino.example", true)
			k.wantHas(t, "site9.example", true)
			if got := testutil.ToFloat64(k.Metrics.failures); got != 1 {
				t.Errorf("penstock_list_failures_total: got %v, want 1", got)
			}
			if got := k.Status(k.current.Load())[0]; got.Err == nil || got.Entries != 11 {
				t.Errorf("status: got %+v, want 11 entries and an error", got)
			}
		})
	}
}

func TestOnMissing(t *testing.T) {
	s := newSite(t, "x.example\n")
	s.status.Store(503)
	category := func(name string, o OnMissing) Category {
		c := subscribed(name, s)
		c.OnMissing = o
		return c
	}
	k := newKeeper(t.TempDir())
	k.start(t, category("mine", Block))
	k.wantHas(t, "anything.example", true)
	k.use(t, category("mine", Allow))
	k.wantHas(t, "anything.example", false)
	k.use(t, category("gambling", Block)) // there is a built-in list of that name
	k.wantHas(t, "anything.example", false)
	k.wantHas(t, "bet365.com", true)
	_, err := k.Read(t.Context(), []Category{category("mine", Fail)})
	var fail *FailError
	if !errors.As(err, &fail) || fail.Category != "mine" {
		t.Errorf("Read with Fail: got %v, want a FailError of mine", err)
	}
	// Once it comes, the list takes the place of what stood in.
	s.status.Store(0)
	if err := k.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.wantHas(t, "x.example", true)
	k.wantHas(t, "bet365.com", false)
}

func TestAFailedFetchIsTriedAgainSoonAndThenLessOften(t *testing.T) {
	k := newKeeper("")
	s := subscription{Source{URL: "https://lists.example/x"}, "bets"}
	var waits []time.Duration
	for range 4 {
		k.ended(s, false, errors.New("no"))
		waits = append(waits, k.due(s.Source).Sub(k.Clock()).Round(time.Second))
	}
	if got, want := fmt.Sprint(waits), "[5s 10s 20s 40s]"; got != want {
		t.Errorf("waits: got %s, want %s", got, want)
	}
	k.ended(s, true, nil)
	if got := k.due(s.Source).Sub(k.Clock()).Round(time.Second); got != 24*time.Hour {
		t.Errorf("after a success: got %v, want 24h", got)
	}
}

func TestAFileThatWasDamagedLeavesItsLastGoodVersion(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bets.txt")
	write(t, file, "casino.example\n")
	c := Category{Name: "bets", Sources: []Source{{File: file}}}
	k := newKeeper(t.TempDir())
	k.start(t, c)
	if err := k.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	write(t, file, "<html>oh\n")
	if err := k.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.wantHas(t, "casino.example", true)
	if got := k.Status(k.current.Load())[0].Err; !errors.Is(got, blocklist.ErrHTML) {
		t.Errorf("status: got %v, want %v", got, blocklist.ErrHTML)
	}
	write(t, file, "casino.example\npoker.example\n")
	if err := k.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.wantHas(t, "poker.example", true)
}

func TestFindNamesListAndLine(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.txt"), "# bets\ncasino.example\n")
	write(t, filepath.Join(dir, "ok.txt"), "fine.casino.example\n")
	k := newKeeper("")
	c, err := k.Read(t.Context(), []Category{{Name: "bets", Sources: []Source{
		{File: filepath.Join(dir, "a.txt")}, {File: filepath.Join(dir, "ok.txt"), Allow: true},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	hits, err := c.Find("fine.casino.example")
	if err != nil || len(hits) != 2 || hits[0].Line != 2 || hits[0].Category != "bets" || !hits[1].Allow {
		t.Errorf("got %+v, %v; want line 2 of a.txt and an exception", hits, err)
	}
}

func TestFindLooksIntoWhatIsInForce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bets.txt")
	write(t, file, "casino.example\n")
	k := newKeeper(t.TempDir())
	k.start(t, Category{Name: "bets", Sources: []Source{{File: file}}})
	if err := k.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := k.current.Load()
	write(t, file, "# changed\npoker.example\ncasino.example\n")
	if hits, err := c.Find("casino.example"); err != nil || len(hits) != 1 || hits[0].Line != 1 {
		t.Errorf("got %+v, %v; want line 1, as it was read", hits, err)
	}
	if hits, err := c.Find("poker.example"); err != nil || len(hits) != 0 {
		t.Errorf("got %+v, %v; want nothing: it is not in force", hits, err)
	}
}

func TestFetchesAtOnceAreBounded(t *testing.T) {
	var now, most atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := now.Add(1)
		defer now.Add(-1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		time.Sleep(5 * time.Millisecond) // lets others in, if they could
		fmt.Fprintln(w, strings.Trim(r.URL.Path, "/")+".example")
	}))
	defer srv.Close()
	c := Category{Name: "bets"}
	for i := range 20 {
		c.Sources = append(c.Sources, Source{URL: fmt.Sprintf("%s/n%d", srv.URL, i)})
	}
	k := newKeeper(t.TempDir())
	k.start(t, c)
	if err := k.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		k.wantHas(t, fmt.Sprintf("n%d.example", i), true)
	}
	if got := most.Load(); got > maxFetches {
		t.Errorf("fetches at once: got %d, want %d at most", got, maxFetches)
	}
}

func TestARedirectDoesNotLeaveHTTPS(t *testing.T) {
	plain := newSite(t, "x.example\n")
	secure := httptest.NewTLSServer(http.RedirectHandler(plain.URL, http.StatusFound))
	defer secure.Close()
	k := newKeeper(t.TempDir())
	if _, err := k.fetch(t.Context(), "bets", Source{URL: secure.URL}); err == nil {
		t.Error("got no error, want one")
	}
	if plain.asked.Load() != 0 {
		t.Error("the plain site was asked")
	}
}

func TestMetricsAreWellNamed(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := NewMetrics(reg)
	m.entries.WithLabelValues("x").Set(1)
	m.success.WithLabelValues("x").Set(1)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("got %v, %v; want nothing", problems, err)
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	// Two versions of one size within a tick of the clock would look the same.
	later := time.Now().Add(time.Duration(len(text)) * time.Second)
	if err := os.Chtimes(file, later, later); err != nil {
		t.Fatal(err)
	}
}
