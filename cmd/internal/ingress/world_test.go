package ingress

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"penstock/cmd/internal/config"
	"penstock/dnsproxy"
	"penstock/policy"
	"penstock/router"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// anasKey is the key of the only client.
const anasKey = 7

// world is a port with a router behind it. Every address leads to one server, but for those that do not:
//
//	client --- 127.0.0.1 --- port -> router -> dialer --- web
type world struct {
	*Server
	router *router.Router
	web    *httptest.Server

	mu     sync.Mutex // guards below
	open   bool       // nobody needs a login
	out    bool       // ana may not come in any more
	names  map[string][]string
	asked  []string // names
	dialed []string // addresses
	seen   []*http.Request
	raw    net.Listener // where flows lead instead of web; may be nil

	blocked string // a name that is blocked
	dropped string // a name that is blocked without an answer
	others  bool   // ben may come in, too
}

func newWorld(t *testing.T, edit ...func(*config.Config)) *world {
	t.Helper()
	w := &world{names: map[string][]string{
		"one.example": {"203.0.113.1"}, "two.example": {"203.0.113.2"}, "both.example": {"203.0.113.66", "203.0.113.1"},
		"six.example": {"203.0.113.66", "2001:db8::1"}, "dead.example": {"203.0.113.66"}, "local.example": {"127.0.0.1"},
		"hidden4.example": {"203.0.113.1", "2001:db8::1"}, "none.example": {},
	}}
	w.web = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.mu.Lock()
		w.seen = append(w.seen, r.Clone(context.Background()))
		w.mu.Unlock()
		if r.URL.Path == "/half" {
			rw.Header().Set("Transfer-Encoding", "identity") // the end of the connection is that of the body
			_, _ = io.WriteString(rw, "half")
			rw.(http.Flusher).Flush()
			<-r.Context().Done()
			return
		}
		fmt.Fprintf(rw, "%s %s %s %q", r.Method, r.Host, r.URL, body)
	}))
	t.Cleanup(w.web.Close)
	var err error
	if w.router, err = router.New(router.Config{Policy: w, Clients: w, Ways: w, SniffTimeout: 50 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	cfg := &config.Config{Listen: config.Listen{Proxy: &config.ProxyListen{Address: netip.MustParseAddrPort("127.0.0.1:0")}}}
	cfg.Limits.ProxyConnections, cfg.Limits.TCPKeepalive, cfg.Limits.TCPKeepaliveInterval = 100, time.Minute, time.Minute
	for _, f := range edit {
		f(cfg)
	}
	if w.Server, err = Open(t.Context(), Config{Config: cfg, Users: users{w}, Clients: w, Handle: w.router.Handle}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var over sync.WaitGroup
	over.Go(func() {
		if err := w.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		over.Wait()
		if n := w.router.Active(); n > 0 {
			t.Errorf("%d flows are left", n)
		}
		if n := len(w.sources) + len(w.clients) + len(w.present); n > 0 {
			t.Errorf("the tables are not empty: %v, %v, %v", w.sources, w.clients, w.present)
		}
	})
	return w
}

// users lets ana in, whose password is secret.
type users struct{ w *world }

func (u users) Open() (Login, bool) {
	u.w.mu.Lock()
	defer u.w.mu.Unlock()
	return Login{Client: 1}, u.w.open
}

func (u users) Login(name, password string) (Login, bool) {
	u.w.mu.Lock()
	defer u.w.mu.Unlock()
	return Login{Client: anasKey, name: name}, (name == "ana" || name == "ben" && u.w.others) && password == "secret" && !u.w.out
}

func (u users) Holds(Login) bool {
	u.w.mu.Lock()
	defer u.w.mu.Unlock()
	return !u.w.out
}

func (w *world) Describe(f *policy.Flow) bool {
	f.Peer = "ana"
	return f.Client == anasKey || f.Client == 1
}

func (w *world) Names(*policy.Flow) (release func()) { return func() {} }

func (w *world) Confirm(_ context.Context, f policy.Flow, host string) (list []netip.Addr, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, host)
	known, ok := w.names[host]
	switch {
	case host == "blocked.example", host == w.blocked:
		return nil, fmt.Errorf("dnsproxy: confirm: %w", &dnsproxy.BlockedError{Verdict: policy.Verdict{Rule: "no-blocked"}, Host: host})
	case host == "hidden4.example" && f.Dst.Addr().Is4():
		return nil, &dnsproxy.BlockedError{Host: host, Withheld: netip.MustParseAddr("203.0.113.1")}
	case host == "closed.example" || host == "quiet.example":
		action := map[string]policy.Action{"quiet.example": policy.Drop}[host]
		return nil, &dnsproxy.BlockedError{Verdict: policy.Verdict{Action: action}, Host: host, Withheld: netip.MustParseAddr("10.20.0.10"), Hidden: true}
	case host == w.dropped:
		return nil, &dnsproxy.BlockedError{Verdict: policy.Verdict{Action: policy.Drop}, Host: host}
	case !ok:
		return nil, errors.New("SERVFAIL")
	}
	for _, text := range known {
		if a := netip.MustParseAddr(text); a.Is4() == f.Dst.Addr().Is4() {
			list = append(list, a)
		}
	}
	return list, nil
}

// Decide refuses what is on this machine, and 203.0.113.99 without an answer.
func (w *world) Decide(f policy.Flow) policy.Verdict {
	switch {
	case f.Dst.Addr().IsLoopback():
		return policy.Verdict{Action: policy.Refuse}
	case f.Dst.Addr() == netip.MustParseAddr("203.0.113.99"):
		return policy.Verdict{Action: policy.Drop}
	}
	return policy.Verdict{Action: policy.Forward, Egress: "direct"}
}

func (w *world) Dialer(string) (router.Dialer, bool)   { return w, true }
func (w *world) Place(uint64, netip.Addr) policy.Place { return policy.Elsewhere }
func (w *world) IsNotUp(err error) bool                { return false }

func (w *world) DialContext(ctx context.Context, _, address string) (net.Conn, error) {
	w.mu.Lock()
	w.dialed = append(w.dialed, address)
	to := w.web.Listener
	if w.raw != nil {
		to = w.raw
	}
	w.mu.Unlock()
	switch netip.MustParseAddrPort(address).Addr().String() {
	case "203.0.113.66":
		return nil, &net.OpError{Op: "dial", Err: syscall.EHOSTUNREACH}
	case "203.0.113.67":
		return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	case "203.0.113.68":
		return nil, &net.OpError{Op: "dial", Err: syscall.ENETUNREACH}
	case "203.0.113.69":
		return nil, errors.New("transport corp is not up: its key is K")
	}
	return new(net.Dialer).DialContext(ctx, "tcp", to.Addr().String())
}

func (w *world) took() (asked, dialed []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	asked, dialed = slices.Clone(w.asked), slices.Clone(w.dialed)
	w.asked, w.dialed = nil, nil
	return asked, dialed
}

// port is the address of the port.
func (w *world) port() string { return w.listener.Addr().String() }

// dial connects to the port.
func (w *world) connectTo(t *testing.T) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", w.port())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn)
}

// tell sends text on a new connection, ends its side, and returns all that comes back. A connection that is reset, however early,
// has no answer.
func (w *world) tell(t *testing.T, text string) string {
	t.Helper()
	c, err := net.Dial("tcp", w.port())
	if err != nil {
		return ""
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.WriteString(c, text) // what becomes of it shows in the answer
	_ = c.(*net.TCPConn).CloseWrite()
	answer, _ := io.ReadAll(c)
	return string(answer)
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: it does not come to that", what)
		}
	}
}

// login is ana's, in the header of HTTP.
const login = "Proxy-Authorization: Basic YW5hOnNlY3JldA==\r\n"

// greeting is ana's login over SOCKS5.
const greeting = "\x05\x01\x02\x01\x03ana\x06secret"

func named(host string, port int) string {
	return fmt.Sprintf("\x05\x01\x00\x03%c%s%c%c", len(host), host, port>>8, port&0xff)
}

func literal(addr string, port int) string {
	a := netip.MustParseAddr(addr)
	kind := 1
	if a.Is6() {
		kind = 4
	}
	return fmt.Sprintf("\x05\x01\x00%c%s%c%c", kind, a.AsSlice(), port>>8, port&0xff)
}

// get reads one answer.
func get(t *testing.T, r *bufio.Reader) (status int, body string, header http.Header) {
	t.Helper()
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b), res.Header
}

func contains(text string, all ...string) bool {
	return !slices.ContainsFunc(all, func(s string) bool { return !strings.Contains(text, s) })
}
