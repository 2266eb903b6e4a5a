package enrol

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"penstock/cmd/internal/control"
	"penstock/cmd/internal/door"
	"penstock/cmd/internal/renewed"
	"penstock/router/transport/wireguard"
)

// post posts a body and returns the status and the answer's text.
func (w *world) post(t *testing.T, body string) (status int, text string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: trust(w.pin), DisableKeepAlives: true}}
	defer client.CloseIdleConnections()
	r, err := client.Post(w.listen.URL+joinPath, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

func body(t *testing.T, token Token) string {
	t.Helper()
	_, key := newKeyPair()
	b, err := json.Marshal(request{token.text(), key.String()})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestJoin(t *testing.T) {
	w := newWorld(t).open(t)
	key, public := newKeyPair()
	link := w.invite(t, "ana")
	joined, err := Join(t.Context(), link, key)
	if err != nil {
		t.Fatal(err)
	}
	c := w.Config()
	if joined.Name != "ana" || joined.Config.PrivateKey != key || c.Peers.Len() != 1 || c.Peers.At(0).PublicKey != public.String() ||
		joined.Config.Addresses[0] != netip.MustParsePrefix("10.78.0.2/32") || joined.Config.Peers[0].PublicKey.String() != gatewayPublic ||
		!slices.Equal(joined.Config.Peers[0].Endpoints, []wireguard.Endpoint{{Host: "gw.example", Port: 51820}}) {
		t.Errorf("got %+v and the peers %+v", joined, c.Peers)
	}
	if w.count(isAccepted) != 1 || w.log.Count("a peer has joined by invitation") == 0 {
		t.Error("it is not counted and logged")
	}
	if w.log.Count(link.Token.text())+w.log.Count(key.Reveal()) > 0 {
		t.Error("a secret is in the log")
	}
}

// TestOnlyPenstockGetsSeveralEndpoints: the browser's page shows the file as it comes, for a phone.
func TestOnlyPenstockGetsSeveralEndpoints(t *testing.T) {
	w := newWorld(t).open(t)
	invite := func(name string) Link {
		invited, err := w.Invite(t.Context(), control.InviteQuery{Name: name, Endpoint: "gw.example:51820, [2001:db8::2]:51820,192.0.2.3:1"})
		if err != nil {
			t.Fatal(err)
		}
		link, err := ParseLink(invited.Link)
		if err != nil {
			t.Fatal(err)
		}
		return link
	}
	status, text := w.post(t, body(t, invite("ana").Token))
	var got answer
	if err := json.Unmarshal([]byte(text), &got); err != nil || status != http.StatusOK {
		t.Fatalf("got %d %s", status, text)
	}
	if strings.Count(got.Config, "Endpoint") != 1 || !strings.Contains(got.Config, "\nEndpoint = gw.example:51820\n") || got.Others != "[2001:db8::2]:51820,192.0.2.3:1" {
		t.Errorf("got %+v, want the first endpoint in the file and the others beside it", got)
	}
	key, _ := newKeyPair()
	joined, err := Join(t.Context(), invite("ben"), key)
	if err != nil {
		t.Fatal(err)
	}
	want := []wireguard.Endpoint{{Host: "gw.example", Port: 51820}, {Host: "2001:db8::2", Port: 51820}, {Host: "192.0.2.3", Port: 1}}
	if got := joined.Config.Peers[0].Endpoints; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestOutsideAllTokensThatAreNotValidLookTheSame(t *testing.T) {
	w := newWorld(t).open(t)
	taken, used, late := w.invite(t, "ana"), w.invite(t, "ben"), w.invite(t, "cleo")
	if err := w.Uninvite(t.Context(), "ana"); err != nil {
		t.Fatal(err)
	}
	if status, text := w.post(t, body(t, used.Token)); status != 200 {
		t.Fatal(text)
	}
	if err := w.invitations.change(func(list []invitation) ([]invitation, error) {
		list[2].Made, list[2].Until = noon, noon.Add(time.Hour)
		return list, nil
	}); err != nil {
		t.Fatal(err)
	}
	for why, token := range map[reason]Token{isRevoked: taken.Token, isUsed: used.Token, isLate: late.Token, isUnknown: NewToken()} {
		status, text := w.post(t, body(t, token))
		if status != 403 || text != `{"error":"this invitation is not valid: ask for a new one"}`+"\n" {
			t.Errorf("%s: got %d %s", why, status, text)
		}
		if w.count(why) != 1 || w.log.Count("reason="+string(why)) == 0 {
			t.Errorf("%s is not counted or not in the log", why)
		}
	}
}

func TestRequestsThatAreNone(t *testing.T) {
	w := newWorld(t).open(t)
	link := w.invite(t, "ana")
	good := body(t, link.Token)
	n := 0
	for name, text := range map[string]string{
		"nothing": "", "no object": "[]", "an unknown key": strings.Replace(good, "{", `{"groups":["admin"],`, 1),
		"no token": strings.Replace(good, link.Token.text(), "", 1), "half a token": strings.Replace(good, link.Token.text(), link.Token.text()[:11], 1),
		"no key":  regexp.MustCompile(`"public_key":"[^"]*"`).ReplaceAllString(good, `"public_key":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="`),
		"a flood": strings.Repeat(" ", mostRequest) + good,
	} {
		if status, answer := w.post(t, text); status != 400 {
			t.Errorf("%s: got %d %s, want 400", name, status, answer)
		}
		n++
	}
	if w.count(isMalformed) != n {
		t.Errorf("%d are counted, want %d", w.count(isMalformed), n)
	}
	if status, answer := w.post(t, good); status != 200 {
		t.Errorf("the invitation is lost: %d %s", status, answer)
	}
}

func TestGuessesAreLimited(t *testing.T) {
	w := newWorld(t).open(t)
	const guesses = 200
	// However slow this machine is, no further attempt falls due while the test runs.
	w.limit.sources.Add(door.Source(netip.MustParseAddr("127.0.0.1")), rate.NewLimiter(rate.Every(time.Hour), sourceBurst))
	for range guesses {
		w.post(t, body(t, NewToken()))
	}
	looked, limited := w.count(isUnknown), w.count(isLimited)
	if looked != sourceBurst || limited != guesses-sourceBurst {
		t.Errorf("%d were looked at and %d not, want %d and the rest", looked, limited, sourceBurst)
	}
	link := w.invite(t, "ana")
	if status, text := w.post(t, body(t, link.Token)); status != 429 {
		t.Errorf("a good token after many guesses: got %d %s, want 429", status, text)
	}
	if _, err := Join(t.Context(), link, wireguard.GeneratePrivateKey()); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "wait a minute") {
		t.Errorf("join: got %v, want to wait", err)
	}
}

func TestLimits(t *testing.T) {
	at := func(i int) netip.Prefix {
		return door.Source(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))
	}
	l := newLimit()
	for i := range mostSources * 2 {
		if !l.begin(at(i), noon) {
			t.Fatalf("source %d is not heard once", i)
		}
		if told := l.failed(noon); told != (i < allBurst) {
			t.Fatalf("failure %d: told is %v, want the first %d in the log", i, told, allBurst)
		}
	}
	if l.sources.Len() != mostSources {
		t.Errorf("%d sources are remembered, want %d", l.sources.Len(), mostSources)
	}
	if l.begin(at(mostSources*2-1), noon) {
		t.Error("one that has failed is heard while all have failed too often")
	}
	if !l.begin(at(mostSources*2-1), noon.Add(time.Minute)) {
		t.Error("one that has failed is not heard a minute later")
	}
}

func TestSomebodyInBetweenGetsNothing(t *testing.T) {
	w := newWorld(t).open(t)
	link := w.invite(t, "ana")
	wrong := link
	wrong.Pin[0]++
	if _, err := Join(t.Context(), wrong, wireguard.GeneratePrivateKey()); !errors.Is(err, ErrNotTheGateway) {
		t.Errorf("another key: got %v", err)
	}
	wrong.Pin = Pin{}
	if _, err := Join(t.Context(), wrong, wireguard.GeneratePrivateKey()); !errors.Is(err, ErrNotTheGateway) {
		t.Errorf("a certificate that nobody vouches for: got %v", err)
	}
	for _, r := range reasons() {
		if n := w.count(r); n != 0 {
			t.Errorf("the gateway saw %d attempts: %s", n, r)
		}
	}
	if _, err := Join(t.Context(), link, wireguard.GeneratePrivateKey()); err != nil {
		t.Error(err)
	}
	w.stop()
	if _, err := Join(t.Context(), link, wireguard.GeneratePrivateKey()); err == nil || !strings.Contains(err.Error(), "is not used up") {
		t.Errorf("nobody there: got %v", err)
	}
}

func TestLinksOutliveARestart(t *testing.T) {
	w := newWorld(t).open(t)
	link := w.invite(t, "ana")
	w.stop()
	w.open(t)
	link.Base = w.listen.URL
	if _, err := Join(t.Context(), link, wireguard.GeneratePrivateKey()); err != nil {
		t.Error(err)
	}
	w.stop()
	w.write(t, "enrol/"+keyName, "half a key")
	_, err := Open(t.Context(), Config{Listen: w.listen, Gateway: w})
	if err == nil || !strings.Contains(err.Error(), keyName) {
		t.Errorf("a damaged key: got %v, want an error that names it", err)
	}
}

func TestOneFolderHasOneGateway(t *testing.T) {
	w := newWorld(t).open(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if e, err := Open(ctx, Config{Listen: w.listen, Gateway: w}); err == nil {
		_ = e.Close()
		t.Error("a second gateway opened the same invitations")
	}
}

func TestARenewedCertificateIsUsed(t *testing.T) {
	w := newWorld(t)
	write := func(name string) Pin {
		t.Helper()
		own, pin, err := ownCertificate(filepath.Join(w.dir, name), "localhost", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		key, err := os.ReadFile(filepath.Join(w.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		w.write(t, "key.pem", string(key))
		w.write(t, "cert.pem", "-----BEGIN CERTIFICATE-----\n"+encodeLines(own.Certificate[0])+"-----END CERTIFICATE-----\n")
		return pin
	}
	listen := w.Config().Listen.Enrol
	listen.Certificate, listen.PrivateKey.File = filepath.Join(w.dir, "cert.pem"), filepath.Join(w.dir, "key.pem")
	first := write("one.key")
	w.open(t)
	seen := func() Pin {
		c, err := tls.Dial("tcp", w.server.listener.Addr().String(), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return pinOf(c.ConnectionState().PeerCertificates[0])
	}
	if seen() != first || !w.pin.IsZero() {
		t.Fatal("the certificate of the files is not used, or links pin it")
	}
	named := *listen
	named.URL = "https://localhost"
	var f renewed.Certificate
	looks := 0
	look := func() (*tls.Certificate, error) {
		looks++
		return f.Get(looks, named.KeyPair, w.Enrolment.log, "listen.enrol")
	}
	if _, err := look(); err != nil {
		t.Fatal(err)
	}
	second := write("two.key")
	if got, err := look(); err != nil || pinOf(got.Leaf) != second {
		t.Errorf("the renewed certificate is not used: %v", err)
	}
	named.URL = "https://another.example"
	write("three.key")
	if got, err := look(); err != nil || pinOf(got.Leaf) != second {
		t.Errorf("a certificate for another host replaces the former one: %v", err)
	}
	named.URL = "https://localhost"
	w.write(t, "cert.pem", "half")
	if got, err := look(); err != nil || pinOf(got.Leaf) != second {
		t.Errorf("half a certificate replaces the former one: %v", err)
	}
}

// authority has issued a certificate, or nil.
type authority struct {
	issued atomic.Pointer[tls.Certificate]
}

func (a *authority) Certificate(host string) *tls.Certificate {
	if host != "127.0.0.1" {
		return nil
	}
	return a.issued.Load()
}

func (a *authority) Answering(base *tls.Config) *tls.Config { return base }

// TestLinksWorkBeforeAndAfterTheAuthorityHasIssued: links pin the gateway's key, which the authority's certificate is for.
func TestLinksWorkBeforeAndAfterTheAuthorityHasIssued(t *testing.T) {
	w, a := newWorld(t), new(authority)
	w.Config().Listen.Enrol.ACME = true
	w.openWith(t, Config{Listen: w.Config().Listen.Enrol, Gateway: w, ACME: a})
	seen := func() string {
		t.Helper()
		c, err := tls.Dial("tcp", w.server.listener.Addr().String(), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	invite := func(name string) (link Link, warned bool) {
		t.Helper()
		made, err := w.Invite(t.Context(), control.InviteQuery{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		if link, err = ParseLink(made.Link); err != nil {
			t.Fatal(err)
		}
		return link, made.Pinned
	}
	issue := func(key crypto.Signer) {
		t.Helper()
		template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "issued"}, NotAfter: time.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		a.issued.Store(&tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf})
	}
	early, warned := invite("early")
	if got := seen(); got != "penstock gateway" || !warned || early.Pin.IsZero() {
		t.Errorf("before: got the certificate of %q, warned %t, pin %v; want the gateway's own", got, warned, early.Pin)
	}
	now, _ := invite("now")
	if _, err := Join(t.Context(), now, wireguard.GeneratePrivateKey()); err != nil {
		t.Errorf("a link before the authority has issued: %v", err)
	}
	issue(w.Key("listen.enrol"))
	late, warned := invite("late")
	if got := seen(); got != "issued" || warned || late.Pin != early.Pin {
		t.Errorf("after: got the certificate of %q, warned %t, another pin %t; want the one that was issued, for the same key", got, warned, late.Pin != early.Pin)
	}
	for name, link := range map[string]Link{"from before": early, "from after": late} {
		if _, err := Join(t.Context(), link, wireguard.GeneratePrivateKey()); err != nil {
			t.Errorf("a link %s: %v", name, err)
		}
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	issue(other)
	if got := seen(); got != "penstock gateway" {
		t.Errorf("one for another key: got the certificate of %q, want the gateway's own, which links pin", got)
	}
}

func encodeLines(der []byte) string {
	var b bytes.Buffer
	for text := base64.StdEncoding.EncodeToString(der); text != ""; {
		n := min(64, len(text))
		b.WriteString(text[:n] + "\n")
		text = text[n:]
	}
	return b.String()
}

func TestThePageLoadsNothingElse(t *testing.T) {
	w := newWorld(t).open(t)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: trust(w.pin), DisableKeepAlives: true}}
	page := func(path string) (string, http.Header, int) {
		t.Helper()
		r, err := client.Get(w.listen.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(b), r.Header, r.StatusCode
	}
	html, h, _ := page("/join")
	if regexp.MustCompile(`(?i)<script(?:[^>]*src="/join\.js"[^>]*)?>\s*[^<\s]| on[a-z]+=|style=|<style|https?:|src="[^/]|href="[^/]`).MatchString(html) {
		t.Errorf("the page has something in it that its policy forbids:\n%s", html)
	}
	for key, want := range map[string]string{
		"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
	} {
		if got := h.Get(key); got != want {
			t.Errorf("%s: got %q, want %q", key, got, want)
		}
	}
	if csp := h.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'; script-src 'self';") || strings.Contains(csp, "unsafe") {
		t.Errorf("got the policy %q", csp)
	}
	script, _, _ := page("/join.js")
	parts := regexp.MustCompile(`(?:src=|href=|from )"([^"]+)"`).FindAllStringSubmatch(html+script, -1)
	if len(parts) != 3 {
		t.Errorf("got the parts %q, want the style, the script and what it imports", parts)
	}
	for _, m := range parts {
		if text, _, status := page(m[1]); status != 200 || strings.Contains(text, "http:") || strings.Contains(text, "eval(") {
			t.Errorf("%s: status %d", m[1], status)
		}
	}
	for _, path := range []string{"/", "/join/", "/join.html", "/page/join.js", "/../gateway.key"} {
		if _, _, status := page(path); status != 404 {
			t.Errorf("%s: got status %d, want 404", path, status)
		}
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	w := newWorld(t).open(t)
	addr := w.server.listener.Addr().String()
	var idle []net.Conn
	for range mostConnsPerSource + 1 {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		idle = append(idle, c)
	}
	last := idle[len(idle)-1]
	if err := last.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := last.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("one connection too many: got %v, want it closed", err)
	}
	for _, c := range idle {
		c.Close()
	}
	eventually(t, "there is room again", func() bool {
		c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			return false
		}
		return c.Close() == nil
	})
}
