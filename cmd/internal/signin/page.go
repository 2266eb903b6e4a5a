package signin

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"penstock/cmd/internal/config"
	"penstock/policy"
)

//go:embed page.html
var pageText string

//go:embed page.css
var pageStyle []byte

var pageTemplate = template.Must(template.New("page").Parse(pageText))

// cookieName is the cookie that binds a sign-in to the browser that began it.
const cookieName = "penstock_sign_in"

// cookieSize is the length of secret's result.
const cookieSize = 52

// WellKnown is the path under which the page says where it is, for penstock login.
const WellKnown = "/.well-known/penstock-sign-in"

// Here is what the page says under WellKnown.
type Here struct {
	URL    string    `json:"url"`
	Needed bool      `json:"needed"` // somebody must sign in
	User   string    `json:"user,omitempty"`
	Until  time.Time `json:"until,omitzero"`
}

// visitor is the peer that a request comes from.
type visitor struct {
	key    uint64
	name   string
	id     string // of the peer; empty for this machine
	needed bool   // somebody must sign in with the peer

	settings *config.SignIn
	page     string // URL
}

// routes returns the page. What a browser could be made to send from elsewhere is refused: a form of another site, and a request
// under a name that somebody else has pointed here.
func (s *Service) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.show)
	mux.HandleFunc("GET /begin", s.begin)
	mux.HandleFunc("GET /callback", s.callback)
	mux.HandleFunc("POST /sign-out", s.signOut)
	mux.HandleFunc("GET "+WellKnown, s.wellKnown)
	mux.HandleFunc("GET /page.css", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/css; charset=utf-8")
		w.Write(pageStyle) // fails only if the browser has left
	})
	guarded := http.NewCrossOriginProtection().Handler(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin") // with less, browsers do not say where a form came from
		h.Set("Cache-Control", "no-store")
		page := s.Live.Config().SignInURL()
		switch {
		case page == "":
			http.Error(w, "nobody signs in here", http.StatusNotFound)
		case r.TLS == nil && strings.HasPrefix(page, "https:") && r.URL.Path != WellKnown, !s.isHere(r.Host, page):
			http.Redirect(w, r, page, http.StatusSeeOther)
		default:
			r.Body = http.MaxBytesReader(w, r.Body, maxForm)
			guarded.ServeHTTP(w, r)
		}
	})
}

// isHere reports whether a Host header is the page's name or one of our addresses.
func (s *Service) isHere(host, page string) bool {
	if u, err := url.Parse(page); err == nil {
		usual := map[string]string{"http": ":80", "https": ":443"}[u.Scheme] // which browsers leave out
		if strings.EqualFold(strings.TrimSuffix(host, usual), strings.TrimSuffix(u.Host, usual)) {
			return true
		}
	}
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	for _, own := range s.Live.Config().Listen.WireGuard.Address {
		if a := own.Addr().String(); host == a || host == "["+a+"]" {
			return true
		}
	}
	return false
}

// visitor returns who asks. It answers those who are gone.
func (s *Service) visitor(w http.ResponseWriter, r *http.Request) (visitor, bool) {
	f := r.Context().Value(flowKey{}).(policy.Flow)
	c, ok := s.Live.Now().Clients.Client(f.Client)
	if !ok {
		http.Error(w, "this peer may not connect any more", http.StatusForbidden)
		return visitor{}, false
	}
	cfg := s.Live.Config()
	v := visitor{key: f.Client, name: c.Name, id: c.ID, settings: cfg.SignIn, page: cfg.SignInURL()}
	if v.page == "" {
		http.Error(w, "nobody signs in here any more", http.StatusNotFound)
		return visitor{}, false
	}
	v.needed = c.ID != "" && (v.settings.RequiresAll() || slices.ContainsFunc(v.settings.Required, func(group string) bool { return slices.Contains(c.Groups, group) }))
	return v, true
}

// shown is what the page shows.
type shown struct {
	Peer     string
	Needed   bool
	Session  *Session
	Until    string
	Provider string
	Failed   string // why somebody is not signed in
	IsPeer   bool
}

func (s *Service) page(w http.ResponseWriter, v visitor, status int, failed string) {
	x := shown{Peer: v.name, IsPeer: v.id != "", Needed: v.needed, Failed: failed, Provider: v.settings.OIDC.Issuer}
	if one, ok := s.Session(v.id); ok {
		x.Session, x.Until = &one, one.Until.Local().Format("Monday 15:04")
	}
	var b bytes.Buffer
	if err := pageTemplate.Execute(&b, x); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	w.Write(b.Bytes()) // fails only if the browser has left
}

func (s *Service) show(w http.ResponseWriter, r *http.Request) {
	if v, ok := s.visitor(w, r); ok {
		s.page(w, v, http.StatusOK, "")
	}
}

func (s *Service) wellKnown(w http.ResponseWriter, r *http.Request) {
	v, ok := s.visitor(w, r)
	if !ok {
		return
	}
	one, signedIn := s.Session(v.id)
	w.Header().Set("Content-Type", "application/json")
	here := Here{URL: v.page, Needed: v.needed && !signedIn, User: one.User, Until: one.Until}
	json.NewEncoder(w).Encode(here) // fails only if the asker has left
}

// begin sends the browser to the provider.
func (s *Service) begin(w http.ResponseWriter, r *http.Request) {
	v, ok := s.visitor(w, r)
	if !ok {
		return
	}
	if v.id == "" {
		s.page(w, v, http.StatusForbidden, "Only peers of this gateway sign in.")
		return
	}
	if !s.attempts.allow(v.key, time.Now()) {
		s.fail(w, v, errTooMany)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), exchangeLimit)
	defer cancel()
	p, err := s.provider.get(ctx, v.settings, v.page)
	if err != nil {
		s.fail(w, v, err)
		return
	}
	cookie := secret()
	if c, err := r.Cookie(cookieName); err == nil && len(c.Value) == cookieSize { // another tab of the same browser
		cookie = c.Value
	}
	one := pending{client: v.key, peer: v.id, browser: digest(cookie), nonce: secret(), verifier: oauth2.GenerateVerifier()}
	state := s.pending.begin(one, time.Now())
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: cookie, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: r.TLS != nil, MaxAge: int(pendingLife / time.Second),
	})
	http.Redirect(w, r, p.authorize(state, one), http.StatusSeeOther)
}

// callback takes what the browser brings back from the provider.
func (s *Service) callback(w http.ResponseWriter, r *http.Request) {
	v, ok := s.visitor(w, r)
	if !ok {
		return
	}
	if !s.attempts.allow(v.key, time.Now()) {
		s.fail(w, v, errTooMany)
		return
	}
	q, cookie := r.URL.Query(), ""
	if c, err := r.Cookie(cookieName); err == nil {
		cookie = c.Value
	}
	one, ok := s.pending.take(q.Get("state"), v.key, cookie, time.Now())
	switch {
	case !ok || one.peer != v.id:
		s.fail(w, v, fmt.Errorf("%w: it was not begun here, with this browser, within 10 minutes, or has been used", errInvalid))
		return
	case q.Get("error") != "":
		s.fail(w, v, fmt.Errorf("%w: %s", errRefused, brief(q.Get("error")+" "+q.Get("error_description"))))
		return
	case q.Get("code") == "":
		s.fail(w, v, fmt.Errorf("%w: it has no code", errInvalid))
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), exchangeLimit)
	defer cancel()
	p, err := s.provider.get(ctx, v.settings, v.page)
	if err != nil {
		s.fail(w, v, err)
		return
	}
	session, err := p.exchange(ctx, q.Get("code"), one, s.Live.Now().GroupsInRules(), time.Now())
	if err != nil {
		s.fail(w, v, err)
		return
	}
	s.sessions.begin(session)
	s.Changed()
	s.save()
	s.Metrics.ended(resultOK)
	s.Log.Info("signed in", "peer", v.name, "user", session.User, "groups", session.Groups, "until", session.Until, "refresh", session.Refresh != "")
	http.Redirect(w, r, v.page, http.StatusSeeOther)
}

// fail tells the user, and the log, why nobody has signed in.
func (s *Service) fail(w http.ResponseWriter, v visitor, err error) {
	result, status, text := resultInvalid, http.StatusBadRequest, "That did not work: begin again."
	switch {
	case err == errTooMany: // and no line in the log for each
		s.Metrics.ended(resultLimited)
		s.page(w, v, http.StatusTooManyRequests, "Too many attempts: wait a minute.")
		return
	case errors.Is(err, errSlow):
		result, status, text = resultUnavailable, http.StatusGatewayTimeout, "The provider of accounts did not answer in time. Try again. The gateway's log says more."
	case errors.Is(err, errUnavailable):
		result, status, text = resultUnavailable, http.StatusBadGateway, "The provider of accounts cannot be asked now. The gateway's log says why."
	case errors.Is(err, errRefused):
		result, status, text = resultRefused, http.StatusForbidden, "The provider of accounts refused."
	}
	s.Metrics.ended(result)
	s.Log.Warn("nobody has signed in", "peer", v.name, "result", string(result), "err", err)
	s.page(w, v, status, text)
}

// signOut ends the session of the peer that asks.
func (s *Service) signOut(w http.ResponseWriter, r *http.Request) {
	if v, ok := s.visitor(w, r); ok {
		s.SignOut(v.id, "the user signed out")
		http.Redirect(w, r, v.page, http.StatusSeeOther)
	}
}
