package edition

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"penstock/policy"
)

// signedIn is sessions by public key: the user, and groups.
type signedIn map[string][]string

func (s signedIn) SignedIn(key string) (user string, groups []string) {
	if one := s[key]; one != nil {
		return one[0], one[1:]
	}
	return "", nil
}

// signInGateway returns a gateway with two peers, one of them in staff. more stands in sign_in.
func signInGateway(t *testing.T, issuer, more, rules string) *Live {
	t.Helper()
	return newLive(t, load(t, strings.Replace(atGateway, "10.99.0.1/24", "[10.99.0.1/24, 'fd99::1/64']", 1)+fmt.Sprintf(`peers:
  - {name: ana, public_key: %s, allowed_ips: 10.99.0.2/32, groups: [staff]}
  - {name: bob, public_key: %s, allowed_ips: 10.99.0.3/32}
sign_in: {oidc: {issuer: "%s", client_id: gateway}, %s}
`, anaKey, bobKey, issuer, more)+rules))
}

// ruleFor returns the rule for a flow of a peer. host is what the peer resolved to the destination.
func ruleFor(l *Live, src, dst, host string) policy.Verdict {
	f := policy.Flow{Network: policy.TCP, Src: netip.AddrPortFrom(netip.MustParseAddr(src), 4000), Dst: netip.MustParseAddrPort(dst), Sniffed: true}
	if host != "" {
		f.Names = []policy.Name{{Host: host, From: policy.FromDNS}}
	}
	f.Client, _ = l.Peer(f.Src.Addr())
	f.Place = l.Now().PlaceFor(f.Client, f.Dst.Addr(), func(netip.Addr) bool { return false })
	l.Describe(&f)
	return l.Decide(f)
}

func TestWhoMustSignInReachesTheWayThere(t *testing.T) {
	const ana, bob = "10.99.0.2", "10.99.0.3"
	ownDNS := "rules: [{name: own, match: {port: '53', cidr: 10.20.0.53}, do: dns}, {name: eng, match: {group: eng}, do: direct}, {name: rest, do: block}]\n"
	for _, row := range []struct{ name, issuer, more, rules, src, dst, host, want string }{
		{"the page", "https://login.example", "required: staff", rest, ana, "10.99.0.1:80", "", "sign-in"},
		{"the page by IPv6", "https://login.example", "required: staff", rest, ana, "[fd99::1]:80", "", "sign-in"},
		{"the page, who need not", "https://login.example", "required: staff", rest, bob, "10.99.0.1:80", "", "sign-in"},
		{"the page on its port", "https://login.example", "required: staff, url: 'http://vpn.example:8000'", rest, ana, "10.99.0.1:8000", "", "sign-in"},
		{"DNS", "https://login.example", "required: staff", rest, ana, "10.99.0.1:53", "", "dns"},
		{"DNS, of which rules capture only some", "https://login.example", "required: staff", ownDNS, ana, "192.0.2.1:53", "", "sign-in-dns"},
		{"the provider", "https://login.example/realm", "required: staff", ownDNS, ana, "192.0.2.1:443", "login.example", "sign-in-provider"},
		{"on its port", "https://login.example:8443/realm", "required: staff", ownDNS, ana, "192.0.2.1:8443", "login.example", "sign-in-provider"},
		{"by address", "https://192.0.2.7/realm", "required: staff", ownDNS, ana, "192.0.2.7:443", "", "sign-in-provider-address"},
		{"what it needs", "https://login.example", "required: staff, allow: cdn.example", ownDNS, ana, "192.0.2.1:443", "a.cdn.example", "sign-in-provider"},
		{"nothing below it", "https://login.example", "required: staff", rest, ana, "192.0.2.1:443", "a.login.example", "sign-in-needed"},
		{"nothing else", "https://login.example", "required: staff", rest, ana, "192.0.2.1:443", "", "sign-in-needed"},
		{"no other service of the gateway", "https://login.example", "required: staff", rest, ana, "10.99.0.1:22", "", "sign-in-needed"},
		{"who need not is judged as ever", "https://login.example", "required: staff", rest, bob, "192.0.2.1:443", "", "rest"},
		{"unless all must", "https://login.example", "required: all", rest, bob, "192.0.2.1:443", "", "sign-in-needed"},
	} {
		l := signInGateway(t, row.issuer, row.more, row.rules)
		if got := ruleFor(l, row.src, row.dst, row.host).Rule; got != row.want {
			t.Errorf("%s: got rule %s, want %s", row.name, got, row.want)
		}
	}
}

func TestGroupsOfTheUserAreThoseOfThePeerToo(t *testing.T) {
	l := signInGateway(t, "https://login.example", "required: staff", "rules: [{name: eng, match: {group: eng}, do: direct}, {name: rest, do: block}]\n")
	l.Sessions = signedIn{anaKey: {"ana@corp.example", "eng"}}
	if v := ruleFor(l, "10.99.0.2", "192.0.2.1:443", ""); v.Rule != "eng" {
		t.Errorf("got rule %s, want eng", v.Rule)
	}
	if v := ruleFor(l, "10.99.0.3", "192.0.2.1:443", ""); v.Rule != "rest" {
		t.Errorf("bob: got rule %s, want rest", v.Rule)
	}
	f := policy.Flow{Groups: []string{"of another"}, User: "another"}
	f.Client, _ = l.Peer(netip.MustParseAddr("10.99.0.2"))
	for range 2 { // describing a flow again adds nothing
		l.Describe(&f)
		if f.User != "ana@corp.example" || !slices.Equal(f.Groups, []string{"staff", "eng"}) {
			t.Errorf("got %s in %q", f.User, f.Groups)
		}
	}
	if named := l.Now().GroupsInRules(); !named["eng"] || !named["staff"] || len(named) != 2 {
		t.Errorf("groups in rules: got %v", named)
	}
}

func TestTestsMaySignIn(t *testing.T) {
	signInGateway(t, "https://login.example", "required: staff", `rules: [{name: eng, match: {group: eng, user: ana@corp.example}, do: direct}, {name: rest, do: block}]
tests:
  - {from: ana, to: "https://a.example", addr: 192.0.2.1, expect: block}
  - {from: ana, user: ana@corp.example, groups: eng, to: "https://a.example", addr: 192.0.2.1, expect: direct}
  - {from: ana, user: bob@corp.example, groups: eng, to: "https://a.example", addr: 192.0.2.1, expect: block}
`)
}
