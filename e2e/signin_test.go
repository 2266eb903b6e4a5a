package e2e

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oauth2-proxy/mockoidc"

	"penstock/e2e/netlab"
)

// The provider of accounts is behind the second access router, which nobody else uses here.
const (
	loginSite = "login.example"
	loginIPv4 = "192.0.2.6"
)

// login is the provider of accounts.
type login struct {
	*mockoidc.MockOIDC
	disabled atomic.Bool // it knows no account any more
	hangs    atomic.Pointer[hang]
}

// hang is how a provider does not say where its parts are.
type hang struct {
	arrived chan struct{} // somebody asks
	over    chan struct{} // closed: it answers
}

// serveLogin starts the provider.
func (w *world) serveLogin(t *testing.T) *login {
	t.Helper()
	if err := w.PublicDNS.Add(loginSite + ". 60 IN A " + loginIPv4); err != nil {
		t.Fatal(err)
	}
	cert, err := w.CA.Certificate(loginSite)
	if err != nil {
		t.Fatal(err)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	l := new(login)
	if l.MockOIDC, err = mockoidc.NewServer(key); err != nil {
		t.Fatal(err)
	}
	if err := l.AddMiddleware(l.forgets); err != nil {
		t.Fatal(err)
	}
	plain, err := w.Access2.Listen(t.Context(), "tcp", loginIPv4+":443")
	if err != nil {
		t.Fatal(err)
	}
	settings := &tls.Config{Certificates: []tls.Certificate{*cert}}
	if err := l.Start(tls.NewListener(plain, settings), settings); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Server.Close() })
	l.Server.Addr = loginSite // of which its URLs are made
	return l
}

// demandSignIn makes the gateway demand that somebody has signed in with each peer in staff.
func (w *world) demandSignIn(t *testing.T, l *login) {
	t.Helper()
	w.environ = append(w.environ, "SSL_CERT_FILE="+netlab.CAFile) // the provider's certificate is the lab's
	w.write(t, "client.key", l.ClientSecret)
	w.edit(t, "gateway.yaml", "dns:\n", "sign_in:\n  oidc: {issuer: "+l.Issuer()+", client_id: "+l.ClientID+", client_secret: {file: client.key}}\n"+
		"  required: [staff]\n  session: 1h\n  recheck: 1h\nstate_dir: .\ndns:\n")
}

// forgets makes the provider refuse to refresh tokens when accounts are disabled, and hang.
func (l *login) forgets(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if h := l.hangs.Load(); h != nil && r.URL.Path == mockoidc.DiscoveryEndpoint {
			select {
			case h.arrived <- struct{}{}:
			default:
			}
			select {
			case <-h.over:
			case <-r.Context().Done():
			}
		}
		if l.disabled.Load() && r.FormValue("grant_type") == "refresh_token" {
			rw.Header().Set("Content-Type", "application/json")
			rw.WriteHeader(http.StatusBadRequest)
			json.NewEncoder(rw).Encode(map[string]string{"error": "invalid_grant"})
			return
		}
		next.ServeHTTP(rw, r)
	})
}

// signIn signs ana in with a browser on the laptop, which starts at the page that plain HTTP is led to.
func (w *world) signIn(t *testing.T, l *login) {
	t.Helper()
	l.QueueUser(&mockoidc.MockUser{Subject: "1", Email: "ana@corp.example", EmailVerified: true, Groups: []string{"engineering", "other"}})
	jar := w.path("cookies")
	attempt{"", "curl -L -b " + jar + " -c " + jar + " http://" + gatewayInner4 + "/begin", "ana@corp.example has signed in with laptop", nil}.on(t, w.Laptop)
}

// download starts one of the intranet's downloads that do not end, and returns it once it runs.
func (w *world) download(t *testing.T) (ended func() result) {
	t.Helper()
	cmd := w.Laptop.Command(t.Context(), program(t, "curl"), "-sS", "--noproxy", "*", "http://"+netlab.WikiSite+"/drip/100000")
	done := make(chan result, 1)
	go func() { done <- finish(t, cmd) }()
	eventually(t, "the download runs", func() error {
		for _, f := range w.gateway.flows(t) {
			if f.Rule == "intranet" && f.RxBytes > 0 {
				return nil
			}
		}
		return fmt.Errorf("the gateway has %+v", w.gateway.flows(t))
	})
	return func() result {
		t.Helper()
		select {
		case r := <-done:
			return r
		case <-time.After(20 * time.Second):
			t.Fatal("the download goes on")
			return result{}
		}
	}
}

// laptop [pen0 -> penstock] === WireGuard ===> [penstock] gateway --- intranet
//
//	^ curl, a browser                            ^ sign_in        \--- internet --- login.example, a provider
func TestAPeerSignsIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.serveLogin(t)
	w.demandSignIn(t, l)
	w.edit(t, "gateway.yaml", "group: [staff]", "group: [engineering]")
	w.up(t)
	page := "http://" + gatewayInner4 + "/"

	t.Run("before, nothing is reached but DNS and the way to sign in", func(t *testing.T) {
		tryAll(t, w.Laptop, []attempt{
			{"plain HTTP to the intranet is led to the page", "curl -i http://" + netlab.WikiSite + "/", "Location: " + page + "\r\n", nil},
			{"so is plain HTTP to the internet", "curl -i http://" + netlab.PublicSite + "/", "303 See Other", nil},
			{"and to an address", "curl -i http://" + publicIPv4 + "/", "Location: " + page + "\r\n", nil},
			{"HTTPS is refused", "curl https://" + netlab.PublicSite + "/", "", refusedOrCutOff()},
			{"HTTPS that claims to be for the provider is refused", "curl --connect-to " + loginSite + ":443:" + netlab.PublicSite + ":443 https://" + loginSite + "/", "", refusedOrCutOff()},
			{"another port is refused", "curl http://" + netlab.IntranetIPv4 + ":5001/", "", []int{notConnected}},
			{"the provider is reached", "curl https://" + loginSite + "/oidc/.well-known/openid-configuration", l.Issuer(), nil},
			{"the page is reached", "curl " + page, "Before laptop can be used, somebody has to sign in", nil},
		})
		if out := w.laptop.must(t, "login", "--print"); out != page+"\n" {
			t.Errorf("login: got %q", out)
		}
		f := w.gateway.deniedOne(t, "the flow to port 5001", func(f flow) bool { return strings.HasSuffix(f.Dst, ":5001") })
		if f.Reason != "sign-in needed" || f.Peer != "laptop" {
			t.Errorf("flows --denied: got %+v", f)
		}
		if out := w.gateway.cli(t, "explain", "--from", "laptop", "http://"+netlab.WikiSite+"/").stdout; !strings.Contains(out, "somebody has to sign in at "+page) {
			t.Errorf("explain: got\n%s", out)
		}
	})
	t.Run("after, the intranet is, by the groups of the claim", func(t *testing.T) {
		w.signIn(t, l)
		tryAll(t, w.Laptop, []attempt{
			{"the intranet is reached", "curl http://" + netlab.WikiSite + "/", "this is " + netlab.WikiSite, nil},
			{"so is the internet", "curl https://" + netlab.PublicSite + "/", "this is " + netlab.PublicSite, nil},
		})
		if r := w.laptop.cli(t, "login", "--print"); r.stdout != "" || !strings.Contains(r.stderr, "corp: ana@corp.example has signed in until ") {
			t.Errorf("login: got %s", r)
		}
		if out := w.gateway.must(t, "peer", "show", "laptop"); !strings.Contains(out, "ana@corp.example, since ") {
			t.Errorf("peer show: got\n%s", out)
		}
		if n := w.metric(t, w.Gateway, "penstock_sessions"); n != 1 {
			t.Errorf("metrics: got %v sessions", n)
		}
		if n := w.metric(t, w.Gateway, `penstock_sign_ins_total{result="ok"}`); n != 1 {
			t.Errorf("metrics: got %v sign-ins", n)
		}
	})
	t.Run("a restart is not noticed", func(t *testing.T) {
		w.gateway.kill(t)
		w.gateway.start(t)
		w.laptop.cli(t, "reconnect")
		w.connected(t)
		w.untilCarrying(t)
	})
	t.Run("a reload does not wait for a provider that hangs, and the sign-in goes on", func(t *testing.T) {
		l.QueueUser(&mockoidc.MockUser{Subject: "1", Email: "ana@corp.example", EmailVerified: true, Groups: []string{"engineering", "other"}})
		defer l.hangs.Store(nil)
		eventually(t, "somebody signs in", func() error { // again if the machine is so slow that penstock gives up meanwhile
			h := &hang{make(chan struct{}, 1), make(chan struct{})}
			release := sync.OnceFunc(func() { close(h.over) })
			defer release()
			l.hangs.Store(h)
			cmd := w.Laptop.Command(t.Context(), program(t, "curl"), "-sS", "-L", "--noproxy", "*", "--cacert", netlab.CAFile, "-b", w.path("cookies"), "-c", w.path("cookies"), page+"begin")
			begun := make(chan result, 1)
			go func() { begun <- finish(t, cmd) }()
			select {
			case <-h.arrived:
			case r := <-begun:
				return fmt.Errorf("the provider was not asked: got %s", r)
			}
			w.gateway.must(t, "reload")
			release()
			if r := <-begun; !strings.Contains(r.stdout, "ana@corp.example has signed in with laptop") {
				return fmt.Errorf("got %s", r)
			}
			return nil
		})
	})
	refused := attempt{"", "curl -i http://" + netlab.WikiSite + "/", "Location: " + page + "\r\n", nil}
	t.Run("an operator ends it, and a download with it", func(t *testing.T) {
		ended := w.download(t)
		w.gateway.must(t, "peer", "sign-out", "laptop")
		if r := ended(); r.code == 0 {
			t.Errorf("the download: got %s", r)
		}
		refused.on(t, w.Laptop)
	})
	t.Run("a real browser signs in through the tunnel", func(t *testing.T) {
		l.QueueUser(&mockoidc.MockUser{Subject: "1", Email: "ana@corp.example", EmailVerified: true, Groups: []string{"engineering"}})
		tab := browser(t, w.Laptop)
		visit(t, tab, "http://"+netlab.WikiSite+"/", "a.button", "ana@corp.example has signed in with laptop")
		visit(t, tab, "http://"+netlab.WikiSite+"/", "", "this is "+netlab.WikiSite)
		visit(t, tab, page, "form button", "Before laptop can be used, somebody has to sign in")
		refused.on(t, w.Laptop)
	})
	t.Run("so does the end of the session", func(t *testing.T) {
		w.signIn(t, l)
		ended := w.download(t)
		w.edit(t, "gateway.yaml", "session: 1h", "session: 1s") // also for those that have begun
		w.gateway.must(t, "reload")
		if r := ended(); r.code == 0 {
			t.Errorf("the download: got %s", r)
		}
		refused.on(t, w.Laptop)
	})
	t.Run("and a provider that no longer knows the account", func(t *testing.T) {
		w.edit(t, "gateway.yaml", "session: 1s\n  recheck: 1h", "session: 1h\n  recheck: 1s")
		w.gateway.must(t, "reload")
		w.signIn(t, l)
		ended := w.download(t)
		l.disabled.Store(true)
		if r := ended(); r.code == 0 {
			t.Errorf("the download: got %s", r)
		}
		refused.on(t, w.Laptop)
	})
	w.nothingInClear(t)
}

// laptop: curl, a browser --- SOCKS5, HTTP ---> [penstock; sign_in] gateway --- intranet
//
//	\--- internet --- login.example, a provider
func TestAPeerSignsInByProxy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.serveLogin(t)
	w.demandSignIn(t, l)
	w.listenForProxy(t, strings.Replace(proxyRules, "group: [staff]", "group: [engineering]", 1))
	page, public, wiki := "http://"+gatewayInner4+"/", netlab.PublicSite, netlab.WikiSite
	jar := w.path("cookies")
	try := func(t *testing.T, user, want string, args ...string) {
		t.Helper()
		if want == "" {
			args = append([]string{"-f"}, args...)
		}
		for _, scheme := range []string{"socks5h", "http"} {
			r := w.curl(t, append([]string{"-x", through(scheme, user), "-b", jar, "-c", jar}, args...)...)
			if want == "" && (r.code == 0 || strings.Contains(r.stdout, "this is ")) || want != "" && !strings.Contains(r.stdout, want) {
				t.Errorf("%s by %s: %q: got %s, want %q", user, scheme, args, r, want)
			}
		}
	}
	closed := func(t *testing.T) {
		t.Helper()
		try(t, "ana", "Location: "+page+"\r\n", "-i", "http://"+wiki+"/")
		try(t, "ana", "Location: "+page+"\r\n", "-i", "http://"+publicIPv4+"/")
		try(t, "ana", "", "https://"+public+"/")
		try(t, "ana", "", "http://"+netlab.IntranetIPv4+":5001/")
		try(t, "ana", "", "--connect-to", loginSite+":443:"+public+":443", "https://"+loginSite+"/")
		try(t, "ana", "Before ana can be used, somebody has to sign in", page)
	}
	closed(t)
	try(t, "ana", l.Issuer(), "https://"+loginSite+"/oidc/.well-known/openid-configuration")
	try(t, "ben", "this is "+public, "https://"+public+"/") // who need not

	l.QueueUser(&mockoidc.MockUser{Subject: "1", Email: "ana@corp.example", EmailVerified: true, Groups: []string{"engineering"}})
	if r := w.curl(t, "-L", "-x", through("http", "ana"), "-b", jar, "-c", jar, page+"begin"); !strings.Contains(r.stdout, "ana@corp.example has signed in with ana") {
		t.Fatalf("signing in: got %s", r)
	}
	try(t, "ana", "this is "+wiki, "http://"+wiki+"/")
	try(t, "ana", "this is "+public, "https://"+public+"/")
	try(t, "ben", "ben can be used without signing in", page) // the session is not his, whatever his browser has
	if r := w.curl(t, "-f", "-x", through("http", "ben"), "http://"+wiki+"/"); r.code == 0 {
		t.Errorf("ben reaches the intranet after ana has signed in: %s", r)
	}
	if out := w.gateway.must(t, "peer", "show", "ana"); !strings.Contains(out, "ana@corp.example, since ") {
		t.Errorf("peer show: got\n%s", out)
	}
	var hers []*dripping
	for _, scheme := range []string{"socks5h", "http"} {
		hers = append(hers, w.drip(t, through(scheme, "ana"), "http://"+wiki+"/drip/1000"))
	}
	w.gateway.must(t, "peer", "sign-out", "ana")
	for _, d := range hers {
		if code := d.end(t); code == 0 {
			t.Errorf("%s ended well", d.what)
		}
	}
	closed(t)
}
