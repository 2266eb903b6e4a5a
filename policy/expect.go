package policy

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"penstock/policy/spelling"
)

// Peer is a client that a Test can send from.
type Peer struct {
	Name   string
	Groups []string
	Addr   netip.Addr // inside the tunnel; invalid if unknown
}

// Test is one row of the configuration's tests: a flow and the verdict it must get.
type Test struct {
	From   string     // name of a peer; empty: this machine
	User   string     // who has signed in with the peer; empty: nobody
	Groups []string   // of that user, besides those of the peer
	To     string     // URL, host or host:port. The scheme sets protocol and port; https if there is none
	Addr   netip.Addr // destination address, for rules on addresses if To is a name
	At     time.Time  // for schedules; if zero, they do not match
	// The program on this machine that sends it; empty: unknown. A Unit or Container with "user/" in front is a user's own.
	Process, Unit, Container string
	Expect                   Expect
	Pos                      Position
}

// Expect is the verdict that a Test requires. The zero Expect accepts Refuse and Drop.
type Expect struct {
	Action Action // Refuse accepts Drop too
	Egress string // with Forward; empty: any
	Rule   string // empty: any
}

// Result is the outcome of a Test.
type Result struct {
	Test    Test
	Verdict Verdict
	Err     error // nil if the test passed; otherwise one sentence that says where the row is
}

// RunTests judges every row and returns one Result each, in order. It assumes that the client resolved the name and, if
// the protocol shows names, that the flow shows it too. place returns where a destination is for a peer, or for this machine.
func RunTests(p *Policy, tests []Test, peers []Peer, place func(peer string, dst netip.Addr) Place) []Result {
	results := make([]Result, len(tests))
	for i, t := range tests {
		results[i] = Result{Test: t}
		f, err := t.Flow(peers)
		if err == nil {
			f.Place = place(f.Peer, f.Dst.Addr())
			results[i].Verdict = p.Decide(f)
			err = t.Expect.met(results[i].Verdict)
		}
		if err != nil {
			results[i].Err = fmt.Errorf("%s: %w", t.place(), err)
		}
	}
	return results
}

func (t *Test) place() string {
	from := t.From
	if from == "" {
		from = "here"
	}
	at := t.Pos.String()
	if at != "" {
		at += ": "
	}
	return fmt.Sprintf("%stest from %s to %s", at, from, t.To)
}

func (e Expect) met(v Verdict) error {
	want := e.Action.String()
	if e.Action == Refuse {
		want = "block"
	}
	if e.Action == Forward && e.Egress != "" {
		want = "via " + e.Egress
	}
	toPeer := v.Egress == EgressPeers && e.Egress == EgressDirect // rules say direct for both
	met := v.Action == e.Action && (e.Egress == "" || v.Egress == e.Egress || toPeer) || e.Action == Refuse && v.Action == Drop
	switch {
	case !met:
		return fmt.Errorf("got %s by rule %q, want %s", v.words(), v.Rule, want)
	case e.Rule != "" && v.Rule != e.Rule:
		return fmt.Errorf("got rule %q, want %q", v.Rule, e.Rule)
	}
	return nil
}

// schemes maps a URL scheme to its network, its port and where the flow shows a name.
var schemes = map[string]struct {
	network Network
	port    uint16
	from    Source
}{
	"https": {TCP, 443, FromSNI},
	"wss":   {TCP, 443, FromSNI},
	"http":  {TCP, 80, FromHTTP},
	"ws":    {TCP, 80, FromHTTP},
	"quic":  {UDP, 443, FromQUIC},
	"tcp":   {TCP, 0, FromNowhere},
	"udp":   {UDP, 0, FromNowhere},
	"ssh":   {TCP, 22, FromNowhere},
	"dns":   {UDP, 53, FromNowhere},
	"icmp":  {ICMP, 0, FromNowhere},
}

// Flow returns the flow that the row describes, with every name it will show. The error says which part of the row is
// invalid.
func (t *Test) Flow(peers []Peer) (Flow, error) {
	f := Flow{Time: t.At, Sniffed: true, Process: t.Process}
	f.In(t.Unit, t.Container)
	if err := t.client(&f, peers); err != nil {
		return f, err
	}
	target := t.To
	if addr, err := netip.ParseAddr(target); err == nil && addr.Is6() {
		target = "[" + addr.WithZone("").String() + "]"
	}
	if !strings.Contains(target, "://") {
		target = "https://" + target
	}
	u, err := url.Parse(target)
	if err != nil || u.Hostname() == "" {
		return f, fmt.Errorf("target %q is neither a URL nor a host", t.To)
	}
	scheme, ok := schemes[u.Scheme]
	if !ok {
		return f, fmt.Errorf("scheme %q is unknown: use https, http, quic, tcp, udp, ssh, dns or icmp", u.Scheme)
	}
	f.Network = scheme.network
	port := scheme.port
	if text := u.Port(); text != "" {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil || n == 0 {
			return f, fmt.Errorf("port %q is not a number from 1 to 65535", text)
		}
		port = uint16(n)
	} else if port == 0 && f.Network != ICMP {
		return f, fmt.Errorf("%s needs a port: write %s://%s:PORT", u.Scheme, u.Scheme, u.Host)
	}
	addr := t.Addr
	if literal, err := netip.ParseAddr(u.Hostname()); err == nil {
		addr = literal
	} else {
		host, err := CanonicalName(u.Hostname())
		if err != nil {
			return f, err
		}
		f.Names = append(f.Names, Name{host, FromDNS})
		if scheme.from != FromNowhere {
			f.Names = append(f.Names, Name{host, scheme.from})
		}
	}
	f.Dst = netip.AddrPortFrom(addr, port)
	return f, nil
}

func (t *Test) client(f *Flow, peers []Peer) error {
	if t.From == "" {
		return nil
	}
	var known []string
	for _, p := range peers {
		if p.Name == t.From {
			f.Peer, f.User, f.Src = p.Name, t.User, netip.AddrPortFrom(p.Addr, 0)
			f.Groups = slices.Concat(p.Groups, t.Groups)
			return nil
		}
		known = append(known, p.Name)
	}
	if near := spelling.Nearest(t.From, known); near != "" {
		return fmt.Errorf("unknown peer %q: did you mean %q?", t.From, near)
	}
	return fmt.Errorf("unknown peer %q: add it to peers, or leave from out for this machine", t.From)
}
