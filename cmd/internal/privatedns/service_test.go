package privatedns

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"penstock/cmd/internal/config"
	"penstock/dnsproxy"
	"penstock/policy"
)

// world is a service that knows the phones of one gateway.
type world struct {
	*Service
	cfg  *config.Config
	reg  *prometheus.Registry
	ben  Access
	said *text // the log
}

// text is a buffer that may be read while it is written.
type text struct {
	mu  sync.Mutex // guards below
	buf bytes.Buffer
}

func (b *text) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *text) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// newWorld runs a service on ports of its own, and the server behind it, which blocks all names.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{reg: prometheus.NewRegistry(), said: new(text), cfg: gateway(t)}
	any := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}
	w.cfg.DNS.Serve.HTTPS, w.cfg.DNS.Serve.TLS = any, any
	plan, err := dnsproxy.Compile(dnsproxy.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(w.said, &slog.HandlerOptions{Level: slog.LevelDebug}))
	metrics := dnsproxy.NewMetrics(w.reg)
	server, err := dnsproxy.New(dnsproxy.Config{Policy: nothing{}, Log: log, Metrics: metrics}, plan)
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := NewPlan(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if w.ben, err = AccessOf(w.cfg, w.cfg.Peers.At(1)); err != nil {
		t.Fatal(err)
	}
	whose := func(way Way, token string, src netip.AddrPort) (policy.Flow, bool) {
		id, ok := tokens.Peer(way, token)
		return policy.Flow{Client: 7, Peer: id}, ok
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.Service, err = Open(ctx, w.cfg, Config{
		Server: server, Serve: func() *config.DNSServe { return w.cfg.DNS.Serve }, Whose: whose, Metrics: metrics, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { server.Run(ctx) })
	wg.Go(func() {
		if err := w.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return w
}

// nothing is a policy that blocks all.
type nothing struct{}

func (nothing) Decide(policy.Flow) policy.Verdict     { return policy.Verdict{Rule: "nothing"} }
func (nothing) DecideName(policy.Flow) policy.Verdict { return policy.Verdict{Rule: "nothing"} }

// client is an HTTP client whose host names all lead to the service.
func (w *world) client(t *testing.T) *http.Client {
	t.Helper()
	transport := &http.Transport{
		ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, w.https[0].Addr().String())
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

func packed(t *testing.T) []byte {
	t.Helper()
	q, err := new(dns.Msg).SetQuestion("www.example.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// refused returns how many were refused for a reason.
func (w *world) refused(t *testing.T, reason string) int {
	t.Helper()
	families, err := w.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "penstock_dns_encrypted_refused_total" && m.GetLabel()[0].GetValue() == reason {
				return int(m.GetCounter().GetValue())
			}
		}
	}
	t.Fatalf("there is no reason %s", reason)
	return 0
}

// TestHTTPS: a phone is answered over HTTP/2, whoever has no token is not, and whoever guesses is limited.
func TestHTTPS(t *testing.T) {
	w := newWorld(t)
	client := w.client(t)
	url := "https://dns.example" + strings.TrimPrefix(w.ben.URL, "https://dns.example:0")
	post := func(url string) (code int, proto string, answer []byte) {
		t.Helper()
		res, err := client.Post(url, "application/dns-message", bytes.NewReader(packed(t)))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		answer, err = io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, res.Proto, answer
	}
	ask := func() {
		t.Helper()
		code, proto, answer := post(url)
		a := new(dns.Msg)
		if err := a.Unpack(answer); code != 200 || proto != "HTTP/2.0" || err != nil || a.Rcode != dns.RcodeNameError {
			t.Errorf("got %d, %s, %v, %v", code, proto, err, a)
		}
	}
	ask()
	codes := map[int]int{}
	for i := range 30 {
		for _, path := range []string{"/", "/dns-query", "/dns-query/", fmt.Sprintf("/dns-query/%032d", i)} {
			code, _, answer := post("https://dns.example" + path)
			codes[code]++
			if bytes.Contains(answer, []byte("www")) {
				t.Errorf("%s: got the answer %q", path, answer)
			}
		}
	}
	if codes[404] != maxGuesses || codes[429] != 120-maxGuesses {
		t.Errorf("got %v, want %d not found and the rest too many", codes, maxGuesses)
	}
	if a, b := w.refused(t, "token"), w.refused(t, "guessing"); a != maxGuesses || b != 120-maxGuesses {
		t.Errorf("metrics: got %d tokens and %d guesses", a, b)
	}
	ask()
	if said := w.said.String(); strings.Contains(said, url[len(url)-32:]) || strings.Contains(said, "00000") {
		t.Errorf("a token is in the log:\n%s", said)
	}
}

// TestTLS: a phone is answered by its name, in whatever letters it writes it, and nobody else is.
func TestTLS(t *testing.T) {
	w := newWorld(t)
	shake := func(name string) (*tls.Conn, error) {
		conn, err := tls.Dial("tcp", w.tls[0].Addr().String(), &tls.Config{InsecureSkipVerify: true, ServerName: name})
		if err == nil {
			t.Cleanup(func() { conn.Close() })
			conn.SetDeadline(time.Now().Add(20 * time.Second))
		}
		return conn, err
	}
	for _, name := range []string{w.ben.Host, strings.ToUpper(w.ben.Host)} {
		conn, err := shake(name)
		if err != nil {
			t.Fatal(err)
		}
		c := &dns.Conn{Conn: conn}
		c.WriteMsg(new(dns.Msg).SetQuestion("www.example.", dns.TypeA))
		if a, err := c.ReadMsg(); err != nil || a.Rcode != dns.RcodeNameError {
			t.Errorf("%s: got %v, %v", name, a, err)
		}
	}
	for _, name := range []string{"", "dns.example", "x" + w.ben.Host, "other.example", w.ben.URL[len(w.ben.URL)-32:] + ".dns.example"} {
		if _, err := shake(name); err == nil {
			t.Errorf("%q: got a connection", name)
		}
	}
	if got := w.refused(t, "token"); got != 5 {
		t.Errorf("metrics: got %d unknown tokens, want 5", got)
	}
}

// TestSlowClients: whoever is slow or speaks something else is cut off, and gives his place back.
func TestSlowClients(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	head := func(conn net.Conn, more string) {
		c := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
		if err := c.Handshake(); err != nil {
			t.Error(err)
		}
		io.WriteString(c, more)
	}
	path := strings.TrimPrefix(w.ben.URL, "https://dns.example:0")
	var wg sync.WaitGroup
	for says, do := range map[string]func(net.Conn){
		"silence":     func(net.Conn) {},
		"garbage":     func(c net.Conn) { io.WriteString(c, "GET / HTTP/1.1\r\n\r\n") },
		"half a head": func(c net.Conn) { head(c, "GET /dns-query/") },
		"half a body": func(c net.Conn) {
			head(c, "POST "+path+" HTTP/1.1\r\nHost: x\r\nContent-Type: application/dns-message\r\nContent-Length: 99\r\n\r\nabc")
		},
		"an endless URL": func(c net.Conn) { head(c, "GET /"+strings.Repeat("x", 64<<10)) },
	} {
		conn, err := net.Dial("tcp", w.https[0].Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(40 * time.Second))
		wg.Go(func() {
			defer conn.Close()
			do(conn)
			if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: the connection is still open", says)
			}
		})
	}
	wg.Wait()
	for limit := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		total := w.door.Held()
		if total == 0 {
			break
		}
		if time.Now().After(limit) {
			t.Fatalf("%d connections hold a place", total)
		}
	}
	if got := w.refused(t, "handshake"); got < 2 {
		t.Errorf("metrics: got %d handshakes that failed, want 2", got)
	}
}

// TestTooManyConnections: one address cannot take all places.
func TestTooManyConnections(t *testing.T) {
	w := newWorld(t)
	for range maxConnsOneSrc {
		conn, err := net.Dial("tcp", w.tls[0].Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	conn, err := net.Dial("tcp", w.https[0].Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	if n, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("one more: read %d bytes, %v; want it closed", n, err)
	}
	if got := w.refused(t, "connections"); got != 1 {
		t.Errorf("metrics: got %d connections refused, want 1", got)
	}
}

// TestOpenSaysWhatIsWrong: a port that is taken is a fault with its place, and nothing stays open.
func TestOpenSaysWhatIsWrong(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c := gateway(t, "127.0.0.1:853", ln.Addr().String())
	c.DNS.Serve.HTTPS[0] = netip.MustParseAddrPort("127.0.0.1:0")
	_, err = Open(t.Context(), c, Config{Serve: func() *config.DNSServe { return c.DNS.Serve }})
	var fault *config.Error
	if !errors.As(err, &fault) || !strings.Contains(err.Error(), "config.yaml:2:") || !strings.Contains(err.Error(), "choose another address") {
		t.Errorf("got %v", err)
	}
	if s, err := Open(t.Context(), gateway(t, "dns: {serve", "dns: {timeout: 3s} # {serve", "  - {name: ben}\n", ""), Config{}); s != nil || err != nil || s.Close() != nil || s.Run(t.Context()) != nil || s.Trouble() != "" {
		t.Errorf("without dns.serve: got %v, %v", s, err)
	}
}
