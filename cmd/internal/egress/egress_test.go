package egress

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"penstock/cmd/internal/config"
	"penstock/dnsproxy/dnstest"
	"penstock/policy"
	"penstock/router/transport"
	"penstock/router/transport/wireguard"
	"penstock/stack"
)

// site is a server on loopback that accepts and says hello.
func site(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, "hello")
			c.Close()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return ln.Addr().String()
}

func TestDialHost(t *testing.T) {
	web := site(t)
	intranet := dnstest.New(t, "lists.example. 300 IN A 10.20.0.7", "lists.example. 300 IN AAAA fd00::7",
		"six.example. 300 IN AAAA fd00::7", "two.example. 300 IN A 10.20.0.6", "two.example. 300 IN A 10.20.0.7")
	inside := &network{leads: map[string]string{"10.0.0.53:53": intranet.Addr.String(), "10.20.0.7:443": web}}
	outside := &network{leads: map[string]string{"198.51.100.7:443": web}}
	second := dnstest.New(t, "lists.example. 300 IN A 10.20.0.7")
	inside.leads["10.0.0.99:53"] = second.Addr.String()
	configured := []netip.AddrPort(nil)
	e := opened(t, planOf(t, corp+office), func(c *Config) {
		c.Outside.Direct = outside
		c.Outside.Resolve = func(_ context.Context, name string) ([]netip.Addr, error) {
			if name != "lists.example" {
				return nil, errors.New("asked outside for " + name)
			}
			return []netip.Addr{netip.MustParseAddr("198.51.100.7")}, nil
		}
		c.Servers = func(string) []netip.AddrPort { return configured }
	})
	e.fake(t, "corp", inside, nil)
	e.fake(t, "office", inside, errUnreachable)
	e.run(t)
	one, _ := e.Transport("corp")
	await(t, one, transport.Connected)
	for _, row := range []struct {
		name, via, address string
		servers            []netip.AddrPort
		want               string // what was dialled, or the beginning of the error
		fails              bool
	}{
		{"directly, by the resolvers outside", "direct", "lists.example:443", nil, "tcp4 198.51.100.7:443", false},
		{"through a transport, by its own resolver", "corp", "lists.example:443", nil, "tcp4 10.20.0.7:443", false},
		{"through a transport, by the resolver that the configuration asks through it", "corp", "lists.example:443",
			[]netip.AddrPort{netip.MustParseAddrPort("10.0.0.99:53")}, "tcp4 10.20.0.7:443", false},
		{"the second address if the first is closed", "corp", "two.example:443", nil, "tcp4 10.20.0.6:443, tcp4 10.20.0.7:443", false},
		{"an address needs no resolver", "corp", "10.20.0.7:443", nil, "tcp4 10.20.0.7:443", false},
		{"an IPv6 address where the transport has none", "corp", "six.example:443", nil, "six.example has no address that is reachable via corp", true},
		{"a name that does not exist", "corp", "nowhere.example:443", nil, "lookup nowhere.example. on 10.0.0.53:53: no such host", true},
		{"a transport that does not exist", "crop", "lists.example:443", nil, `there is no transport "crop"`, true},
		{"a transport that names no resolver", "office", "lists.example:443", nil, "resolve lists.example: no DNS server for office", true},
		{"a transport that is not up", "office", "10.30.0.7:443", nil, "dial 10.30.0.7:443 via office: transport is not up", true},
	} {
		inside.seen()
		outside.seen()
		configured = row.servers
		c, err := e.DialHost(t.Context(), row.via, "tcp", row.address)
		got := inside.seen() + outside.seen()
		if row.fails {
			if err == nil || !strings.HasPrefix(err.Error(), row.want) {
				t.Errorf("%s: got %v, want %s", row.name, err, row.want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", row.name, err)
			continue
		}
		if text, _ := io.ReadAll(c); string(text) != "hello" {
			t.Errorf("%s: got %q from the site", row.name, text)
		}
		c.Close()
		var sites []string
		for _, dial := range strings.Split(got, ", ") {
			if !strings.HasSuffix(dial, ":53") {
				sites = append(sites, dial)
			}
		}
		if got := strings.Join(sites, ", "); got != row.want {
			t.Errorf("%s: got %s, want %s", row.name, got, row.want)
		}
	}
	if n := len(second.Queries()); n == 0 {
		t.Error("the resolver that the configuration asks through the transport was not asked")
	}
}

func TestWhatIsNotUpFailsClosed(t *testing.T) {
	e := opened(t, planOf(t, corp+office+best), nil)
	for _, way := range []string{"corp", "best"} {
		d, ok := e.Dialer(way)
		if !ok {
			t.Fatalf("there is no way %s", way)
		}
		_, err := d.DialContext(t.Context(), "tcp4", "10.20.0.7:443")
		if !e.IsNotUp(err) {
			t.Errorf("%s: got %v, want an error that says it is not up", way, err)
		}
	}
	if e.IsNotUp(syscall.ECONNREFUSED) || e.IsNotUp(nil) {
		t.Error("a refusal by the far side counts as a transport that is not up: the flow would leave directly")
	}
	if _, ok := e.Dialer(policy.EgressDirect); !ok {
		t.Error("there is no way direct")
	}
	if _, ok := e.Dialer("dns"); ok {
		t.Error("there is a way that nobody added")
	}
	e.Add("dns", &network{})
	if _, ok := e.Dialer("dns"); !ok {
		t.Error("the way that was added is not there")
	}
}

// TestAWayIsAddedWhileFlowsAreDialled adds ways as a gateway does, whose port is open already.
func TestAWayIsAddedWhileFlowsAreDialled(t *testing.T) {
	e := opened(t, planOf(t, corp), nil)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				e.Dialer(policy.EgressDirect)
			}
		}
	})
	for i := range 2000 {
		e.Add(strconv.Itoa(i), &network{})
	}
	close(stop)
	wg.Wait()
	if _, ok := e.Dialer("1999"); !ok {
		t.Error("a way that was added is not there")
	}
}

func TestAGroupServesByItsCurrentMember(t *testing.T) {
	e := opened(t, planOf(t, corp+office+best), nil)
	first, second := e.fake(t, "corp", &network{}, errUnreachable), e.fake(t, "office", &network{}, nil)
	for _, one := range e.transports {
		one.Timing.FailoverAfter = 10 * time.Millisecond
	}
	if got, ok := e.Serving("best"); !ok || got != first {
		t.Errorf("at first: got %v, want corp, which is preferred", got.Name)
	}
	if e.CarriesIPv6("best") {
		t.Error("best carries IPv6 while corp serves, which has none")
	}
	e.run(t)
	await(t, second, transport.Connected)
	deadline := time.Now().Add(5 * time.Second)
	for got, _ := e.Serving("best"); got != second; got, _ = e.Serving("best") {
		if time.Now().After(deadline) {
			t.Fatal("corp does not connect, but best still uses it")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if !e.CarriesIPv6("best") || !e.CarriesIPv6("office") || e.CarriesIPv6("corp") || !e.CarriesIPv6(policy.EgressDirect) {
		t.Error("what carries IPv6 is not what has an IPv6 address")
	}
	if _, ok := e.Serving(policy.EgressDirect); ok {
		t.Error("direct is served by a transport")
	}
	if groups := e.Groups(); len(groups) != 1 || groups[0].Name != "best" || groups[0].Current() != second.Tunnel {
		t.Errorf("groups: got %v", groups)
	}
	var names []string
	for _, h := range e.Health() {
		names = append(names, h.Name+" "+h.State.String())
	}
	if got, want := strings.Join(names, ", "), "corp connecting, office connected"; got != want {
		t.Errorf("health: got %s, want %s", got, want)
	}
	if first.Named() || !second.Named() {
		t.Error("only office's server is known by a name, and may have other addresses")
	}
}

func TestOrdersAreForOneTransportOrAll(t *testing.T) {
	e := opened(t, planOf(t, corp+office+best), nil)
	if all, err := e.Steered(""); err != nil || !slices.Equal(all, e.Transports()) || len(all) != 2 {
		t.Errorf("without a name: got %d transports and %v, want both", len(all), err)
	}
	if one, err := e.Steered("office"); err != nil || len(one) != 1 || one[0].Name != "office" {
		t.Errorf("by name: got %v, %v", one, err)
	}
	for _, name := range []string{"ofice", "best", "direct"} {
		if _, err := e.Steered(name); err == nil || !strings.Contains(err.Error(), `"penstock status" lists them`) {
			t.Errorf("%s: got %v, want a refusal that says where transports are listed", name, err)
		}
	}
	if got := e.Search(); !slices.Equal(got, []string{"corp.example"}) {
		t.Errorf("search domains: got %v, want corp's", got)
	}
	if got := e.Naming(); len(got) != 2 || got[0].Transport != "corp" || len(got[0].Servers) != 1 || len(got[1].Servers) != 0 {
		t.Errorf("naming: got %+v", got)
	}
}

func TestAFaultWhileOpeningNamesTheTransport(t *testing.T) {
	p := planOf(t, corp+office)
	p.transports[1].wireguard.Addresses = []netip.Prefix{{}} // impossible in a file
	_, err := Open(t.Context(), Config{Plan: p, Outside: Outside{Direct: &network{}}})
	if err == nil || !strings.Contains(err.Error(), "p.yaml:4:11: transport office: ") {
		t.Errorf("got %v, want the place and the name; what was open is closed", err)
	}
}

// TestAWireGuardTransport uses a real server:
//
//	corp 10.8.0.2 --- WireGuard, 127.0.0.1 --- server 10.8.0.1, which answers at 10.20.0.7:7
func TestAWireGuardTransport(t *testing.T) {
	key := wireguard.GeneratePrivateKey()
	server, err := stack.New(stack.Config{MTU: 1420, Addrs: []netip.Prefix{netip.MustParsePrefix("10.8.0.1/24")}, Handle: stack.Waiting(echo)})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	ours, _ := wireguard.ParsePrivateKey(ourKey)
	port, err := wireguard.NewServer(wireguard.ServerConfig{Device: server.Device(), PrivateKey: key, Peers: wireguard.List{
		{Name: "laptop", PublicKey: ours.Public(), AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.8.0.2/32")}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer port.Close()

	p := planOf(t, corp)
	peer := &p.transports[0].wireguard.Peers[0]
	peer.PublicKey, peer.Endpoints = key.Public(), []wireguard.Endpoint{{Host: "127.0.0.1", Port: port.Port()}}
	peer.AllowedIPs = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	var changed atomic.Int32
	reset := make(chan string, 10)
	registry := prometheus.NewRegistry()
	e := opened(t, p, func(c *Config) {
		c.Hold = 300 * time.Millisecond
		c.Changed = func() { changed.Add(1) }
		c.Reset = func(name string) int { reset <- name; return 3 }
		c.Metrics.Reset = NewResetMetric(registry)
	})
	one, _ := e.Transport("corp")
	one.Timing.DialWait = 10 * time.Second
	if one.Kind != "wireguard" {
		t.Errorf("kind: got %s", one.Kind)
	}
	e.run(t)
	await(t, one, transport.Connected)
	way, _ := e.Dialer("corp")
	c, err := way.DialContext(t.Context(), "tcp4", "10.20.0.7:7")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(c, "hello")
	if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	if changed.Load() == 0 {
		t.Error("Changed was not called when the transport connected")
	}
	if _, err := way.DialContext(t.Context(), "tcp4", "192.0.2.7:80"); !errors.Is(err, syscall.ENETUNREACH) || !strings.Contains(err.Error(), "transport corp: 192.0.2.7 is not in AllowedIPs") {
		t.Errorf("an address in no AllowedIPs: got %v, want it refused at once", err)
	}
	if _, err := way.DialContext(t.Context(), "tcp4", "corp.example:80"); err == nil {
		t.Error("a name was dialled")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	e.Touch(ctx, netip.MustParseAddrPort("10.20.0.1:9"))

	early := len(reset) // if connecting took longer than the hold
	for range early {
		<-reset
	}
	one.Down()
	select {
	case name := <-reset:
		if name != "corp" {
			t.Errorf("flows of %s were reset", name)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the transport stays down, but its flows were not reset after the hold")
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a flow inside is open after it was reset")
	}
	want := float64(3 * (early + 1))
	for deadline := time.Now().Add(5 * time.Second); resets(t, registry, "corp") != want; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("counter of reset flows: got %v, want %v", resets(t, registry, "corp"), want)
		}
	}
	one.Up()
	await(t, one, transport.Connected)
	again, err := way.DialContext(t.Context(), "tcp4", "10.20.0.7:7")
	if err != nil {
		t.Fatalf("after it came back: %v", err)
	}
	again.Close()
}

// echo echoes what it gets.
func echo(_ context.Context, r *stack.Request) {
	c, err := r.Accept()
	if err != nil {
		return
	}
	defer c.Close()
	io.Copy(c, c)
}

// resets returns the count of a transport's reset flows.
func resets(t *testing.T, registry *prometheus.Registry, name string) float64 {
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "penstock_transport_flows_reset_total" && m.GetLabel()[0].GetValue() == name {
				return m.GetCounter().GetValue()
			}
		}
	}
	return -1
}

// sink is a Dialer whose flows go nowhere. It records what was sent.
type sink struct {
	network, address string
	sent             []byte
}

func (s *sink) DialContext(_ context.Context, network, address string) (net.Conn, error) {
	s.network, s.address = network, address
	near, far := net.Pipe()
	b := make([]byte, 512)
	read := make(chan struct{})
	go func() {
		defer close(read)
		n, _ := far.Read(b)
		s.sent = b[:n]
	}()
	return &sunk{near, far, read}, nil
}

// sunk is a connection whose Write waits until the data has been read.
type sunk struct {
	net.Conn
	far  net.Conn
	read chan struct{}
}

func (s *sunk) Write(b []byte) (int, error) {
	n, err := s.Conn.Write(b)
	<-s.read
	return n, err
}

func TestProbes(t *testing.T) {
	resolvers := []netip.AddrPort{netip.MustParseAddrPort("10.0.0.53:53")}
	for _, row := range []struct {
		name      string
		probe     *config.Probe
		resolvers []netip.AddrPort
		want      string // network, address and question; empty: no probe
	}{
		{"nothing to ask", nil, nil, ""},
		{"a resolver is asked for the root", nil, resolvers, "udp 10.0.0.53:53 . NS"},
		{"or for the name that is configured", &config.Probe{DNS: "intranet.corp.example"}, resolvers, "udp 10.0.0.53:53 intranet.corp.example. NS"},
		{"or a host is pinged", &config.Probe{Ping: netip.MustParseAddr("10.20.0.1")}, resolvers, "ping 10.20.0.1:0"},
	} {
		s := new(sink)
		probe := newProbe(row.probe, s, row.resolvers)
		if (probe == nil) != (row.want == "") {
			t.Errorf("%s: got a probe: %v", row.name, probe != nil)
		}
		if probe == nil {
			continue
		}
		if err := probe(t.Context()); err != nil {
			t.Errorf("%s: %v", row.name, err)
		}
		got := s.network + " " + s.address
		if s.network == "udp" {
			var q dns.Msg
			if err := q.Unpack(s.sent); err != nil || len(q.Question) != 1 || !q.RecursionDesired {
				t.Errorf("%s: got %x, which is not a question: %v", row.name, s.sent, err)
				continue
			}
			got += " " + q.Question[0].Name + " " + dns.TypeToString[q.Question[0].Qtype]
		} else if len(s.sent) != 4 {
			t.Errorf("%s: got a ping of %d bytes, want identifier and number", row.name, len(s.sent))
		}
		if got != row.want {
			t.Errorf("%s: got %s, want %s", row.name, got, row.want)
		}
	}
	quiet := newProbe(&config.Probe{DNS: "a.example"}, new(sink), nil)
	if err := quiet(t.Context()); err != nil {
		t.Errorf("a name, and nobody to ask yet: got %v, want no failure", err)
	}
	if err := newProbe(nil, new(network), resolvers)(t.Context()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a probe that cannot be sent: got %v", err)
	}
}

func TestPlainIsTheSystemsNetwork(t *testing.T) {
	web := site(t)
	var p Plain
	c, err := p.DialContext(t.Context(), "tcp4", web)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	for addr, want := range map[string]bool{"127.0.0.1": true, "169.254.169.254": true, "192.0.2.1": false, "10.0.0.1": false} {
		if got := p.Reserved(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s is reserved: got %v, want %v", addr, got, want)
		}
	}
	if err := errors.Join(p.Control("tcp4", web, nil), p.Close()); err != nil {
		t.Error(err)
	}
}
