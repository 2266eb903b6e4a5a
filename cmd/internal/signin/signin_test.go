package signin

import (
	"context"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oauth2-proxy/mockoidc"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/edition"
	"penstock/cmd/internal/lists"
	"penstock/policy"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// Unrelated keys.
const (
	serverKey = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
	anaKey    = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
	bobKey    = "QKLNDTphfWCUSf/SIXuO7CqhJDEhDFRw6cQ7RxUHPVo="
)

// gate is a provider, and a gateway whose peers sign in there.
type gate struct {
	*Service
	dir      string
	idp      *mockoidc.MockOIDC
	seen     provided
	changed  atomic.Int32
	said     *log
	registry *prometheus.Registry
	stop     func()
}

// provided is what stands between the gateway and the provider: it can break it.
type provided struct {
	mu     sync.Mutex // guards below
	answer func(w http.ResponseWriter, r *http.Request) (done bool)
}

func (p *provided) set(answer func(w http.ResponseWriter, r *http.Request) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = answer
}

func (p *provided) handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		answer := p.answer
		p.mu.Unlock()
		if answer == nil || !answer(w, r) {
			next.ServeHTTP(w, r)
		}
	})
}

// log keeps what is said.
type log struct {
	mu   sync.Mutex // guards below
	text strings.Builder
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

const gateYAML = `listen: {wireguard: {address: [10.99.0.1/24, "fd99::1/64"], private_key: {file: server.key}}}
peers:
  - {name: ana, public_key: %s, allowed_ips: 10.99.0.2/32, groups: [staff]}
  - {name: bob, public_key: %s, allowed_ips: 10.99.0.3/32}
sign_in:
  oidc: {issuer: "%s", client_id: %s, client_secret: {file: client.key}}
  required: [staff]
state_dir: .
rules:
  - {name: engineers, match: {group: engineering}, do: direct}
  - {name: rest, do: block}
`

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// open starts a provider, and a gateway for it. Edits are pairs of old and new text of the configuration.
func open(t *testing.T, edits ...string) *gate {
	t.Helper()
	g := &gate{dir: t.TempDir()}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	if g.idp, err = mockoidc.NewServer(key); err != nil {
		t.Fatal(err)
	}
	if err := g.idp.AddMiddleware(g.seen.handler); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.idp.Start(l, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.idp.Server.Close() })
	write(t, filepath.Join(g.dir, "server.key"), serverKey)
	write(t, filepath.Join(g.dir, "client.key"), g.idp.ClientSecret)
	g.configure(t, edits...)
	g.start(t)
	return g
}

func (g *gate) configure(t *testing.T, edits ...string) {
	t.Helper()
	text := fmt.Sprintf(gateYAML, anaKey, bobKey, g.idp.Issuer(), g.idp.ClientID)
	for i := 0; i+1 < len(edits); i += 2 {
		if !strings.Contains(text, edits[i]) {
			t.Fatalf("the configuration does not hold %q", edits[i])
		}
		text = strings.Replace(text, edits[i], edits[i+1], 1)
	}
	write(t, filepath.Join(g.dir, "p.yaml"), text)
}

// start starts the gateway, again if it has run before.
func (g *gate) start(t *testing.T) {
	t.Helper()
	if g.stop != nil {
		g.stop()
	}
	cfg, err := config.Load(filepath.Join(g.dir, "p.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	live := edition.NewLive(lists.Config{Log: slog.New(slog.DiscardHandler)})
	first, err := live.Compile(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	live.Use(first)
	g.said, g.registry = new(log), prometheus.NewRegistry()
	g.Service, err = New(Config{
		Live: live, Changed: func() { g.changed.Add(1) }, Log: slog.New(slog.NewTextHandler(g.said, nil)), Metrics: NewMetrics(g.registry),
		Dial: func(ctx context.Context, via, network, address string) (net.Conn, error) {
			if via != policy.EgressDirect {
				return nil, fmt.Errorf("there is no way %q", via)
			}
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	g.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(g.stop)
}

// reload puts an edited configuration in force.
func (g *gate) reload(t *testing.T, edits ...string) {
	t.Helper()
	g.configure(t, edits...)
	cfg, err := config.Load(filepath.Join(g.dir, "p.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	next, err := g.Live.Compile(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	g.Live.Use(next)
}

// flow returns the facts of a flow that a peer sends.
func (g *gate) flow(src, dst string) policy.Flow {
	f := policy.Flow{Network: policy.TCP, Src: netip.AddrPortFrom(netip.MustParseAddr(src), 40000), Dst: netip.MustParseAddrPort(dst)}
	f.Client, _ = g.Live.Peer(f.Src.Addr())
	f.Place = g.Live.Now().PlaceFor(f.Client, f.Dst.Addr(), func(netip.Addr) bool { return false })
	g.Live.Describe(&f)
	return f
}

// browser is one browser of a peer. It reaches the page as the peer does, and the provider.
func (g *gate) browser(t *testing.T, src string) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		if host, _, _ := net.SplitHostPort(address); host != "10.99.0.1" && host != "fd99::1" {
			return new(net.Dialer).DialContext(ctx, network, address)
		}
		return g.DialFlow(ctx, g.flow(src, address))
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Jar: jar, Timeout: 30 * time.Second}
}

// get fetches a page, and what it leads to.
func get(t *testing.T, c *http.Client, url string) (status int, body string) {
	t.Helper()
	res, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

// stopBefore returns a copy of a browser that does not follow redirects, and where the page under a path leads.
func where(t *testing.T, c *http.Client, at string) *url.URL {
	t.Helper()
	still := *c
	still.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	res, err := still.Get(at)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	to, err := res.Location()
	if err != nil {
		t.Fatalf("%s: got %s, want a redirect", at, res.Status)
	}
	return to
}

const page = "http://10.99.0.1/"

// user returns who signs in next.
func user(name string, groups ...string) *mockoidc.MockUser {
	return &mockoidc.MockUser{Subject: "id-" + name, Email: name + "@corp.example", EmailVerified: true, Groups: groups}
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

func (g *gate) result(r result) float64 {
	return testutil.ToFloat64(g.Metrics.results.WithLabelValues(string(r)))
}

func TestSomebodySignsIn(t *testing.T) {
	g := open(t)
	ana := g.browser(t, "10.99.0.2")
	if v := g.Live.Decide(g.flow("10.99.0.2", "10.20.0.1:80")); v.Cause != policy.BySignIn || v.SignIn != page {
		t.Errorf("before: got %+v, want a refusal that names the page", v)
	}
	if v := g.Live.Decide(g.flow("10.99.0.2", "10.99.0.1:80")); v.Egress != policy.EgressSignIn {
		t.Errorf("the page: got %+v", v)
	}
	if v := g.Live.Decide(g.flow("10.99.0.2", strings.TrimPrefix(g.idp.Addr(), "http://"))); v.Rule != "sign-in-provider-address" {
		t.Errorf("the provider: got rule %s", v.Rule)
	}
	if v := g.Live.Decide(g.flow("10.99.0.3", "10.20.0.1:80")); v.Cause == policy.BySignIn {
		t.Errorf("bob, who need not: got %+v", v)
	}
	if status, body := get(t, ana, page); status != 200 || !strings.Contains(body, "Before ana can be used, somebody has to sign in") {
		t.Errorf("the page: got %d\n%s", status, body)
	}
	g.idp.QueueUser(user("ana", "engineering", "nobody-asks-for-this"))
	before := g.changed.Load()
	status, body := get(t, ana, page+"begin")
	if status != 200 || !strings.Contains(body, "ana@corp.example has signed in with ana") {
		t.Fatalf("got %d\n%s\n%s", status, body, g.said)
	}
	if g.changed.Load() == before {
		t.Error("live flows were not judged again")
	}
	f := g.flow("10.99.0.2", "10.20.0.1:80")
	if v := g.Live.Decide(f); v.Rule != "engineers" || f.User != "ana@corp.example" || !slices.Equal(f.Groups, []string{"staff", "engineering"}) {
		t.Errorf("after: got rule %s for %s in %q", v.Rule, f.User, f.Groups)
	}
	if _, body := get(t, ana, page+WellKnown[1:]); !strings.Contains(body, `"url":"http://10.99.0.1/","needed":false,"user":"ana@corp.example"`) {
		t.Errorf("for penstock login: got %s", body)
	}
	if g.result(resultOK) != 1 || testutil.ToFloat64(g.Metrics.sessions) != 1 {
		t.Error("metrics: want one sign-in and one session")
	}

	form, err := ana.Post(page+"sign-out", "application/x-www-form-urlencoded", nil)
	if err != nil {
		t.Fatal(err)
	}
	form.Body.Close()
	if v := g.Live.Decide(g.flow("10.99.0.2", "10.20.0.1:80")); v.Cause != policy.BySignIn {
		t.Errorf("after the user signed out: got %+v", v)
	}
}

func TestTheBrowserThatComesBackIsTheOneThatBegan(t *testing.T) {
	g := open(t)
	ana := g.browser(t, "10.99.0.2")
	begin := func() (callback string) { return where(t, ana, where(t, ana, page+"begin").String()).String() }
	signedIn := func() bool { who, _ := g.SignedIn(anaKey); return who != "" }
	refused := func(what string, c *http.Client, at string) {
		t.Helper()
		before := g.result(resultInvalid)
		if status, _ := get(t, c, at); status != http.StatusBadRequest || signedIn() || g.result(resultInvalid) != before+1 {
			t.Errorf("%s: got %d, and somebody has signed in: %v", what, status, signedIn())
		}
	}
	bob, callback := g.browser(t, "10.99.0.3"), begin()
	bob.Jar = ana.Jar // even with the same cookies
	refused("another peer", bob, callback)
	if who, _ := g.SignedIn(bobKey); who != "" {
		t.Error("bob has signed in with what ana began")
	}
	refused("another browser of the same peer", g.browser(t, "10.99.0.2"), begin())
	refused("a state that nobody has", ana, page+"callback?code=1&state=abc")
	refused("no state", ana, page+"callback?code=1")
	if status, body := get(t, ana, callback); status != 200 || !signedIn() {
		t.Fatalf("the same browser: got %d\n%s", status, body)
	}
	g.SignOut(anaKey, "test")
	refused("the same again", ana, callback)
	first, second := begin(), begin()
	if status, _ := get(t, ana, first); status != 200 || !signedIn() {
		t.Errorf("the first of two tabs: got %d", status)
	}
	if status, _ := get(t, ana, second); status != 200 {
		t.Errorf("the second of two tabs: got %d", status)
	}
}

func TestTokensThatAreNotForThisSignIn(t *testing.T) {
	for _, row := range []struct {
		name, says string
		spoil      func(g *gate)
	}{
		{"another nonce", "nonce", func(g *gate) {
			for _, s := range g.idp.SessionStore.Store {
				s.OIDCNonce = "another"
			}
		}},
		{"another audience", "audience", func(g *gate) {
			g.seen.set(func(_ http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path == mockoidc.TokenEndpoint { // the provider believes to be another client's
					r.ParseForm()
					g.idp.ClientID = "another"
					r.Form.Set("client_id", "another")
				}
				return false
			})
		}},
		{"an expired token", "expired", func(g *gate) { g.idp.FastForward(-time.Hour) }},
		{"another issuer", "issue", func(g *gate) { g.idp.Server.Addr = "other.example:80" }},
		{"another key", "signature", func(g *gate) {
			key, err := rsa.GenerateKey(rand.Reader, 2048)
			if err != nil {
				panic(err)
			}
			other := *g.idp.Keypair
			other.PrivateKey = key
			g.idp.Keypair = &other
		}},
		{"no token", "no id_token", func(g *gate) {
			for _, s := range g.idp.SessionStore.Store {
				s.Scopes = []string{"email"}
			}
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := open(t)
			ana := g.browser(t, "10.99.0.2")
			callback := where(t, ana, where(t, ana, page+"begin").String()).String()
			row.spoil(g)
			status, _ := get(t, ana, callback)
			if who, _ := g.SignedIn(anaKey); status != http.StatusBadRequest || who != "" {
				t.Errorf("got %d, and %q has signed in", status, who)
			}
			if said := g.said.String(); !strings.Contains(said, row.says) || strings.Contains(said, "eyJ") {
				t.Errorf("the log does not say %q, or has a token:\n%s", row.says, said)
			}
		})
	}
}

func TestAProviderThatFails(t *testing.T) {
	for _, row := range []struct {
		name, says string
		answer     func(w http.ResponseWriter, r *http.Request) bool
	}{
		{"down", "connection refused", nil},
		{"broken", "500", func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(500); return true }},
		{"huge", "larger than", func(w http.ResponseWriter, _ *http.Request) bool {
			io.CopyN(w, endless{}, 4*maxAnswer)
			return true
		}},
		{"elsewhere", "redirects to another host", func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, "http://other.example/", http.StatusFound)
			return true
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := open(t)
			g.seen.set(row.answer)
			if row.answer == nil {
				g.idp.Server.Close()
			}
			if status, body := get(t, g.browser(t, "10.99.0.2"), page+"begin"); status != http.StatusBadGateway || !strings.Contains(body, "cannot be asked now") {
				t.Errorf("got %d\n%s", status, body)
			}
			if said := g.said.String(); !strings.Contains(said, row.says) {
				t.Errorf("the log does not say %q:\n%s", row.says, said)
			}
			if status, _ := get(t, g.browser(t, "10.99.0.2"), page); status != 200 || g.result(resultUnavailable) != 1 {
				t.Errorf("the page: got %d", status)
			}
		})
	}
}

// TestASlowProvider: whoever signs in is told why it fails, whichever of the provider's answers does not end or does not come.
func TestASlowProvider(t *testing.T) {
	hang := func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) // or the server does not notice that the client leaves
		<-r.Context().Done()
	}
	drip := func(w http.ResponseWriter, r *http.Request) { // it has begun to answer
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"a": "`)
		w.(http.Flusher).Flush()
		hang(w, r)
	}
	flood := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"a": "`)
		io.CopyN(w, endless{}, 100<<20)
	}
	for _, at := range []string{mockoidc.DiscoveryEndpoint, mockoidc.TokenEndpoint, mockoidc.JWKSEndpoint} {
		for _, row := range []struct {
			name   string
			answer func(w http.ResponseWriter, r *http.Request)
			status int
			text   string
		}{
			{"says nothing", hang, http.StatusGatewayTimeout, "did not answer in time"},
			{"stops in the middle", drip, http.StatusGatewayTimeout, "did not answer in time"},
			{"never ends", flood, http.StatusBadGateway, "cannot be asked now"},
		} {
			t.Run(at+" "+row.name, func(t *testing.T) {
				g := open(t)
				g.provider.limit = 500 * time.Millisecond // if another answer is slower than that, the outcome is the same
				if row.status == http.StatusBadGateway {
					g.provider.limit = time.Minute // what is too large is noticed by its size
				}
				g.seen.set(func(w http.ResponseWriter, r *http.Request) bool {
					if r.URL.Path != at {
						return false
					}
					row.answer(w, r)
					return true
				})
				g.idp.QueueUser(user("ana"))
				status, body := get(t, g.browser(t, "10.99.0.2"), page+"begin")
				if status != row.status || !strings.Contains(body, row.text) {
					t.Errorf("got %d, want %d with %q\n%s", status, row.status, row.text, body)
				}
				if _, signedIn := g.Session(anaKey); signedIn || g.result(resultUnavailable) != 1 {
					t.Errorf("signed in: %v, %v counted", signedIn, g.result(resultUnavailable))
				}
			})
		}
	}
}

// TestNobodyWaitsForTheProvider: while it does not answer, the gateway starts, shows the page and judges
// flows. One search is for all who sign in, and goes on when the first of them leaves.
func TestNobodyWaitsForTheProvider(t *testing.T) {
	g := open(t)
	g.idp.QueueUser(user("ana", "engineering"))
	if status, body := get(t, g.browser(t, "10.99.0.2"), page+"begin"); status != 200 {
		t.Fatalf("before: got %d\n%s", status, body)
	}
	var searches atomic.Int32
	answers, arrived := make(chan struct{}), make(chan struct{}, 10)
	g.seen.set(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == mockoidc.DiscoveryEndpoint {
			searches.Add(1)
			arrived <- struct{}{}
			select {
			case <-answers:
			case <-r.Context().Done():
			}
		}
		return false
	})
	g.start(t) // a restart: what was found is forgotten
	g.provider.limit = time.Minute
	begun := make(chan error, 1)
	ctx, leave := context.WithCancel(t.Context())
	go func() {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, page+"begin", nil)
		if err == nil {
			_, err = g.browser(t, "10.99.0.3").Do(req)
		}
		begun <- err
	}()
	<-arrived
	if status, body := get(t, g.browser(t, "10.99.0.2"), page); status != 200 || !strings.Contains(body, "ana@corp.example") {
		t.Errorf("the page: got %d\n%s", status, body)
	}
	if v := g.Live.Decide(g.flow("10.99.0.2", "10.20.0.10:80")); v.Rule != "engineers" {
		t.Errorf("a flow of who is signed in: got %+v", v)
	}
	g.SignOut(anaKey, "test")
	second := make(chan string, 1)
	g.idp.QueueUser(user("ana", "engineering"))
	ana := g.browser(t, "10.99.0.2")
	go func() {
		res, err := ana.Get(page + "begin")
		if err != nil {
			second <- err.Error()
			return
		}
		res.Body.Close()
		second <- res.Status
	}()
	eventually(t, "the second begins", func() bool { return clientsThatTry(&g.attempts) == 2 })
	leave()
	if err := <-begun; !errors.Is(err, context.Canceled) {
		t.Errorf("the first: got %v, want that it has left", err)
	}
	close(answers)
	if got := <-second; got != "200 OK" {
		t.Errorf("the second: got %s", got)
	}
	if _, ok := g.Session(anaKey); !ok || searches.Load() != 1 {
		t.Errorf("ana is signed in: %v, after %d searches, want one", ok, searches.Load())
	}
}

// hung is a provider that does not say where its parts are.
type hung struct {
	searches atomic.Int32
	arrived  chan struct{} // a question has
	left     chan struct{} // its asker has, before there was an answer
	answers  chan struct{} // closed: it answers
}

func (g *gate) hang() *hung {
	h := &hung{arrived: make(chan struct{}, 10), left: make(chan struct{}, 10), answers: make(chan struct{})}
	g.provider.limit = time.Minute
	g.seen.set(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == mockoidc.DiscoveryEndpoint {
			h.searches.Add(1)
			h.arrived <- struct{}{}
			select {
			case <-h.answers:
			case <-r.Context().Done():
				h.left <- struct{}{}
			}
		}
		return false
	})
	return h
}

// begins lets a peer begin to sign in, and returns the status, and where it is led to.
func (g *gate) begins(t *testing.T, src string) <-chan string {
	t.Helper()
	came, c := make(chan string, 1), g.browser(t, src)
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	go func() {
		res, err := c.Get(page + "begin")
		if err != nil {
			came <- err.Error()
			return
		}
		res.Body.Close()
		came <- fmt.Sprint(res.StatusCode, " ", res.Header.Get("Location"))
	}()
	return came
}

// TestAReloadWhileTheProviderHangs: it is not waited for, and whoever waits already is served by the search that goes on.
func TestAReloadWhileTheProviderHangs(t *testing.T) {
	g := open(t)
	h := g.hang()
	ana := g.begins(t, "10.99.0.2")
	<-h.arrived
	g.reload(t, "required: [staff]", "required: all", "state_dir: .", "  session: 1h\nstate_dir: .")
	if v := g.Live.Decide(g.flow("10.99.0.3", "10.20.0.1:80")); v.Cause != policy.BySignIn {
		t.Errorf("bob, who must sign in now: got %+v", v)
	}
	if status, body := get(t, g.browser(t, "10.99.0.3"), page); status != 200 || !strings.Contains(body, "Before bob can be used") {
		t.Errorf("the page: got %d\n%s", status, body)
	}
	bob := g.begins(t, "10.99.0.3")
	eventually(t, "both have begun", func() bool { return clientsThatTry(&g.attempts) == 2 })
	g.reload(t, "required: [staff]", "required: all", "state_dir: .", "  session: 1h\nstate_dir: .")
	close(h.answers)
	for name, came := range map[string]<-chan string{"ana": ana, "bob": bob} {
		if got := <-came; !strings.HasPrefix(got, "303 "+g.idp.Issuer()) {
			t.Errorf("%s: got %s, want to be led to the provider\n%s", name, got, g.said)
		}
	}
	g.idp.QueueUser(user("ana", "engineering"))
	if status, body := get(t, g.browser(t, "10.99.0.2"), page+"begin"); status != 200 {
		t.Errorf("afterwards: got %d\n%s", status, body)
	}
	if one, ok := g.Session(anaKey); !ok || time.Until(one.Until) > time.Hour {
		t.Errorf("ana's session: got %v, %v, want one of the hour that counts now", one, ok)
	}
	if n := h.searches.Load(); n != 1 {
		t.Errorf("the provider was looked for %d times, want once", n)
	}
}

// TestAReloadKeepsTheProvider: if only something else has changed, nobody asks a provider that hangs where it is.
func TestAReloadKeepsTheProvider(t *testing.T) {
	g := open(t)
	if to := where(t, g.browser(t, "10.99.0.2"), page+"begin"); !strings.HasPrefix(to.String(), g.idp.Issuer()) {
		t.Fatalf("before: got %s", to)
	}
	h := g.hang()
	g.reload(t, "required: [staff]", "required: all")
	if to := where(t, g.browser(t, "10.99.0.3"), page+"begin"); !strings.HasPrefix(to.String(), g.idp.Issuer()) {
		t.Errorf("after: got %s", to)
	}
	if n := h.searches.Load(); n != 0 {
		t.Errorf("the provider was looked for %d times, want never", n)
	}
}

// TestAReloadWithAnotherProviderEndsTheSearch: for the one that hangs, also if only the secret is another one.
func TestAReloadWithAnotherProviderEndsTheSearch(t *testing.T) {
	for _, row := range []struct {
		name   string
		change func(g *gate) (edits []string)
	}{
		{"another client", func(g *gate) []string {
			g.idp.ClientID = "other"
			return nil
		}},
		{"another secret", func(g *gate) []string {
			g.idp.ClientSecret = "other"
			write(t, filepath.Join(g.dir, "client.key"), "other")
			return nil
		}},
		{"further domains", func(*gate) []string { return []string{"required:", "allow: [cdn.example]\n  required:"} }},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := open(t)
			h := g.hang()
			bob := g.begins(t, "10.99.0.3")
			<-h.arrived
			g.reload(t, row.change(g)...)
			g.seen.set(nil)
			g.idp.QueueUser(user("ana", "engineering"))
			if status, body := get(t, g.browser(t, "10.99.0.2"), page+"begin"); status != 200 || !strings.Contains(body, "has signed in with ana") {
				t.Errorf("with the new settings: got %d\n%s\n%s", status, body, g.said)
			}
			<-h.left
			if got := <-bob; !strings.HasPrefix(got, "502") || !strings.Contains(g.said.String(), "sign_in has changed meanwhile") {
				t.Errorf("who waited for the former one: got %s\n%s", got, g.said)
			}
		})
	}
}

func clientsThatTry(a *attempts) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.tried)
}

type endless struct{}

func (endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = ' '
	}
	return len(b), nil
}

func TestAProviderThatRefuses(t *testing.T) {
	g := open(t)
	ana := g.browser(t, "10.99.0.2")
	state := where(t, ana, page+"begin").Query().Get("state")
	status, body := get(t, ana, page+"callback?error=access_denied&error_description=%3Cb%3Eno%0A&state="+state)
	if status != http.StatusForbidden || strings.Contains(body, "<b>") || g.result(resultRefused) != 1 || !strings.Contains(g.said.String(), "access_denied") {
		t.Errorf("got %d\n%s\n%s", status, body, g.said)
	}
}

func TestAProviderWithAPageElsewhere(t *testing.T) {
	for _, row := range []struct {
		page  string
		allow []string
		says  string
	}{
		{"https://login.example/x", nil, ""},
		{"https://pages.example/x", nil, "its page is at pages.example: add that to sign_in.allow"},
		{"https://pages.example/x", []string{"other.example", "=pages.example"}, ""},
		{"https://a.pages.example/x", []string{"=pages.example"}, "add that"},
		{"https://a.pages.example/x", []string{"pages.example"}, ""},
		{"https://pages.example/x", []string{"*.pages.example"}, "add that"},
		{"https://a.pages.example/x", []string{"*.pages.example"}, ""},
		{"https://notpages.example/x", []string{"pages.example"}, "add that"},
	} {
		err := reached(row.page, &config.SignIn{OIDC: config.OIDC{Issuer: "https://login.example"}, Allow: row.allow})
		if (err == nil) != (row.says == "") || err != nil && !strings.Contains(err.Error(), row.says) {
			t.Errorf("%s, allow %q: got %v, want %q", row.page, row.allow, err, row.says)
		}
	}
}

// The groups are not in the token, but in what the provider tells about the user apart from it; and each refresh token is good once.
func TestGroupsThatCannotBeAskedFor(t *testing.T) {
	g := open(t, "required: [staff]", "required: [staff]\n  recheck: 1s\n  groups: teams")
	var works atomic.Bool
	var mu sync.Mutex
	first, last := "", ""
	g.seen.set(func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case mockoidc.UserinfoEndpoint:
			if !works.Load() {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			io.WriteString(w, `{"sub": "id-ana", "teams": ["engineering"]}`)
			return true
		case mockoidc.TokenEndpoint:
			if r.FormValue("grant_type") == "refresh_token" {
				if r.FormValue("refresh_token") != last {
					w.WriteHeader(http.StatusBadRequest)
					io.WriteString(w, `{"error": "invalid_grant"}`)
					return true
				}
				r.Form.Set("refresh_token", first)
			}
			rec, says := httptest.NewRecorder(), map[string]any{}
			g.idp.Token(rec, r)
			if err := json.Unmarshal(rec.Body.Bytes(), &says); err != nil || rec.Code != http.StatusOK { // it was asked in the wrong style
				w.WriteHeader(rec.Code)
				w.Write(rec.Body.Bytes())
				return true
			}
			if first == "" {
				first, _ = says["refresh_token"].(string)
			}
			last += "again-"
			says["refresh_token"] = last
			json.NewEncoder(w).Encode(says)
			return true
		}
		return false
	})
	signIn := func() int {
		g.idp.QueueUser(user("ana"))
		status, _ := get(t, g.browser(t, "10.99.0.2"), page+"begin")
		return status
	}
	if status := signIn(); status != http.StatusBadGateway {
		t.Errorf("got %d, want nobody signed in without groups", status)
	}
	works.Store(true)
	mu.Lock()
	first, last = "", ""
	mu.Unlock()
	if status := signIn(); status != http.StatusOK {
		t.Fatalf("got %d\n%s", status, g.said)
	}
	in := func() bool { return slices.Contains(g.flow("10.99.0.2", "10.20.0.1:80").Groups, "engineering") }
	if !in() {
		t.Fatalf("the groups are not there\n%s", g.said)
	}
	works.Store(false)
	eventually(t, "the provider cannot be asked", func() bool { return strings.Contains(g.said.String(), "whether an account still exists") })
	if !in() {
		t.Error("the groups went, because they could not be asked for")
	}
	works.Store(true)
	before, _ := g.Session(anaKey)
	g.reload(t, "required: [staff]", "required: [staff]\n  recheck: 1s\n  groups: teams")
	eventually(t, "it can be asked again, with the newest token", func() bool { now, ok := g.Session(anaKey); return !ok || now.Checked.After(before.Checked) })
	if !in() {
		t.Errorf("the session is gone:\n%s", g.said)
	}
}

func TestKeysMayRotate(t *testing.T) {
	g := open(t)
	ana := g.browser(t, "10.99.0.2")
	for range 2 {
		if status, body := get(t, ana, page+"begin"); status != 200 {
			t.Fatalf("got %d\n%s\n%s", status, body, g.said)
		}
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		if g.idp.Keypair, err = mockoidc.NewKeypair(key); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSessionsOutliveARestart(t *testing.T) {
	g := open(t)
	g.idp.QueueUser(user("ana", "engineering"))
	get(t, g.browser(t, "10.99.0.2"), page+"begin")
	before, ok := g.Session(anaKey)
	if !ok || before.Refresh != "" {
		t.Fatalf("got %+v, %v: want a session, without its token", before, ok)
	}
	path := filepath.Join(g.dir, "sign-ins")
	if data, err := os.ReadFile(path); err != nil || strings.Contains(string(data), "ana") {
		t.Errorf("the file of sessions can be read, or is not there: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the file: %v, %v", info.Mode(), err)
	}
	g.start(t)
	after, ok := g.Session(anaKey)
	if !ok || after.User != before.User || !after.Until.Equal(before.Until) || !slices.Equal(after.Groups, before.Groups) {
		t.Errorf("after a restart: got %+v, %v, want %+v", after, ok, before)
	}

	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)-1] ^= 1
	write(t, path, string(data))
	g.start(t)
	if who, _ := g.SignedIn(anaKey); who != "" || !strings.Contains(g.said.String(), "nobody is signed in, because the sessions cannot be read") {
		t.Errorf("a damaged file: %q is signed in, and the log says\n%s", who, g.said)
	}
	write(t, path, "")
	g.start(t)
	if !strings.Contains(g.said.String(), "it is not a file of sessions") {
		t.Errorf("an empty file: the log says\n%s", g.said)
	}
}

// stalled seals nothing until it is told to.
type stalled struct {
	cipher.AEAD
	begun, goOn chan struct{}
}

func (s stalled) Seal(dst, nonce, text, more []byte) []byte {
	close(s.begun)
	<-s.goOn
	return s.AEAD.Seal(dst, nonce, text, more)
}

func TestASessionEndsWhileAnotherIsWritten(t *testing.T) {
	s, err := newSessions(serverKey, nil)
	if err != nil {
		t.Fatal(err)
	}
	slow := stalled{s.store.aead, make(chan struct{}), make(chan struct{})}
	s.store.aead = slow
	s.begin(Session{Peer: anaKey, User: "ana", Until: time.Now().Add(time.Hour)})
	saved, ended := make(chan error, 1), make(chan bool, 1)
	go func() { saved <- s.save(filepath.Join(t.TempDir(), "sign-ins"), time.Now()) }()
	<-slow.begun
	go func() {
		_, ok := s.end(anaKey, nil)
		ended <- ok
	}()
	select {
	case ok := <-ended:
		if !ok {
			t.Error("there was no session to end")
		}
	case <-time.After(5 * time.Second):
		t.Error("a session does not end while the file of sessions is written")
	}
	close(slow.goOn)
	if err := <-saved; err != nil {
		t.Error(err)
	}
}

func TestASessionThatIsOverCountsAtOnce(t *testing.T) {
	now := time.Now()
	settings := func(change func(*config.SignIn)) *config.Config {
		c := &config.SignIn{OIDC: config.OIDC{Issuer: "https://login.example", ClientID: "penstock"}, Session: time.Hour}
		change(c)
		return &config.Config{SignIn: c}
	}
	same := settings(func(*config.SignIn) {})
	one := &Session{Peer: anaKey, User: "ana", Issuer: "https://login.example", Client: "penstock", Since: now.Add(-time.Minute), Until: now.Add(time.Second)}
	for _, row := range []struct {
		sentence string
		cfg      *config.Config
		now      time.Time
		counts   bool
	}{
		{"it lasts", same, now, true},
		{"its time is over", same, now.Add(time.Second), false},
		{"sessions are longer now, which is for those that follow", settings(func(c *config.SignIn) { c.Session = 2 * time.Hour }), now.Add(time.Second), false},
		{"sessions are shorter now", settings(func(c *config.SignIn) { c.Session = time.Minute }), now, false},
		{"the provider is another", settings(func(c *config.SignIn) { c.OIDC.Issuer = "https://login.example/" }), now, false},
		{"the gateway is another client there", settings(func(c *config.SignIn) { c.OIDC.ClientID = "other" }), now, false},
		{"nobody signs in any more", &config.Config{}, now, false},
	} {
		if why := over(one, row.cfg, row.now); (why == "") != row.counts {
			t.Errorf("%s: got %q", row.sentence, why)
		}
	}
}

func TestWhenTheProviderIsAsked(t *testing.T) {
	now := time.Now()
	cfg := &config.Config{SignIn: &config.SignIn{Session: time.Hour, Recheck: 5 * time.Minute}}
	for _, row := range []struct {
		sentence       string
		checked, tried time.Time
		refresh        string
		due            bool
	}{
		{"it has just said that the account exists", now, time.Time{}, "token", false},
		{"that was long ago", now.Add(-5 * time.Minute), time.Time{}, "token", true},
		{"it could not be asked a moment ago", now.Add(-time.Hour), now.Add(-time.Second), "token", false},
		{"it gives no token for that", now.Add(-time.Hour), time.Time{}, "", false},
		{"the clock was set back before a restart", now.Add(24 * time.Hour), time.Time{}, "token", true},
	} {
		one := &Session{Since: now, Until: now.Add(48 * time.Hour), Checked: row.checked, Refresh: row.refresh, tried: row.tried}
		if got := isDue(one, cfg, now); got != row.due {
			t.Errorf("%s: got %v, want %v", row.sentence, got, row.due)
		}
	}
}

func TestASessionEnds(t *testing.T) {
	for _, row := range []struct {
		sentence, why string
		edits         []string
		atOnce        bool // it does not count from the reload on
	}{
		{"when it is over", "the session is over", []string{"required: [staff]", "required: [staff]\n  session: 1s"}, false},
		{"with another client at the provider", "the provider is another one now", []string{"client_id: ", "client_id: another-"}, true},
		{"without sign_in", "nobody signs in any more", []string{"sign_in:\n  oidc:", "metrics: {listen: \"\"}\n#", "  required: [staff]\n", ""}, true},
		{"when the peer is disabled", "the peer is gone", []string{"groups: [staff]}", "groups: [staff], disabled: true}"}, false},
		{"when the peer is removed", "the peer is gone", []string{"  - {name: ana", "# - {name: ana"}, false},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			g := open(t)
			get(t, g.browser(t, "10.99.0.2"), page+"begin")
			if who, _ := g.SignedIn(anaKey); who == "" {
				t.Fatal("nobody has signed in")
			}
			before := g.changed.Load()
			g.reload(t, row.edits...)
			if who, _ := g.SignedIn(anaKey); who != "" && row.atOnce {
				t.Errorf("%s still counts", who)
			}
			eventually(t, "the session is over", func() bool { who, _ := g.SignedIn(anaKey); return who == "" })
			eventually(t, "live flows are judged again", func() bool { return g.changed.Load() > before })
			eventually(t, "the log says so", func() bool { return strings.Contains(g.said.String(), "reason=\""+row.why) })
			g.configure(t)
			g.start(t)
			if who, _ := g.SignedIn(anaKey); who != "" {
				t.Errorf("with the former configuration, %s is signed in again", who)
			}
		})
	}
}

func TestTheProviderIsAskedAgain(t *testing.T) {
	g := open(t, "required: [staff]", "required: [staff]\n  recheck: 1s")
	g.idp.QueueUser(user("ana"))
	get(t, g.browser(t, "10.99.0.2"), page+"begin")
	first, _ := g.Session(anaKey)
	eventually(t, "the provider still knows the account", func() bool { now, _ := g.Session(anaKey); return now.Checked.After(first.Checked) })
	if who, _ := g.SignedIn(anaKey); who == "" {
		t.Fatal("the session has ended for nothing")
	}
	g.seen.set(func(w http.ResponseWriter, r *http.Request) bool {
		w.WriteHeader(503)
		return true
	})
	eventually(t, "the provider cannot be asked", func() bool { return strings.Contains(g.said.String(), "whether an account still exists") })
	if who, _ := g.SignedIn(anaKey); who == "" {
		t.Fatal("the session has ended because the provider is down")
	}
	g.seen.set(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == mockoidc.TokenEndpoint {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(400)
			io.WriteString(w, `{"error":"invalid_grant","error_description":"the account is disabled"}`)
		}
		return r.URL.Path == mockoidc.TokenEndpoint
	})
	eventually(t, "the account is disabled", func() bool { who, _ := g.SignedIn(anaKey); return who == "" })
	eventually(t, "the log says so", func() bool { return strings.Contains(g.said.String(), "the account is disabled") })
}

func TestThePageIsOnlyForItsOwnVisitors(t *testing.T) {
	g := open(t)
	get(t, g.browser(t, "10.99.0.2"), page+"begin")
	ask := func(method, host, origin string) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, page+strings.TrimPrefix(map[string]string{"POST": "/sign-out", "GET": "/"}[method], "/"), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		if origin != "" {
			req.Header.Set("Origin", origin)
		}
		res, err := g.browser(t, "10.99.0.2").Transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res
	}
	for _, origin := range []string{"http://evil.example", "null"} {
		if res := ask("POST", "10.99.0.1", origin); res.StatusCode != http.StatusForbidden {
			t.Errorf("a form of %s: got %s", origin, res.Status)
		}
	}
	if res := ask("GET", "rebound.example", ""); res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != page {
		t.Errorf("another name: got %s to %q", res.Status, res.Header.Get("Location"))
	}
	if res := ask("POST", "rebound.example", "http://rebound.example"); res.StatusCode != http.StatusSeeOther {
		t.Errorf("a form under another name: got %s", res.Status)
	}
	if who, _ := g.SignedIn(anaKey); who == "" {
		t.Error("somebody else signed ana out")
	}
	for _, url := range []string{"http://VPN.corp.example:80/", "http://vpn.corp.example"} {
		g.reload(t, "required: [staff]", "required: [staff]\n  url: "+url)
		if res := ask("GET", "vpn.corp.example", ""); res.StatusCode != http.StatusOK {
			t.Errorf("with %s, as a browser asks for it: got %s to %q", url, res.Status, res.Header.Get("Location"))
		}
	}
	res := ask("GET", "10.99.0.1", "")
	for header, want := range map[string]string{"Content-Security-Policy": "default-src 'none'", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"} {
		if got := res.Header.Get(header); !strings.HasPrefix(got, want) {
			t.Errorf("%s: got %q", header, got)
		}
	}
}

func TestThePageMayHaveACertificate(t *testing.T) {
	g := open(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"vpn.example"}, NotAfter: time.Now().Add(time.Hour)}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(g.dir, "page.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	write(t, filepath.Join(g.dir, "page.key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
	g.reload(t, "required: [staff]", "required: [staff]\n  url: https://vpn.example/\n  certificate: page.pem\n  certificate_key: {file: page.key}")
	ana := g.browser(t, "10.99.0.2")
	transport := ana.Transport.(*http.Transport)
	transport.TLSClientConfig = &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "vpn.example"}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	transport.TLSClientConfig.RootCAs.AddCert(cert)
	dial := transport.DialContext
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		return dial(ctx, network, strings.Replace(address, "vpn.example", "10.99.0.1", 1))
	}
	for _, at := range []string{"10.99.0.1:80", "10.99.0.1:443"} {
		if v := g.Live.Decide(g.flow("10.99.0.2", at)); v.Egress != policy.EgressSignIn {
			t.Errorf("%s: got %+v", at, v)
		}
	}
	if to := where(t, ana, page); to.String() != "https://vpn.example/" {
		t.Errorf("plain HTTP leads to %s", to)
	}
	if status, body := get(t, ana, page+"begin"); status != 200 || !strings.Contains(body, "Sign in") {
		t.Errorf("got %d\n%s", status, body)
	}
	if status, body := get(t, ana, "https://vpn.example/begin"); status != 200 || !strings.Contains(body, "has signed in with ana") {
		t.Errorf("got %d\n%s\n%s", status, body, g.said)
	}
	issued := map[string]*tls.Certificate{"vpn.example": {Certificate: [][]byte{der}, PrivateKey: key, Leaf: cert}}
	g.Service.ACME = func(host string) *tls.Certificate { return issued[host] }
	const byACME = "\n  url: https://vpn.example/\n  acme: true\nacme: {agree: true}\n"
	g.reload(t, "  required: [staff]\n", "  required: [staff]"+byACME)
	if _, err := g.certificate(nil); err != nil {
		t.Errorf("a certificate of an authority: %v", err)
	}
	delete(issued, "vpn.example")
	if c, err := g.certificate(nil); err == nil {
		t.Errorf("before the authority has issued one: got %v, want none", c.Leaf.Subject)
	}
	issued["vpn.example"] = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: cert}
	here, err := Find(t.Context(), dial, netip.MustParseAddr("10.99.0.1"))
	if err != nil || here.URL != "https://vpn.example/" || here.Needed {
		t.Errorf("for penstock login: got %+v, %v", here, err)
	}
}

func TestFindingThePage(t *testing.T) {
	for _, row := range []struct {
		name, answer, says string
		status             int
	}{
		{"no page", "", "it answered 404", 404},
		{"another page", "<html>", "no page for signing in", 200},
		{"a redirect", "", "there is no page for signing in", 302},
		{"a page that is none", `{"url": "file:///etc/passwd"}`, "which is no page", 200},
		{"without an end", `{"url": "` + strings.Repeat("x", 2*maxHere), "no page for signing in", 200},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "http://other.example/")
			w.WriteHeader(row.status)
			io.WriteString(w, row.answer)
		}))
		dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
		}
		if _, err := Find(t.Context(), dial, netip.MustParseAddr("fd99::1")); err == nil || !strings.Contains(err.Error(), row.says) {
			t.Errorf("%s: got %v, want %q", row.name, err, row.says)
		}
		server.Close()
	}
}

func TestWhatHasBegunIsBounded(t *testing.T) {
	var p pendings
	now := time.Now()
	one := func(client uint64) pending { return pending{client: client, browser: digest("c")} }
	first := p.begin(one(1), now)
	for range clientPending {
		p.begin(one(1), now)
	}
	if _, ok := p.take(first, 1, "c", now); ok {
		t.Error("the oldest of a client with too many is still there")
	}
	for i := range 3 * maxPending {
		p.begin(one(uint64(2+i)), now)
	}
	if len(p.byState) > maxPending || len(p.order) > maxPending+1 {
		t.Errorf("got %d, %d; want %d at most", len(p.byState), len(p.order), maxPending)
	}
	state := p.begin(one(9), now)
	if _, ok := p.take(state, 9, "c", now.Add(pendingLife)); ok {
		t.Error("one is still there after its life")
	}
}

func TestOnePeerDoesNotUseUpTheProvider(t *testing.T) {
	g := open(t)
	ana, asked := g.browser(t, "10.99.0.2"), new(atomic.Int32)
	g.seen.set(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == mockoidc.TokenEndpoint {
			asked.Add(1)
		}
		return false
	})
	status := 0
	for range maxAttempts {
		status, _ = get(t, ana, page+"callback?state=x&code=y")
	}
	if status != http.StatusBadRequest || g.result(resultInvalid) != maxAttempts {
		t.Errorf("got %d, and %v attempts counted", status, g.result(resultInvalid))
	}
	lines := strings.Count(g.said.String(), "\n")
	for _, at := range []string{"callback?state=x&code=y", "begin"} {
		if status, body := get(t, ana, page+at); status != http.StatusTooManyRequests || !strings.Contains(body, "Too many attempts") {
			t.Errorf("%s: got %d\n%s", at, status, body)
		}
	}
	if n := strings.Count(g.said.String(), "\n"); n != lines || g.result(resultLimited) != 2 || asked.Load() != 0 {
		t.Errorf("got %d more lines in the log, %v counted, %d questions", n-lines, g.result(resultLimited), asked.Load())
	}
	if status, body := get(t, g.browser(t, "10.99.0.3"), page+"begin"); status != http.StatusOK {
		t.Errorf("another peer: got %d\n%s", status, body)
	}
	a, now := new(attempts), time.Now()
	for range maxAttempts {
		a.allow(1, now)
	}
	if a.allow(1, now.Add(time.Second)) || !a.allow(2, now) || !a.allow(1, now.Add(time.Minute)) {
		t.Error("a minute later the peer may try again, and others at any time")
	}
}

func TestConnectionsToThePageAreBounded(t *testing.T) {
	g := open(t)
	var held []net.Conn
	for range maxClientConns {
		c, err := g.DialFlow(t.Context(), g.flow("10.99.0.2", "10.99.0.1:80"))
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	if _, err := g.DialFlow(t.Context(), g.flow("10.99.0.2", "10.99.0.1:80")); err == nil {
		t.Error("one too many was opened")
	}
	if status, _ := get(t, g.browser(t, "10.99.0.3"), page); status != 200 {
		t.Errorf("another peer: got %d", status)
	}
	for _, c := range held {
		c.Close()
	}
	eventually(t, "there is room again", func() bool {
		c, err := g.DialFlow(t.Context(), g.flow("10.99.0.2", "10.99.0.1:80"))
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

func TestClaims(t *testing.T) {
	c := func(pairs ...string) claims {
		m := claims{}
		for i := 0; i+1 < len(pairs); i += 2 {
			m[pairs[i]] = []byte(pairs[i+1])
		}
		return m
	}
	for _, row := range []struct {
		name string
		says claims
		want string
	}{
		{"a verified address", c("sub", `"1"`, "email", `"a@b.c"`, "email_verified", "true"), "a@b.c"},
		{"an address of which nothing is said", c("sub", `"1"`, "email", `"a@b.c"`), "a@b.c"},
		{"an address that is not verified", c("sub", `"1"`, "email", `"a@b.c"`, "email_verified", "false"), "1"},
		{"the same as a string", c("sub", `"1"`, "email", `"a@b.c"`, "email_verified", `"false"`), "1"},
		{"no address", c("sub", `"1"`), "1"},
		{"a number", c("sub", `"1"`, "email", "7"), "1"},
		{"a line break", c("sub", `"1"`, "email", `"a\nb"`), "1"},
		{"too long", c("sub", `"1"`, "email", `"`+strings.Repeat("a", maxUser+1)+`"`), "1"},
	} {
		if got := row.says.user("email"); got != row.want {
			t.Errorf("%s: got %q, want %q", row.name, got, row.want)
		}
	}
	many := `["` + strings.Join(slices.Repeat([]string{"x"}, 10000), `","`) + `","staff","staff"]`
	named := map[string]bool{"staff": true}
	for text, want := range map[string]int{many: 1, `"staff"`: 1, `{"a": 1}`: 0, ``: 0, `null`: 0} {
		if got := c("groups", text).groups("groups", named); len(got) != want {
			t.Errorf("groups of %.20s: got %q, want %d", text, got, want)
		}
	}
}
