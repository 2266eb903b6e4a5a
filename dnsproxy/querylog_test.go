package dnsproxy

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"

	"penstock/policy"
)

// TestQueryLog: one record for each query, with what decided; none for what is no query.
func TestQueryLog(t *testing.T) {
	up := newResolver(t, "shop.example. 300 IN CNAME tracker.example.", "tracker.example. 300 IN A 203.0.113.3", "www.example. 300 IN A 203.0.113.1")
	var out bytes.Buffer
	drop := func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == slog.LevelKey || a.Key == "start" {
			return slog.Attr{}
		}
		return a
	}
	var blocked []string
	s := newServer(t, Settings{
		Upstreams: []Upstream{named("main", up)},
	}, func(s *setup) {
		s.Blocked = func(q Refused) {
			blocked = append(blocked, fmt.Sprint(q.Verdict.Category, " ", q.Peer, " ", q.Src, " ", q.Host, " by ", q.Decided))
		}
	}, judged(blocks(map[string]string{"tracker.example": "tracking"})), described(func(netip.AddrPort) policy.Flow { return policy.Flow{Peer: "ana"} }), func(s *setup) {
		s.QueryLog = slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: drop}))
	})
	for _, name := range []string{"www.example", "www.example", "shop.example"} {
		ask(t, s, name, "A")
	}
	packet(t, s, []byte("no query"))
	want := `msg=query proto=dns src=10.77.0.2:40000 peer=ana host=www.example type=A verdict=dns rule=rest category="" decided=www.example result=forwarded rcode=NOERROR upstream=main
msg=query proto=dns src=10.77.0.2:40000 peer=ana host=www.example type=A verdict=dns rule=rest category="" decided=www.example result=cached rcode=NOERROR upstream=main
msg=query proto=dns src=10.77.0.2:40000 peer=ana host=shop.example type=A verdict=block rule=no-tracking category=tracking decided=tracker.example result=blocked rcode=NXDOMAIN upstream=main
`
	if got := out.String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if len(blocked) != 1 || blocked[0] != "tracking ana 10.77.0.2:40000 shop.example by tracker.example" {
		t.Errorf("told of blocks for %q, want one of shop.example, by tracker.example", blocked)
	}
}
