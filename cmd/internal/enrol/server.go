package enrol

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"penstock/cmd/internal/door"
	"penstock/cmd/internal/qr"
	"penstock/router/transport/wireguard"
)

//go:embed page
var pages embed.FS

const (
	mostRequest = 1 << 10          // bytes: a token and a key
	redeemLimit = 10 * time.Second // for one who joins; then others who change peers have taken too long
	grace       = time.Second      // for answers when penstock stops
)

// server serves the page and takes the keys of those who join.
type server struct {
	enrolment *Enrolment
	listener  net.Listener
	http      *http.Server

	mu       sync.Mutex // guards below
	stopping bool
	joining  sync.WaitGroup // requests that write peers: a client that leaves does not stop one half way
}

func newServer(l net.Listener, e *Enrolment) *server {
	s := &server{enrolment: e, listener: l}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true) // one request at a time is enough, and needs no further limits
	s.http = &http.Server{
		Handler: s.routes(), Protocols: protocols, MaxHeaderBytes: 8 << 10,
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: redeemLimit + 10*time.Second, IdleTimeout: 30 * time.Second,
		ErrorLog: slog.NewLogLogger(e.log.Handler(), slog.LevelDebug),
	}
	return s
}

// run serves until ctx ends.
func (s *server) run(ctx context.Context) error {
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		if s.http.Shutdown(wait) != nil {
			s.http.Close()
		}
	})
	err := s.http.Serve(s.listener)
	if !stop() {
		<-stopped
	}
	s.mu.Lock()
	s.stopping = true
	s.mu.Unlock()
	s.joining.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func (s *server) close() {
	s.http.Close()
	s.listener.Close()
}

// routes serves the page, its files, and one call.
func (s *server) routes() http.Handler {
	mux := http.NewServeMux()
	for path, file := range map[string]struct {
		text []byte
		kind string
	}{
		joinPath:            {page("join.html"), "text/html; charset=utf-8"},
		joinPath + ".js":    {page("join.js"), "text/javascript; charset=utf-8"},
		joinPath + "-qr.js": {qr.Script(), "text/javascript; charset=utf-8"},
		joinPath + ".css":   {page("join.css"), "text/css; charset=utf-8"},
	} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", file.kind)
			_, _ = w.Write(file.text) // the client may have left
		})
	}
	mux.HandleFunc("POST "+joinPath, s.join)
	return strict(mux)
}

// page returns a file of the page.
func page(name string) []byte {
	text, err := fs.ReadFile(pages, "page/"+name)
	if err != nil {
		panic(err) // it is in the program
	}
	return text
}

// strict adds headers to every answer: nothing is kept, nothing else is loaded, and no other page shows this one.
func strict(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("Cache-Control", "no-store")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("X-Robots-Tag", "noindex")
		next.ServeHTTP(w, r)
	})
}

// request is what a client posts.
type request struct {
	Token     string `json:"token"`
	PublicKey string `json:"public_key"`
}

// answer is what it gets. Config is a wg-quick file whose section [Interface] lacks PrivateKey, for any program. Others are the
// gateway's endpoints beside the one in Config, for a client that can use several.
type answer struct {
	Name   string `json:"name,omitempty"`
	Config string `json:"config,omitempty"`
	Others string `json:"others,omitempty"` // separated by commas
	Error  string `json:"error,omitempty"`
}

func newAnswer(name string, file *wireguard.Config) answer {
	var text strings.Builder
	_, _ = file.Portable().WriteTo(&text) // errors would be those of text
	a := answer{Name: name, Config: text.String()}
	for i, e := range file.Peers[0].Endpoints[1:] {
		if i > 0 {
			a.Others += ","
		}
		a.Others += e.String()
	}
	return a
}

// join takes the key of one who joins.
func (s *server) join(w http.ResponseWriter, r *http.Request) {
	e, now := s.enrolment, time.Now()
	from := sourceOf(r)
	if !e.limit.begin(from, now) {
		w.Header().Set("Retry-After", "60")
		e.refuse(w, r, "", slog.LevelDebug, &refusal{why: isLimited, said: "too many attempts: wait a minute and try again"})
		return
	}
	token, key, no := read(w, r)
	name, file := "", (*wireguard.Config)(nil)
	if no == nil && !s.enter() {
		no = failure(http.ErrServerClosed)
	}
	if no == nil {
		defer s.joining.Done()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), redeemLimit)
		defer cancel()
		name, file, no = e.redeem(ctx, token, key)
	}
	if no != nil {
		level := slog.LevelWarn
		if !e.limit.failed(now) {
			level = slog.LevelDebug // a flood does not fill the log
		}
		if no.why == isFailed {
			level = slog.LevelError
		}
		e.refuse(w, r, name, level, no)
		return
	}
	e.limit.succeeded(from)
	e.attempts.WithLabelValues(string(isAccepted)).Inc()
	e.log.Info("a peer has joined by invitation", "peer", name, "from", r.RemoteAddr)
	write(w, http.StatusOK, newAnswer(name, file))
}

// enter notes that somebody joins, unless penstock stops. The caller calls joining.Done.
func (s *server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopping {
		s.joining.Add(1)
	}
	return !s.stopping
}

// read reads a request.
func read(w http.ResponseWriter, r *http.Request) (token Token, key wireguard.PublicKey, no *refusal) {
	malformed := func(said string, err error) *refusal { return &refusal{why: isMalformed, said: said, err: err} }
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return token, key, malformed("the request is no JSON", err)
	}
	var q request
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, mostRequest))
	d.DisallowUnknownFields()
	if err := d.Decode(&q); err != nil {
		return token, key, malformed("the request is not what was expected", nil) // not repeated: the error may quote a token
	}
	token, ok := parseToken(q.Token)
	if !ok {
		return token, key, &refusal{why: isMalformed, said: errNotValid.Error()}
	}
	key, err := checkKey(q.PublicKey)
	if err != nil {
		return token, key, malformed("the key is none that WireGuard can use: make another one", err)
	}
	return token, key, nil
}

// sourceOf returns where a request comes from. The connection says so; a header could be anybody's word.
func sourceOf(r *http.Request) netip.Prefix {
	from, _ := netip.ParseAddrPort(r.RemoteAddr) // always one
	return door.Source(from.Addr())
}

// refuse answers, counts and logs a refusal.
func (e *Enrolment) refuse(w http.ResponseWriter, r *http.Request, name string, level slog.Level, no *refusal) {
	e.attempts.WithLabelValues(string(no.why)).Inc()
	status := http.StatusForbidden
	switch no.why {
	case isLimited:
		status = http.StatusTooManyRequests
	case isMalformed:
		status = http.StatusBadRequest
	case isClash:
		status = http.StatusConflict
	case isAway:
		status = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", "60")
	case isFailed:
		status = http.StatusInternalServerError
	}
	attrs := []any{"reason", string(no.why), "from", r.RemoteAddr}
	if name != "" {
		attrs = append(attrs, "peer", name)
	}
	if no.err != nil {
		attrs = append(attrs, "err", no.err)
	}
	e.log.Log(r.Context(), level, "an attempt to join is refused", attrs...)
	write(w, status, answer{Error: no.said})
}

func write(w http.ResponseWriter, status int, a answer) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(a) // the client may have left
}
