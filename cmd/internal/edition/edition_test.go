package edition

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/lists"
	"penstock/dnsproxy"
	"penstock/policy"
)

// compileAlone compiles a configuration as check does.
func compileAlone(t *testing.T, cfg *config.Config) (*Edition, error) {
	t.Helper()
	return Compile(t.Context(), cfg, Sources{Lists: lists.New(lists.Config{})})
}

func TestCompileRefusesWhatWouldNotRun(t *testing.T) {
	for _, row := range []struct {
		name, text string
		want       []string // line and column, and the beginning of each fault
	}{
		{"a rule with an unknown day",
			onLaptop + "rules: [{name: late, match: {schedule: 'foo 21:00'}, do: block}, {name: rest, do: direct}]\n",
			[]string{`2:9: rule "late": schedule "foo 21:00": "foo" is not a day`}},
		{"an own address as upstream",
			onLaptop + "dns: {upstreams: [{address: 10.77.0.1}]}\n" + rest,
			[]string{`2:19: dns.upstreams: dnsproxy: upstream address "10.77.0.1" leads back to this server`}},
		{"a port that is out of range",
			onLaptop + "dns: {upstreams: [{address: 'tls://1.2.3.4:99999'}]}\n" + rest,
			[]string{`2:19: dns.upstreams: dnsproxy: upstream address "tls://1.2.3.4:99999": port must be 1 to 65535`}},
		{"one domain in two splits, at the second",
			onLaptop + "dns:\n  split:\n    - {domains: [a.example], upstream: {address: 10.0.0.1}}\n    - {domains: ['*.a.example'], upstream: {address: 10.0.0.2}}\n" + rest,
			[]string{`5:7: dns.split: dnsproxy: domain "*.a.example" is in two zones`}},
		{"an invalid domain in allow_private",
			onLaptop + "dns: {allow_private: [ok.example, 'a..b']}\n" + rest,
			[]string{`2:35: dns.allow_private: dnsproxy: domain "a..b" is not a domain name`}},
		{"an own address that a transport's file names as its DNS server",
			onLaptop + "transports: {corp: {wireguard: {config: own.conf}}}\n" + rest,
			[]string{`2:20: transport corp: dnsproxy: upstream address "10.77.0.1" leads back to this server`}},
		{"a transport's file that is incomplete",
			onLaptop + "transports: {corp: {wireguard: {config: bad.conf}}}\n" + rest,
			[]string{"2:20: transport corp: bad.conf"}},
		{"a transport whose server has our own key",
			onLaptop + "transports: {corp: {wireguard: {private_key: {file: server.key}, address: 10.8.0.2/32, peers: [{public_key: OWN, endpoint: '192.0.2.1:51820', allowed_ips: 0.0.0.0/0}]}}}\n" + rest,
			[]string{"2:20: transport corp: PublicKey is this machine's own"}},
		{"a transport with a keepalive that is out of range",
			onLaptop + "transports: {corp: {wireguard: {private_key: {file: server.key}, address: 10.8.0.2/32, peers: [{public_key: " + anaKey + ", endpoint: '192.0.2.1:51820', allowed_ips: 0.0.0.0/0, persistent_keepalive: 1500ms}]}}}\n" + rest,
			[]string{"2:20: transport corp: PersistentKeepalive 1.5s is out of range"}},
		{"a category that must not be missing, and is",
			onLaptop + "categories: {bets: {on_missing: fail, lists: [{file: empty.txt}]}}\n" + noBets,
			[]string{"2:20: category bets: list empty.txt: "}},
		{"all of them at once",
			atGateway + "peers: []\n" +
				"transports: {corp: {wireguard: {config: bad.conf}}}\n" +
				"categories: {bets: {on_missing: fail, lists: [{file: empty.txt}]}}\n" +
				"dns: {upstreams: [{address: 10.99.0.1}], allow_private: ['a..b']}\n" +
				"rules: [{name: late, match: {category: bets, schedule: 'foo 21:00'}, do: block}, {name: rest, do: direct}]\n",
			[]string{"3:20: transport corp: ", "4:20: category bets: list empty.txt: ", `6:9: rule "late"`, "5:19: dns.upstreams: ", "5:58: dns.allow_private: "}},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "bad.conf"), "[Interface]\n")
			write(t, filepath.Join(dir, "own.conf"), strings.Replace(corpConf, "10.0.0.53", "10.77.0.1", 1))
			write(t, filepath.Join(dir, "empty.txt"), "")
			cfg := loadIn(t, dir, strings.ReplaceAll(row.text, "OWN", ownPublicKey(t)))
			e, err := compileAlone(t, cfg)
			if e != nil {
				t.Error("an edition came with the faults: nothing may use it")
			}
			refused, ok := errors.AsType[*config.Error](err)
			if !ok {
				t.Fatalf("got %v, want a *config.Error", err)
			}
			var got []string
			for _, f := range refused.Faults {
				text := f.String()
				if !strings.HasPrefix(text, cfg.Path) {
					t.Errorf("got %q, want it to begin with the file", text)
				}
				text = strings.ReplaceAll(text, dir+string(os.PathSeparator), "")
				got = append(got, strings.TrimPrefix(strings.TrimPrefix(text, "p.yaml:"), " "))
			}
			if len(got) != len(row.want) {
				t.Fatalf("got %d faults, want %d:\n%s", len(got), len(row.want), strings.Join(got, "\n"))
			}
			for i, want := range row.want {
				if !strings.HasPrefix(got[i], want) {
					t.Errorf("fault %d: got %q, want it to begin with %q", i+1, got[i], want)
				}
			}
		})
	}
}

func TestWhatCompileAcceptsTheServerTakes(t *testing.T) {
	for _, row := range []struct{ name, text string }{
		{"no DNS section", onLaptop + rest},
		{"a name that is not ASCII", onLaptop + "dns: {split: [{domains: [bücher.example], upstream: {address: 10.0.0.1}}]}\n" + rest},
		{"a domain twice in one split", onLaptop + "dns: {split: [{domains: [corp.example, '*.corp.example'], upstream: {address: 10.0.0.1}}]}\n" + rest},
		{"a split that a transport names too", onLaptop + "transports: {corp: {wireguard: {config: corp.conf}}}\ndns: {split: [{domains: ['*.corp.example'], upstream: {address: 10.9.9.9}}]}\n" + rest},
		{"every kind of block answer", onLaptop + bets + "dns: {block: {answer: 'null'}, block_category: {bets: {answer: address, addresses: [192.0.2.9]}, ads: {answer: refused}}, upstreams: [{address: 192.0.2.53}]}\n" + noBets},
		{"a gateway without upstreams", atGateway + rest},
	} {
		t.Run(row.name, func(t *testing.T) {
			e, err := compileAlone(t, load(t, row.text))
			if err != nil {
				t.Fatal(err)
			}
			plan, _, pushed := e.CompileDNS(e.Egress.Naming(), nil)
			if pushed != nil {
				t.Fatal(pushed)
			}
			if _, err := dnsproxy.New(dnsproxy.Config{}, plan); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestTestsThatDoNotHoldComeWithTheEdition(t *testing.T) {
	cfg := load(t, onLaptop+bets+noBets+"tests: [{to: casino.example, expect: direct}, {to: shop.example, expect: direct}, {to: casino.example, expect: {via: nobody}}]\ntransports: {nobody: {wireguard: {config: corp.conf}}}\n")
	e, err := compileAlone(t, cfg)
	failed, ok := errors.AsType[*TestsError](err)
	if !ok || len(failed.Failed) != 2 {
		t.Fatalf("got %v, want a *TestsError with two sentences", err)
	}
	if e == nil || e.Policy.Decide(to(t, "https://casino.example")).Rule != "no-bets" {
		t.Error("the edition did not come with its failed tests: penstock check shows both")
	}
	if !strings.HasPrefix(err.Error(), cfg.Path+":4:9: test from here to casino.example: got ") {
		t.Errorf("got %q, want the place of the test first", err)
	}
	faults, ok := errors.AsType[*config.Error](AsFaults(err))
	if !ok || len(faults.Faults) != 2 {
		t.Errorf("for a reload: got %v, want two faults", AsFaults(err))
	}
	if other := errors.New("another"); AsFaults(other) != other {
		t.Error("AsFaults changed an error that is not about tests")
	}
}

func TestWarnings(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "corp.conf"), strings.Replace(corpConf, "[Peer]", "Table = off\n[Peer]", 1))
	cfg := loadIn(t, dir, onLaptop+"transports: {corp: {wireguard: {config: corp.conf}}}\n"+
		"categories: {bets: {on_missing: allow, lists: [{url: 'https://lists.example/bets.txt'}]}}\n"+
		"rules:\n  - {name: web, match: {port: '443'}, do: direct}\n  - {name: no-bets, match: {category: bets, port: '443'}, do: block}\n  - {name: rest, do: direct}\n")
	e, err := compileAlone(t, cfg)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Join(e.Warnings(), "\n")
	for _, want := range []string{`rule "no-bets" is never reached`, "transport corp: ", "Table", "category bets: "} {
		if !strings.Contains(got, want) {
			t.Errorf("got %q, want a sentence with %q", got, want)
		}
	}
}

func TestWhatOnlyARestartChangesStays(t *testing.T) {
	dir := t.TempDir()
	old := newLive(t, loadIn(t, dir, onLaptop+rest)).Now()
	next, err := compileAlone(t, loadIn(t, dir, "listen: {tun: {routes: manual, dns: manual, address: 10.78.0.1/24}}\ntransports: {corp: {wireguard: {config: corp.conf}}}\ndns: {upstreams: [{address: 192.0.2.53}]}\nrules: [{name: all, do: block}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	e, err := next.After(old)
	if err != nil {
		t.Fatal(err)
	}
	if got := e.Config.Listen.TUN.Address; !slices.Equal(got, old.Config.Listen.TUN.Address) {
		t.Errorf("address of the TUN: got %v, want that of the device that is there", got)
	}
	if len(e.Config.Transports) != 0 || e.Egress != old.Egress {
		t.Error("transports: got those of the new configuration, want those that are open")
	}
	if e.Place(netip.MustParseAddr("10.77.0.2")) != policy.Service || e.Place(netip.MustParseAddr("10.78.0.2")) != policy.Elsewhere {
		t.Error("our own address is that of the new configuration: nothing answers there")
	}
	if got := e.Policy.Rules()[1].Name; got != "all" {
		t.Errorf("rule: got %s, want the new one", got)
	}
	if got := e.DNS(e.Egress.Naming(), nil).Upstreams; len(got) != 1 || got[0].Address != "192.0.2.53" {
		t.Errorf("upstreams: got %v, want the new one", got)
	}
	if next.Config.Listen.TUN.Address[0] != netip.MustParsePrefix("10.78.0.1/24") {
		t.Error("After changed the edition that it was called on")
	}
}

func TestAnUpstreamThatIsOurOwnUntilARestartIsRefused(t *testing.T) {
	old := newLive(t, load(t, onLaptop+rest)).Now()
	moved := load(t, "listen: {tun: {routes: manual, dns: manual, address: 10.78.0.1/24}}\ndns: {upstreams: [{address: 10.77.0.1}]}\n"+rest)
	next, err := compileAlone(t, moved)
	if err != nil {
		t.Fatal(err)
	}
	_, err = next.After(old)
	if _, ok := errors.AsType[*config.Error](err); !ok || !strings.HasPrefix(err.Error(), moved.Path+":2:19: ") {
		t.Errorf("got %v, want a fault at the upstream: questions would loop", err)
	}
}

func TestATestForAPeerThatIsGoneIsLeftOut(t *testing.T) {
	const withTest = "tests: [{from: ana, to: \"tcp://10.99.0.9:22\", expect: direct}]\n"
	const somebody = "peers: [{name: ana, public_key: \"" + anaKey + "\", allowed_ips: 10.99.0.2/32}]\n"
	const rules = "rules: [{name: help, match: {peers: true, port: 22}, do: direct}, {name: rest, do: direct}]\n"
	e, err := Compile(t.Context(), load(t, atGateway+somebody+rules+withTest), Sources{Lists: lists.New(lists.Config{Dir: t.TempDir()})})
	if err != nil {
		t.Fatalf("the peer at that address is gone: %v", err)
	}
	if got := strings.Join(e.Warnings(), "\n"); !strings.Contains(got, "nobody has it") {
		t.Errorf("got warnings %q, want one about the test", got)
	}
}

func TestAGatewayThatIsTakenOutStaysWithoutPeers(t *testing.T) {
	ana := "peers: [{name: ana, public_key: " + anaKey + ", allowed_ips: 10.99.0.2/32}]\n"
	live := newLive(t, load(t, atGateway+ana+rest))
	old := live.Now()
	next, err := compile(t, live, load(t, onLaptop+rest)).After(old)
	if err != nil {
		t.Fatal(err)
	}
	if next.Gateway == nil {
		t.Fatal("the edition has no plan for a port that is still open")
	}
	if got := old.Clients.Gone(next.Clients); len(got) != 1 {
		t.Errorf("clients that are gone: got %v, want ana", got)
	}
	added, err := compile(t, live, load(t, atGateway+ana+rest)).After(newLive(t, load(t, onLaptop+rest)).Now())
	if err != nil || added.Gateway != nil {
		t.Errorf("got %v and error %v, want no plan for a port that is not open", added.Gateway, err)
	}
}

func TestPlace(t *testing.T) {
	e := newLive(t, load(t, "listen:\n  tun: {routes: manual, dns: manual, address: [10.77.0.1/24, 'fd77::1/64']}\n  wireguard: {address: 10.99.0.1/24, private_key: {file: server.key}}\n"+
		"peers: [{name: ana, public_key: "+anaKey+", allowed_ips: [10.99.0.3/32, 10.88.0.0/24]}]\n"+rest)).Now()
	for _, row := range []struct {
		name, addr string
		want       policy.Place
	}{
		{"the address behind the TUN's, on which we answer", "10.77.0.2", policy.Service},
		{"the IPv6 address behind the TUN's", "fd77::2", policy.Service},
		{"the TUN's own address, which never comes out of it", "10.77.0.1", policy.Inside},
		{"the gateway's own address", "10.99.0.1", policy.Service},
		{"a neighbour in the TUN's network, where nobody is", "10.77.0.9", policy.Inside},
		{"a neighbour in the gateway's network", "10.99.0.9", policy.Inside},
		{"a peer", "10.99.0.3", policy.AtPeer},
		{"a network behind a peer", "10.88.0.7", policy.AtPeer},
		{"the network next to it", "10.87.0.7", policy.Elsewhere},
		{"a neighbour by IPv6", "fd77::9", policy.Inside},
		{"a host of somebody else", "192.0.2.1", policy.Elsewhere},
		{"the network next to ours", "10.78.0.1", policy.Elsewhere},
		{"loopback, which is not of the configuration", "127.0.0.1", policy.Elsewhere},
	} {
		if got := e.Place(netip.MustParseAddr(row.addr)); got != row.want {
			t.Errorf("%s: got %v, want %v", row.name, got, row.want)
		}
	}
}

func TestPeersThatStayKeepTheirKeys(t *testing.T) {
	peers := func(list ...string) string { return atGateway + "peers: [" + strings.Join(list, ", ") + "]\n" + rest }
	ana, bob := "{name: ana, public_key: "+anaKey+", allowed_ips: 10.99.0.2/32}", "{name: bob, public_key: "+bobKey+", allowed_ips: 10.99.0.3/32}"
	live := newLive(t, load(t, peers(ana, bob)))
	at := func(s string) uint64 { key, _ := live.Peer(netip.MustParseAddr(s)); return key }
	anaBefore, bobBefore := at("10.99.0.2"), at("10.99.0.3")
	if gone := live.Use(compile(t, live, load(t, peers(ana, strings.Replace(bob, "}", ", disabled: true}", 1))))); !slices.Equal(gone, []uint64{bobBefore}) {
		t.Errorf("gone: got %v, want bob, who is disabled, %d", gone, bobBefore)
	}
	if at("10.99.0.2") != anaBefore {
		t.Error("ana stayed and lost her key: her flows would be ended")
	}
	f := policy.Flow{Client: bobBefore}
	if live.Describe(&f) {
		t.Error("bob is gone and still described")
	}
	live.Use(compile(t, live, load(t, peers(ana, bob))))
	if got := at("10.99.0.3"); got == bobBefore || got == 0 {
		t.Errorf("bob came back with key %d, want one that he never had", got)
	}
	f = policy.Flow{Client: anaBefore}
	if !live.Describe(&f) || f.Peer != "ana" {
		t.Errorf("ana's key: got peer %q", f.Peer)
	}
	if live.Key(netip.MustParseAddr("192.0.2.1")) == 0 {
		t.Error("a stranger has no key: its questions would be counted with everybody's")
	}
}

func TestRulesThatAskForProgramsAreNoticed(t *testing.T) {
	for _, row := range []struct {
		name, match string
		want        policy.Asked
	}{
		{"no rule does", "port: '22'", policy.Asked{}},
		{"one asks for the user", "uid: [1000]", policy.Asked{UID: true}},
		{"one asks for the program", "process: [/usr/bin/ssh]", policy.Asked{Process: true}},
		{"one asks for the unit", "unit: cups.service", policy.Asked{Unit: true}},
		{"one asks for the container", "container: web", policy.Asked{Unit: true}},
		{"one asks within a not", "not: {process: [/usr/bin/ssh]}", policy.Asked{Process: true}},
	} {
		e := newLive(t, load(t, onLaptop+"rules: [{name: a, match: {"+row.match+"}, do: block}, {name: rest, do: direct}]\n")).Now()
		if e.Asks != row.want {
			t.Errorf("%s: got %+v, want %+v", row.name, e.Asks, row.want)
		}
	}
}

func TestEnforcedDNSClosesOtherResolvers(t *testing.T) {
	live := newLive(t, load(t, onLaptop+bets+"dns: {enforce: true, upstreams: [{address: 192.0.2.53}]}\n"+noBets))
	for _, row := range []struct{ name, to, rule string }{
		{"a resolver known by name", "https://dns.google", "no-other-resolver"},
		{"a resolver known by address", "https://8.8.8.8", "no-other-resolver"},
		{"a resolver known by an IPv6 address", "https://[2620:fe::fe]", "no-other-resolver"},
		{"the same over HTTP/3", "quic://1.1.1.1", "no-other-resolver"},
		{"DNS over TLS to anybody", "tcp://192.0.2.1:853", "no-encrypted-dns"},
		{"DNS over QUIC to anybody", "udp://192.0.2.1:853", "no-encrypted-dns"},
		{"plain DNS, which is captured", "dns://8.8.8.8", "dns"},
		{"anything else", "https://public.example", "rest"},
	} {
		if got := live.Decide(to(t, row.to)).Rule; got != row.rule {
			t.Errorf("%s: got rule %s, want %s", row.name, got, row.rule)
		}
	}
	var shown []string
	for _, rule := range live.Now().Policy.Rules() {
		shown = append(shown, rule.Name)
	}
	if got, want := strings.Join(shown, " "), "dns no-other-resolver no-encrypted-dns no-bets rest"; got != want {
		t.Errorf("rules: got %s, want %s", got, want)
	}
}

func TestRulesThatCaptureDNSThemselvesAreLeftAlone(t *testing.T) {
	live := newLive(t, load(t, onLaptop+"rules: [{name: ours, match: {port: '53', cidr: [192.0.2.1]}, do: dns}, {name: rest, do: direct}]\n"))
	if got := live.Decide(to(t, "dns://192.0.2.1")).Egress; got != policy.EgressDNS {
		t.Errorf("what the rule captures goes to %q", got)
	}
	if got := live.Decide(to(t, "dns://192.0.2.2")).Rule; got != "rest" {
		t.Errorf("what the rule does not capture: got rule %s, want rest", got)
	}
}

func TestAPeerExpires(t *testing.T) {
	end := time.Now().Add(time.Hour).Truncate(time.Second)
	cfg := loadIn(t, t.TempDir(), atGateway+`peers:
  - {name: ana, public_key: "`+anaKey+`", allowed_ips: 10.99.0.2/32}
  - {name: bob, public_key: "`+bobKey+`", allowed_ips: 10.99.0.3/32, expires: "`+end.Format(time.RFC3339)+`"}
`+rest)
	e, err := compileAlone(t, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ana, bob := netip.MustParseAddr("10.99.0.2"), netip.MustParseAddr("10.99.0.3")
	before, _ := e.Clients.Peer(ana)
	if _, ok := e.Clients.Peer(bob); !ok {
		t.Error("bob has an hour left and is not known")
	}
	if next, changed := e.At(end.Add(-time.Second)); changed || next != e {
		t.Error("a second before the end: the edition has changed")
	}
	next, changed := e.At(end)
	if _, ok := next.Clients.Peer(bob); !changed || ok {
		t.Errorf("at the end: changed is %v, and bob is known: %v", changed, ok)
	}
	if after, ok := next.Clients.Peer(ana); !ok || after != before {
		t.Errorf("at the end: ana has the key %d, had %d", after, before)
	}
	if gone := e.Clients.Gone(next.Clients); len(gone) != 1 {
		t.Errorf("got clients %d that are gone, want bob's key", gone)
	}
	if _, changed := next.At(end.Add(time.Hour)); changed {
		t.Error("an hour after the end: the edition has changed again")
	}
}
