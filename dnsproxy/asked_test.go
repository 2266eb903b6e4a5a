package dnsproxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"penstock/policy"
)

// asked keeps what it is told of queries as text.
type asked struct{ list []string }

func (a *asked) Answered(q Query) {
	action := map[policy.Action]string{policy.Forward: "forward", policy.Refuse: "refuse", policy.Drop: "drop"}[q.Action]
	a.list = append(a.list, fmt.Sprint(q.Src, " ", q.Peer, " ", q.Host, " ", q.Type, " ", action, " ", q.Rule, " ", q.Category, " ", q.Decided, " ", q.Result, " ", q.Rcode, " ", q.Upstream, " ", q.Cache, " ", q.Addresses(8)))
}

// TestAsked: one record for each query, with what decided; none for what is no query.
func TestAsked(t *testing.T) {
	up := newResolver(t, "shop.example. 300 IN CNAME tracker.example.", "tracker.example. 300 IN A 203.0.113.3", "www.example. 300 IN A 203.0.113.1")
	var told asked
	var blocked []string
	s := newServer(t, Settings{
		Upstreams: []Upstream{named("main", up)},
	}, func(s *setup) {
		s.Blocked = func(q Refused) {
			blocked = append(blocked, fmt.Sprint(q.Verdict.Category, " ", q.Peer, " ", q.Src, " ", q.Host, " by ", q.Decided))
		}
	}, judged(blocks(map[string]string{"tracker.example": "tracking"})), described(func(netip.AddrPort) policy.Flow { return policy.Flow{Peer: "ana"} }), func(s *setup) {
		s.Asked = &told
	})
	for _, name := range []string{"www.example", "www.example", "shop.example"} {
		ask(t, s, name, "A")
	}
	packet(t, s, []byte("no query"))
	want := []string{
		"10.77.0.2:40000 ana www.example A forward rest  www.example forwarded NOERROR main miss [203.0.113.1]",
		"10.77.0.2:40000 ana www.example A forward rest  www.example cached NOERROR main hit [203.0.113.1]",
		"10.77.0.2:40000 ana shop.example A refuse no-tracking tracking tracker.example blocked NXDOMAIN main miss []",
	}
	if !slices.Equal(told.list, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(told.list, "\n"), strings.Join(want, "\n"))
	}
	if len(blocked) != 1 || blocked[0] != "tracking ana 10.77.0.2:40000 shop.example by tracker.example" {
		t.Errorf("told of blocks for %q, want one of shop.example, by tracker.example", blocked)
	}
}
