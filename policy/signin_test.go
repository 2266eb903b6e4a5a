package policy

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

const signInPage = "http://10.99.0.1/"

// signInRules ask the peers in staff to sign in, and know the provider login.example.
func signInRules(t *testing.T) *Policy {
	t.Helper()
	no, yes := false, true
	staff := Match{Group: []string{"staff"}, SignedIn: &no}
	provider := staff
	provider.Domain, provider.Port = []string{"=login.example"}, []string{"443"}
	p, err := New(Config{Peers: []string{"ana", "bob"}, Rules: []Rule{
		{Name: "dns", Match: Match{Port: []string{"53"}}, Do: Do{Action: Forward, Egress: EgressDNS}},
		{Name: "page", Match: Match{CIDR: []string{"10.99.0.1"}, Port: []string{"80"}, Gateway: true}, Do: Do{Action: Forward, Egress: EgressSignIn}},
		{Name: "provider", Match: provider, Do: Do{Action: Forward, Egress: EgressDirect}},
		{Name: "needed", Match: staff, Do: Do{SignIn: signInPage}},
		{Name: "silent", Match: Match{Domain: []string{"silent.example"}}, Do: Do{Action: Drop}},
		{Name: "ana", Match: Match{User: []string{"ana@corp.example"}, Port: []string{"22"}}, Do: Do{Action: Forward, Egress: EgressDirect}},
		{Name: "somebody", Match: Match{SignedIn: &yes, Port: []string{"80", "443"}}, Do: Do{Action: Forward, Egress: EgressDirect}},
		{Name: "engineers", Match: Match{Group: []string{"engineering"}, Domain: []string{"wiki.example"}}, Do: Do{Action: Forward, Egress: EgressDirect}},
		{Name: "rest"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestARuleForThoseWhoHaveNotSignedInHidesNoOther(t *testing.T) {
	no := false
	staff := Match{Group: []string{"staff"}}
	nobody, ana := staff, staff
	nobody.SignedIn, ana.User = &no, []string{"ana@corp.example"}
	p := newPolicy(t, []Rule{{Name: "needed", Match: nobody, Do: Do{SignIn: signInPage}}, {Name: "hers", Match: ana}, {Name: "staff", Match: staff}, {Name: "rest"}}, nil)
	if got := p.Warnings(); len(got) != 0 {
		t.Errorf("got %q, want no warning", got)
	}
}

func TestSigningInComesFirst(t *testing.T) {
	p := signInRules(t)
	staff := Flow{Network: TCP, Peer: "ana", Groups: []string{"staff"}, Sniffed: true}
	ana := staff
	ana.User = "ana@corp.example"
	names := func(dns string, shown ...string) (list []Name) {
		if dns != "" {
			list = append(list, Name{dns, FromDNS})
		}
		for _, n := range shown {
			list = append(list, Name{n, FromSNI})
		}
		return list
	}
	for _, row := range []struct {
		name  string
		flow  Flow
		dst   string
		place Place
		names []Name
		rule  string
		cause Cause
		claim string
	}{
		{"before, nothing is reached", staff, "203.0.113.1:443", Elsewhere, nil, "needed", BySignIn, ""},
		{"not even to be dropped", staff, "203.0.113.1:443", Elsewhere, names("silent.example"), "needed", BySignIn, ""},
		{"nor the page of another port", staff, "10.99.0.1:22", Service, nil, "needed", BySignIn, ""},
		{"DNS is", staff, "203.0.113.1:53", Elsewhere, nil, "dns", ByRule, ""},
		{"the page is", staff, "10.99.0.1:80", Service, nil, "page", ByRule, ""},
		{"the provider is, where DNS gave its name", staff, "203.0.113.9:443", Elsewhere, names("login.example"), "provider", ByRule, ""},
		{"and the flow may show it", staff, "203.0.113.9:443", Elsewhere, names("login.example", "login.example"), "provider", ByRule, ""},
		{"but not another name at its address", staff, "203.0.113.9:443", Elsewhere, names("login.example", "other.example"), "needed", BySignIn, ""},
		{"nor another port of it", staff, "203.0.113.9:22", Elsewhere, names("login.example"), "needed", BySignIn, ""},
		{"a name that only the flow shows has to be confirmed", staff, "203.0.113.1:443", Elsewhere, names("", "login.example"), "needed", BySignIn, "login.example"},
		{"and counts for nothing where DNS gave others", staff, "203.0.113.1:443", Elsewhere, names("bad.example", "login.example"), "needed", BySpoof, ""},
		{"who need not sign in does not have to", Flow{Network: TCP, Peer: "bob"}, "203.0.113.1:443", Elsewhere, nil, "rest", ByRule, ""},
		{"nor does this machine", Flow{Network: TCP}, "203.0.113.1:443", Elsewhere, nil, "rest", ByRule, ""},
		{"nor is it signed in", Flow{Network: TCP, User: "ana@corp.example"}, "203.0.113.1:443", Elsewhere, nil, "rest", ByRule, ""},
		{"after, rules see the user", ana, "203.0.113.1:22", Elsewhere, nil, "ana", ByRule, ""},
		{"and that there is one", ana, "203.0.113.1:443", Elsewhere, nil, "somebody", ByRule, ""},
		{"the other rules still block", ana, "203.0.113.1:443", Elsewhere, names("silent.example"), "silent", ByRule, ""},
		{"a peer is still no way to another", ana, "10.99.0.3:443", AtPeer, nil, "somebody", ByPeers, ""},
	} {
		f := row.flow
		f.Dst, f.Place, f.Names = netip.MustParseAddrPort(row.dst), row.place, row.names
		v := p.Decide(f)
		if v.Rule != row.rule || v.Cause != row.cause || v.Claim != row.claim || (v.SignIn == signInPage) != (row.cause == BySignIn) {
			t.Errorf("%s: got %+v", row.name, v)
		}
	}
}

func TestAnExceptionDoesNotReplaceASignIn(t *testing.T) {
	now := time.Now()
	p := signInRules(t).WithDecisions([]Decision{{Name: "shop.example", Until: now.Add(time.Hour)}})
	f := Flow{Network: TCP, Peer: "ana", Groups: []string{"staff"}, Dst: netip.MustParseAddrPort("203.0.113.1:443"), Names: []Name{{"shop.example", FromDNS}}, Time: now, Sniffed: true}
	if v := p.Decide(f); v.Cause != BySignIn {
		t.Errorf("got %+v", v)
	}
}

func TestAFlowThatMayBeForTheProviderIsRead(t *testing.T) {
	p := signInRules(t)
	f := Flow{Network: TCP, Peer: "ana", Groups: []string{"staff"}, Dst: netip.MustParseAddrPort("203.0.113.9:443")}
	if v := p.Decide(f); v.Action != Refuse || v.Later != LaterEgress {
		t.Errorf("got %+v, want it refused, unless it shows the provider's name", v)
	}
	f.Dst = netip.MustParseAddrPort("203.0.113.9:22")
	if v := p.Decide(f); v.Later != LaterNothing {
		t.Errorf("another port: got %+v, want it refused at once", v)
	}
}

func TestNamesResolveBeforeSomebodySignsIn(t *testing.T) {
	p := signInRules(t)
	for _, row := range []struct {
		name    string
		user    string
		groups  []string
		host    string
		resolve bool
	}{
		{"a name for whoever may sign in", "", []string{"staff"}, "public.example", true},
		{"a name for groups that the user may be in", "", []string{"staff"}, "wiki.example", true},
		{"a name that is blocked for everybody", "", []string{"staff"}, "silent.example", false},
		{"after, a name for the user's groups", "ana@corp.example", []string{"staff", "engineering"}, "wiki.example", true},
	} {
		f := Flow{Peer: "ana", Groups: row.groups, User: row.user, Names: []Name{{row.host, FromQuestion}}}
		if v := p.DecideName(f); (v.Action == Forward) != row.resolve {
			t.Errorf("%s: got %+v", row.name, v)
		}
	}
}

func TestASignInIsExplained(t *testing.T) {
	p := signInRules(t)
	f := Flow{Network: TCP, Peer: "ana", Groups: []string{"staff"}, Dst: netip.MustParseAddrPort("203.0.113.1:443"), Sniffed: true}
	x := p.Explain(f)
	if !strings.Contains(x.Because, "somebody has to sign in at "+signInPage) {
		t.Errorf("got %q", x.Because)
	}
	f.User = "ana@corp.example"
	for _, r := range p.Explain(f).Rules {
		if r.Name == "needed" && r.Why != "not signed in false" {
			t.Errorf("why not rule needed: got %q", r.Why)
		}
	}
}

func TestOnlyARefusalAsksForASignIn(t *testing.T) {
	for _, do := range []Do{{Action: Drop, SignIn: signInPage}, {Action: Forward, Egress: EgressDirect, SignIn: signInPage}} {
		if _, err := New(Config{Rules: []Rule{{Name: "rest", Do: do}}}); err == nil || !strings.Contains(err.Error(), "only a refusal asks for a sign-in") {
			t.Errorf("%+v: got %v", do, err)
		}
	}
}
