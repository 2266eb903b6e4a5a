package policy

import (
	"cmp"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// house is the policy of the examples: content rules first, then the intranet, the local network and the rest.
func house() []Rule {
	at := func(line int) Position { return Position{File: "house.yaml", Line: line, Column: 5} }
	return []Rule{
		{Name: "no-gambling", Match: Match{Category: []string{"gambling", "adult"}}, Pos: at(10)},
		{Name: "bedtime", Match: Match{Group: []string{"kids"}, Schedule: []string{"22:00-06:00"}}, Do: Do{Action: Drop}, Pos: at(11)},
		{Name: "intranet", Match: Match{Domain: []string{"*.corp.test"}, Group: []string{"staff"}}, Do: Do{Action: Forward, Egress: "corp"}, Pos: at(12)},
		{Name: "lan", Match: Match{CIDR: []string{"private"}}, Do: Do{Action: Forward, Egress: EgressDirect}, Pos: at(13)},
		{Name: "rest", Do: Do{Action: Forward, Egress: EgressDirect, FallbackDirect: true}, Pos: at(14)},
	}
}

// words writes a verdict on one line.
func (v Verdict) line() string {
	s := v.words() + " by " + v.Rule
	if v.Category != "" {
		s += " for " + v.Category
	}
	if v.Later != LaterNothing {
		s += ", a name could change " + v.Later.String()
	}
	if v.Claim != "" {
		s += ", claims " + v.Claim
	}
	return s
}

func web(names ...Name) Flow {
	return Flow{Network: TCP, Src: netip.MustParseAddrPort("10.77.0.2:40000"), Dst: netip.MustParseAddrPort("192.0.2.1:443"), Names: names}
}

func TestDecideByNames(t *testing.T) {
	p := newPolicy(t, house(), worldLists(t, true))
	dns := func(host string) Name { return Name{host, FromDNS} }
	sni := func(host string) Name { return Name{host, FromSNI} }
	http := func(host string) Name { return Name{host, FromHTTP} }
	for _, row := range []struct {
		name    string
		flow    Flow
		sniffed bool
		want    string
	}{
		{"no name yet, and one could matter", web(), false, "via direct by rest, a name could change block"},
		{"no name, and none will come", web(), true, "via direct by rest"},
		{"the only name that DNS gave is blocked: final at once", web(dns("bet.example")), false, "refuse by no-gambling for gambling"},
		{"DNS gave two names, the last is blocked", web(dns("bet.example"), dns("b.test")), false, "refuse by no-gambling for gambling, a name could change egress"},
		{"DNS gave two names, the first is blocked", web(dns("b.test"), dns("bet.example")), false, "via direct by rest, a name could change block"},
		{"the flow names the blocked one of them", web(dns("b.test"), dns("bet.example"), sni("bet.example")), true, "refuse by no-gambling for gambling"},
		{"the flow names the other one", web(dns("bet.example"), dns("b.test"), sni("b.test")), true, "via direct by rest"},
		{"a false name does not help", web(dns("bet.example"), sni("b.test")), true, "refuse by no-gambling for gambling"},
		{"DNS never allows what the flow names", web(dns("b.test"), sni("www.bet.example")), true, "refuse by no-gambling for gambling"},
		{"the strictest of several names in the flow", web(http("b.test"), http("bet.example"), http("b.test")), true, "refuse by no-gambling for gambling"},
		{"an address in a list", Flow{Network: TCP, Dst: netip.MustParseAddrPort("198.51.100.7:22")}, false, "refuse by no-gambling for gambling"},
		{"an allow in the category", web(dns("ok.bet.example"), sni("ok.bet.example")), true, "via direct by rest"},
	} {
		t.Run(row.name, func(t *testing.T) {
			row.flow.Sniffed = row.sniffed
			if got := p.Decide(row.flow).line(); got != row.want {
				t.Errorf("got %s, want %s", got, row.want)
			}
		})
	}
}

func TestAClaimedNameAllowsNothing(t *testing.T) {
	via := func(name string) Do { return Do{Action: Forward, Egress: name} }
	p := newPolicy(t, []Rule{
		{Name: "wiki", Match: Match{Domain: []string{"wiki.test"}}, Do: via(EgressDirect)},
		{Name: "no-private", Match: Match{CIDR: []string{"private"}}},
		{Name: "no-gambling", Match: Match{Category: []string{"gambling"}}},
		{Name: "rest", Do: via("corp")},
	}, worldLists(t, false))
	for _, row := range []struct {
		name  string
		dst   string
		names []Name
		want  string
	}{
		{"a claim opens no private address", "192.168.50.10:80", []Name{{"wiki.test", FromHTTP}}, "refuse by no-private, claims wiki.test"},
		{"a claim does not change the egress", "192.0.2.1:443", []Name{{"wiki.test", FromSNI}}, "via corp by rest, claims wiki.test"},
		{"a claim that changes nothing is not reported", "192.0.2.1:443", []Name{{"b.test", FromSNI}}, "via corp by rest"},
		{"a claim may block", "192.0.2.1:443", []Name{{"bet.example", FromSNI}}, "refuse by no-gambling for gambling"},
		{"a false name where DNS gave only blocked ones", "192.168.50.10:80", []Name{{"b.test", FromDNS}, {"wiki.test", FromHTTP}}, "refuse by no-private"},
		{"a name that DNS gave is not a claim", "192.168.50.10:80", []Name{{"wiki.test", FromDNS}, {"wiki.test", FromHTTP}}, "via direct by wiki"},
		{"one claim among true names", "192.168.50.10:80", []Name{{"wiki.test", FromDNS}, {"wiki.test", FromHTTP}, {"x.wiki.test", FromHTTP}}, "via direct by wiki"},
	} {
		f := Flow{Network: TCP, Dst: netip.MustParseAddrPort(row.dst), Names: row.names, Sniffed: true}
		if got := p.Decide(f).line(); got != row.want {
			t.Errorf("%s: got %s, want %s", row.name, got, row.want)
		}
	}
}

// Two rules via one transport lead elsewhere once the transport is down or the network is trusted. A name that is only
// claimed must not choose between them, and a name that comes later may.
func TestRulesThatPartLaterAreNotAlike(t *testing.T) {
	via, fallback, trusted, direct := Do{Action: Forward, Egress: "corp"}, Do{Action: Forward, Egress: "corp", FallbackDirect: true},
		Do{Action: Forward, Egress: "corp", TrustedDirect: true}, Do{Action: Forward, Egress: EgressDirect}
	claim := []Name{{"wiki.test", FromSNI}}
	given := []Name{{"wiki.test", FromDNS}, {"wiki.test", FromSNI}}
	wiki := Match{Domain: []string{"wiki.test"}}
	for _, row := range []struct {
		name       string
		match      Match
		wiki, rest Do
		flow       Flow
		want       string
	}{
		{"a claim does not take the way of a fallback", wiki, fallback, via, Flow{Names: claim, Down: "corp"}, "via corp by rest, claims wiki.test"},
		{"a name that DNS gave does", wiki, fallback, via, Flow{Names: given, Down: "corp"}, "via direct by wiki"},
		{"a claim trusts no network", wiki, trusted, via, Flow{Names: claim, Now: &Conditions{Trusted: true}}, "via corp by rest, claims wiki.test"},
		{"a name that DNS gave does trust it", wiki, trusted, via, Flow{Names: given, Now: &Conditions{Trusted: true}}, "via direct by wiki"},
		{"a claim does not open the machine itself", Match{Domain: wiki.Domain, Gateway: true, Port: []string{"443"}}, direct, direct,
			Flow{Names: claim, Place: Host}, "refuse by rest, claims wiki.test"},
		{"a name that DNS gave opens it", Match{Domain: wiki.Domain, Gateway: true, Port: []string{"443"}}, direct, direct,
			Flow{Names: given, Place: Host}, "via direct by wiki"},
	} {
		p := newPolicy(t, []Rule{{Name: "wiki", Match: row.match, Do: row.wiki}, {Name: "rest", Do: row.rest}}, nil)
		row.flow.Network, row.flow.Dst, row.flow.Sniffed = TCP, netip.MustParseAddrPort("192.0.2.1:443"), true
		if got := p.Decide(row.flow).line(); got != row.want {
			t.Errorf("%s: got %s, want %s", row.name, got, row.want)
		}
	}
	for _, rest := range []Do{fallback, trusted} {
		p := newPolicy(t, []Rule{{Name: "wiki", Match: wiki, Do: via}, {Name: "rest", Do: rest}}, nil)
		if got, want := p.Decide(web()).line(), "via corp by rest, a name could change egress"; got != want {
			t.Errorf("a name that keeps a flow from going direct is worth reading: got %s, want %s", got, want)
		}
	}
}

func TestAConfirmedNameCounts(t *testing.T) {
	f := Flow{Dst: netip.MustParseAddrPort("192.168.50.10:80"), Names: []Name{{"b.test", FromDNS}, {"wiki.test", FromHTTP}}}
	same := f.Confirmed("wiki.test", []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.168.50.10")})
	if want := []Name{{"wiki.test", FromDNS}, {"b.test", FromDNS}, {"wiki.test", FromHTTP}}; same.Dst != f.Dst || !slices.Equal(same.Names, want) {
		t.Errorf("the name has the address: got %v %v, want %v", same.Dst, same.Names, want)
	}
	other := f.Confirmed("wiki.test", []netip.Addr{netip.MustParseAddr("192.0.2.1")})
	if want := []Name{{"wiki.test", FromDNS}, {"wiki.test", FromHTTP}}; other.Dst.String() != "192.0.2.1:80" || !slices.Equal(other.Names, want) {
		t.Errorf("the name has another address: got %v %v, want %v", other.Dst, other.Names, want)
	}
	if len(f.Names) != 2 || f.Names[0].Host != "b.test" {
		t.Errorf("the original flow was changed: %v", f.Names)
	}
}

func TestConditionsOfTheNetworkCompleteTheVerdict(t *testing.T) {
	local := []netip.Prefix{netip.MustParsePrefix("192.168.77.0/24")}
	p := newPolicy(t, []Rule{
		{Name: "intranet", Match: Match{Domain: []string{"corp.test"}}, Do: Do{Action: Forward, Egress: "corp", TrustedDirect: true, FallbackDirect: true}},
		{Name: "shop", Match: Match{Port: []string{"8443"}}, Do: Do{Action: Forward, Egress: "corp", FallbackDirect: true}},
		{Name: "no", Match: Match{Category: []string{"gambling"}}},
		{Name: "rest", Do: Do{Action: Forward, Egress: "corp"}},
	}, worldLists(t, false))
	name := &Portal{Host: "login.test", Port: 8080, Local: local}
	addr := &Portal{Addr: netip.MustParseAddr("192.168.77.1"), Port: 80, Local: local}
	inside := &Portal{Addr: netip.MustParseAddr("10.20.0.10"), Port: 80, Local: local}
	company := &Portal{Host: "wiki.corp.test", Port: 80, Local: local}
	given := func(host string) []Name { return []Name{{host, FromDNS}, {host, FromHTTP}} }
	for _, row := range []struct {
		name  string
		dst   string
		names []Name
		now   Conditions
		want  string
		cause Cause
	}{
		{"nothing special", "192.0.2.1:443", nil, Conditions{}, "via corp by rest", ByRule},
		{"trusted, where the rule says so", "192.0.2.1:443", given("x.corp.test"), Conditions{Trusted: true}, "via direct by intranet", ByTrusted},
		{"trusted, where the rule does not", "192.0.2.1:443", nil, Conditions{Trusted: true}, "via corp by rest", ByRule},
		{"trusted, but blocked", "192.0.2.1:443", given("bet.example"), Conditions{Trusted: true}, "refuse by no for gambling", ByRule},
		{"the portal by its name", "192.0.2.9:80", given("login.test"), Conditions{Portal: name}, "via direct by rest", ByPortal},
		{"the portal's own port", "192.0.2.9:8080", given("login.test"), Conditions{Portal: name}, "via direct by rest", ByPortal},
		{"another port", "192.0.2.9:22", given("login.test"), Conditions{Portal: name}, "via corp by rest", ByRule},
		{"another name on the portal's address", "192.0.2.9:80", append(given("login.test"), Name{"b.test", FromHTTP}), Conditions{Portal: name}, "via corp by rest", ByRule},
		{"the portal's name only claimed", "192.0.2.9:80", []Name{{"login.test", FromHTTP}}, Conditions{Portal: name}, "via corp by rest", ByRule},
		{"the portal's name on an intranet address", "10.20.0.10:80", given("login.test"), Conditions{Portal: name}, "via corp by rest", ByRule},
		{"the portal on the access network's own address", "192.168.77.1:80", nil, Conditions{Portal: addr}, "via direct by rest", ByPortal},
		{"a portal that claims an intranet address", "10.20.0.10:80", nil, Conditions{Portal: inside}, "via corp by rest", ByRule},
		{"the portal's name on an address that overlay networks use", "100.64.0.10:80", given("login.test"), Conditions{Portal: name}, "via corp by rest", ByRule},
		{"a portal that claims a name that a rule keeps inside", "192.0.2.9:80", given("wiki.corp.test"), Conditions{Portal: company}, "via corp by intranet", ByRule},
	} {
		f := Flow{Network: TCP, Dst: netip.MustParseAddrPort(row.dst), Names: row.names, Sniffed: true, Now: &row.now}
		v := p.Decide(f)
		if got := v.line(); got != row.want || v.Cause != row.cause {
			t.Errorf("%s: got %s (cause %d), want %s (cause %d)", row.name, got, v.Cause, row.want, row.cause)
		}
		if x := p.Explain(f); x.Decided != v {
			t.Errorf("%s: explained as %+v, decided as %+v", row.name, x.Decided, v)
		}
	}
	for _, row := range []struct {
		name, dst, down, want string
	}{
		{"the transport is down, where the rule falls back", "192.0.2.1:8443", "corp", "via direct by shop"},
		{"it is down, where the rule does not", "192.0.2.1:443", "corp", "via corp by rest"},
		{"another one is down", "192.0.2.1:8443", "home", "via corp by shop"},
	} {
		f := Flow{Network: TCP, Dst: netip.MustParseAddrPort(row.dst), Sniffed: true, Down: row.down}
		if got := p.Decide(f).line(); got != row.want {
			t.Errorf("%s: got %s, want %s", row.name, got, row.want)
		}
	}
	for host, want := range map[string]bool{"wiki.corp.test": true, "login.test": false} {
		if got := p.IsInside(Flow{Names: []Name{{host, FromQuestion}}}); got != want {
			t.Errorf("IsInside(%s): got %v, want %v", host, got, want)
		}
	}
}

func TestOnlyMatchPeersOpensAPeer(t *testing.T) {
	direct := Do{Action: Forward, Egress: EgressDirect}
	p := newPolicy(t, []Rule{
		{Name: "dns", Match: Match{Port: []string{"53"}}, Do: Do{Action: Forward, Egress: EgressDNS}},
		{Name: "ops", Match: Match{Gateway: true, Port: []string{"22"}}, Do: direct},
		{Name: "not-there", Match: Match{Peers: true, CIDR: []string{"10.99.0.9"}}, Do: Do{}},
		{Name: "help", Match: Match{Peers: true, Port: []string{"22"}, Group: []string{"staff"}}, Do: Do{Action: Forward, Egress: EgressPeers}},
		{Name: "net", Match: Match{CIDR: []string{"10.99.0.0/16"}}, Do: direct},
		{Name: "rest", Do: Do{Action: Forward, Egress: "corp"}},
	}, nil)
	for _, row := range []struct {
		name, dst, group string
		place            Place
		want             string
		cause            Cause
	}{
		{"a peer, as the rule says", "10.99.0.77:22", "staff", AtPeer, "via peers by help", ByRule},
		{"for another group", "10.99.0.77:22", "kids", AtPeer, "refuse by net", ByPeers},
		{"at another port", "10.99.0.77:23", "staff", AtPeer, "refuse by net", ByPeers},
		{"where another rule for peers blocks", "10.99.0.9:22", "staff", AtPeer, "refuse by not-there", ByPeers},
		{"no peer", "10.99.0.77:22", "staff", Elsewhere, "via direct by net", ByRule},
		{"nobody", "10.99.0.77:22", "staff", Inside, "drop by net", ByLoop},
		{"this machine", "10.99.0.1:23", "staff", Service, "refuse by net", ByGuard},
		{"questions", "10.99.0.77:53", "kids", AtPeer, "via dns by dns", ByRule},
	} {
		f := Flow{Network: TCP, Dst: netip.MustParseAddrPort(row.dst), Place: row.place, Groups: []string{row.group}, Sniffed: true}
		if v := p.Decide(f); v.line() != row.want || v.Cause != row.cause {
			t.Errorf("%s: got %s (cause %d), want %s (cause %d)", row.name, v.line(), v.Cause, row.want, row.cause)
		}
	}
	for group, told := range map[string]bool{"staff": true, "kids": false} {
		f := Flow{Dst: netip.AddrPortFrom(netip.MustParseAddr("10.99.0.77"), 0), Place: AtPeer, Groups: []string{group},
			Names: []Name{{"pc.peers.example", FromQuestion}}}
		if v := p.DecideName(f); (v.Action == Forward) != told {
			t.Errorf("the address of a peer in an answer for %s: got %s, want it told: %v", group, v.line(), told)
		}
	}
	for _, rule := range []Rule{
		{Name: "a", Match: Match{Peers: true}, Do: direct},
		{Name: "a", Match: Match{Port: []string{"22"}}, Do: Do{Action: Forward, Egress: EgressPeers}},
		{Name: "a", Match: Match{Peers: true, Gateway: true, Port: []string{"22"}}, Do: Do{}},
	} {
		if _, err := New(Config{Rules: []Rule{rule, {Name: "rest"}}}); err == nil {
			t.Errorf("%+v is taken", rule)
		}
	}
}

func TestOverItsQuotaAPeerReachesOnlyTheGateway(t *testing.T) {
	direct := Do{Action: Forward, Egress: EgressDirect}
	p := newPolicy(t, []Rule{
		{Name: "dns", Match: Match{Port: []string{"53"}}, Do: Do{Action: Forward, Egress: EgressDNS}},
		{Name: "own", Match: Match{Gateway: true, Port: []string{"443"}}, Do: direct},
		{Name: "cloud", Match: Match{Gateway: true, CIDR: []string{"169.254.169.254"}, Port: []string{"80"}}, Do: direct},
		{Name: "no", Match: Match{CIDR: []string{"10.0.0.0/8"}}, Do: Do{Action: Drop}},
		{Name: "intranet", Match: Match{Domain: []string{"corp.test"}}, Do: Do{Action: Forward, Egress: "corp", FallbackDirect: true, TrustedDirect: true}},
		{Name: "rest", Do: direct},
	}, nil)
	now := &Conditions{OverQuota: map[string]bool{"ana": true}, Trusted: true}
	for _, row := range []struct {
		name, peer, dst string
		place           Place
		names           []Name
		want            string
		cause           Cause
	}{
		{"a site", "ana", "192.0.2.1:443", Elsewhere, nil, "refuse by rest", ByQuota},
		{"a site through a transport", "ana", "192.0.2.1:80", Elsewhere, []Name{{"corp.test", FromDNS}}, "refuse by intranet", ByQuota},
		{"a claimed name", "ana", "192.0.2.1:80", Elsewhere, []Name{{"corp.test", FromSNI}}, "refuse by rest", ByQuota},
		{"another peer", "bob", "192.0.2.1:443", Elsewhere, nil, "via direct by rest, a name could change egress", ByRule},
		{"this machine", "", "192.0.2.1:443", Elsewhere, nil, "via direct by rest, a name could change egress", ByRule},
		{"what a rule drops", "ana", "10.1.2.3:443", Elsewhere, nil, "drop by no", ByRule},
		{"questions", "ana", "192.0.2.1:53", Elsewhere, nil, "via dns by dns", ByRule},
		{"the gateway's own service", "ana", "10.99.0.1:443", Service, nil, "via direct by own", ByRule},
		{"a service of the gateway's host", "ana", "198.51.100.1:443", Host, nil, "via direct by own", ByRule},
		{"a service of the host that no rule opens", "ana", "198.51.100.1:22", Host, nil, "refuse by rest", ByGuard},
		{"a reserved address that a rule opens", "ana", "169.254.169.254:80", Reserved, nil, "refuse by cloud", ByQuota},
		{"another peer's address", "ana", "10.99.0.77:22", AtPeer, nil, "drop by no", ByPeers},
	} {
		f := Flow{Network: TCP, Peer: row.peer, Dst: netip.MustParseAddrPort(row.dst), Place: row.place, Names: row.names, Now: now}
		v := p.Decide(f)
		if got := v.line(); got != row.want || v.Cause != row.cause || v.Cause == ByQuota && v.Later != LaterNothing {
			t.Errorf("%s: got %s (cause %d, later %v), want %s (cause %d)", row.name, got, v.Cause, v.Later, row.want, row.cause)
		}
		x := p.Explain(f)
		if x.Decided != v || strings.Contains(x.Because, "the peer has used up its quota of this month") != (v.Cause == ByQuota) {
			t.Errorf("%s: explained as %+v because %s, decided as %+v", row.name, x.Decided, x.Because, v)
		}
	}
	if v := p.DecideName(Flow{Peer: "ana", Names: []Name{{"corp.test", FromQuestion}}, Now: now}); v.Action != Forward {
		t.Errorf("a question for a name: got %s, want an answer", v.line())
	}
}

func TestOnlyMatchGatewayOpensTheMachineItself(t *testing.T) {
	direct := Do{Action: Forward, Egress: EgressDirect}
	rules := []Rule{
		{Name: "dns", Match: Match{Port: []string{"53"}}, Do: Do{Action: Forward, Egress: EgressDNS}},
		{Name: "metrics", Match: Match{Gateway: true, Port: []string{"9477"}}, Do: direct},
		{Name: "cloud", Match: Match{Gateway: true, CIDR: []string{"169.254.169.254"}, Port: []string{"8775"}}, Do: direct},
		{Name: "net", Match: Match{CIDR: []string{"10.20.0.0/16", "169.254.0.0/16"}}, Do: direct},
		{Name: "quiet", Match: Match{CIDR: []string{"10.99.0.0/28"}}, Do: Do{Action: Drop}},
		{Name: "rest", Do: Do{Action: Forward, Egress: "corp"}},
	}
	p := newPolicy(t, rules, nil)
	for _, row := range []struct {
		name, dst string
		place     Place
		want      string
		cause     Cause
	}{
		{"somebody else in a network that a rule opens", "10.20.0.9:22", Elsewhere, "via direct by net", ByRule},
		{"the machine's own address in that network", "10.20.0.5:22", Host, "refuse by net", ByGuard},
		{"the port that match.gateway opens", "10.20.0.5:9477", Host, "via direct by metrics", ByRule},
		{"that port on another host", "10.20.0.9:9477", Elsewhere, "via direct by net", ByRule},
		{"a metadata service that a cidr names", "169.254.169.254:80", Elsewhere, "refuse by net", ByGuard},
		{"loopback behind the last rule", "127.0.0.1:22", Elsewhere, "refuse by rest", ByGuard},
		{"a metadata service that is translated", "[64:ff9b::a9fe:a9fe]:80", Elsewhere, "refuse by rest", ByGuard},
		{"the port that match.gateway opens, of a metadata service", "169.254.169.254:9477", Elsewhere, "refuse by net", ByGuard},
		{"the same on loopback", "127.0.0.1:9477", Elsewhere, "refuse by rest", ByGuard},
		{"a metadata service that match.gateway and a cidr name", "169.254.169.254:8775", Elsewhere, "via direct by cloud", ByRule},
		{"another one", "169.254.169.253:8775", Elsewhere, "refuse by net", ByGuard},
		{"a peer", "10.99.0.77:22", AtPeer, "refuse by rest", ByPeers},
		{"a peer in a network that a rule opens", "10.20.0.7:22", AtPeer, "refuse by net", ByPeers},
		{"a peer, at the port that match.gateway opens", "10.99.0.77:9477", AtPeer, "refuse by rest", ByPeers},
		{"a peer that a rule drops", "10.99.0.7:22", AtPeer, "drop by quiet", ByPeers},
		{"questions to a peer", "10.99.0.77:53", AtPeer, "via dns by dns", ByRule},
		{"questions to the machine's own address", "10.20.0.5:53", Host, "via dns by dns", ByRule},
		{"inside our own networks", "10.99.0.77:22", Inside, "drop by rest", ByLoop},
	} {
		f := Flow{Network: TCP, Dst: netip.MustParseAddrPort(row.dst), Place: row.place, Sniffed: true}
		v := p.Decide(f)
		if got := v.line(); got != row.want || v.Cause != row.cause {
			t.Errorf("%s: got %s (cause %d), want %s (cause %d)", row.name, got, v.Cause, row.want, row.cause)
		}
	}
	question := Flow{Place: Service, Names: []Name{{"a.test", FromQuestion}}}
	if got, want := p.DecideName(question).line(), "via corp by rest"; got != want {
		t.Errorf("a question that came to one of our own addresses: got %s, want %s", got, want)
	}
	rules[1].Match.Port = nil
	if _, err := New(Config{Rules: rules, Egresses: world.egresses}); err == nil || !strings.Contains(err.Error(), "list the ports") {
		t.Errorf("match.gateway without a port: got %v, want an error", err)
	}
}

func TestConditions(t *testing.T) {
	yes, no := true, false
	monday := time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
	base := web(Name{"www.a.test", FromDNS}, Name{"www.a.test", FromSNI})
	base.Peer, base.Groups, base.Time, base.Sniffed = "ana", []string{"staff"}, monday, true
	base.UID, base.HasUID, base.Process = 1000, true, "/usr/bin/curl"
	base.Unit, base.Container, base.UserUnit = "app-org.example.web.scope", "3f2a9c0d1e5b", true
	for _, row := range []struct {
		name   string
		match  Match
		change func(*Flow)
		want   bool
	}{
		{"a domain is itself and all below", Match{Domain: []string{"a.test"}}, nil, true},
		{"a star is only what is below", Match{Domain: []string{"*.www.a.test"}}, nil, false},
		{"an equals sign is only itself", Match{Domain: []string{"=a.test"}}, nil, false},
		{"a domain is written in any case and script", Match{Domain: []string{"A.Test."}}, nil, true},
		{"values of a field are alternatives", Match{Domain: []string{"b.test", "a.test"}}, nil, true},
		{"fields add up", Match{Domain: []string{"a.test"}, Port: []string{"80"}}, nil, false},
		{"a range of ports", Match{Port: []string{"80", "440-450"}}, nil, true},
		{"an address in a prefix", Match{CIDR: []string{"192.0.2.0/24"}}, nil, true},
		{"a prefix of mapped addresses", Match{CIDR: []string{"::ffff:192.0.2.0/120"}}, func(f *Flow) { f.Dst = netip.MustParseAddrPort("192.0.2.1:443") }, true},
		{"a mapped address as a prefix", Match{CIDR: []string{"::ffff:192.0.2.1"}}, func(f *Flow) { f.Dst = netip.MustParseAddrPort("192.0.2.1:443") }, true},
		{"a prefix of mapped addresses and another one", Match{CIDR: []string{"::ffff:192.0.2.0/120"}}, func(f *Flow) { f.Dst = netip.MustParseAddrPort("192.0.3.1:443") }, false},
		{"a private address behind NAT64", Match{CIDR: []string{"private"}}, func(f *Flow) { f.Dst = netip.MustParseAddrPort("[64:ff9b::10.0.0.1]:443") }, true},
		{"a public address behind NAT64", Match{CIDR: []string{"private"}}, func(f *Flow) { f.Dst = netip.MustParseAddrPort("[64:ff9b::192.0.2.1]:443") }, false},
		{"a network as written, behind NAT64", Match{CIDR: []string{"10.0.0.0/8"}}, func(f *Flow) { f.Dst = netip.MustParseAddrPort("[64:ff9b::10.0.0.1]:443") }, false},
		{"a mapped address in a prefix", Match{CIDR: []string{"192.0.2.0/24"}}, func(f *Flow) { f.Dst = netip.MustParseAddrPort("[::ffff:192.0.2.1]:443") }, true},
		{"an address alone", Match{CIDR: []string{"192.0.2.1"}}, nil, true},
		{"private is not the metadata service of clouds", Match{CIDR: []string{"private"}}, func(f *Flow) { f.Dst = netip.MustParseAddrPort("169.254.169.254:80") }, false},
		{"a source", Match{Src: []string{"private"}}, nil, true},
		{"tcp", Match{Protocol: []string{"tcp"}}, nil, true},
		{"quic is UDP to 443", Match{Protocol: []string{"quic"}}, func(f *Flow) { f.Network = UDP }, true},
		{"quic is UDP too", Match{Protocol: []string{"udp"}}, func(f *Flow) { f.Network = UDP }, true},
		{"an unknown network matches no protocol", Match{Protocol: []string{"tcp", "udp", "icmp", "quic"}}, func(f *Flow) { f.Network = 0 }, false},
		{"a peer", Match{Peer: []string{"bob", "ana"}}, nil, true},
		{"a group", Match{Group: []string{"kids"}}, nil, false},
		{"a user", Match{UID: []uint32{1000}}, nil, true},
		{"no user is not user 0", Match{UID: []uint32{0}}, func(f *Flow) { f.UID, f.HasUID = 0, false }, false},
		{"a program", Match{Process: []string{"/usr/bin/curl"}}, nil, true},
		{"a unit", Match{Unit: []string{"cups.service", "app-org.example.web.scope"}}, nil, true},
		{"units that begin alike", Match{Unit: []string{"app-*"}}, nil, true},
		{"a star in the middle", Match{Unit: []string{"app-*.web.scope"}}, nil, true},
		{"stars", Match{Unit: []string{"*example*web*"}}, nil, true},
		{"a star stands for no other end", Match{Unit: []string{"app-*.service"}}, nil, false},
		{"what is around a star does not overlap", Match{Unit: []string{"app-org.example.web.sco*ope"}}, nil, false},
		{"without a star it is the whole unit", Match{Unit: []string{"app-org.example.web"}}, nil, false},
		{"a unit of a user", Match{Unit: []string{"user/app-*"}}, nil, true},
		{"a unit of a user is none of the system's", Match{Unit: []string{"system/app-*"}}, nil, false},
		{"a unit of the system", Match{Unit: []string{"system/cups.service"}}, func(f *Flow) { f.Unit, f.UserUnit = "cups.service", false }, true},
		{"no unit is not any unit", Match{Unit: []string{"*"}}, func(f *Flow) { f.Unit = "" }, false},
		{"a container", Match{Container: []string{"3f2a9c0d1e5b"}}, nil, true},
		{"a container by its whole ID", Match{Container: []string{"3f2a9c0d1e5b" + strings.Repeat("0a", 26)}}, nil, true},
		{"a container whose name goes on", Match{Container: []string{"3f2a9c0d1e5b-copy"}}, nil, false},
		{"a container whose name an ID begins with", Match{Container: []string{"3f2a9c0d1e5b" + strings.Repeat("0a", 26)}}, func(f *Flow) { f.Container = "3" }, false},
		{"another container", Match{Container: []string{"web"}}, nil, false},
		{"hours of the day", Match{Schedule: []string{"mon-fri 09:00-17:00"}}, nil, true},
		{"the last minute is not within", Match{Schedule: []string{"09:00-10:00"}}, nil, false},
		{"past midnight belongs to the day before", Match{Schedule: []string{"sun 22:00-06:00"}}, func(f *Flow) { f.Time = monday.Add(-5 * time.Hour) }, true},
		{"past midnight of a day that is not meant", Match{Schedule: []string{"mon 22:00-06:00"}}, func(f *Flow) { f.Time = monday.Add(-5 * time.Hour) }, false},
		{"several windows", Match{Schedule: []string{"sat", "sun,mon 09:00-24:00"}}, nil, true},
		{"a range of days over the weekend", Match{Schedule: []string{"fri-mon"}}, nil, true},
		{"without a time no schedule matches", Match{Schedule: []string{"mon-sun"}}, func(f *Flow) { f.Time = time.Time{} }, false},
		{"the judged name was read in the flow", Match{SeenIn: []string{"sni"}}, nil, true},
		{"the judged name came by DNS", Match{SeenIn: []string{"dns"}}, func(f *Flow) { f.Names = f.Names[:1] }, true},
		{"DNS gave the name", Match{Mismatch: &yes}, nil, false},
		{"DNS did not give the name", Match{Mismatch: &yes}, func(f *Flow) { f.Names = []Name{{"b.test", FromDNS}, {"a.test", FromSNI}} }, true},
		{"nothing in the flow, nothing that differs", Match{Mismatch: &no}, func(f *Flow) { f.Names = nil }, true},
		{"not", Match{Port: []string{"443"}, Not: &Match{Domain: []string{"a.test"}}}, nil, false},
		{"not another", Match{Port: []string{"443"}, Not: &Match{Domain: []string{"b.test"}}}, nil, true},
		{"not not", Match{Not: &Match{Port: []string{"443"}, Not: &Match{Domain: []string{"a.test"}}}}, nil, true},
		{"no name is not that name", Match{Not: &Match{Domain: []string{"a.test"}}}, func(f *Flow) { f.Names = nil }, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			p := newPolicy(t, []Rule{{Name: "it", Match: row.match}, {Name: "rest", Do: Do{Action: Forward, Egress: EgressDirect}}}, nil)
			f := base
			if row.change != nil {
				row.change(&f)
			}
			if got := p.Decide(f).Rule == "it"; got != row.want {
				t.Errorf("got %v, want %v: %s", got, row.want, p.Explain(f).Rules[0].Why)
			}
			if x := p.Explain(f).Rules[0]; (x.Match == "yes") != row.want || strings.HasPrefix(x.Why, "not ") != !row.want && row.match.Not == nil {
				t.Errorf("explained as %s: %s", x.Match, x.Why)
			}
		})
	}
}

func TestAFlowWithoutANameMayBeBlocked(t *testing.T) {
	rules := house()
	rules[0].Do.UnnamedBlock = true
	p := newPolicy(t, rules, worldLists(t, false))
	for _, row := range []struct {
		name    string
		names   []Name
		sniffed bool
		want    string
	}{
		{"at the SYN it waits for a name", nil, false, "refuse by no-gambling, a name could change egress"},
		{"no name came", nil, true, "refuse by no-gambling"},
		{"the flow claims a name that DNS did not give", []Name{{"b.test", FromSNI}}, true, "refuse by no-gambling, claims b.test"},
		{"DNS gave the name that the flow shows", []Name{{"b.test", FromDNS}, {"b.test", FromSNI}}, true, "via direct by rest"},
		{"DNS gave one", []Name{{"b.test", FromDNS}}, true, "via direct by rest"},
	} {
		f := web(row.names...)
		f.Sniffed = row.sniffed
		if got := p.Decide(f).line(); got != row.want {
			t.Errorf("%s: got %s, want %s", row.name, got, row.want)
		}
	}
}

func TestDecideNameBlocksOnlyWhatNoFlowCouldPass(t *testing.T) {
	forward := Do{Action: Forward, Egress: "corp"}
	block := Rule{Name: "block", Match: Match{Category: []string{"gambling"}}}
	rest := Rule{Name: "rest", Do: Do{Action: Forward, Egress: EgressDirect}}
	for _, row := range []struct {
		name  string
		first Rule
		want  string
	}{
		{"nothing before the block", Rule{Name: "x", Match: Match{Domain: []string{"b.test"}}, Do: forward}, "refuse by block for gambling"},
		{"a forward by address before it", Rule{Name: "x", Match: Match{CIDR: []string{"private"}}, Do: forward}, "via corp by x"},
		{"a forward by port before it", Rule{Name: "x", Match: Match{Port: []string{"22"}}, Do: forward}, "via corp by x"},
		{"a block by port before it", Rule{Name: "x", Match: Match{Port: []string{"22"}}, Do: Do{Action: Drop}}, "refuse by block for gambling"},
		{"the capture of questions before it", Rule{Name: "x", Match: Match{Port: []string{"53"}}, Do: Do{Action: Forward, Egress: EgressDNS}}, "refuse by block for gambling"},
		{"a forward for another peer before it", Rule{Name: "x", Match: Match{Peer: []string{"bob"}, Port: []string{"443"}}, Do: forward}, "refuse by block for gambling"},
		{"a forward for some program before it", Rule{Name: "x", Match: Match{Process: []string{"/bin/a"}}, Do: forward}, "via corp by x"},
		{"a forward for some unit before it", Rule{Name: "x", Match: Match{Unit: []string{"a.service"}}, Do: forward}, "via corp by x"},
		{"a forward for all but the resolver before it", Rule{Name: "x", Match: Match{Not: &Match{Unit: []string{"resolver.service"}}}, Do: forward}, "via corp by x"},
	} {
		p := newPolicy(t, []Rule{row.first, block, rest}, worldLists(t, false))
		q := Flow{Peer: "ana", Names: []Name{{"www.bet.example", FromQuestion}}, Process: "/bin/resolver", Unit: "resolver.service"} // asks for others
		if got := p.DecideName(q).line(); got != row.want {
			t.Errorf("%s: got %s, want %s", row.name, got, row.want)
		}
		if x := p.Explain(q); x.Verdict.Rule != p.DecideName(q).Rule {
			t.Errorf("%s: explained as %+v", row.name, x.Verdict)
		}
	}
}

func TestDecideNameKnowsAnAddressInTheAnswer(t *testing.T) {
	direct := Do{Action: Forward, Egress: EgressDirect}
	p := newPolicy(t, []Rule{
		{Name: "dns", Match: Match{Port: []string{"53"}}, Do: Do{Action: Forward, Egress: EgressDNS}},
		{Name: "ops", Match: Match{Gateway: true, Port: []string{"22"}}, Do: direct},
		{Name: "intranet", Match: Match{CIDR: []string{"10.20.0.0/16"}, Group: []string{"staff"}}, Do: direct},
		{Name: "tickets", Match: Match{Domain: []string{"tickets.test"}}, Do: direct},
		{Name: "printer", Match: Match{CIDR: []string{"10.30.0.0/16"}, Port: []string{"631"}}, Do: direct},
		{Name: "no-private", Match: Match{CIDR: []string{"private"}}},
		{Name: "rest", Do: direct},
	}, nil)
	for _, row := range []struct {
		name, host, addr string
		groups           []string
		place            Place
		want             string
	}{
		{"an address that is not known yet", "wiki.test", "", nil, Elsewhere, "via direct by rest"},
		{"one that no flow reaches", "wiki.test", "10.20.0.10", nil, Elsewhere, "refuse by no-private"},
		{"the same for who does", "wiki.test", "10.20.0.10", []string{"staff"}, Elsewhere, "via direct by intranet"},
		{"one that the name opens", "tickets.test", "10.20.0.10", nil, Elsewhere, "via direct by tickets"},
		{"one that some port opens", "wiki.test", "10.30.0.1", nil, Elsewhere, "via direct by printer"},
		{"one on the internet", "wiki.test", "192.0.2.1", nil, Elsewhere, "via direct by rest"},
		{"one of the gateway, which a port opens", "wiki.test", "10.20.0.1", nil, Host, "via direct by ops"},
	} {
		q := Flow{Groups: row.groups, Place: row.place, Names: []Name{{row.host, FromQuestion}}}
		if row.addr != "" {
			q.Dst = netip.AddrPortFrom(netip.MustParseAddr(row.addr), 0)
		}
		if got := p.DecideName(q).line(); got != row.want {
			t.Errorf("%s: got %s, want %s", row.name, got, row.want)
		}
	}
}

func TestDecideNameNamesTheRuleThatIsCertain(t *testing.T) {
	via := func(name string) Do { return Do{Action: Forward, Egress: name} }
	lan := Rule{Name: "lan", Match: Match{CIDR: []string{"private"}}, Do: via(EgressDirect)}
	rest := Rule{Name: "rest", Do: via("corp")}
	p := newPolicy(t, []Rule{
		lan,
		{Name: "shell", Match: Match{Port: []string{"22"}}, Do: via(EgressDirect)},
		{Name: "intranet", Match: Match{Domain: []string{"corp.example"}}, Do: via(EgressDirect)},
		{Name: "no", Match: Match{Category: []string{"adult"}}, Do: Do{Action: Drop}},
		rest,
	}, worldLists(t, false))
	for _, row := range []struct{ name, host, want string }{
		{"a rule on names behind one on addresses", "wiki.corp.example", "via direct by intranet"},
		{"the last rule behind one on addresses", "www.example", "via corp by rest"},
	} {
		q := Flow{Names: []Name{{row.host, FromQuestion}}}
		if got := p.DecideName(q).line(); got != row.want {
			t.Errorf("%s: got %s, want %s", row.name, got, row.want)
		}
		if x := p.Explain(q); x.Verdict.Rule != p.DecideName(q).Rule {
			t.Errorf("%s: explained as %+v", row.name, x.Verdict)
		}
	}
}

func TestExceptionsLiftBlocksForAWhile(t *testing.T) {
	now := time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
	p := newPolicy(t, house(), worldLists(t, true)).WithDecisions([]Decision{
		{Name: "bet.example", Peer: "ana", Until: now.Add(10 * time.Minute)},
		{Category: "adult", Until: now.Add(time.Minute)},
	})
	for _, row := range []struct {
		name, host, peer string
		at               time.Time
		want             string
	}{
		{"the name for the peer", "bet.example", "ana", now, "via direct by rest"},
		{"below the name", "x.bet.example", "ana", now, "via direct by rest"},
		{"another peer", "bet.example", "bob", now, "refuse by no-gambling for gambling"},
		{"expired", "bet.example", "ana", now.Add(10 * time.Minute), "refuse by no-gambling for gambling"},
		{"without a time it does not count", "bet.example", "ana", time.Time{}, "refuse by no-gambling for gambling"},
		{"the category for everyone", "sex.example", "bob", now, "via direct by rest"},
		{"the category has expired", "sex.example", "bob", now.Add(2 * time.Minute), "refuse by no-gambling for adult"},
	} {
		f := web(Name{row.host, FromDNS}, Name{row.host, FromSNI})
		f.Peer, f.Time, f.Sniffed = row.peer, row.at, true
		if got := p.Decide(f).line(); got != row.want {
			t.Errorf("%s: got %s, want %s", row.name, got, row.want)
		}
	}
	f := web()
	f.Time, f.Peer = now, "ana"
	if got := p.Decide(f).line(); got != "via direct by rest, a name could change block" {
		t.Errorf("without a name: got %s", got)
	}
}

func TestNewSaysWhatIsWrongAndHowToMendIt(t *testing.T) {
	at := Position{File: "p.yaml", Line: 3, Column: 5}
	rest := Rule{Name: "rest", Pos: Position{File: "p.yaml", Line: 9}}
	via := func(s string) Do { return Do{Action: Forward, Egress: s} }
	lan := Match{CIDR: []string{"private"}}
	for _, row := range []struct {
		name  string
		rules []Rule
		want  string
	}{
		{"no rules", nil, "policy has no rules: it needs at least a last rule without a match, such as {name: rest, do: block}"},
		{"no last rule", []Rule{{Name: "lan", Match: lan, Pos: at}},
			`p.yaml:3:5: rule "lan" is the last rule and has a match: add a rule without a match after it, such as {name: rest, do: block}`},
		{"a rule after the last", []Rule{{Name: "all", Pos: at}, rest},
			`p.yaml:3:5: rule "all" matches everything, so the rule after it at p.yaml:9 is never reached: move it to the end or give it a match`},
		{"a transport with a typing error", []Rule{{Name: "x", Match: lan, Do: via("crop"), Pos: at}, rest},
			`p.yaml:3:5: rule "x": unknown transport "crop": did you mean "corp"?`},
		{"no transport", []Rule{{Name: "x", Match: lan, Do: via(""), Pos: at}, rest},
			`p.yaml:3:5: rule "x": forwards without a via: add a transport, direct or dns`},
		{"a category that resembles none", []Rule{{Name: "x", Match: Match{Category: []string{"weather"}}, Pos: at}, rest},
			`p.yaml:3:5: rule "x": unknown category "weather": known are adult, gambling`},
		{"a category within not", []Rule{{Name: "x", Match: Match{Not: &Match{Category: []string{"gamblin"}}}, Pos: at}, rest},
			`p.yaml:3:5: rule "x": unknown category "gamblin": did you mean "gambling"?`},
		{"two rules with one name", []Rule{{Name: "rest", Match: lan, Pos: at}, rest},
			`p.yaml:9: rule "rest": the name is already used at p.yaml:3:5: choose another`},
		{"no name", []Rule{{Match: lan, Pos: at}, rest},
			`p.yaml:3:5: rule has no name: give it one for logs, metrics and explain`},
		{"a prefix of mapped addresses and others", []Rule{{Name: "x", Match: Match{CIDR: []string{"::ffff:0.0.0.0/95"}}, Pos: at}, rest},
			`p.yaml:3:5: rule "x": cidr "::ffff:0.0.0.0/95" covers IPv4 and more: write the IPv4 network and the IPv6 network`},
		{"a prefix with host bits", []Rule{{Name: "x", Match: Match{CIDR: []string{"10.0.0.1/8"}}, Pos: at}, rest},
			`p.yaml:3:5: rule "x": cidr "10.0.0.1/8" has host bits set: write 10.0.0.0/8`},
		{"a port that is a word", []Rule{{Name: "x", Match: Match{Port: []string{"https"}}, Pos: at}, rest},
			`p.yaml:3:5: rule "x": port "https" is not a port from 1 to 65535 or a range such as 8000-8999`},
		{"a day that is unknown", []Rule{{Name: "x", Match: Match{Schedule: []string{"monday"}}, Pos: at}, rest},
			`p.yaml:3:5: rule "x": schedule "monday": "monday" is not a day: use sun, mon, tue, wed, thu, fri, sat`},
		{"an address as domain", []Rule{{Name: "x", Match: Match{Domain: []string{"192.0.2.1"}}, Pos: at}, rest},
			`p.yaml:3:5: rule "x": domain "192.0.2.1": "192.0.2.1" is not a host name`},
		{"an empty not", []Rule{{Name: "x", Match: Match{Not: &Match{}}, Pos: at}, rest},
			`p.yaml:3:5: rule "x": not: has no condition, so the rule matches nothing: write one`},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := New(Config{Rules: row.rules, Categories: world.categories, Egresses: world.egresses})
			if err == nil || err.Error() != row.want {
				t.Errorf("got  %v\nwant %s", err, row.want)
			}
		})
	}
}

func TestRulesThatAreNeverReachedAreWarnings(t *testing.T) {
	forward := Do{Action: Forward, Egress: EgressDirect}
	rules := []Rule{
		{Name: "a", Match: Match{Domain: []string{"a.test"}, Port: []string{"1-1024"}}, Pos: Position{File: "p.yaml", Line: 1}},
		{Name: "b", Match: Match{Domain: []string{"*.a.test", "=x.a.test"}, Port: []string{"443"}}, Do: forward, Pos: Position{File: "p.yaml", Line: 2}},
		{Name: "c", Match: Match{Domain: []string{"a.test"}}, Pos: Position{File: "p.yaml", Line: 3}},
		{Name: "d", Match: Match{CIDR: []string{"private"}, Not: &Match{Port: []string{"22"}}}, Pos: Position{File: "p.yaml", Line: 4}},
		{Name: "e", Match: Match{CIDR: []string{"10.0.0.0/8"}}, Pos: Position{File: "p.yaml", Line: 5}},
		{Name: "strict", Match: Match{Domain: []string{"a.test"}, Port: []string{"443"}}, Do: Do{UnnamedBlock: true}, Pos: Position{File: "p.yaml", Line: 6}},
		{Name: "rest", Pos: Position{File: "p.yaml", Line: 7}},
	}
	got := newPolicy(t, rules, nil).Warnings()
	want := []string{`p.yaml:2: rule "b" is never reached: p.yaml:1: rule "a" already matches all its flows: move it up or remove it`}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestEveryConditionNarrowsWhatARuleCovers(t *testing.T) {
	yes, kind := true, reflect.TypeFor[Match]()
	values := map[reflect.Type]reflect.Value{
		reflect.TypeFor[bool](): reflect.ValueOf(true), reflect.TypeFor[*bool](): reflect.ValueOf(&yes),
		reflect.TypeFor[[]uint32](): reflect.ValueOf([]uint32{1000}), reflect.TypeFor[*Match](): reflect.ValueOf(&Match{Port: []string{"22"}}),
	}
	texts := map[string]string{"Port": "443", "CIDR": "10.0.0.0/8", "Src": "10.0.0.0/8", "Domain": "a.test"}
	for i := range kind.NumField() {
		field := kind.Field(i)
		value, ok := values[field.Type]
		if field.Type == reflect.TypeFor[[]string]() {
			value, ok = reflect.ValueOf([]string{cmp.Or(texts[field.Name], "x")}), true
		}
		if !ok {
			t.Fatalf("%s is a %s: say here what one is", field.Name, field.Type)
		}
		var a, b Match
		reflect.ValueOf(&a).Elem().Field(i).Set(value)
		if covers(&a, &b) {
			t.Errorf("a rule with %s covers one without", field.Name)
		}
		if b = a; !covers(&a, &b) {
			t.Errorf("a rule with %s does not cover itself", field.Name)
		}
	}
}

func TestExplainTellsTheWholeStory(t *testing.T) {
	p := newPolicy(t, house(), worldLists(t, true))
	f := web(Name{"bet.example", FromDNS}, Name{"nas.corp.test", FromSNI})
	f.Dst, f.Groups, f.Sniffed = netip.MustParseAddrPort("10.0.0.5:443"), []string{"staff"}, true
	x := p.Explain(f)
	if want := (ExplainedVerdict{Action: "refuse", Rule: "no-gambling", Category: "gambling"}); x.Verdict != want {
		t.Errorf("got %+v, want %+v", x.Verdict, want)
	}
	if x.Pos.String() != "house.yaml:10:5" {
		t.Errorf("got %s", x.Pos)
	}
	if want := `the flow is judged as nas.corp.test (sni), but the client looked up only blocked names for its address, and not that one: rule "no-gambling" blocks it`; x.Because != want {
		t.Errorf("got  %s\nwant %s", x.Because, want)
	}
	if want := []string{"intranet", "lan", "rest"}; !slices.Equal(x.Shadowed, want) {
		t.Errorf("got shadowed %q, want %q", x.Shadowed, want)
	}
	if want := []CategoryHit{{"bet.example", "gambling", false}}; !slices.Equal(x.Categories, want) {
		t.Errorf("got %+v, want %+v", x.Categories, want)
	}
	if want := []ExplainedName{{"bet.example", "dns", false, "refuse", "no-gambling"}, {"nas.corp.test", "sni", true, "refuse", "no-gambling"}}; !slices.Equal(x.Names, want) {
		t.Errorf("got %+v, want %+v", x.Names, want)
	}
	syn := p.Explain(web())
	if want := []string{`a name that makes rule "no-gambling" decide (refuse)`}; !slices.Equal(syn.WouldTurn, want) {
		t.Errorf("got %q, want %q", syn.WouldTurn, want)
	}
	if got, want := syn.Rules[2].Why, "not domain *.corp.test, not group staff"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestRowsOfTheOperatorAreRun(t *testing.T) {
	p := newPolicy(t, house(), worldLists(t, true))
	peers := []Peer{{Name: "ana", Groups: []string{"staff"}}, {Name: "bob", Groups: []string{"kids"}}}
	night := time.Date(2026, 3, 2, 23, 0, 0, 0, time.UTC)
	pos := Position{File: "house.yaml", Line: 20}
	for _, row := range []struct {
		test Test
		want string
	}{
		{Test{From: "ana", To: "https://intranet.corp.test/x", Expect: Expect{Action: Forward, Egress: "corp"}}, ""},
		{Test{From: "bob", To: "https://intranet.corp.test", Expect: Expect{Action: Forward, Egress: "corp"}},
			`house.yaml:20: test from bob to https://intranet.corp.test: got via direct by rule "rest", want via corp`},
		{Test{From: "ana", To: "bet.example", Expect: Expect{}}, ""},
		{Test{To: "quic://Bet.Example", Expect: Expect{Rule: "no-gambling"}}, ""},
		{Test{To: "bet.example", Expect: Expect{Rule: "rest"}}, `house.yaml:20: test from here to bet.example: got rule "no-gambling", want "rest"`},
		{Test{From: "bob", To: "http://b.test", At: night, Expect: Expect{}}, ""},
		{Test{From: "bob", To: "http://b.test", At: night, Expect: Expect{Action: Drop}}, ""},
		{Test{To: "tcp://10.0.0.1:22", Expect: Expect{Action: Forward, Rule: "lan"}}, ""},
		{Test{To: "https://[2001:db8::1]:8443", Expect: Expect{Action: Forward, Rule: "rest"}}, ""},
		{Test{To: "2001:db8::1", Expect: Expect{Action: Forward, Rule: "rest"}}, ""},
		{Test{To: "b.test", Addr: netip.MustParseAddr("10.0.0.1"), Expect: Expect{Action: Forward, Rule: "lan"}}, ""},
		{Test{From: "anna", To: "b.test"}, `house.yaml:20: test from anna to b.test: unknown peer "anna": did you mean "ana"?`},
		{Test{To: "tcp://b.test"}, `house.yaml:20: test from here to tcp://b.test: tcp needs a port: write tcp://b.test:PORT`},
		{Test{To: "gopher://b.test"}, `house.yaml:20: test from here to gopher://b.test: scheme "gopher" is unknown: use https, http, quic, tcp, udp, ssh, dns or icmp`},
	} {
		row.test.Pos = pos
		got := ""
		if err := RunTests(p, []Test{row.test}, peers, func(string, netip.Addr) Place { return Elsewhere })[0].Err; err != nil {
			got = err.Error()
		}
		if got != row.want {
			t.Errorf("got  %s\nwant %s", got, row.want)
		}
	}
}

func TestAPolicyThatIsNotThereRefuses(t *testing.T) {
	var p *Policy
	if v := p.Decide(web()); v.Action != Refuse {
		t.Errorf("got %+v", v)
	}
	if v := p.DecideName(web(Name{"a.test", FromQuestion})); v.Action != Refuse {
		t.Errorf("got %+v", v)
	}
}

func TestDecideAllocatesNothing(t *testing.T) {
	p := newPolicy(t, thousandRules(), worldLists(t, true))
	f := web(Name{"www.app7.example", FromDNS}, Name{"www.bet.example", FromSNI})
	f.Time = time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
	if n := testing.AllocsPerRun(1000, func() { p.Decide(f) }); n != 0 {
		t.Errorf("got %v allocations, want 0", n)
	}
}
