package signin

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"penstock/cmd/internal/config"
)

// Bounds of a question to the provider.
const (
	askLimit    = 10 * time.Second
	maxAnswer   = 1 << 20
	retryAfter  = 5 * time.Second // after the provider could not be found
	discoverFor = 24 * time.Hour  // then it is asked again where its parts are
	clockSkew   = time.Minute     // by which the provider's clock may be behind ours
	maxUser     = 256             // characters of a name
)

// Errors of a sign-in, by who has to mend what.
var (
	errUnavailable = errors.New("the provider cannot be asked")
	errRefused     = errors.New("the provider refused")
	errInvalid     = errors.New("the provider's answer is not valid")
	errTooMany     = errors.New("too many attempts of one peer")

	errSlow = errors.New("it did not answer in time") // beside errUnavailable
)

// provider is a provider of accounts, with what it says about itself. It never changes.
type provider struct {
	settings *config.SignIn
	wanted   wanted
	client   *http.Client
	oidc     *oidc.Provider
	oauth    oauth2.Config
	verifier *oidc.IDTokenVerifier
	found    time.Time
}

// wanted is what a provider is found with. A reload makes new settings each time, also if only a peer has changed: then what was found
// is still good, and a search goes on.
type wanted struct{ issuer, client, secret, scopes, allow, via, page string }

// with returns the provider for settings that want the same one. How long its sessions last, say, may have changed.
func (p *provider) with(settings *config.SignIn) *provider {
	if p == nil || p.settings == settings {
		return p
	}
	next := *p
	next.settings = settings
	return &next
}

// providers holds the provider once it has been found.
type providers struct {
	dial  func(ctx context.Context, via, network, address string) (net.Conn, error)
	limit time.Duration // of one question
	wg    sync.WaitGroup

	mu     sync.Mutex // guards below
	closed bool
	now    *provider
	search *search // under way
	failed error   // the last time
	asked  time.Time
	of     wanted         // that failed was for
	read   *config.SignIn // for which want was made
	want   wanted
}

// search is a look for the provider, for all who wait for it.
type search struct {
	of     wanted
	done   chan struct{} // closed when found or err is there
	found  *provider
	err    error
	cancel context.CancelFunc
}

// close ends a search and lets go of idle connections.
func (p *providers) close() {
	p.mu.Lock()
	p.closed = true
	if p.search != nil {
		p.search.cancel()
	}
	p.mu.Unlock()
	p.wg.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now != nil {
		p.now.client.CloseIdleConnections()
	}
}

// get finds the provider of the settings. page is where peers sign in. It is looked for once for all who wait, and whoever leaves ends
// the wait of nobody else. One that was found before is good while it is looked for again.
func (p *providers) get(ctx context.Context, settings *config.SignIn, page string) (*provider, error) {
	want, err := p.wants(settings, page)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", settings.OIDC.Issuer, unavailable(err))
	}
	p.mu.Lock()
	current := p.now != nil && p.now.wanted == want
	switch {
	case current && time.Since(p.now.found) < discoverFor:
		defer p.mu.Unlock()
		return p.now.with(settings), nil
	case p.failed != nil && p.of == want && time.Since(p.asked) < retryAfter:
		defer p.mu.Unlock()
		return nil, p.failed
	case p.closed:
		defer p.mu.Unlock()
		return nil, unavailable(net.ErrClosed)
	}
	s := p.search
	if s == nil || s.of != want {
		s = p.lookLocked(ctx, settings, want)
	}
	if current {
		defer p.mu.Unlock()
		return p.now.with(settings), nil
	}
	p.mu.Unlock()
	select {
	case <-s.done:
		return s.found.with(settings), s.err
	case <-ctx.Done():
		return nil, unavailable(ctx.Err())
	}
}

// wants returns what settings want. The secret is read once for each, so that a reload takes another one into use.
func (p *providers) wants(settings *config.SignIn, page string) (wanted, error) {
	p.mu.Lock()
	read, want := p.read, p.want
	p.mu.Unlock()
	if read == settings {
		return want, nil
	}
	secret, err := settings.OIDC.ClientSecret.Read()
	if err != nil {
		return wanted{}, err
	}
	want = wanted{
		issuer: settings.OIDC.Issuer, client: settings.OIDC.ClientID, secret: secret, scopes: strings.Join(settings.OIDC.Scopes, "\n"),
		allow: strings.Join(settings.Allow, "\n"), via: settings.Via, page: page,
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.read, p.want = settings, want
	return want, nil
}

// lookLocked begins to look for the provider. A search for another one ends.
func (p *providers) lookLocked(ctx context.Context, settings *config.SignIn, want wanted) *search {
	if p.search != nil {
		p.search.cancel()
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s := &search{of: want, done: make(chan struct{}), cancel: cancel}
	p.search = s
	p.wg.Go(func() {
		defer close(s.done)
		defer cancel()
		found, err := p.discover(ctx, settings, want)
		p.end(s, found, err)
	})
	return s
}

// end takes what a search has found.
func (p *providers) end(s *search, found *provider, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	latest := p.search == s
	if latest {
		p.search = nil
	}
	switch {
	case err == nil:
		s.found = found
		if !latest {
			return
		}
		if p.now != nil {
			p.now.client.CloseIdleConnections()
		}
		p.now, p.failed = found, nil
	case p.now != nil && p.now.wanted == s.of:
		same := *p.now
		same.found = time.Now().Add(retryAfter - discoverFor) // it is where it was, until it says otherwise
		p.now, s.found = &same, &same
	case !latest:
		s.err = fmt.Errorf("%s: %w: sign_in has changed meanwhile", s.of.issuer, errUnavailable)
	default:
		s.err = fmt.Errorf("%s: %w", s.of.issuer, unavailable(err))
		p.failed, p.asked, p.of = s.err, time.Now(), s.of
	}
}

// unavailable is an error of a question to the provider, in one line.
func unavailable(err error) error {
	timeout, _ := errors.AsType[net.Error](err)
	if text := err.Error(); timeout != nil && timeout.Timeout() || strings.Contains(text, "deadline exceeded") || strings.Contains(text, "Client.Timeout") {
		return fmt.Errorf("%w: %w: %s", errUnavailable, errSlow, brief(text)) // go-oidc v3.21.0 does not wrap each error
	}
	return fmt.Errorf("%w: %s", errUnavailable, brief(err.Error()))
}

// discover asks the provider where its parts are.
func (p *providers) discover(ctx context.Context, settings *config.SignIn, want wanted) (*provider, error) {
	client := p.client(settings)
	ctx, cancel := context.WithTimeout(oidc.ClientContext(ctx, client), p.limit)
	defer cancel()
	at, err := oidc.NewProvider(ctx, settings.OIDC.Issuer)
	if err != nil {
		client.CloseIdleConnections()
		return nil, err
	}
	var says struct {
		Scopes []string `json:"scopes_supported"`
		Keys   string   `json:"jwks_uri"`
	}
	if err := at.Claims(&says); err != nil {
		return nil, err
	}
	if secure := "https://"; strings.HasPrefix(settings.OIDC.Issuer, secure) {
		for _, part := range []string{at.Endpoint().AuthURL, at.Endpoint().TokenURL, says.Keys} {
			if !strings.HasPrefix(part, secure) {
				return nil, fmt.Errorf("it names %q, which is not https", brief(part))
			}
		}
	}
	if err := reached(at.Endpoint().AuthURL, settings); err != nil {
		return nil, err
	}
	scopes := append([]string{oidc.ScopeOpenID}, settings.OIDC.Scopes...)
	for _, more := range []string{oidc.ScopeOfflineAccess, "groups"} {
		if slices.Contains(says.Scopes, more) && !slices.Contains(scopes, more) {
			scopes = append(scopes, more)
		}
	}
	return &provider{
		settings: settings, wanted: want, client: client, oidc: at, found: time.Now(),
		oauth: oauth2.Config{
			ClientID: settings.OIDC.ClientID, ClientSecret: want.secret, Endpoint: at.Endpoint(), RedirectURL: want.page + "callback", Scopes: scopes,
		},
		verifier: at.Verifier(&oidc.Config{
			ClientID: settings.OIDC.ClientID, Now: func() time.Time { return time.Now().Add(-clockSkew) }, // nbf has five minutes by itself
		}),
	}, nil
}

// reached returns an error if the provider's page is where peers do not come before somebody has signed in.
func reached(page string, settings *config.SignIn) error {
	at, err := url.Parse(page)
	if err != nil {
		return err
	}
	issuer, err := url.Parse(settings.OIDC.Issuer)
	if err != nil {
		return err
	}
	if at.Hostname() == issuer.Hostname() || slices.ContainsFunc(settings.Allow, func(domain string) bool {
		name := strings.TrimLeft(domain, "*.=")
		return at.Hostname() == name && !strings.HasPrefix(domain, "*.") || strings.HasSuffix(at.Hostname(), "."+name) && !strings.HasPrefix(domain, "=")
	}) {
		return nil
	}
	return fmt.Errorf("its page is at %s: add that to sign_in.allow, so that peers reach it", brief(at.Host))
}

// client returns an HTTP client whose connections leave as the configuration says, and whose answers are bounded.
func (p *providers) client(settings *config.SignIn) *http.Client {
	return &http.Client{
		Timeout: p.limit,
		Transport: bounded{&http.Transport{
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				return p.dial(ctx, settings.Via, network, address)
			},
			ForceAttemptHTTP2: true, TLSHandshakeTimeout: p.limit, MaxResponseHeaderBytes: 64 << 10, MaxIdleConns: 4, IdleConnTimeout: 30 * time.Second,
		}},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if len(via) > 3 || req.URL.Host != via[0].URL.Host || req.URL.Scheme != via[0].URL.Scheme {
				return errors.New("it redirects to another host")
			}
			return nil
		},
	}
}

// bounded refuses answers that are too large.
type bounded struct{ *http.Transport }

func (b bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := b.Transport.RoundTrip(req)
	if err == nil {
		res.Body = &boundedBody{ReadCloser: res.Body, left: maxAnswer}
	}
	return res, err
}

type boundedBody struct {
	io.ReadCloser
	left int
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, fmt.Errorf("the answer is larger than %d bytes", maxAnswer)
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// authorize returns the URL at which a browser signs in.
func (p *provider) authorize(state string, one pending) string {
	return p.oauth.AuthCodeURL(state, oidc.Nonce(one.nonce), oauth2.S256ChallengeOption(one.verifier))
}

// exchange turns the code that a browser brought back into a session. named are the groups that count.
func (p *provider) exchange(ctx context.Context, code string, one pending, named map[string]bool, now time.Time) (Session, error) {
	ctx = oidc.ClientContext(ctx, p.client)
	token, err := p.oauth.Exchange(ctx, code, oauth2.VerifierOption(one.verifier))
	if err != nil {
		return Session{}, asked(err)
	}
	id, said, err := p.verify(ctx, token)
	if err != nil {
		return Session{}, err
	}
	if subtle.ConstantTimeCompare([]byte(id.Nonce), []byte(one.nonce)) != 1 {
		return Session{}, fmt.Errorf("%w: the nonce of its token is another one", errInvalid)
	}
	user := said.user(p.settings.User)
	if user == "" {
		return Session{}, fmt.Errorf("%w: its token names no user", errInvalid)
	}
	return Session{
		Peer: one.peer, User: user, Subject: id.Subject, Groups: said.groups(p.settings.Groups, named),
		Since: now, Until: now.Add(p.settings.Session), Checked: now, Refresh: token.RefreshToken,
		Issuer: p.settings.OIDC.Issuer, Client: p.settings.OIDC.ClientID,
	}, nil
}

// verify checks the token about the user, and returns what it says. Groups that it does not have may be in what the provider tells
// about the user apart from it.
func (p *provider) verify(ctx context.Context, token *oauth2.Token) (*oidc.IDToken, claims, error) {
	raw, ok := token.Extra("id_token").(string)
	if !ok {
		return nil, nil, fmt.Errorf("%w: it has no id_token", errInvalid)
	}
	id, err := p.verifier.Verify(ctx, raw)
	if err != nil && strings.Contains(err.Error(), "fetching keys") { // go-oidc v3.21.0 has no type for it
		return nil, nil, unavailable(err)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %s", errInvalid, brief(err.Error()))
	}
	said := claims{}
	if err := id.Claims(&said); err != nil {
		return nil, nil, fmt.Errorf("%w: %s", errInvalid, brief(err.Error()))
	}
	if _, has := said[p.settings.Groups]; !has && p.oidc.UserInfoEndpoint() != "" {
		info, err := p.oidc.UserInfo(ctx, oauth2.StaticTokenSource(token))
		if passes(err) { // without its groups a user could reach less, or more, than is meant
			return nil, nil, fmt.Errorf("about the user: %w", unavailable(err))
		}
		more := claims{}
		if err == nil && info.Subject == id.Subject && info.Claims(&more) == nil {
			if groups, has := more[p.settings.Groups]; has {
				said[p.settings.Groups] = groups
			}
		}
	}
	return id, said, nil
}

// passes reports whether an error of a question about a user may be gone the next time.
func passes(err error) bool {
	if err == nil {
		return false
	}
	_, network := errors.AsType[*url.Error](err)
	status := err.Error() // go-oidc v3.21.0 has no type for it, and begins with the status
	return network || strings.HasPrefix(status, "5") || strings.HasPrefix(status, "429")
}

// refresh asks whether the account of a session still exists. The session that it returns has what the provider says now. With an
// error it is as it was, but for a new token: the old one may be good for nothing.
func (p *provider) refresh(ctx context.Context, was Session, named map[string]bool, now time.Time) (Session, error) {
	ctx = oidc.ClientContext(ctx, p.client)
	token, err := p.oauth.TokenSource(ctx, &oauth2.Token{RefreshToken: was.Refresh}).Token()
	if err != nil {
		return was, asked(err)
	}
	was.Refresh = token.RefreshToken
	next := was
	next.Checked = now
	if token.Extra("id_token") == nil { // OpenID Connect Core 1.0, 12.2: it may have none
		return next, nil
	}
	id, said, err := p.verify(ctx, token)
	if err != nil {
		return was, err
	}
	if id.Subject != was.Subject {
		return was, fmt.Errorf("%w: its token is about another user", errInvalid)
	}
	next.Groups = said.groups(p.settings.Groups, named)
	return next, nil
}

// asked says whose fault an error of the token endpoint is.
func asked(err error) error {
	refused, ok := errors.AsType[*oauth2.RetrieveError](err)
	if !ok {
		return unavailable(err)
	}
	said := brief(strings.TrimSpace(refused.ErrorCode + " " + refused.ErrorDescription))
	if refused.ErrorCode == "invalid_grant" {
		return fmt.Errorf("%w: %s", errRefused, said)
	}
	if said == "" && refused.Response != nil {
		said = refused.Response.Status
	}
	return fmt.Errorf("%w: it answered %s", errUnavailable, said)
}

// brief makes a text of others fit for a line of the log.
func brief(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + "..."
	}
	return s
}

// claims is what the provider says about a user.
type claims map[string]json.RawMessage

func (c claims) text(name string) string {
	var s string
	if json.Unmarshal(c[name], &s) != nil || len(s) > maxUser || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return ""
	}
	return s
}

// user returns what the user is called.
func (c claims) user(claim string) string {
	unverified := claim == "email" && slices.Contains([]string{"false", `"false"`}, string(c["email_verified"]))
	if user := c.text(claim); user != "" && !unverified {
		return user
	}
	return c.text("sub")
}

// groups returns the user's groups, as far as rules name them: a provider may list thousands.
func (c claims) groups(claim string, named map[string]bool) []string {
	var all []string
	if json.Unmarshal(c[claim], &all) != nil {
		all = []string{c.text(claim)}
	}
	groups := []string{}
	for _, group := range all {
		if named[group] && !slices.Contains(groups, group) {
			groups = append(groups, group)
		}
	}
	return groups
}
