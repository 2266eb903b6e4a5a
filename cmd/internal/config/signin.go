package config

import (
	"crypto/tls"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
)

// SignIn says which peers of a gateway can be used only after somebody has signed in with an account of the company. Until then
// such a peer reaches DNS, the page on which to sign in, and the provider; its plain HTTP is led to the page.
type SignIn struct {
	// OIDC is the provider of accounts. The redirect URL to register there is url followed by callback.
	OIDC OIDC `yaml:"oidc" required:"true"`
	// Required lists the groups whose peers need somebody who has signed in; all is every peer.
	Required []string `yaml:"required" required:"true"`
	// Session is how long a sign-in lasts.
	Session time.Duration `yaml:"session" default:"12h"`
	// Recheck is how often the provider is asked whether the account still exists, if it has given a refresh token.
	Recheck time.Duration `yaml:"recheck" default:"15m"`
	// Groups is the claim that lists groups. The peer is in them too while the session lasts, as far as rules name them.
	Groups string `yaml:"groups" default:"groups"`
	// User is the claim that names the user. Where it is missing, or is an address that the provider has not verified, the user is
	// called by the claim sub.
	User string `yaml:"user" default:"email"`
	// URL is the page on which to sign in, as peers reach it: plain HTTP, which WireGuard encrypts, or https with a certificate. A
	// name in it must resolve to an address in listen.wireguard.address. Default: http and the first of those addresses.
	URL string `yaml:"url"`
	// Certificate is a PEM file with the certificate for the name in an https url, and those that lead to its root. It is read
	// again when it changes.
	Certificate string `yaml:"certificate" path:"file"`
	// CertificateKey is the private key of the certificate, PEM.
	CertificateKey Secret `yaml:"certificate_key"`
	// ACME gets the certificate from the authority in acme. The public DNS must have the name at an address of this machine that the
	// authority can reach, though peers resolve it to another.
	ACME bool `yaml:"acme"`
	// Allow lists further domains that a peer may reach before, such as those of the provider's scripts. The issuer's host needs no
	// entry.
	Allow []string `yaml:"allow"`
	// Via is the transport through which peers and penstock reach the provider, or direct.
	Via string `yaml:"via" default:"direct"`

	Pos Position `yaml:"-"`
}

// OIDC is a provider of OpenID Connect.
type OIDC struct {
	// Issuer is the provider's URL, under which its /.well-known/openid-configuration is.
	Issuer string `yaml:"issuer" required:"true"`
	// ClientID is what the provider calls this gateway.
	ClientID string `yaml:"client_id" required:"true"`
	// ClientSecret is what it knows this gateway by. A public client has none.
	ClientSecret Secret `yaml:"client_secret"`
	// Scopes are asked for, besides openid. offline_access and groups are too, if the provider offers them.
	Scopes []string `yaml:"scopes" default:"email,profile"`
}

// everyPeer is the word for all peers in sign_in.required.
const everyPeer = "all"

// RequiresAll reports whether every peer needs somebody who has signed in.
func (s *SignIn) RequiresAll() bool { return slices.Contains(s.Required, everyPeer) }

// SignInURL returns the page on which to sign in, with a slash at its end; "" without sign_in.
func (c *Config) SignInURL() string {
	switch {
	case c.SignIn == nil || c.Listen.WireGuard == nil || len(c.Listen.WireGuard.Address) == 0:
		return ""
	case c.SignIn.URL != "":
		return strings.TrimSuffix(c.SignIn.URL, "/") + "/"
	}
	own := c.Listen.WireGuard.Address[0].Addr()
	return "http://" + strings.TrimSuffix(netip.AddrPortFrom(own, 80).String(), ":80") + "/"
}

// signIn checks who must sign in, and where.
func (k *checker) signIn() {
	s := k.SignIn
	if s == nil {
		k.signInMatches()
		return
	}
	if k.Listen.WireGuard == nil {
		k.fault("sign_in", "add listen: {wireguard: ...}", "sign_in is for peers, and peers have nothing to connect to")
	}
	if !isIssuer(s.OIDC.Issuer) {
		k.fault("sign_in.oidc.issuer", "write https://HOST/PATH, exactly as the provider does", "the issuer is %q", s.OIDC.Issuer)
	}
	if s.OIDC.ClientID == "" {
		k.fault("sign_in.oidc.client_id", "write what the provider calls this gateway", "sign_in.oidc.client_id is empty")
	}
	k.secret("sign_in.oidc.client_secret", s.OIDC.ClientSecret, false)
	if len(s.Required) == 0 {
		k.fault("sign_in.required", "write all, or groups", "nobody has to sign in")
	}
	for i, group := range s.Required {
		k.name(fmt.Sprintf("sign_in.required[%d]", i), "group", group)
	}
	lasts := func(path string, d time.Duration) {
		if d < time.Second || d > 365*24*time.Hour {
			k.fault(path, "write 1s to 8760h", "%s is %v", path, d)
		}
	}
	lasts("sign_in.session", s.Session)
	lasts("sign_in.recheck", s.Recheck)
	k.signInPage(s)
	for i, domain := range s.Allow {
		if !isDomain(domain) {
			k.fault(fmt.Sprintf("sign_in.allow[%d]", i), "write a name such as corp.example, *.corp.example or =corp.example", "the domain is %q", domain)
		}
	}
	k.via("sign_in.via", s.Via)
}

// signInPage checks where the page is, and that there is a certificate where it needs one.
func (k *checker) signInPage(s *SignIn) {
	u, err := url.Parse(s.URL)
	plain := err == nil && strings.Trim(u.Path, "/") == "" && u.RawQuery == "" && u.Fragment == "" && u.User == nil
	secure := plain && u.Scheme == "https"
	switch {
	case s.URL != "" && (!plain || !secure && u.Scheme != "http" || u.Hostname() == ""):
		k.fault("sign_in.url", "write http://HOST/, or https://HOST/ with a certificate", "sign_in.url is %q", s.URL)
	case secure && s.Certificate == "" && !s.ACME:
		k.fault("sign_in.url", "add certificate and certificate_key, or acme: true", "sign_in.url is https, and there is no certificate")
	case !secure && s.ACME:
		k.fault("sign_in.acme", "write url: https://HOST/, or remove it", "sign_in.acme is for an https url, and there is none")
	case !secure && s.Certificate != "":
		k.fault("sign_in.certificate", "write url: https://HOST/, or remove it", "sign_in.certificate is for an https url, and there is none")
	case s.Certificate != "" && s.CertificateKey.IsZero():
		k.fault("sign_in.certificate", "add certificate_key: {file: PATH}", "sign_in.certificate has no key")
	}
	if wg := k.Listen.WireGuard; plain && wg != nil {
		addr, err := netip.ParseAddr(u.Hostname())
		if err == nil && !slices.ContainsFunc(wg.Address, func(own netip.Prefix) bool { return own.Addr() == addr }) {
			k.fault("sign_in.url", "write one of them, or a name that resolves to one", "sign_in.url is at %s, which is not in listen.wireguard.address", addr)
		}
	}
	k.secretPlace("sign_in.certificate_key", s.CertificateKey)
}

// KeyPair reads the certificate of the page, and its key.
func (s *SignIn) KeyPair() (tls.Certificate, error) {
	chain, err := os.ReadFile(s.Certificate)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := s.CertificateKey.Read()
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(chain, []byte(key))
}

// signInMatches checks that no rule waits for somebody who cannot sign in.
func (k *checker) signInMatches() {
	for i, rule := range k.Rules {
		path := fmt.Sprintf("rules[%d].match", i)
		for m := rule.Match; m != nil; m, path = m.Not, path+".not" {
			if len(m.User) > 0 {
				k.fault(path+".user", "add sign_in, or remove it", "nobody can sign in, because there is no sign_in")
			}
			if m.SignedIn != nil {
				k.fault(path+".signed_in", "add sign_in, or remove it", "nobody can sign in, because there is no sign_in")
			}
		}
	}
}

// isIssuer reports whether s is a URL whose answers nobody on the way can change.
func isIssuer(s string) bool {
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return false
	}
	addr, err := netip.ParseAddr(u.Hostname())
	return u.Scheme == "https" || u.Scheme == "http" && err == nil && addr.IsLoopback()
}
