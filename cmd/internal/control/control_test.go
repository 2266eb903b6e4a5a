package control

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serveControl runs a server until the test ends and returns its socket.
func serveControl(t *testing.T, config Config) string {
	t.Helper()
	if config.Socket == "" {
		config.Socket = filepath.Join(t.TempDir(), "run", "control.sock")
	}
	s, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if _, err := os.Lstat(config.Socket); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is still there after Run: %v", err)
		}
	})
	return config.Socket
}

func dial(t *testing.T, socket string) *Client {
	t.Helper()
	c, err := Dial(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestEveryCallReachesItsFunction(t *testing.T) {
	at := time.Date(2026, 1, 31, 21, 30, 0, 0, time.UTC)
	var got []any
	note := func(v any) { got = append(got, v) }
	f := &fake{
		status:     func() (Status, error) { return Status{State: "connected", Started: at}, nil },
		flows:      func(q FlowQuery) ([]Flow, error) { note(q); return []Flow{{ID: "1"}}, nil },
		explain:    func(q ExplainQuery) (Explanation, error) { note(q); return Explanation{Rule: "rest"}, nil },
		rules:      func() (Rules, error) { return Rules{Generation: 7}, nil },
		dnsQuery:   func(q DNSQuery) (DNSAnswer, error) { note(q); return DNSAnswer{Rcode: "NOERROR"}, nil },
		lists:      func() ([]ListStatus, error) { return []ListStatus{{Category: "ads"}}, nil },
		listLookup: func(name string) ([]ListHit, error) { note(name); return []ListHit{{Entry: name}}, nil },
		peers:      func() ([]PeerStatus, error) { return []PeerStatus{{Name: "ana"}}, nil },
		doctor:     func() ([]Finding, error) { return []Finding{{Name: "leak", Result: ResultFault}}, nil },
		signIns:    func() ([]SignIn, error) { return []SignIn{{Transport: "corp"}}, nil },
		killFlow:   func(id string) error { note("kill " + id); return nil },
		quotaReset: func(name string) error { note("reset " + name); return nil },
		access:     func(a PeerAccess) error { note(a); return nil },
		signOut:    func(peer string) error { note("sign out " + peer); return nil },
		reload:     func(q ReloadQuery) (Reloaded, error) { note(q); return Reloaded{Blocked: 2}, nil },
		// Each says which it is: a swap of the three would otherwise go unseen.
		up:          func(q Steer) error { note("up"); note(q); return nil },
		down:        func(q Steer) error { note("down"); note(q); return nil },
		reconnect:   func(q Steer) error { note("reconnect"); note(q); return nil },
		drain:       func(o DrainOrder) error { note(o); return nil },
		dnsFlush:    func() error { note("flush"); return nil },
		listRefresh: func() error { note("refresh"); return nil },
		allow:       func(q AllowQuery) (Allowed, error) { note(q); return Allowed{Until: at}, nil },
		block:       func(q BlockQuery) (Blocked, error) { note(q); return Blocked{Ended: 3}, nil },
		decisions:   func() (Decisions, error) { return Decisions{Decisions: []Decision{{ID: "allow:x.bet"}}}, nil },
		undecide:    func(q DecisionRemoval) (DecisionRemoved, error) { note(q); return DecisionRemoved{ID: q.ID}, nil },
		invite:      func(q InviteQuery) (Invited, error) { note(q); return Invited{Link: "L", Until: at}, nil },
		invitations: func() ([]Invitation, error) { return []Invitation{{Name: "ana", State: "open"}}, nil },
		uninvite:    func(name string) error { note("uninvite " + name); return nil },
	}
	c := dial(t, serveControl(t, f.config()))
	ctx := t.Context()
	check := func(what string, got, want any, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	status, err := c.Status(ctx)
	check("status", status, Status{APIVersion: APIVersion, State: "connected", Started: at}, err)
	flows, err := c.Flows(ctx, FlowQuery{Denied: true, Peer: "ana"})
	check("flows", flows, Flows{APIVersion, []Flow{{ID: "1"}}}, err)
	explanation, err := c.Explain(ctx, ExplainQuery{Target: "x.bet", At: at})
	check("explain", explanation, Explanation{APIVersion: APIVersion, Rule: "rest"}, err)
	rules, err := c.Rules(ctx)
	check("rules", rules, Rules{APIVersion: APIVersion, Generation: 7}, err)
	answer, err := c.DNSQuery(ctx, DNSQuery{Name: "x.bet", Type: "A"})
	check("dns query", answer, DNSAnswer{APIVersion: APIVersion, Rcode: "NOERROR"}, err)
	lists, err := c.Lists(ctx)
	check("lists", lists, Lists{APIVersion, []ListStatus{{Category: "ads"}}}, err)
	hits, err := c.ListLookup(ctx, "x.bet")
	check("lookup", hits, ListHits{APIVersion, "x.bet", []ListHit{{Entry: "x.bet"}}}, err)
	peers, err := c.Peers(ctx)
	check("peers", peers, Peers{APIVersion, []PeerStatus{{Name: "ana"}}}, err)
	signIns, err := c.SignIns(ctx, Steer{})
	check("sign-ins", signIns, SignIns{APIVersion, []SignIn{{Transport: "corp"}}}, err)
	check("kill", nil, nil, c.KillFlow(ctx, "1"))
	check("reset", nil, nil, c.PeerQuotaReset(ctx, "ana"))
	check("sign-out", nil, nil, c.SignOut(ctx, "ana"))
	done, err := Ask[Done](ctx, c, "peers/access", PeerAccess{Name: "ana", Expires: &at})
	check("access", done, Done{APIVersion: APIVersion}, err)
	reloaded, err := c.Reload(ctx, ReloadQuery{DryRun: true})
	check("reload", reloaded, Reloaded{APIVersion: APIVersion, Blocked: 2}, err)
	check("drain", nil, nil, c.Drain(ctx, DrainOrder{Off: true}))
	check("up", nil, nil, c.Up(ctx, Steer{For: time.Minute}))
	check("down", nil, nil, c.Down(ctx, Steer{Name: "corp"}))
	check("reconnect", nil, nil, c.Reconnect(ctx, Steer{}))
	check("flush", nil, nil, c.DNSFlush(ctx))
	check("refresh", nil, nil, c.ListRefresh(ctx))
	book := DecisionClient{c}
	allowed, err := book.Allow(ctx, AllowQuery{Target: "category:ads", For: time.Hour})
	check("allow", allowed, Allowed{APIVersion: APIVersion, Until: at}, err)
	blocked, err := book.Block(ctx, BlockQuery{Target: "x.bet", Always: true})
	check("block", blocked, Blocked{APIVersion: APIVersion, Ended: 3}, err)
	decisions, err := book.Decisions(ctx)
	check("decisions", decisions, Decisions{APIVersion: APIVersion, Decisions: []Decision{{ID: "allow:x.bet"}}}, err)
	removed, err := book.RemoveDecision(ctx, DecisionRemoval{ID: "allow:x.bet"})
	check("decisions/remove", removed, DecisionRemoved{APIVersion: APIVersion, ID: "allow:x.bet"}, err)
	invitation := InviteQuery{Name: "ana", Groups: []string{"staff"}, Expires: at, AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, For: time.Hour}
	invited, err := c.Invite(ctx, invitation)
	check("invite", invited, Invited{APIVersion: APIVersion, Link: "L", Until: at}, err)
	invitations, err := c.Invitations(ctx)
	check("invites", invitations, Invitations{APIVersion, []Invitation{{Name: "ana", State: "open"}}}, err)
	check("uninvite", nil, nil, c.Uninvite(ctx, "ana"))
	findings, err := c.Doctor(ctx)
	check("doctor", findings, Findings{APIVersion, []Finding{{Name: "leak", Result: ResultFault}}}, err)
	check("what the functions got", got, []any{
		FlowQuery{Denied: true, Peer: "ana"}, ExplainQuery{Target: "x.bet", At: at}, DNSQuery{Name: "x.bet", Type: "A"}, "x.bet",
		"kill 1", "reset ana", "sign out ana", PeerAccess{Name: "ana", Expires: &at}, ReloadQuery{DryRun: true}, DrainOrder{Off: true}, "up", Steer{For: time.Minute}, "down", Steer{Name: "corp"}, "reconnect", Steer{}, "flush", "refresh",
		AllowQuery{Target: "category:ads", For: time.Hour}, BlockQuery{Target: "x.bet", Always: true}, DecisionRemoval{ID: "allow:x.bet"}, invitation, "uninvite ana",
	}, nil)
}

func TestErrorsOfFunctionsReachTheCaller(t *testing.T) {
	f := &fake{killFlow: func(string) error { return errors.New("there is no flow 9") }}
	c := dial(t, serveControl(t, f.config()))
	if err := c.KillFlow(t.Context(), "9"); err == nil || err.Error() != "there is no flow 9" {
		t.Errorf("got %v, want the function's own words", err)
	}
	if err := c.DNSFlush(t.Context()); !errors.Is(err, ErrNotOffered) {
		t.Errorf("a call that its interface does not offer: got %v, want ErrNotOffered", err)
	}
}

func TestAnInterfaceThatIsNilIsNotOffered(t *testing.T) {
	c := dial(t, serveControl(t, Config{}))
	ctx := t.Context()
	calls := map[string]func() error{
		"status":         func() error { _, err := c.Status(ctx); return err },
		"reload":         func() error { _, err := c.Reload(ctx, ReloadQuery{}); return err },
		"flows":          func() error { _, err := c.Flows(ctx, FlowQuery{}); return err },
		"flows/kill":     func() error { return c.KillFlow(ctx, "1") },
		"explain":        func() error { _, err := c.Explain(ctx, ExplainQuery{}); return err },
		"rules":          func() error { _, err := c.Rules(ctx); return err },
		"allow":          func() error { _, err := DecisionClient{c}.Allow(ctx, AllowQuery{}); return err },
		"block":          func() error { _, err := DecisionClient{c}.Block(ctx, BlockQuery{}); return err },
		"decisions":      func() error { _, err := DecisionClient{c}.Decisions(ctx); return err },
		"remove":         func() error { _, err := DecisionClient{c}.RemoveDecision(ctx, DecisionRemoval{}); return err },
		"drain":          func() error { return c.Drain(ctx, DrainOrder{}) },
		"up":             func() error { return c.Up(ctx, Steer{}) },
		"down":           func() error { return c.Down(ctx, Steer{}) },
		"reconnect":      func() error { return c.Reconnect(ctx, Steer{}) },
		"dns/query":      func() error { _, err := c.DNSQuery(ctx, DNSQuery{}); return err },
		"dns/flush":      func() error { return c.DNSFlush(ctx) },
		"lists":          func() error { _, err := c.Lists(ctx); return err },
		"lists/lookup":   func() error { _, err := c.ListLookup(ctx, "x"); return err },
		"lists/refresh":  func() error { return c.ListRefresh(ctx) },
		"peers":          func() error { _, err := c.Peers(ctx); return err },
		"invite":         func() error { _, err := c.Invite(ctx, InviteQuery{}); return err },
		"invites":        func() error { _, err := c.Invitations(ctx); return err },
		"uninvite":       func() error { return c.Uninvite(ctx, "ana") },
		"doctor":         func() error { _, err := c.Doctor(ctx); return err },
		"sign-ins":       func() error { _, err := c.SignIns(ctx, Steer{}); return err },
		"peers/sign-out": func() error { return c.SignOut(ctx, "ana") },
		"peers/access":   func() error { _, err := Ask[Done](ctx, c, "peers/access", PeerAccess{}); return err },
	}
	none, err := Ask[Calls](ctx, c, "calls", struct{}{})
	if want := []string{"calls", "rights"}; err != nil || !slices.Equal(slices.Sorted(slices.Values(none.Calls)), want) {
		t.Errorf("calls: got %v, %v, want %v", none.Calls, err, want)
	}
	f := new(fake)
	all, err := Ask[Calls](ctx, dial(t, serveControl(t, f.config())), "calls", struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	for name, call := range calls {
		if !slices.Contains(all.Calls, strings.Replace(name, "remove", "decisions/remove", 1)) {
			t.Errorf("calls: got %v without %s, which is offered", all.Calls, name)
		}
		if err := call(); !errors.Is(err, ErrNotOffered) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v, want ErrNotOffered by that name", name, err)
		}
	}
}

func TestASocketThatRefuses(t *testing.T) {
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()

	for _, test := range []struct {
		name, socket string
		want         error
	}{
		{"no socket is not running", filepath.Join(dir, "none.sock"), ErrNotRunning},
		{"a dead process's socket is not running", dead, ErrNotRunning},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := Dial(t.Context(), test.socket); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
	t.Run("a socket that may not be opened is no permission", func(t *testing.T) {
		c := &Client{socket: dead}
		if err := c.explain(&net.OpError{Op: "dial", Err: syscall.EACCES}); !errors.Is(err, ErrNoPermission) {
			t.Errorf("got %v, want ErrNoPermission", err)
		}
	})
	t.Run("a new server takes a dead one's place", func(t *testing.T) {
		dial(t, serveControl(t, Config{Socket: dead}))
	})
}

func TestASecondServerLeavesTheFirstAlone(t *testing.T) {
	f := &fake{status: func() (Status, error) { return Status{State: "connected"}, nil }}
	socket := serveControl(t, f.config())
	if _, err := New(Config{Socket: socket}); err == nil || !strings.Contains(err.Error(), "another penstock is running") {
		t.Errorf("got %v, want that another one is running", err)
	}
	if s, err := dial(t, socket).Status(t.Context()); err != nil || s.State != "connected" {
		t.Errorf("the first server answers %v, %v", s.State, err)
	}
}

// TestAServerThatIsClosedLateLeavesItsSuccessorAlone closes a server that has ended when another one has its path.
func TestAServerThatIsClosedLateLeavesItsSuccessorAlone(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "control.sock")
	first, err := New(Config{Socket: socket})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := first.Run(ctx); err != nil {
		t.Fatal(err)
	}
	f := &fake{status: func() (Status, error) { return Status{State: "connected"}, nil }}
	c := f.config()
	c.Socket = socket
	serveControl(t, c)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err := dial(t, socket).Status(t.Context()); err != nil || s.State != "connected" {
		t.Errorf("the second server answers %v, %v", s.State, err)
	}
}

func TestAFolderThatCannotBeWrittenNamesTheMend(t *testing.T) {
	for _, reason := range []error{syscall.EROFS, syscall.EACCES, syscall.EPERM} {
		err := elsewhere(&os.PathError{Op: "mkdir", Path: "/run/penstock", Err: reason})
		if !errors.Is(err, reason) || !strings.Contains(err.Error(), "PENSTOCK_SOCKET") {
			t.Errorf("%v: got %v, want how to name another place", reason, err)
		}
	}
}

func TestAFileInTheWayIsNotRemoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{Socket: path}); err == nil {
		t.Error("got no error, want one")
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "mine" {
		t.Errorf("got %q, %v, want the file as it was", text, err)
	}
}

func TestOnlyItsOwnerOpensTheSocket(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("sockets have no modes here")
	}
	info, err := os.Stat(serveControl(t, Config{}))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := info.Mode().Perm(), os.FileMode(0o600); got != want {
		t.Errorf("got mode %v, want %v", got, want)
	}
	if _, err := New(Config{Socket: filepath.Join(t.TempDir(), "s"), Group: "no such group here"}); !errors.Is(err, ErrNoGroup) {
		t.Errorf("an unknown group: got %v, want %v", err, ErrNoGroup)
	}
}

func TestWhoMayChange(t *testing.T) {
	me := uint32(os.Geteuid())
	for _, test := range []struct {
		name string
		who  uint32
		want bool
	}{
		{"root", 0, true},
		{"the daemon's own user", me, true},
		{"another user", me + 1, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := mayChange(test.who); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

// ask sends a raw request to a server whose caller is as given.
func ask(t *testing.T, config Config, who caller, change func(*http.Request)) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(context.WithValue(t.Context(), callerKey{}, who), http.MethodPost, "http://penstock/v1/dns/flush", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	change(r)
	w := newRecorder()
	guard(API(config)).ServeHTTP(w, r)
	return w.status, w.body.String()
}

type recorder struct {
	status int
	header http.Header
	body   strings.Builder
}

func newRecorder() *recorder { return &recorder{status: http.StatusOK, header: make(http.Header)} }

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }

func TestRequestsThatAreRefused(t *testing.T) {
	root := caller{mayChange: true}
	for _, test := range []struct {
		name   string
		who    caller
		change func(*http.Request)
		want   int
	}{
		{"a good request is answered", root, func(*http.Request) {}, http.StatusOK},
		{"no body is an empty one", root, func(r *http.Request) { r.Body = http.NoBody }, http.StatusOK},
		{"localhost is a good host too", root, func(r *http.Request) { r.Host = "localhost" }, http.StatusOK},
		{"a web page's request", root, func(r *http.Request) { r.Header.Set("Origin", "http://localhost") }, http.StatusForbidden},
		{"another host", root, func(r *http.Request) { r.Host = "evil.example" }, http.StatusForbidden},
		{"a change by someone else", caller{name: "uid 7"}, func(*http.Request) {}, http.StatusForbidden},
		{"a change by nobody", caller{}, func(*http.Request) {}, http.StatusForbidden},
		{"a GET", root, func(r *http.Request) { r.Method = http.MethodGet }, http.StatusNotFound},
		{"an unknown path", root, func(r *http.Request) { r.URL.Path = "/v1/nothing" }, http.StatusNotFound},
		{"not JSON", root, func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader("hello")) }, http.StatusBadRequest},
		{"an unknown field", root, func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader(`{"a":1}`)) }, http.StatusBadRequest},
		{"a long body", root, func(r *http.Request) {
			r.Body = io.NopCloser(strings.NewReader(`"` + strings.Repeat("a", maxBody) + `"`))
		}, http.StatusBadRequest},
	} {
		t.Run(test.name, func(t *testing.T) {
			status, body := ask(t, (&fake{dnsFlush: func() error { return nil }}).config(), test.who, test.change)
			if status != test.want {
				t.Errorf("got status %d, want %d; body %s", status, test.want, body)
			}
			if !strings.Contains(body, `"apiVersion":"`+APIVersion+`"`) {
				t.Errorf("the answer has no apiVersion: %s", body)
			}
		})
	}
}

func TestWithoutARuntimeDirectoryTheSocketIsInTheHome(t *testing.T) {
	if os.Geteuid() == 0 {
		if got, want := DefaultSocket(), "/run/penstock/control.sock"; got != want {
			t.Errorf("root: got %s, want %s", got, want)
		}
		t.Skip("the rest is for others than root")
	}
	t.Setenv("XDG_RUNTIME_DIR", "/run/user/7")
	if got, want := DefaultSocket(), "/run/user/7/penstock/control.sock"; got != want {
		t.Errorf("with XDG_RUNTIME_DIR: got %s, want %s", got, want)
	}
	t.Setenv("XDG_RUNTIME_DIR", "")
	t.Setenv("HOME", "/home/ana")
	if got, want := DefaultSocket(), "/home/ana/.penstock/control.sock"; got != want {
		t.Errorf("without: got %s, want %s", got, want)
	}
}

// TestAnEmptyListIsNotNull asks a penstock that has none of what it is asked for.
func TestAnEmptyListIsNotNull(t *testing.T) {
	f := &fake{
		status:     func() (Status, error) { return Status{}, nil },
		flows:      func(FlowQuery) ([]Flow, error) { return nil, nil },
		rules:      func() (Rules, error) { return Rules{}, nil },
		dnsQuery:   func(DNSQuery) (DNSAnswer, error) { return DNSAnswer{}, nil },
		lists:      func() ([]ListStatus, error) { return nil, nil },
		listLookup: func(string) ([]ListHit, error) { return nil, nil },
		peers:      func() ([]PeerStatus, error) { return nil, nil },
		signIns:    func() ([]SignIn, error) { return nil, nil },
	}
	client := dial(t, serveControl(t, f.config()))
	ctx := t.Context()
	for name, ask := range map[string]func() (any, error){
		"status":       func() (any, error) { return client.Status(ctx) },
		"flows":        func() (any, error) { return client.Flows(ctx, FlowQuery{}) },
		"rules":        func() (any, error) { return client.Rules(ctx) },
		"dns query":    func() (any, error) { return client.DNSQuery(ctx, DNSQuery{Name: "x.example"}) },
		"lists":        func() (any, error) { return client.Lists(ctx) },
		"lists lookup": func() (any, error) { return client.ListLookup(ctx, "x.example") },
		"peer list":    func() (any, error) { return client.Peers(ctx) },
	} {
		answer, err := ask()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		text, err := json.Marshal(answer)
		if err != nil || strings.Contains(string(text), "null") || !strings.Contains(string(text), "[]") {
			t.Errorf("%s: got %s, %v; want [] for what is not there", name, text, err)
		}
	}
}
