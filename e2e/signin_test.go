package e2e

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
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

// forgets makes the provider refuse to refresh tokens when accounts are disabled.
func (l *login) forgets(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
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
	t.Setenv("SSL_CERT_FILE", netlab.CAFile) // the provider's certificate is the lab's
	w := newWorld(t)
	l := w.serveLogin(t)
	w.write(t, "client.key", l.ClientSecret)
	w.edit(t, "gateway.yaml", "dns:\n", "sign_in:\n  oidc: {issuer: "+l.Issuer()+", client_id: "+l.ClientID+", client_secret: {file: client.key}}\n"+
		"  required: [staff]\n  session: 1h\n  recheck: 1h\nstate_dir: .\ndns:\n")
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
	refused := attempt{"", "curl -i http://" + netlab.WikiSite + "/", "Location: " + page + "\r\n", nil}
	t.Run("an operator ends it, and a download with it", func(t *testing.T) {
		ended := w.download(t)
		w.gateway.must(t, "peer", "sign-out", "laptop")
		if r := ended(); r.code == 0 {
			t.Errorf("the download: got %s", r)
		}
		refused.on(t, w.Laptop)
	})
	t.Run("so does the end of the session", func(t *testing.T) {
		w.edit(t, "gateway.yaml", "session: 1h", "session: 8s")
		w.gateway.must(t, "reload")
		w.signIn(t, l)
		if r := w.download(t)(); r.code == 0 {
			t.Errorf("the download: got %s", r)
		}
		refused.on(t, w.Laptop)
	})
	t.Run("and a provider that no longer knows the account", func(t *testing.T) {
		w.edit(t, "gateway.yaml", "session: 8s\n  recheck: 1h", "session: 1h\n  recheck: 1s")
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
