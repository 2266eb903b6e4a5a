package report

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"penstock/cmd/internal/control"
	"penstock/policy"
	"penstock/router"
	"penstock/router/transport"
)

func TestTheLineOfATransport(t *testing.T) {
	received := transport.Stats{LastRx: time.Now().Add(-2 * time.Second)}
	for _, row := range []struct {
		name string
		h    transport.Health
		want string
	}{
		{"nothing is needed", transport.Health{State: transport.Connected}, "connected"},
		{"connected", transport.Health{Name: "corp", State: transport.Connected, Stats: received, Reason: transport.ReasonWake}, "connected via corp, received 2s ago"},
		{"connected, but slow", transport.Health{Name: "corp", State: transport.Connected, Degraded: true, Stats: received}, "connected via corp, degraded, received 2s ago"},
		{"on its way", transport.Health{Name: "corp", State: transport.Connecting}, "connecting via corp, nothing received yet"},
		{"taken down", transport.Health{Name: "corp", State: transport.Down, Reason: transport.ReasonManual}, "down via corp (manual), nothing received yet"},
		{"failing", transport.Health{Name: "corp", State: transport.Reconnecting, Reason: transport.ReasonHandshakeFailed, Err: "no answer", Stats: received},
			"reconnecting via corp (handshake_failed), received 2s ago: no answer"},
		{"connected after a failure", transport.Health{Name: "corp", State: transport.Connected, Err: "no answer", Stats: received}, "connected via corp, received 2s ago"},
	} {
		if got := line(row.h); got != row.want {
			t.Errorf("%s: got %q, want %q", row.name, got, row.want)
		}
	}
}

// runTransports runs the transports until the test ends. It returns once corp is connecting to its missing server.
func (w *world) runTransports(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	w.egress.Run(func(_ string, run func(context.Context) error) { wg.Go(func() { _ = run(ctx) }) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	w.await(t, transport.Connecting)
}

func (w *world) await(t *testing.T, want transport.State) {
	t.Helper()
	corp, _ := w.egress.Transport("corp")
	for end := time.Now().Add(30 * time.Second); corp.Health().State != want; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("corp is %s, want %s", corp.Health().State, want)
		}
	}
}

func TestStatus(t *testing.T) {
	w := newWorld(t, text)
	w.runTransports(t)
	w.flows.Add(router.Flow{ID: 1})
	w.flows.Add(router.Flow{ID: 2, Verdict: policy.Verdict{Action: policy.Forward}})
	st, err := w.status.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if st.State != "connecting" || !strings.HasPrefix(st.Verdict, "connecting via corp, nothing received yet, filter on") && !strings.HasPrefix(st.Verdict, "connecting via corp (") {
		t.Errorf("got %s: %q", st.State, st.Verdict)
	}
	if got, want := fmt.Sprint(st.Listen), fmt.Sprintf("[tun pen0 wireguard :%d]", w.status.Gateway.Port()); got != want {
		t.Errorf("listen: got %s, want %s", got, want)
	}
	if st.Config != w.live.Config().Path || st.PolicyGeneration != 1 || st.Version != "test" || st.ReloadError != "" || st.Degraded {
		t.Errorf("got %+v", st)
	}
	if st.Flows != (control.FlowCounts{Forwarded: 1, Denied: 1}) {
		t.Errorf("flows: got %+v", st.Flows)
	}
	if len(st.Transports) != 2 || st.Transports[0].Name != "corp" || st.Transports[0].Kind != "wireguard" || st.Transports[1].Name != "best" ||
		st.Transports[1].Kind != "failover" || st.Transports[1].Active != "corp" || st.Transports[1].State != "connecting" {
		t.Errorf("transports: got %+v", st.Transports)
	}
	if err := w.status.Ready(); err == nil || !strings.HasPrefix(err.Error(), "connecting via corp") {
		t.Errorf("ready: got %v, want the reason why not", err)
	}
	w.status.ReloadEnded(false, errors.New("p.yaml:3:1: a fault"))
	if st, _ := w.status.Status(t.Context()); st.ReloadError != "p.yaml:3:1: a fault" {
		t.Errorf("reload error: got %q", st.ReloadError)
	}
	w.status.ReloadEnded(false, nil)
	if st, _ := w.status.Status(t.Context()); st.ReloadError != "" {
		t.Errorf("reload error: got %q after a good reload", st.ReloadError)
	}
}

func TestTransportsThatNothingUsesDoNotMatter(t *testing.T) {
	unused := strings.Replace(text, "  - {name: files, match: {domain: files.example, seen_in: [sni]}, do: {via: corp, fallback: direct}}\n", "", 1)
	w := newWorld(t, unused)
	if h := w.status.Overall(); h.State != transport.Connected || h.Name != "" || !h.Since.Equal(w.status.Started) {
		t.Errorf("no rule names a transport: got %+v, want connected since the start", h)
	}
	if err := w.status.Ready(); err != nil {
		t.Errorf("ready: got %v", err)
	}
	for name, text := range map[string]string{
		"a rule":             strings.Replace(unused, "{name: home, match: {cidr: 192.168.0.0/16}, do: direct}", "{name: home, match: {cidr: 192.168.0.0/16}, do: {via: best}}", 1),
		"an upstream of DNS": strings.Replace(unused, `upstreams: [{address: "UPSTREAM"}]`, `upstreams: [{address: "UPSTREAM", via: corp}]`, 1),
		"a split zone":       strings.Replace(unused, `upstream: {address: "UPSTREAM"}`, `upstream: {address: "UPSTREAM", via: corp}`, 1),
	} {
		w.use(t, text)
		if h := w.status.Overall(); h.State != transport.Down || h.Name != "corp" {
			t.Errorf("%s uses corp: got %+v, want corp's state", name, h)
		}
	}
}

func TestTheWorstTransportIsTheState(t *testing.T) {
	for _, down := range []string{"corp", "zoo"} {
		w := newWorld(t, strings.NewReplacer(
			"  best: {failover: [corp]}\n", "  best: {failover: [corp]}\n  zoo: {wireguard: {config: corp.conf}}\n",
			"{name: home, match: {cidr: 192.168.0.0/16}, do: direct}", "{name: home, match: {domain: zoo.example}, do: {via: zoo}}",
		).Replace(text))
		w.runTransports(t)
		if err := w.steer.Down(t.Context(), control.Steer{Name: down}); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(5 * time.Second)
		for h := w.status.Overall(); h.Name != down || h.State != transport.Down; h = w.status.Overall() {
			if time.Now().After(deadline) {
				t.Fatalf("%s is down and the other connects: got %s via %s", down, h.State, h.Name)
			}
			time.Sleep(10 * time.Millisecond)
		}
		for _, one := range w.egress.Transports() {
			if want := map[bool]transport.State{true: transport.Down, false: transport.Connecting}[one.Name == down]; one.Health().State != want {
				t.Errorf("%s is %s, want %s", one.Name, one.Health().State, want)
			}
		}
	}
}

func TestALaptopOrAGatewayAloneIsListed(t *testing.T) {
	laptop := newWorld(t, "listen: {tun: {routes: manual, dns: manual}}\ndns: {upstreams: [{address: \"UPSTREAM\"}]}\nrules: [{name: rest, do: direct}]\n")
	if got := fmt.Sprint(laptop.status.Listening()); got != "[tun pen0]" {
		t.Errorf("laptop: got %s", got)
	}
	x, err := laptop.policy.Explain(t.Context(), control.ExplainQuery{Target: "site.example", From: "192.0.2.9"})
	if err != nil || x.Peer != "" || x.Verdict != "direct" {
		t.Errorf("a stranger's question: got %+v, %v", x, err)
	}
	gateway := newWorld(t, "listen: {wireguard: {address: 10.99.0.1/24, private_key: {file: our.key}}}\nrules: [{name: rest, do: direct}]\n")
	if got, want := fmt.Sprint(gateway.status.Listening()), fmt.Sprintf("[wireguard :%d]", gateway.status.Gateway.Port()); got != want {
		t.Errorf("gateway: got %s, want %s", got, want)
	}
	if st, err := gateway.status.Status(t.Context()); err != nil || st.Verdict != "connected, filter on" {
		t.Errorf("a gateway that needs no transport: got %q, %v", st.Verdict, err)
	}
	if got, err := gateway.peers.Peers(t.Context()); err != nil || len(got) != 0 {
		t.Errorf("peers: got %v, %v", got, err)
	}
}

func TestSteering(t *testing.T) {
	w := newWorld(t, text)
	w.runTransports(t)
	for name, order := range map[string]func(context.Context, control.Steer) error{"up": w.steer.Up, "down": w.steer.Down, "reconnect": w.steer.Reconnect} {
		if err := order(t.Context(), control.Steer{Name: "crop"}); err == nil || !strings.Contains(err.Error(), `there is no transport "crop"`) {
			t.Errorf("%s of a transport that is not there: got %v", name, err)
		}
	}
	order := func(f func(context.Context, control.Steer) error, s control.Steer) {
		t.Helper()
		if err := f(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	order(w.steer.Down, control.Steer{Name: "corp"})
	w.await(t, transport.Down)
	order(w.steer.Reconnect, control.Steer{})
	order(w.steer.Up, control.Steer{})
	w.await(t, transport.Connecting)
	order(w.steer.Down, control.Steer{Name: "corp"})
	w.await(t, transport.Down) // before it is down for a while, in which nobody may look
	order(w.steer.Down, control.Steer{Name: "corp", For: 50 * time.Millisecond})
	w.await(t, transport.Connecting) // it comes back up by itself
	order(w.steer.Up, control.Steer{Name: "corp", For: 50 * time.Millisecond})
	w.await(t, transport.Down) // and goes down by itself
	if err := w.status.Ready(); err == nil || !strings.HasPrefix(err.Error(), "down via corp (manual)") {
		t.Errorf("ready: got %v", err)
	}
}

func TestAGatewayOfAFleetSaysWhatItLacks(t *testing.T) {
	w := newWorld(t, "listen: {wireguard: {address: 10.99.0.1/24, private_key: {file: our.key}}}\nrules: [{name: rest, do: direct}]\n")
	others := []control.FleetGateway{{Name: "a", State: "serving"}, {Name: "b", State: "silent"}}
	for _, row := range []struct {
		sentence string
		fleet    *control.Fleet
		want     string // "": it lacks nothing
	}{
		{"there is no fleet", nil, ""},
		{"another gateway is silent", &control.Fleet{Gateway: "a", Connected: true, Gateways: others}, ""},
		{"another gateway has refused a bundle",
			&control.Fleet{Gateway: "a", Connected: true, Gateways: []control.FleetGateway{{Name: "b", Refused: 8, Fault: "a test fails"}}}, ""},
		{"the store is away", &control.Fleet{Gateway: "a", Gateways: others}, "degraded: the store of the fleet cannot be used; "},
		{"this gateway has refused a bundle",
			&control.Fleet{Gateway: "a", Connected: true, Gateways: []control.FleetGateway{{Name: "a", Refused: 8, Fault: "a test fails\nat line 9"}}},
			"degraded: generation 8 of the site's bundle is not put in force: a test fails; "},
	} {
		w.status.Fleet = func() *control.Fleet { return row.fleet }
		st, err := w.status.Status(t.Context())
		if err != nil || st.Verdict != row.want+"connected, filter on" || st.Degraded != (row.want != "") || st.Fleet != row.fleet {
			t.Errorf("%s: got %q, %v, %v, want %q first", row.sentence, st.Verdict, st.Degraded, err, row.want)
		}
	}
}
