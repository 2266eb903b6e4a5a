package edition

import (
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"penstock/cmd/internal/config"
	"penstock/policy"
)

// Sessions knows who has signed in with which peer. It must not block.
type Sessions interface {
	// SignedIn returns who has signed in with a peer, by its ID, and the user's groups; "" if nobody has.
	SignedIn(peer string) (user string, groups []string)
}

// noSessions is where nobody can sign in.
type noSessions struct{}

func (noSessions) SignedIn(string) (string, []string) { return "", nil }

// signInRules adds the rules for peers that need somebody who has signed in. While nobody has, they reach the page on which to do
// so, DNS, and the provider. The page is there for the others too: they can see there that they need not, or sign out.
func signInRules(cfg *config.Config, add func(name string, m policy.Match, do policy.Do)) {
	s, wg := cfg.SignIn, cfg.Listen.WireGuard
	if s == nil || wg == nil {
		return
	}
	page := policy.Match{Port: []string{portOf(cfg.SignInURL())}, Protocol: []string{"tcp"}, Gateway: true}
	if strings.HasPrefix(cfg.SignInURL(), "https:") && page.Port[0] != "80" {
		page.Port = append(page.Port, "80") // leads there
	}
	for _, p := range wg.Address {
		page.CIDR = append(page.CIDR, p.Addr().String())
	}
	add("sign-in", page, policy.Do{Action: policy.Forward, Egress: policy.EgressSignIn})
	nobody := policy.Match{SignedIn: new(bool)}
	if !s.RequiresAll() {
		nobody.Group = s.Required
	}
	if capturesDNS(cfg) {
		questions := nobody
		questions.Port, questions.Protocol = []string{"53"}, []string{"tcp", "udp"}
		add("sign-in-dns", questions, policy.Do{Action: policy.Forward, Egress: policy.EgressDNS})
	}
	provider := nobody
	provider.Port = []string{"443"}
	if port := portOf(s.OIDC.Issuer); port != "443" {
		provider.Port = append(provider.Port, port)
	}
	to := policy.Do{Action: policy.Forward, Egress: s.Via}
	byName := provider
	byName.Domain = slices.Clone(s.Allow)
	if u, err := url.Parse(s.OIDC.Issuer); err == nil {
		if addr, err := netip.ParseAddr(u.Hostname()); err == nil {
			byAddress := provider
			byAddress.CIDR = []string{addr.String()}
			add("sign-in-provider-address", byAddress, to)
		} else {
			byName.Domain = append(byName.Domain, "="+u.Hostname())
		}
	}
	if len(byName.Domain) > 0 {
		add("sign-in-provider", byName, to)
	}
	add("sign-in-needed", nobody, policy.Do{SignIn: cfg.SignInURL()})
}

// portOf returns the port of a URL.
func portOf(text string) string {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return "443" // package config has checked it
	case u.Port() != "":
		return u.Port()
	case u.Scheme == "http":
		return "80"
	}
	return "443"
}

// GroupsInRules returns the groups that rules name.
func (e *Edition) GroupsInRules() map[string]bool {
	named := make(map[string]bool)
	for _, r := range e.Policy.Rules() {
		for m := &r.Match; m != nil; m = m.Not {
			for _, group := range m.Group {
				named[group] = true
			}
		}
	}
	return named
}
