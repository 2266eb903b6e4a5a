package policy

import (
	"net/netip"
	"testing"
)

func TestWhatAServerDoesNotRouteGoesDirect(t *testing.T) {
	p, err := New(Config{Egresses: []string{"corp"}, Rules: []Rule{
		{Name: "always", Match: Match{Port: []string{"22"}}, Do: Do{Action: Forward, Egress: "corp"}},
		{Name: "rest", Do: Do{Action: Forward, Egress: "corp", UnroutedDirect: true}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	prefixes := func(list ...string) (out []netip.Prefix) {
		for _, s := range list {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	now := &Conditions{Routes: map[string]Routes{"corp": {
		Inside: prefixes("10.0.0.0/8", "198.51.100.0/24", "2001:db8::/32"), Outside: prefixes("10.9.0.0/16", "198.51.100.0/24"),
	}}}
	for _, row := range []struct {
		dst   string
		now   *Conditions
		want  string
		cause Cause
	}{
		{"10.20.0.10:443", now, "corp", ByRule},
		{"[::ffff:10.20.0.10]:443", now, "corp", ByRule},
		{"[2001:db8::1]:443", now, "corp", ByRule},
		{"10.9.0.1:443", now, EgressDirect, ByRoutes},
		{"198.51.100.1:443", now, EgressDirect, ByRoutes},
		{"203.0.113.1:443", now, EgressDirect, ByRoutes},
		{"203.0.113.1:22", now, "corp", ByRule},
		{"203.0.113.1:443", &Conditions{}, "corp", ByRule},
		{"203.0.113.1:443", nil, "corp", ByRule},
		{"203.0.113.1:443", &Conditions{Routes: map[string]Routes{"other": {}}}, "corp", ByRule},
	} {
		v := p.Decide(Flow{Network: TCP, Dst: netip.MustParseAddrPort(row.dst), Sniffed: true, Now: row.now})
		if v.Action != Forward || v.Egress != row.want || v.Cause != row.cause {
			t.Errorf("%s: got %+v, want %s", row.dst, v, row.want)
		}
	}
	portal := *now
	portal.Portal = &Portal{Addr: netip.MustParseAddr("10.20.0.1"), Port: 80, Local: prefixes("10.20.0.0/16")}
	if v := p.Decide(Flow{Network: TCP, Dst: netip.MustParseAddrPort("10.20.0.1:80"), Sniffed: true, Now: &portal}); v.Egress != "corp" {
		t.Errorf("a portal at an address of the company's network: got %+v, want corp", v)
	}
	everything := Conditions{Portal: portal.Portal, Routes: map[string]Routes{"corp": {Inside: prefixes("0.0.0.0/0", "::/0")}}}
	for _, waits := range []*Conditions{&everything, {Portal: portal.Portal}} {
		if v := p.Decide(Flow{Network: TCP, Dst: netip.MustParseAddrPort("10.20.0.1:80"), Sniffed: true, Now: waits}); v.Cause != ByPortal {
			t.Errorf("a portal, and a server that wants everything or has not said: got %+v, want the portal open", v)
		}
	}
	if v := p.DecideName(Flow{Names: []Name{{Host: "public.example", From: FromQuestion}}, Now: now}); v.Egress != "corp" {
		t.Errorf("a question: got %+v, want corp: where the flow will go is not known yet", v)
	}
}
