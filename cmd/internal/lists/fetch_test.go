package lists

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"penstock/policy/blocklist"
)

// serve makes a server of one function.
func serve(t *testing.T, f http.HandlerFunc) *httptest.Server {
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return s
}

func TestFetchesThatFail(t *testing.T) {
	for _, row := range []struct {
		name string
		f    http.HandlerFunc
		want string
	}{
		{"there is no such list", func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }, "the server answered 404 Not Found"},
		{"a part that nobody asked for", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusPartialContent) }, "the server answered 206"},
		{"nothing new, although there is nothing old", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotModified) }, "the server answered 304"},
		{"a redirect in a circle", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) }, "too many redirects"},
		{"a body that breaks off", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, names(10))
		}, "after 140 bytes: unexpected EOF"},
		{"a server that hangs up", func(w http.ResponseWriter, _ *http.Request) {
			c, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				c.Close()
			}
		}, "EOF"},
		{"a page of the access point", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html><body>sign in") }, blocklist.ErrHTML.Error()},
		{"a line of 6 KiB", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Repeat("x", 6<<10)) }, blocklist.ErrEmpty.Error()},
	} {
		t.Run(row.name, func(t *testing.T) {
			var fetches atomic.Int32
			server := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Referer() == "" { // no redirect
					fetches.Add(1)
				}
				row.f(w, r)
			})
			dir := t.TempDir()
			k := newKeeper(dir)
			k.start(t, Category{Name: "bets", Sources: []Source{{URL: server.URL + "/a.txt", Via: "direct"}}})
			err := k.Refresh(t.Context())
			if err == nil || !strings.Contains(err.Error(), row.want) || !strings.HasPrefix(err.Error(), "fetch "+server.URL+"/a.txt via direct: ") {
				t.Errorf("got %v, want an error that names the list, with %q", err, row.want)
			}
			if left := append(files(t, dir, "new-*"), files(t, dir, "*.list*")...); len(left) > 0 {
				t.Errorf("the fetch left %q", left)
			}
			k.wantHas(t, "anything.example", true) // a category without its list holds every name
			if s := k.Status(k.current.Load())[0]; s.Err == nil || !strings.Contains(s.Err.Error(), row.want) || !s.Next.After(k.Clock()) {
				t.Errorf("status: got %+v, want the error and when the next fetch is", s)
			}
			// Two if Run's own first fetch was over before Refresh was called, one if Refresh waited for it.
			if got, want := testutil.ToFloat64(k.Metrics.failures), float64(fetches.Load()); got != want || want == 0 {
				t.Errorf("penstock_list_failures_total: got %v, want one for each of %v fetches", got, want)
			}
		})
	}
}

func TestNobodyListens(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	k := newKeeper(t.TempDir())
	k.start(t, Category{Name: "bets", Sources: []Source{{URL: "http://" + listener.Addr().String(), Via: "direct"}}})
	if err := k.Refresh(t.Context()); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("got %v, want that the connection was refused", err)
	}
}

func TestAListThatHasHalvedSaysHowToTakeIt(t *testing.T) {
	dir, s, c := kept(t, 40)
	s.say(names(19))
	k := newKeeper(dir)
	k.start(t, c)
	err := k.Refresh(t.Context())
	list := files(t, dir, "*.list")[0]
	if !errors.Is(err, blocklist.ErrHalved) || !strings.HasSuffix(err.Error(), "remove the cached copy: rm "+list) {
		t.Errorf("got %v, want the mend with %s", err, list)
	}
	k.wantHas(t, "site39.example", true)

	s.say(names(20)) // half is enough
	if err := k.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.wantHas(t, "site39.example", false)
	k.wantHas(t, "site19.example", true)
}

// TestTheSameListIsNoChange has a server that sends the whole list each time, as many do.
func TestTheSameListIsNoChange(t *testing.T) {
	server := serve(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, names(10)) })
	k := newKeeper(t.TempDir())
	k.start(t, Category{Name: "bets", Sources: []Source{{URL: server.URL}}})
	if err := k.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := k.current.Load()
	status := k.Status(before)[0]
	k.clock.Add(3600)
	if err := k.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if k.current.Load() != before {
		t.Error("the same list was compiled again")
	}
	if now := k.Status(k.current.Load())[0]; !now.Updated.Equal(status.Updated) || now.Checked.Sub(status.Checked) < time.Hour {
		t.Errorf("got %+v, want the time of the change as before, and the check an hour later than %v", now, status.Checked)
	}
}

func TestASubscriptionIsFetchedOnItsWay(t *testing.T) {
	s := newSite(t, "casino.example\n")
	k := newKeeper(t.TempDir())
	var via atomic.Value
	k.Dial = func(ctx context.Context, by, network, address string) (net.Conn, error) {
		via.Store(by + " " + address)
		return new(net.Dialer).DialContext(ctx, network, s.Listener.Addr().String())
	}
	k.start(t, Category{Name: "bets", Sources: []Source{{URL: "http://lists.example/a.txt", Via: "corp"}}})
	if err := k.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, want := via.Load(), "corp lists.example:80"; got != want { // the name is resolved by whoever dials
		t.Errorf("got %v, want %s", got, want)
	}
	k.wantHas(t, "casino.example", true)
}

func TestWithoutADirectoryOrANetworkSubscriptionsFail(t *testing.T) {
	for _, change := range []func(*keeper){func(k *keeper) { k.Dial = nil }, func(k *keeper) { k.Dir, k.shelf.dir = "", "" }} {
		k := newKeeper(t.TempDir())
		change(k)
		k.start(t, Category{Name: "bets", Sources: []Source{{URL: "http://lists.example/a.txt"}}})
		if err := k.Refresh(t.Context()); err == nil || !strings.Contains(err.Error(), "subscriptions need a directory and a network") {
			t.Errorf("got %v, want what subscriptions need", err)
		}
	}
}

func TestAPasswordInAnAddressIsNotShown(t *testing.T) {
	k := newKeeper(t.TempDir())
	k.Dial = func(context.Context, string, string, string) (net.Conn, error) { return nil, errors.New("no network") }
	k.start(t, Category{Name: "bets", Sources: []Source{{URL: "https://me:hunter2@lists.example/a.txt"}}})
	err := k.Refresh(t.Context())
	if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "lists.example") {
		t.Errorf("got %v, want an error with the host and without the password", err)
	}
	for _, s := range k.Status(k.current.Load()) {
		if strings.Contains(fmt.Sprint(s), "hunter2") {
			t.Errorf("status: got %+v, want no password", s)
		}
	}
	if got, want := (Source{URL: "https://me:hunter2@%zz"}).Name(), "a list with an invalid address"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAFetchEndsWithRun(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	server := serve(t, func(http.ResponseWriter, *http.Request) {
		close(asked)
		<-answer
	})
	defer close(answer)
	k := newKeeper(t.TempDir())
	stop := k.start(t, Category{Name: "bets", Sources: []Source{{URL: server.URL}}})
	<-asked
	done := make(chan struct{})
	go func() {
		stop()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Fatal("Run waits for a server that does not answer")
	}
}

func TestRefreshGivesUpWithItsCaller(t *testing.T) {
	k := newKeeper(t.TempDir())
	k.use(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := k.Refresh(ctx); !errors.Is(err, context.Canceled) { // nothing runs
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

func TestAWakeFindsFilesThatChanged(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bets.txt")
	write(t, file, "casino.example\n")
	k := newKeeper("")
	k.start(t, Category{Name: "bets", Sources: []Source{{File: file, Refresh: time.Hour}}})
	write(t, file, "poker.example, in another size\npoker.example\n")
	before := k.current.Load()
	k.Wake()
	for deadline := time.Now().Add(5 * time.Second); k.current.Load() == before; {
		if time.Now().After(deadline) {
			t.Fatal("a file that changed was not read")
		}
		time.Sleep(time.Millisecond)
	}
	k.wantHas(t, "poker.example", true)
	k.wantHas(t, "casino.example", false)
}

func TestAListOfTwoCategoriesIsFetchedOnce(t *testing.T) {
	s := newSite(t, "casino.example\n")
	k := newKeeper(t.TempDir())
	a, b := subscribed("bets", s), subscribed("games", s)
	k.start(t, a, b)
	if err := k.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := s.sent.Load(); got != 1 {
		t.Errorf("got sent %d times, want once", got)
	}
	for _, status := range k.Status(k.current.Load()) {
		if status.Entries != 1 || status.Err != nil || status.Checked.IsZero() {
			t.Errorf("%s: got %+v, want one entry", status.Category, status)
		}
	}
}

// TestAKeyStandsForAllThatIsRead changes one after the other what decides the compiled set.
func TestAKeyStandsForAllThatIsRead(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bets.txt")
	write(t, file, "casino.example\n")
	k := newKeeper(t.TempDir())
	seen := map[string]string{}
	for _, row := range []struct {
		name string
		c    Category
	}{
		{"a file", Category{Name: "bets", Sources: []Source{{File: file}}}},
		{"another category", Category{Name: "games", Sources: []Source{{File: file}}}},
		{"another file", Category{Name: "bets", Sources: []Source{{File: file + "x"}}}},
		{"an exception", Category{Name: "bets", Sources: []Source{{File: file, Allow: true}}}},
		{"another format", Category{Name: "bets", Sources: []Source{{File: file, Format: blocklist.Hosts}}}},
		{"a name that must stay", Category{Name: "bets", Sources: []Source{{File: file, NeverBlock: []string{"corp.example"}}}}},
		{"another fate without it", Category{Name: "bets", OnMissing: Allow, Sources: []Source{{File: file}}}},
		{"twice", Category{Name: "bets", Sources: []Source{{File: file}, {File: file}}}},
		{"a subscription", Category{Name: "bets", Sources: []Source{{URL: "https://lists.example"}}}},
		{"nothing", Category{Name: "bets"}},
	} {
		key := k.key([]Category{row.c})
		if other, taken := seen[key]; taken {
			t.Errorf("%s has the key of %s", row.name, other)
		}
		seen[key] = row.name
	}
	write(t, file, "casino.example\npoker.example\n")
	if key := k.key([]Category{{Name: "bets", Sources: []Source{{File: file}}}}); seen[key] != "" {
		t.Error("the file has changed, and its key has not")
	}
}
