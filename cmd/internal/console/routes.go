package console

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/json"
	"io/fs"
	"mime"
	"net"
	"net/http"
	"path"
	"strings"
	"time"

	"penstock/cmd/internal/control"
	"penstock/cmd/internal/qr"
)

//go:embed web
var web embed.FS

const (
	// keyHeader has the key of the session. A page of another origin cannot send it.
	keyHeader = "X-Penstock-Key"
	// maxBody bounds a body, octets. The calls have their own bound, which is not larger.
	maxBody = 64 << 10
	// answerWait is how long a browser may take an answer, but for events.
	answerWait = 30 * time.Second

	securityPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
		"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { file(w, r, "index.html") })
	mux.HandleFunc("GET /assets/{name...}", func(w http.ResponseWriter, r *http.Request) { file(w, r, r.PathValue("name")) })
	mux.HandleFunc("POST /session", s.begin)
	mux.HandleFunc("GET /session", s.known(func(w http.ResponseWriter, _ *http.Request, v visit) {
		answer(w, http.StatusOK, map[string]any{"readOnly": v.readOnly, "version": s.config.Version})
	}))
	mux.HandleFunc("DELETE /session", s.known(s.end))
	mux.HandleFunc("POST /api/v1/{name...}", s.known(s.call))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		answer(w, http.StatusNotFound, failure{"there is no such page here"})
	})
	return s.guard(mux)
}

// failure is the body of every answer that is not 200.
type failure struct {
	Error string `json:"error"`
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body) // fails only if the browser has left
}

// guard refuses what another page or another host's name has led here, and says to the browser what the page may do.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerWait))
		h := w.Header()
		h.Set("Content-Security-Policy", securityPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		if !s.isOurs(r.Host) {
			answer(w, http.StatusForbidden, failure{"the console is at http://" + s.config.Listener.Addr().String() + " and has no other name"})
			return
		}
		if origin := r.Header.Get("Origin"); origin != "" && origin != "http://"+r.Host {
			answer(w, http.StatusForbidden, failure{"requests of other pages are refused"})
			return
		}
		// A link elsewhere, or a file that opens the browser, may lead to the page itself: without its key it is empty.
		if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" && r.URL.Path != "/" {
			answer(w, http.StatusForbidden, failure{"requests of other pages are refused"})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// isOurs reports whether a Host header names this server. Names of others may lead here, too: whoever owns one decides.
func (s *Server) isOurs(host string) bool {
	return names(s.config.Listener.Addr().String(), host)
}

// names reports whether a Host header is one of a server's address. Browsers leave out the port that all of them know.
func names(address, host string) bool {
	if bare, ok := strings.CutSuffix(address, ":80"); ok && (host == bare || host == "localhost") {
		return true
	}
	_, port, err := net.SplitHostPort(address)
	return host == address || err == nil && host == "localhost:"+port
}

// file serves a file of the page. The files hold no secrets.
func file(w http.ResponseWriter, r *http.Request, name string) {
	data, err := fs.ReadFile(web, path.Join("web", path.Clean("/"+name)))
	if name == "qr.mjs" {
		data, err = qr.Script(), nil
	}
	if err != nil {
		answer(w, http.StatusNotFound, failure{"there is no such page here"})
		return
	}
	sum := sha256.Sum256(data)
	h := w.Header()
	h.Set("Cache-Control", "no-cache")
	h.Set("ETag", `"`+base64.RawURLEncoding.EncodeToString(sum[:9])+`"`)
	kind := mime.TypeByExtension(path.Ext(name))
	if strings.HasSuffix(name, ".mjs") {
		kind = "text/javascript; charset=utf-8" // not every system knows it
	}
	h.Set("Content-Type", kind)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

// begin exchanges the token of a link for a session.
func (s *Server) begin(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Token string `json:"token"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&in); err != nil {
		answer(w, http.StatusBadRequest, failure{"the request is not the JSON expected"})
		return
	}
	cookie, key, readOnly, err := s.sessions.begin(in.Token, time.Now())
	if err != nil {
		s.sayRefused(err)
		answer(w, http.StatusForbidden, failure{err.Error()})
		return
	}
	s.log.Info("console opened", "read_only", readOnly)
	http.SetCookie(w, &http.Cookie{Name: s.cookie(), Value: cookie, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode})
	answer(w, http.StatusOK, map[string]any{"key": key, "readOnly": readOnly})
}

// sayRefused logs that a link was refused, once a minute: everybody on this host may guess as often as they like.
func (s *Server) sayRefused(err error) {
	now, last := time.Now().UnixNano(), s.refused.Load()
	passed := time.Duration(now - last) // below 0 after the clock was set back
	if last != 0 && 0 <= passed && passed < time.Minute || !s.refused.CompareAndSwap(last, now) {
		return
	}
	s.log.Warn("console: a link was refused; others of the next minute are not logged", "err", err)
}

// cookie is the name of the session's cookie. Browsers do not tell ports apart, and several consoles may run on this host.
func (s *Server) cookie() string {
	_, port, _ := net.SplitHostPort(s.config.Listener.Addr().String())
	return "penstock-" + port
}

// known passes on requests of a session. Programs behind other ports of this host can set a cookie of the same name beside ours.
func (s *Server) known(next func(http.ResponseWriter, *http.Request, visit)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		for _, c := range r.CookiesNamed(s.cookie()) {
			if v, err := s.sessions.find(c.Value, r.Header.Get(keyHeader), time.Now()); err == nil {
				next(w, r, v)
				return
			}
		}
		answer(w, http.StatusUnauthorized, failure{errNoSession.Error()})
	}
}

func (s *Server) end(w http.ResponseWriter, _ *http.Request, v visit) {
	s.sessions.end(v.cookie)
	http.SetCookie(w, &http.Cookie{Name: s.cookie(), Path: "/", MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteStrictMode})
	answer(w, http.StatusOK, struct{}{})
}

// call passes a call on with the rights of the session, and for no longer than that lasts.
func (s *Server) call(w http.ResponseWriter, r *http.Request, v visit) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	go func() {
		select {
		case <-v.over:
			cancel()
		case <-ctx.Done():
		}
	}()
	r = r.Clone(control.As(ctx, "console", !v.readOnly))
	r.URL.Path, r.URL.RawPath = "/v1/"+r.PathValue("name"), ""
	s.config.API.ServeHTTP(w, r)
}
