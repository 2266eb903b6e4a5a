package edition

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"penstock/cmd/internal/config"
	"penstock/policy"
)

const withNames = `peers:
  - {name: ana, public_key: "ANA", allowed_ips: [10.99.0.2/32, "fd99::2/128", 10.88.0.0/24]}
  - {name: Bob_2, public_key: "BOB", allowed_ips: 10.99.0.3/32, expires: "END"}
dns:
  peers: Peers.example.
  records:
    wiki.corp.example: 10.20.0.10
    ana.corp.example: 10.99.0.2
    desk.corp.example: {cname: ana.peers.example, ttl: 5s}
    "*.dev.corp.example": [10.20.0.11, fd20::11]
    six.corp.example: fd20::12
    both.corp.example: {a: 10.20.0.13, aaaa: [fd20::13], mx: 10 mail.corp.example}
`

func namesText(text string, end time.Time) string {
	return atGateway + strings.NewReplacer("ANA", anaKey, "BOB", bobKey, "END", end.Format(time.RFC3339)).Replace(text) + rest
}

// found is what an edition says about a name: where it comes from and its addresses.
func found(e *Edition, name string) string {
	entry := e.Names.Find(name)
	if entry == nil {
		return "-"
	}
	if entry.End().Missing {
		return "missing"
	}
	from := entry.From
	if before, line, ok := strings.Cut(from, e.Config.Path); ok {
		from = before + line
	}
	for _, a := range append(entry.End().V4[:len(entry.End().V4):len(entry.End().V4)], entry.End().V6...) {
		from += " " + a.String()
	}
	if entry.Owner != "" {
		from += " " + entry.Owner
	}
	return from
}

func TestNamesOfAnEdition(t *testing.T) {
	end := time.Now().Add(time.Hour).Truncate(time.Second)
	e, err := compileAlone(t, load(t, namesText(withNames, end)))
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct{ says, name, want string }{
		{"a record", "wiki.corp.example", "record at :8 10.20.0.10"},
		{"a peer, with the addresses of one host", "ana.peers.example", "peer ana 10.99.0.2 fd99::2"},
		{"in lower case", "bob_2.peers.example", "peer Bob_2 10.99.0.3"},
		{"the gateway", "gateway.peers.example", "gateway itself 10.99.0.1"},
		{"nobody", "carl.peers.example", "missing"},
		{"a reverse name", "1.0.99.10.in-addr.arpa", "gateway itself gateway.peers.example"},
		{"of a record and a peer, the record's", "2.0.99.10.in-addr.arpa", "record at :9 ana.corp.example"},
		{"other networks of a peer have none", "0.0.88.10.in-addr.arpa", "-"},
		{"a wildcard", "x.dev.corp.example", "record at :11 10.20.0.11 fd20::11"},
		{"an IPv6 address alone", "six.corp.example", "record at :12 fd20::12"},
		{"addresses beside others", "both.corp.example", "record at :13 10.20.0.13 fd20::13"},
		{"an alias of a peer", "desk.corp.example", "record at :10 10.99.0.2 fd99::2"},
	} {
		if got := found(e, row.name); got != row.want {
			t.Errorf("%s: %s: got %q, want %q", row.says, row.name, got, row.want)
		}
	}
	later, _ := e.At(end)
	if got := found(later, "bob_2.peers.example") + found(later, "3.0.99.10.in-addr.arpa"); got != "missing-" {
		t.Errorf("a peer that has expired: got %s", got)
	}
	if got := found(later, "ana.peers.example"); got != "peer ana 10.99.0.2 fd99::2" {
		t.Errorf("another peer then: got %s", got)
	}
	next, err := compileAlone(t, load(t, namesText(strings.Replace(withNames, "expires: \"END\"", "disabled: true", 1), end)))
	if err != nil {
		t.Fatal(err)
	}
	if next, err = next.After(e); err != nil || found(next, "bob_2.peers.example") != "missing" || found(next, "gateway.peers.example") == "missing" {
		t.Errorf("after a reload, a disabled peer: got %s, %v", found(next, "bob_2.peers.example"), err)
	}
	if without, err := compileAlone(t, load(t, onLaptop+rest)); err != nil || without.Names != nil {
		t.Errorf("without names: got %v, %v", without.Names, err)
	}
}

func TestFaultsOfNamesAreWhereTheyAreWritten(t *testing.T) {
	end := time.Now().Add(time.Hour)
	for _, row := range []struct{ says, old, new, want string }{
		{"a bad name", "wiki.corp.example", "wiki corp", `:8:5: "wiki corp" is not a host name: write one such as`},
		{"a name twice", "ana.corp.example", "WIKI.corp.example.", ":9:5: WIKI.corp.example. has its records from the record at "},
		{"an alias beside an address", "ttl: 5s", "a: 10.0.0.1", ":10:32: desk.corp.example is an alias, and has other records too: keep"},
		{"a ring", "cname: ana.peers.example", "cname: desk.corp.example", ":10:32: the alias desk.corp.example never gets to a host: name"},
		{"a preference that is none", "cname: ana.peers.example", `mx: ["10 a.example", "x b.example"]`, `:10:46: the MX record of desk.corp.example is "x b.example": write`},
		{"nothing", "10.20.0.10", "{}", ":8:5: wiki.corp.example has no records: write an address, or one of"},
		{"a domain that is none", "Peers.example.", "10.0.0.1", `:6:10: "10.0.0.1" is not a domain: write one`},
		{"a domain that others answer for", "records:", "split: [{domains: [peers.example], upstream: {address: 192.0.2.1}}]\n  records:", ":6:10: names in Peers.example. would not be asked of the servers for peers.example at "},
		{"a peer called gateway", "name: ana", "name: Gateway", ":3:12: the gateway itself is gateway.Peers.example.: see dns.peers"},
		{"two peers but for capitals", "name: Bob_2", "name: ANA", ":4:12: peer ANA has the name of peer ana"},
	} {
		text := namesText(withNames, end)
		if !strings.Contains(text, row.old) {
			t.Fatalf("%s: the text has no %s", row.says, row.old)
		}
		cfg, err := config.Load(written(t, strings.Replace(text, row.old, row.new, 1)))
		if err == nil {
			_, err = compileAlone(t, cfg)
		}
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want %s", row.says, err, row.want)
		}
	}
	e, err := compileAlone(t, load(t, namesText(strings.Replace(withNames, "name: Bob_2", "name: bob@home", 1), end)))
	if err != nil || !strings.Contains(strings.Join(e.Warnings(), "\n"), "peer bob@home has no name in peers.example: ") {
		t.Errorf("a peer whose name is no host name: got %v, want a warning", err)
	}
	e, err = compileAlone(t, load(t, namesText(strings.Replace(withNames, "name: Bob_2", "name: --", 1), end)))
	if err != nil || !strings.Contains(strings.Join(e.Warnings(), "\n"), `:4:5: the name "--" has a part that does not begin and end with a letter or digit: give`) {
		t.Errorf("a peer whose name no new one may have: got %v, want a warning in %q", err, e.Warnings())
	}
}

// TestWhatAPeerMayReachItSees: without a rule for peers, it sees itself and the gateway.
func TestWhatAPeerMayReachItSees(t *testing.T) {
	rules := "rules:\n  - {name: wiki, match: {cidr: 10.20.0.10/32, domain: wiki.corp.example}, do: direct}\n  - {name: no-private, match: {cidr: private}, do: block}\n  - {name: rest, do: direct}\n"
	live := newLive(t, load(t, strings.Replace(namesText(withNames, time.Now().Add(time.Hour)), rest, rules, 1)))
	q := Questions{Live: live, Own: func(netip.Addr) bool { return false }}
	ana, _ := live.Peer(netip.MustParseAddr("10.99.0.2"))
	for _, row := range []struct {
		says, name, addr string
		want             bool
	}{
		{"what a rule opens", "wiki.corp.example", "10.20.0.10", true},
		{"under its name only", "other.corp.example", "10.20.0.10", false},
		{"what none does", "db.corp.example", "10.20.0.12", false},
		{"itself", "ana.peers.example", "10.99.0.2", true},
		{"by its other address", "ana.peers.example", "fd99::2", true},
		{"another peer", "bob_2.peers.example", "10.99.0.3", false},
		{"the gateway, which answers it", "gateway.peers.example", "10.99.0.1", true},
	} {
		f := policy.Flow{Client: ana, Src: netip.MustParseAddrPort("10.99.0.2:0"), Dst: netip.AddrPortFrom(netip.MustParseAddr(row.addr), 0),
			Names: []policy.Name{{Host: row.name, From: policy.FromQuestion}}, Time: time.Now()}
		live.Describe(&f)
		if got := q.DecideName(f); (got.Action == policy.Forward) != row.want {
			t.Errorf("%s: got %+v, want it to be seen: %v", row.says, got, row.want)
		}
	}
}
