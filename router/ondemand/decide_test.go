package ondemand

import (
	"context"
	"net/netip"
	"testing"
)

// asked notes what a decision asks the network, and answers no to all but what is named.
type asked struct {
	answers   string
	proves    [32]byte
	questions []string
}

func (a *asked) Answers(_ context.Context, url string) bool {
	a.questions = append(a.questions, url)
	return url == a.answers
}

func (a *asked) Proves(_ context.Context, b Beacon) bool {
	a.questions = append(a.questions, b.Addr.String())
	return b.SHA256 == a.proves && b.SHA256 != [32]byte{}
}

func TestDecide(t *testing.T) {
	office := Network{
		Interface: "eth0", SSID: "office", Search: []string{"Corp.Example."},
		Servers: []netip.Addr{netip.MustParseAddr("10.0.0.53"), netip.MustParseAddr("10.0.1.53")}, Gateway: netip.MustParseAddr("10.0.0.1"),
	}
	beacon := &Beacon{Addr: netip.MustParseAddrPort("10.0.0.9:8443"), SHA256: [32]byte{1}}
	const portal = "http://probe.corp.example/"
	when := func(c Condition) []Step { return []Step{{If: &c, Then: FilterOnly}} }
	tests := []struct {
		name    string
		steps   []Step
		network Network
		ask     asked
		want    Action
		step    int
		asks    int
	}{
		{"no list means connect", nil, office, asked{}, Connect, -1, 0},
		{"no match means connect", when(Condition{SSID: []string{"home"}}), office, asked{}, Connect, -1, 0},
		{"a step without a condition always holds", []Step{{Then: Disconnect}}, Network{}, asked{}, Disconnect, 0, 0},
		{"the first match wins", []Step{{If: &Condition{SSID: []string{"office"}}, Then: Ignore}, {Then: Disconnect}}, office, asked{}, Ignore, 0, 0},
		{"an interface by its name", when(Condition{Interface: []string{"wlan0", "eth0"}}), office, asked{}, FilterOnly, 0, 0},
		{"a network by its name", when(Condition{SSID: []string{"office"}}), office, asked{}, FilterOnly, 0, 0},
		{"a name in other letters is another network", when(Condition{SSID: []string{"Office"}}), office, asked{}, Connect, -1, 0},
		{"a search domain, whatever its letters and dot", when(Condition{DNSSearch: []string{"corp.example"}}), office, asked{}, FilterOnly, 0, 0},
		{"a DNS server that the router advertises on the link", when(Condition{DNSServer: []netip.Addr{netip.MustParseAddr("fe80::1")}}), Network{Servers: []netip.Addr{netip.MustParseAddr("fe80::1%wlan0")}}, asked{}, FilterOnly, 0, 0},
		{"one of the network's DNS servers", when(Condition{DNSServer: []netip.Addr{netip.MustParseAddr("10.0.1.53")}}), office, asked{}, FilterOnly, 0, 0},
		{"the gateway", when(Condition{GatewayIP: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}), office, asked{}, FilterOnly, 0, 0},
		{"an SSID that is not known is none", when(Condition{SSID: []string{""}}), Network{}, asked{}, Connect, -1, 0},
		{"a gateway that is not known is none", when(Condition{GatewayIP: []netip.Addr{{}}}), Network{}, asked{}, Connect, -1, 0},
		{"search domains that are not known are none", when(Condition{DNSSearch: []string{"corp.example"}}), Network{}, asked{}, Connect, -1, 0},
		{"all conditions must hold", when(Condition{SSID: []string{"office"}, Interface: []string{"wlan0"}}), office, asked{}, Connect, -1, 0},
		{"a URL that answers", when(Condition{ProbeURL: portal}), office, asked{answers: portal}, FilterOnly, 0, 1},
		{"a URL that does not", when(Condition{ProbeURL: portal}), office, asked{}, Connect, -1, 1},
		{"a beacon that proves itself", when(Condition{Beacon: beacon}), office, asked{proves: [32]byte{1}}, FilterOnly, 0, 1},
		{"a beacon with another certificate", when(Condition{Beacon: beacon}), office, asked{proves: [32]byte{2}}, Connect, -1, 1},
		{"the network is not asked when a fact has said no", when(Condition{SSID: []string{"home"}, ProbeURL: portal, Beacon: beacon}), office, asked{answers: portal}, Connect, -1, 0},
		{"nor after the step that matches", []Step{{Then: Connect}, {If: &Condition{ProbeURL: portal}, Then: Disconnect}}, office, asked{answers: portal}, Connect, 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, step := Decide(t.Context(), tt.steps, tt.network, &tt.ask)
			if got != tt.want || step != tt.step {
				t.Errorf("got %s by step %d, want %s by step %d", got, step, tt.want, tt.step)
			}
			if len(tt.ask.questions) != tt.asks {
				t.Errorf("got questions %q, want %d", tt.ask.questions, tt.asks)
			}
		})
	}
}

func TestActionsHaveWords(t *testing.T) {
	for _, a := range []Action{Connect, Disconnect, FilterOnly, Ignore} {
		if got, ok := ParseAction(a.String()); !ok || got != a {
			t.Errorf("got %s %t for %q, want itself", got, ok, a)
		}
	}
	if got, ok := ParseAction("open"); ok || got != Connect {
		t.Errorf("got %s %t for a word that is none, want connect and false", got, ok)
	}
	if got := Action(99).String(); got != "unknown" {
		t.Errorf("got %q for an action that is none", got)
	}
}
