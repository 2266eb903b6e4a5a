package acme

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"flag"
	"io"
	"log"
	"log/slog"
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

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"penstock/cmd/internal/config"
)

const (
	patience = time.Minute
	name     = "vpn.example.com"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "16"); err != nil { // they wait for the authority, which is asked once a second
		panic(err)
	}
	for key, value := range map[string]string{"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_AUTHZREUSE": "0"} {
		if err := os.Setenv(key, value); err != nil {
			panic(err)
		}
	}
	// Pebble waits two seconds for a resolver that it is told of, which is short on a busy machine, and longer for the system's.
	net.DefaultResolver = resolver()
	// Pebble cannot be stopped. Its connections that are idle end with their listeners.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/letsencrypt/pebble/v2/va.VAImpl.processTasks"))
}

// authority is Pebble in this process, behind a proxy that can be told to misbehave.
type authority struct {
	url      string
	port80   net.Listener // where it asks
	port443  net.Listener
	asked    atomic.Int64 // requests
	accounts atomic.Int64
	orders   atomic.Int64

	rootsFile string
	db        *db.MemoryStore

	mu      sync.Mutex
	instead func(w http.ResponseWriter, r *http.Request) bool // answers in its place, if it says so; nil: never
}

// newAuthority starts one whose certificates are valid for so long; 0 is 90 days.
func newAuthority(t *testing.T, lasts time.Duration) *authority {
	t.Helper()
	a := &authority{port80: listen(t), port443: listen(t), db: db.NewMemoryStore()}
	silent := log.New(io.Discard, "", 0)
	if testing.Verbose() && os.Getenv("PEBBLE_LOG") != "" {
		silent = log.New(os.Stderr, "pebble ", 0)
	}
	port := func(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }
	issuer := ca.New(silent, a.db, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {ValidityPeriod: uint64(lasts / time.Second)}})
	checker := va.New(silent, port(a.port80), port(a.port443), false, "", a.db)
	front := wfe.New(silent, a.db, checker, issuer, []string{"pebble.example"}, true, false, 1, 1)
	server := httptest.NewTLSServer(a.misbehaving(front.Handler()))
	t.Cleanup(server.Close)
	a.url = server.URL + wfe.DirectoryPath
	a.rootsFile = filepath.Join(t.TempDir(), "roots.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(a.rootsFile, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *authority) misbehaving(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.asked.Add(1)
		a.mu.Lock()
		instead := a.instead
		a.mu.Unlock()
		if instead != nil && instead(w, r) {
			return
		}
		answer := &recorded{ResponseWriter: w}
		next.ServeHTTP(answer, r)
		if answer.status != http.StatusCreated { // Pebble refuses some nonces at random, to see them asked again
			return
		}
		switch r.URL.Path {
		case "/order-plz":
			a.orders.Add(1)
		case "/sign-me-up":
			a.accounts.Add(1)
		}
	})
}

type recorded struct {
	http.ResponseWriter
	status int
}

func (r *recorded) WriteHeader(status int) { r.status = status; r.ResponseWriter.WriteHeader(status) }

// behave sets what is answered in its place.
func (a *authority) behave(instead func(w http.ResponseWriter, r *http.Request) bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.instead = instead
}

// down is an authority that does not answer.
func down(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// resolver has every name at 127.0.0.1.
func resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		asks, answers := net.Pipe()
		go answer(answers) // until the other end is closed
		return asks, nil
	}}
}

// answer answers the questions of a connection.
func answer(c net.Conn) {
	defer c.Close()
	view := dns.Conn{Conn: c}
	for {
		q, err := view.ReadMsg()
		if err != nil {
			return
		}
		reply := new(dns.Msg).SetReply(q)
		if of := q.Question[0]; of.Qtype == dns.TypeA {
			reply.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: of.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(127, 0, 0, 1)}}
		}
		if view.WriteMsg(reply) != nil {
			return
		}
	}
}

// gateway is a Certificates that runs, and what it needs.
type gateway struct {
	*Certificates
	folder   string
	registry *prometheus.Registry
	log      *buffer
	stop     func()
}

// options say how a gateway differs.
type options struct {
	folder  string
	email   string // "": one
	query   string // of the directory
	sites   func() []config.ACMESite
	key     crypto.Signer
	port443 bool
	no80    bool
	shut80  bool          // the authority does not get through to port 80
	pause   time.Duration // 0: short
}

func (o options) start(t *testing.T, a *authority) *gateway {
	t.Helper()
	g := o.open(a)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := g.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	if !o.no80 && !o.shut80 {
		port80 := reopened(t, a.port80)
		wg.Go(func() {
			if err := g.Serve(ctx, port80); err != nil {
				t.Errorf("port 80: %v", err)
			}
		})
	}
	if o.port443 {
		wg.Go(func() { g.page(ctx, reopened(t, a.port443)) })
	}
	g.stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(g.stop)
	return g
}

// reopened is a listener at the address of another, which closing it leaves open.
func reopened(t *testing.T, l net.Listener) net.Listener {
	t.Helper()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	again, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	return again
}

// page is one of the gateway's own pages, whose clients speak HTTP.
func (g *gateway) page(ctx context.Context, l net.Listener) {
	secure := g.Answering(&tls.Config{NextProtos: []string{"http/1.1"}, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		return g.Certificate(name), nil
	}})
	server := &http.Server{Handler: http.NotFoundHandler(), ErrorLog: log.New(io.Discard, "", 0)}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	_ = server.Serve(tls.NewListener(l, secure))
}

func (o options) open(a *authority) *gateway {
	g := &gateway{folder: o.folder, registry: prometheus.NewRegistry(), log: new(buffer)}
	if o.sites == nil {
		o.sites = func() []config.ACMESite { return []config.ACMESite{{Key: "listen.enrol", Host: name}} }
	}
	g.Certificates = Open(Config{
		Settings: &config.ACME{Directory: a.url + o.query, Agree: true, Email: cmp.Or(o.email, "ops@corp.example.com"), CA: a.rootsFile, Folder: o.folder, Via: "direct"},
		Port80:   !o.no80, Port443: o.port443, Sites: o.sites,
		Dial: func(ctx context.Context, via, network, address string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		},
		Key:      func(string) (crypto.Signer, error) { return o.key, nil },
		Registry: g.registry, Log: slog.New(slog.NewTextHandler(g.log, nil)),
	})
	g.every, g.pause = 20*time.Millisecond, max(o.pause, 50*time.Millisecond)
	return g
}

// buffer is a log.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// until waits for something.
func (g *gateway) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("%s: not after %v. Trouble: %q, warnings: %q. The log:\n%s", what, patience, g.Trouble(), g.Warnings(), g.log)
		}
	}
}

// untilIssued waits for a certificate that another one is not.
func (g *gateway) untilIssued(t *testing.T, other *tls.Certificate) *tls.Certificate {
	t.Helper()
	g.until(t, "a certificate", func() bool { c := g.Certificate(name); return c != nil && !sameLeaf(c, other) })
	return g.Certificate(name)
}

func sameLeaf(a, b *tls.Certificate) bool { return b != nil && a.Leaf.Equal(b.Leaf) }

// keep stores a certificate as an earlier run could have: valid for 90 days of which so much is left.
func keep(t *testing.T, folder, host string, left time.Duration) *tls.Certificate {
	t.Helper()
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	end := time.Now().Add(left)
	template := &x509.Certificate{SerialNumber: one, DNSNames: []string{host}, NotBefore: end.Add(-90 * 24 * time.Hour), NotAfter: end}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	cert := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
	s := store{folder}
	if err := s.prepare(); err != nil {
		t.Fatal(err)
	}
	if err := s.save(host, cert); err != nil {
		t.Fatal(err)
	}
	return cert
}

// files returns the names of the files in a folder that begin so.
func files(t *testing.T, folder, prefix string) (names []string) {
	t.Helper()
	list, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if strings.HasPrefix(e.Name(), prefix) {
			names = append(names, e.Name())
		}
	}
	return names
}
