package router

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"penstock/policy"
	"penstock/policy/sniff"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// client is the client of a flow under test. It stands in for a stack, over a loopback connection.
type client struct {
	net.Conn // the client program's end, once accepted

	mu       sync.Mutex
	answer   string
	answered chan struct{}
	near     net.Conn
}

func newClient(t *testing.T) *client {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	far, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	near, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close(); near.Close() })
	far.SetDeadline(time.Now().Add(10 * time.Second))
	return &client{Conn: far, near: near, answered: make(chan struct{})}
}

func (c *client) answerWith(s string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.answer != "" {
		c.answer += " and " + s
		return
	}
	c.answer = s
	close(c.answered)
}

func (c *client) Accept() (net.Conn, error) { c.answerWith("accepted"); return c.near, nil }
func (c *client) Refuse()                   { c.answerWith("refused") }
func (c *client) Unreachable(err error)     { c.answerWith("told " + err.Error()) }
func (c *client) Drop()                     { c.answerWith("dropped") }

func (c *client) got(t *testing.T) string {
	t.Helper()
	select {
	case <-c.answered:
	case <-time.After(5 * time.Second):
		t.Fatal("the flow was not answered")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.answer
}

// echoServer sends its name on a line and then echoes what it gets.
func echoServer(t *testing.T, name string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				fmt.Fprintln(c, name)
				io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return ln.Addr().String()
}

// dialTo is a Dialer that always goes to one address.
type dialTo string

func (d dialTo) DialContext(ctx context.Context, network, _ string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, strings.TrimRight(network, "46"), string(d))
}

// failing is a Dialer that fails.
type failing struct{ err error }

func (d failing) DialContext(context.Context, string, string) (net.Conn, error) { return nil, d.err }

// byName refuses bad.bet and everything without a name on sniffed ports, and forwards the rest.
func byName(f policy.Flow) policy.Verdict {
	for _, n := range f.Names {
		if n.Host == "bad.bet" {
			return policy.Verdict{Rule: "no-gambling", Category: "gambling"}
		}
		if n.Host == "intra.corp" {
			return policy.Verdict{Action: policy.Forward, Egress: "corp", Rule: "intranet"}
		}
	}
	return policy.Verdict{Action: policy.Forward, Egress: "out", Rule: "rest", Later: later(f)}
}

type world struct {
	*Router
	wg    sync.WaitGroup
	ended chan Flow
	drops chan string
}

func newWorld(t testing.TB, c Config) *world {
	t.Helper()
	w := &world{ended: make(chan Flow, 100), drops: make(chan string, 100)}
	if c.Clients == nil {
		c.Clients = people{}
	}
	c.Ended = func(f Flow) { w.ended <- f }
	c.Dropped = func(reason string) { w.drops <- reason }
	r, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	w.Router = r
	t.Cleanup(func() {
		r.Kill(func(Flow) bool { return true })
		w.wg.Wait()
	})
	return w
}

// decide is a Policy.
type decide func(policy.Flow) policy.Verdict

func (d decide) Decide(f policy.Flow) policy.Verdict { return d(f) }

var errDown = errors.New("not up")

// ways are dialers by name. Every destination is elsewhere.
type ways map[string]Dialer

func (w ways) Dialer(name string) (Dialer, bool)   { d, ok := w[name]; return d, ok && d != nil }
func (ways) Place(uint64, netip.Addr) policy.Place { return policy.Elsewhere }
func (ways) IsNotUp(err error) bool                { return errors.Is(err, errDown) }

// people is a Clients that knows every client and the answers of a resolver.
type people struct {
	resolver map[string][]netip.Addr
	names    []policy.Name // that DNS gave for every address
	gone     bool
}

func (p people) Describe(*policy.Flow) bool { return !p.gone }

func (p people) Names(f *policy.Flow) (release func()) {
	f.Names = p.names
	return func() {}
}

func (p people) Confirm(_ context.Context, _ policy.Flow, host string) ([]netip.Addr, error) {
	if addrs := p.resolver[host]; addrs != nil {
		return addrs, nil
	}
	return nil, errors.New("no such host")
}

func (w *world) handle(c *client, port uint16) {
	w.wg.Go(func() { w.Handle(context.Background(), requestTo(port, c)) })
}

// requestTo is a flow to a port.
func requestTo(port uint16, a Answerer) Request {
	return Request{
		Network: policy.TCP,
		Src:     netip.MustParseAddrPort("10.77.0.2:40000"),
		Dst:     netip.AddrPortFrom(netip.MustParseAddr("203.0.113.9"), port),
		Answer:  a,
	}
}

func decideAlways(v policy.Verdict) decide {
	return func(policy.Flow) policy.Verdict { return v }
}

func TestAnswers(t *testing.T) {
	forward := policy.Verdict{Action: policy.Forward, Egress: "out", Rule: "rest"}
	rows := []struct {
		name    string
		verdict policy.Verdict
		out     Dialer
		want    string
	}{
		{"a blocked flow is refused", policy.Verdict{Rule: "no"}, nil, "refused"},
		{"a dropped flow gets no answer", policy.Verdict{Action: policy.Drop, Rule: "no"}, nil, "dropped"},
		{"a closed port looks closed", forward, failing{syscall.ECONNREFUSED}, "told connection refused"},
		{"a dead host stays silent", forward, failing{context.DeadlineExceeded}, "dropped"},
		{"an unreachable network looks unreachable", forward, failing{syscall.ENETUNREACH}, "told network is unreachable"},
		{"an unknown egress is refused", policy.Verdict{Action: policy.Forward, Egress: "nowhere"}, nil, `told egress "nowhere" does not exist`},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t, Config{Policy: decideAlways(row.verdict), Ways: ways{"out": row.out}})
			c := newClient(t)
			w.handle(c, 25)
			if got := c.got(t); got != row.want {
				t.Errorf("got %s, want %s", got, row.want)
			}
			if f := <-w.ended; f.Verdict.Rule != row.verdict.Rule {
				t.Errorf("got a record of rule %q, want %q", f.Verdict.Rule, row.verdict.Rule)
			}
		})
	}
}

func TestServerMaySpeakFirst(t *testing.T) {
	w := newWorld(t, Config{
		Policy: decideAlways(policy.Verdict{Action: policy.Forward, Egress: "out", Later: policy.LaterEgress}),
		Ways:   ways{"out": dialTo(echoServer(t, "220 hello"))},
	})
	c := newClient(t)
	w.handle(c, 25)
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil || line != "220 hello\n" {
		t.Fatalf("got %q, %v; want the server's greeting on a port that is not read for names", line, err)
	}
	c.Close()
	if f := <-w.ended; f.Err != "" {
		t.Errorf("got a flow that ended with %q, want none", f.Err)
	}
}

// judging is a client that does not acknowledge what answers its SYN.
type judging struct {
	*client
	judged chan struct{}
	once   sync.Once
}

func (j *judging) Judged() { j.once.Do(func() { close(j.judged) }) }

func (j *judging) Accept() (net.Conn, error) {
	select {
	case <-j.judged:
		j.answerWith("judged")
	case <-time.After(10 * time.Second):
		j.answerWith("waited for")
	}
	return nil, syscall.ETIMEDOUT
}

// A client has a bound of flows that are judged at once. One that it does not go on with must not keep others waiting for 20 s.
func TestAFlowThatItsClientDoesNotGoOnWithIsJudged(t *testing.T) {
	for _, row := range []struct {
		name string
		port uint16
		v    policy.Verdict
	}{
		{"a flow that is forwarded", 25, policy.Verdict{Action: policy.Forward, Egress: "out"}},
		{"a flow that is read first", 443, policy.Verdict{Action: policy.Forward, Egress: "out", Later: policy.LaterBlock}},
		{"a flow whose client is shown a page", 80, policy.Verdict{Rule: "no", SignIn: "corp"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, Config{Policy: decideAlways(row.v), Ways: ways{"out": dialTo(echoServer(t, "out"))}})
			j := &judging{client: newClient(t), judged: make(chan struct{})}
			w.Handle(t.Context(), requestTo(row.port, j))
			if j.answer != "judged" {
				t.Errorf("while its client is waited for it is %s, want it judged", j.answer)
			}
		})
	}
}

// gone is a client that has reset its connection before it was accepted.
type gone struct{}

func (gone) Accept() (net.Conn, error) { return nil, syscall.ECONNRESET }
func (gone) Refuse()                   {}
func (gone) Unreachable(error)         {}
func (gone) Drop()                     {}

func TestAClientThatIsGoneIsAResetUpstream(t *testing.T) {
	near, far := make(chan net.Conn, 1), newClient(t)
	near <- far.near
	w := newWorld(t, Config{
		Policy: decideAlways(policy.Verdict{Action: policy.Forward, Egress: "out"}),
		Ways:   ways{"out": dialFunc(func() (net.Conn, error) { return <-near, nil })},
	})
	w.Handle(t.Context(), Request{
		Network: policy.TCP, Src: netip.MustParseAddrPort("10.77.0.2:40000"), Dst: netip.MustParseAddrPort("203.0.113.9:25"), Answer: gone{},
	})
	if _, err := far.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the upstream: got %v, want ECONNRESET", err)
	}
}

// dialFunc is a Dialer that returns a connection for any address.
type dialFunc func() (net.Conn, error)

func (f dialFunc) DialContext(context.Context, string, string) (net.Conn, error) { return f() }

// clientHello returns the hello of a TLS client. The client itself is closed, because it would read what the test wants to read.
func clientHello(name string) []byte {
	near, far := net.Pipe()
	go func() {
		tls.Client(near, &tls.Config{ServerName: name, InsecureSkipVerify: true}).Handshake()
	}()
	buf := make([]byte, 16<<10)
	n, _ := far.Read(buf) // a hello is one write
	far.Close()
	return buf[:n]
}

func TestNamesInTheFlow(t *testing.T) {
	hello := func(name string) func(net.Conn) {
		first := clientHello(name)
		return func(c net.Conn) { c.Write(first) }
	}
	get := func(host string) func(net.Conn) {
		return func(c net.Conn) { fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", host) }
	}
	rows := []struct {
		name string
		port uint16
		send func(net.Conn)
		want string // "out" or "corp", the server reached; "reset" or the first line of the page
	}{
		{"an allowed SNI goes out", 443, hello("good.example"), "out"},
		{"a blocked SNI is reset", 443, hello("bad.bet"), "reset"},
		{"an SNI can choose the egress", 443, hello("intra.corp"), "corp"},
		{"an allowed Host goes out", 80, get("good.example"), "out"},
		{"a blocked Host gets a page", 80, get("bad.bet"), "HTTP/1.1 403 Forbidden"},
		{"upper case and a port in Host do not help", 80, get("BAD.bet.:80"), "HTTP/1.1 403 Forbidden"},
		{"a request that stalls in its first word is read to the end", 80, func(c net.Conn) {
			io.WriteString(c, "GE")
			time.Sleep(300 * time.Millisecond) // longer than the budget for what looks like a request
			get("bad.bet")(prefixed{c, "GE"})
		}, "out, then reset"},
		{"a request that stalls in its head gets a page", 80, func(c net.Conn) {
			io.WriteString(c, "GET / HTTP/1.1\r\n")
			time.Sleep(300 * time.Millisecond)
			get("bad.bet")(prefixed{c, "GET / HTTP/1.1\r\n"})
		}, "HTTP/1.1 403 Forbidden"},
		{"an allowed Host before 18 KiB of cookies goes out", 80, get("good.example\r\nCookie: " + strings.Repeat("c", 18<<10)), "out"},
		{"an allowed Host before 64 KiB of cookies goes out", 80, get("good.example\r\nCookie: " + strings.Repeat("c", 64<<10)), "out"},
		{"a blocked Host before 18 KiB of cookies gets a page", 80, get("bad.bet\r\nCookie: " + strings.Repeat("c", 18<<10)), "HTTP/1.1 403 Forbidden"},
		{"a hello for the root goes out without a name", 443, func(c net.Conn) {
			c.Write(bytes.Replace(clientHello("x"), []byte{0, 1, 'x'}, []byte{0, 1, '.'}, 1)) // crypto/tls itself leaves the root out
		}, "out"},
		{"a hello that comes after the budget is judged when it comes", 443, func(c net.Conn) {
			time.Sleep(400 * time.Millisecond)
			hello("bad.bet")(c)
		}, "out, then reset"},
		{"a request that comes after the budget is judged when it comes", 80, func(c net.Conn) {
			time.Sleep(400 * time.Millisecond)
			get("bad.bet")(c)
		}, "out, then reset"},
		{"a protocol without names is judged on what is known", 443, func(c net.Conn) { io.WriteString(c, "\x00\x01nothing known here") }, "out"},
		{"a client that waits for the server is judged on what is known", 443, func(net.Conn) {}, "out"},
	}
	out, corp := echoServer(t, "out"), echoServer(t, "corp")
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t, Config{
				Policy:       decide(byName),
				Ways:         ways{"out": dialTo(out), "corp": dialTo(corp)},
				SniffTimeout: 200 * time.Millisecond,
			})
			c := newClient(t)
			w.handle(c, row.port)
			row.send(c)
			line, err := bufio.NewReader(c).ReadString('\n')
			got := strings.TrimSpace(line)
			if errors.Is(err, syscall.ECONNRESET) || err == io.EOF {
				got = "reset"
			}
			if first, isLate := strings.CutSuffix(row.want, ", then reset"); isLate && got == first {
				if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("after the greeting: got %v, want a reset", err)
				}
				return
			}
			if got != row.want {
				t.Errorf("got %q, %v; want %q", got, err, row.want)
			}
		})
	}
}

// prefixed is a connection on which the first bytes have been sent already; it skips them in Write.
type prefixed struct {
	net.Conn
	sent string
}

func (p prefixed) Write(b []byte) (int, error) {
	n, err := p.Conn.Write(b[len(p.sent):])
	return n + len(p.sent), err
}

func TestEveryRequestOfAConnectionIsJudged(t *testing.T) {
	w := newWorld(t, Config{Policy: decide(byName), Ways: ways{"out": dialTo(echoServer(t, "out"))}})
	c := newClient(t)
	w.handle(c, 80)
	r := bufio.NewReader(c)
	for range 3 {
		fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: good.example\r\n\r\n")
	}
	for range 1 + 3*3 { // the greeting, then three requests of three lines
		if _, err := r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: bad.bet\r\n\r\n")
	rest, _ := io.ReadAll(r)
	if strings.Contains(string(rest), "bad.bet") {
		t.Fatalf("got %q back: the blocked request reached the server", rest)
	}
	if f := <-w.ended; f.Verdict.Rule != "no-gambling" {
		t.Errorf("got a record of rule %q, want no-gambling", f.Verdict.Rule)
	}
}

func TestANameThatIsNoneIsToldAsTheReason(t *testing.T) {
	const good = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
	for _, row := range []struct{ name, text string }{
		{"a name that no host can have", "GET / HTTP/1.1\r\nHost: a<b>c\r\n\r\n"},
		{"two names", "GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n"},
		{"a name that is none, in a later request", good + "GET / HTTP/1.1\r\nHost: a<b>c\r\n\r\n"},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t, Config{Policy: decideAlways(policy.Verdict{Action: policy.Forward, Egress: "out", Rule: "rest", Later: policy.LaterBlock}),
				Ways: ways{"out": dialTo(echoServer(t, "out"))}})
			c := newClient(t)
			w.handle(c, 80)
			io.WriteString(c, row.text)
			rest, _ := io.ReadAll(c)
			if strings.Contains(string(rest), "a<b>c") || strings.Contains(string(rest), "b.example") {
				t.Errorf("got %q back: the request reached the server", rest)
			}
			if f := <-w.ended; !strings.HasPrefix(f.Err, "ambiguous: ") {
				t.Errorf("got a record with the reason %q, want one that says what is wrong", f.Err)
			}
		})
	}
}

// movers are people whose groups may change while a flow is read.
type movers struct {
	people
	groups atomic.Pointer[[]string] // nil: gone
}

func (m *movers) Describe(f *policy.Flow) bool {
	groups := m.groups.Load()
	if groups == nil {
		return false
	}
	f.Groups = *groups
	return true
}

func TestALaterNameIsJudgedByWhoTheClientIsThen(t *testing.T) {
	staffOnly := decide(func(f policy.Flow) policy.Verdict {
		secret := slices.ContainsFunc(f.Names, func(n policy.Name) bool { return n.Host == "secret.example" })
		if secret && !slices.Contains(f.Groups, "staff") {
			return policy.Verdict{Rule: "no-secrets"}
		}
		return policy.Verdict{Action: policy.Forward, Egress: "out", Rule: "rest", Later: later(f)}
	})
	request := func(host string) string { return "GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n" }
	staff, guests := &[]string{"staff"}, &[]string{"guests"}
	for _, row := range []struct {
		name, before, after string
		then                *[]string
		passes              bool
	}{
		{"a request of who stays", request("a.example"), request("secret.example"), staff, true},
		{"a request after the client was moved", request("a.example"), request("secret.example"), guests, false},
		{"a request after the client went", request("a.example"), request("a.example"), nil, false},
		{"a head whose client was moved meanwhile", "GET / HTTP/1.1\r\n", "Host: secret.example\r\n\r\n", guests, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			who := new(movers)
			who.groups.Store(staff)
			w := newWorld(t, Config{Policy: staffOnly, Clients: who, Ways: ways{"out": dialTo(echoServer(t, "out"))}})
			c := newClient(t)
			w.handle(c, 80)
			io.WriteString(c, row.before)
			br := bufio.NewReader(c)
			if strings.Contains(row.before, "Host") { // it has been passed on once its echo is here
				for line := ""; line != "Host: a.example\r\n"; {
					var err error
					if line, err = br.ReadString('\n'); err != nil {
						t.Fatal(err)
					}
				}
			}
			c.got(t) // it was accepted, so who the client is was asked before
			who.groups.Store(row.then)
			io.WriteString(c, row.after)
			c.SetReadDeadline(time.Now().Add(time.Second))
			rest, _ := io.ReadAll(br)
			if got := strings.Contains(string(rest), "Host: "); got != row.passes {
				t.Errorf("passed: got %v, want %v; the server was sent %q", got, row.passes, rest)
			}
		})
	}
}

func TestWhatLeadsBackIsDropped(t *testing.T) {
	loop := policy.Verdict{Action: policy.Drop, Rule: "rest", Cause: policy.ByLoop}
	guard := policy.Verdict{Action: policy.Refuse, Rule: "rest", Cause: policy.ByGuard}
	for _, row := range []struct {
		name         string
		verdict      policy.Verdict
		ours         string
		gone         bool
		want, reason string
	}{
		{"a destination within our own networks", loop, "192.0.2.1:1", false, "dropped", DropLoop},
		{"a flow that comes from one of our own sockets", policy.Verdict{}, "10.77.0.2:40000", false, "dropped", DropLoop},
		{"a peer", policy.Verdict{Action: policy.Refuse, Rule: "rest", Cause: policy.ByPeers}, "192.0.2.1:1", false, "refused", DropReserved},
		{"a destination that no rule may open", guard, "192.0.2.1:1", false, "refused", DropReserved},
		{"a client that is gone", policy.Verdict{Action: policy.Forward, Egress: "out"}, "192.0.2.1:1", true, "dropped", DropSource},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t, Config{Policy: decideAlways(row.verdict), Ways: ways{}, Clients: people{gone: row.gone}})
			w.table.opened(netip.MustParseAddrPort(row.ours))
			c := newClient(t)
			w.handle(c, 25)
			if got := c.got(t); got != row.want {
				t.Errorf("got %s, want %s", got, row.want)
			}
			if got := <-w.drops; got != row.reason {
				t.Errorf("got reason %s, want %s", got, row.reason)
			}
		})
	}
}

// claims is a policy that forwards wiki.corp to "corp" only where DNS gave the name for the destination.
func claims(f policy.Flow) policy.Verdict {
	inFlow, given := false, false
	for _, n := range f.Names {
		inFlow = inFlow || n.Host == "wiki.corp" && n.From == policy.FromHTTP
		given = given || n.Host == "wiki.corp" && n.From == policy.FromDNS
	}
	switch {
	case inFlow && given:
		return policy.Verdict{Action: policy.Forward, Egress: "corp", Rule: "wiki"}
	case inFlow:
		return policy.Verdict{Rule: "no-private", Claim: "wiki.corp"}
	}
	return policy.Verdict{Rule: "no-private", Later: later(f)}
}

// dialled is a Dialer that records the addresses it dialled.
type dialled struct {
	to chan string
	dialTo
}

func (d dialled) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d.to <- address
	return d.dialTo.DialContext(ctx, network, address)
}

// Browsers offer ECH to every site, mostly with the site's own name outside. A client that keeps an answer of DNS for longer than we
// do, or that got it before a restart, must still come in by it.
func TestAnOuterNameCountsForItsOwnAddressOnly(t *testing.T) {
	wiki, vault := netip.MustParseAddr("10.20.0.10"), netip.MustParseAddr("10.20.0.66")
	w := newWorld(t, Config{Policy: decide(claims), Ways: ways{}, Clients: people{resolver: map[string][]netip.Addr{"wiki.corp": {wiki}}}})
	for _, row := range []struct {
		dst   netip.Addr
		outer bool
		want  policy.Action
	}{
		{wiki, false, policy.Forward}, {vault, false, policy.Forward}, // there, because it is dialled where our resolver says
		{wiki, true, policy.Forward}, {vault, true, policy.Refuse},
	} {
		f := policy.Flow{Dst: netip.AddrPortFrom(row.dst, 443), Sniffed: true, Names: []policy.Name{{Host: "wiki.corp", From: policy.FromHTTP}}}
		g, v := w.judge(t.Context(), f, row.dst, row.outer)
		if v.Action != row.want || v.Action == policy.Forward && g.Dst.Addr() != wiki {
			t.Errorf("%s, outer %v: got %v to %s, want %v", row.dst, row.outer, v.Action, g.Dst, row.want)
		}
	}
}

func TestAClaimedNameLeadsOnlyWhereOurResolverSays(t *testing.T) {
	server := dialTo(echoServer(t, "corp"))
	for _, row := range []struct {
		name     string
		resolver map[string][]netip.Addr
		want     string // where is dialled; empty: nowhere
	}{
		{"it has the address that the client chose", map[string][]netip.Addr{"wiki.corp": {netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("203.0.113.9")}}, "203.0.113.9:80"},
		{"it has another address", map[string][]netip.Addr{"wiki.corp": {netip.MustParseAddr("10.20.0.10")}}, "10.20.0.10:80"},
		{"it does not resolve", nil, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			corp := dialled{make(chan string, 1), server}
			w := newWorld(t, Config{Policy: decide(claims), Ways: ways{"corp": corp}, Clients: people{resolver: row.resolver}})
			c := newClient(t)
			w.handle(c, 80)
			fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: wiki.corp\r\n\r\n")
			line, _ := bufio.NewReader(c).ReadString('\n')
			if row.want == "" {
				if !strings.HasPrefix(line, "HTTP/1.1 403") {
					t.Errorf("got %q, want the block page", line)
				}
				if f := <-w.ended; !strings.HasPrefix(f.Err, "mismatch: ") {
					t.Errorf("got a record with %q, want a mismatch", f.Err)
				}
				return
			}
			if line != "corp\n" {
				t.Errorf("got %q, want the greeting of the server", line)
			}
			if got := <-corp.to; got != row.want {
				t.Errorf("dialled %s, want %s", got, row.want)
			}
		})
	}
}

func TestALaterRequestMovesNoConnection(t *testing.T) {
	corp := dialled{make(chan string, 1), dialTo(echoServer(t, "corp"))}
	w := newWorld(t, Config{
		Policy: decide(func(f policy.Flow) policy.Verdict {
			if v := claims(f); v.Later != policy.LaterNothing || v.Action == policy.Forward || v.Claim != "" {
				return v
			}
			return policy.Verdict{Action: policy.Forward, Egress: "corp", Rule: "rest"} // other names on the address that was asked for
		}),
		Ways:    ways{"corp": corp},
		Clients: people{resolver: map[string][]netip.Addr{"wiki.corp": {netip.MustParseAddr("10.20.0.10")}}},
	})
	c := newClient(t)
	w.handle(c, 80)
	fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: wiki.corp\r\n\r\n")
	r := bufio.NewReader(c)
	for range 4 { // the greeting and the request, which the server sends back
		if _, err := r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: other.corp\r\n\r\n")
	if rest, _ := io.ReadAll(r); strings.Contains(string(rest), "other.corp") {
		t.Errorf("got %q: a request for one host reached the address of another", rest)
	}
}

// rotating is a resolver that gives the addresses of a name in another order each time.
type rotating struct {
	people
	asked *atomic.Uint32
}

func (r rotating) Confirm(context.Context, policy.Flow, string) ([]netip.Addr, error) {
	addrs := []netip.Addr{netip.MustParseAddr("10.20.0.10"), netip.MustParseAddr("10.20.0.11")}
	if r.asked.Add(1)%2 == 0 {
		slices.Reverse(addrs)
	}
	return addrs, nil
}

func TestARotatingAnswerMovesNoConnection(t *testing.T) {
	corp := dialled{make(chan string, 1), dialTo(echoServer(t, "corp"))}
	asked := new(atomic.Uint32)
	w := newWorld(t, Config{Policy: decide(claims), Ways: ways{"corp": corp}, Clients: rotating{asked: asked}})
	c := newClient(t)
	w.handle(c, 80)
	r := bufio.NewReader(c)
	for range 4 {
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: wiki.corp\r\n\r\n")
	}
	for i := range 1 + 4*3 { // the greeting and the requests, which the server sends back
		if _, err := r.ReadString('\n'); err != nil {
			t.Fatalf("line %d: %v", i, err)
		}
	}
	if asked.Load() < 4 || len(corp.to) != 1 {
		t.Errorf("the resolver was asked %d times and %d connections were dialled, want 4 or more, and 1", asked.Load(), len(corp.to))
	}
}

// A flow that asks the old policy while the new one is put in force may record its verdict after Rejudge has looked.
func TestNoFlowKeepsAVerdictOfAPolicyThatIsGone(t *testing.T) {
	forward := policy.Verdict{Action: policy.Forward, Egress: "out", Rule: "old"}
	for _, row := range []struct {
		name string
		port uint16
		send []byte
	}{
		{"judged when it begins", 25, nil},
		{"judged by its name", 443, clientHello("www.example")},
	} {
		t.Run(row.name, func(t *testing.T) {
			var now atomic.Pointer[policy.Verdict]
			now.Store(&forward)
			asked, answer := make(chan struct{}), make(chan struct{})
			w := newWorld(t, Config{
				Policy: decide(func(f policy.Flow) policy.Verdict {
					v := *now.Load()
					if !f.Sniffed && f.Dst.Port() == 443 {
						v.Later = policy.LaterBlock
						return v
					}
					if v.Rule == "old" {
						asked <- struct{}{}
						<-answer
					}
					return v
				}),
				Ways: ways{"out": dialTo(echoServer(t, "out"))},
			})
			c := newClient(t)
			w.handle(c, row.port)
			if row.send != nil {
				go c.Write(row.send)
			}
			select {
			case <-asked:
			case <-time.After(5 * time.Second):
				t.Fatal("the policy was not asked")
			}
			now.Store(&policy.Verdict{Rule: "new"})
			w.Rejudge(nil, decideAlways(*now.Load()))
			close(answer)
			if f := <-w.ended; f.Verdict.Rule != "new" {
				t.Errorf("the flow ended with the verdict of rule %q, want that of the new policy", f.Verdict.Rule)
			}
		})
	}
}

func TestHalfHellosAreBounded(t *testing.T) {
	h := heads{limit: 64 << 10, clients: make(map[uint64]int)}
	fill := func(client uint64) (heads []*head) {
		for {
			one := &head{heads: &h, client: client, max: 16 << 10}
			if one.hold(make([]byte, 1<<10)) != nil {
				return heads
			}
			heads = append(heads, one)
		}
	}
	first := fill(1)
	if got, want := len(first), 32; got != want {
		t.Errorf("one client holds %d heads of 1 KiB, want %d: half of the memory", got, want)
	}
	if got := len(fill(2)); got != 32 {
		t.Errorf("the next client holds %d heads, want the other half, 32", got)
	}
	for _, one := range first {
		one.release()
		one.release()
	}
	if got := h.total; got != 32<<10 {
		t.Errorf("%d bytes are held after one client released its share, want %d", got, 32<<10)
	}
}

func TestAHelloThatHasNoEndIsReadToItsBound(t *testing.T) {
	h := heads{limit: 1 << 20, clients: make(map[uint64]int)}
	near, far := net.Pipe()
	defer near.Close()
	go func() {
		for i := 0; ; i++ { // a header line that goes on and on
			b := []byte("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx")
			if i == 0 {
				b = []byte("GET / HTTP/1.1\r\nx: ")
			}
			if _, err := far.Write(b); err != nil {
				return
			}
		}
	}()
	one := h.begin(1)
	if err := one.readName(near, time.Second); err != nil {
		t.Fatal(err)
	}
	if len(one.b) != sniff.MaxHead || !one.result().Ambiguous {
		t.Errorf("got %d bytes and %+v, want %d, which are ambiguous", len(one.b), one.result().Status, sniff.MaxHead)
	}
	one.release()
	if h.total != 0 || len(h.clients) != 0 {
		t.Errorf("%d bytes of %d clients are held at the end", h.total, len(h.clients))
	}
}

func TestAPanicAsideGoesOnInTheCaller(t *testing.T) {
	defer func() {
		v := fmt.Sprint(recover())
		if !strings.Contains(v, "far down") || !strings.Contains(v, "router_test.go") {
			t.Errorf("got %q, want the panic and its trace", v)
		}
	}()
	aside(func() { panic("far down") })
	t.Error("the panic was lost")
}

// Whoever recovers from a panic of the policy does not know the flow: nothing of it may be left.
func TestAPanicOfThePolicyLeavesNoFlow(t *testing.T) {
	w := newWorld(t, Config{Policy: decide(func(policy.Flow) policy.Verdict { panic("policy") }), Ways: ways{}})
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic did not reach the stack")
			}
		}()
		w.Begin(t.Context(), requestTo(443, newClient(t)))
	}()
	if got := <-w.ended; got.Err != "judge: internal error" {
		t.Errorf("got the error %q", got.Err)
	}
	if n := w.Active(); n != 0 {
		t.Errorf("got %d flows, want none", n)
	}
}

func TestARefusalStormTurnsIntoSilence(t *testing.T) {
	now := time.Now()
	w := newWorld(t, Config{
		Policy: decideAlways(policy.Verdict{Rule: "no"}), Ways: ways{}, StormLimit: 3,
		Clock: func() time.Time { return now },
	})
	try := func(port uint16) string {
		c := newClient(t)
		w.handle(c, port)
		defer func() { <-w.ended }()
		return c.got(t)
	}
	for i, want := range []string{"refused", "refused", "refused", "dropped", "dropped"} {
		if got := try(25); got != want {
			t.Errorf("attempt %d: got %s, want %s", i+1, got, want)
		}
	}
	if got := try(26); got != "refused" {
		t.Errorf("another destination: got %s, want refused", got)
	}
	now = now.Add(31 * time.Second)
	if got := try(25); got != "refused" {
		t.Errorf("after the window: got %s, want refused", got)
	}
}

func TestFallback(t *testing.T) {
	for _, row := range []struct {
		name    string
		allowed bool
		want    string
	}{
		{"a rule that allows it goes direct while its transport is down", true, "accepted"},
		{"any other rule fails", false, "told not up"},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t, Config{
				Policy: decide(func(f policy.Flow) policy.Verdict {
					if f.Down == "corp" && row.allowed {
						return policy.Verdict{Action: policy.Forward, Egress: "direct"}
					}
					return policy.Verdict{Action: policy.Forward, Egress: "corp"}
				}),
				Ways: ways{"corp": failing{errDown}, "direct": dialTo(echoServer(t, "out"))},
			})
			c := newClient(t)
			w.handle(c, 25)
			if got := c.got(t); got != row.want {
				t.Errorf("got %s, want %s", got, row.want)
			}
		})
	}
}

func TestKillAndRejudge(t *testing.T) {
	same := decideAlways(policy.Verdict{Action: policy.Forward, Egress: "out", Rule: "rest"})
	w := newWorld(t, Config{Policy: same, Ways: ways{"out": dialTo(echoServer(t, "out"))}})
	c := newClient(t)
	w.handle(c, 25)
	r := bufio.NewReader(c)
	if _, err := r.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if got := len(w.Rejudge(nil, same)); got != 0 {
		t.Errorf("got %d flows changed by the same policy, want 0", got)
	}
	if got := w.Rejudge(func(*policy.Flow) bool { return false }, same); len(got) != 1 || got[0].Now.Action != policy.Refuse {
		t.Errorf("got %+v for a client that is gone, want one refusal", got)
	}
	changed := w.Rejudge(nil, decideAlways(policy.Verdict{Rule: "now-blocked"}))
	if len(changed) != 1 {
		t.Fatalf("got %d flows changed by a policy that blocks all, want 1", len(changed))
	}
	if n := w.Kill(func(f Flow) bool { return f.ID == changed[0].Flow.ID }); n != 1 {
		t.Fatalf("got %d flows killed, want 1", n)
	}
	if _, err := r.ReadString('\n'); err == nil {
		t.Error("the connection is open after its flow was killed")
	}
	<-w.ended
	if got := w.Active(); got != 0 {
		t.Errorf("got %d live flows, want 0", got)
	}
	for i, want := range []int{1, 0} {
		if got := w.Busiest(); got != want {
			t.Errorf("look %d: got %d flows at once, want %d", i+1, got, want)
		}
	}
}

func TestHalfClose(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		all, _ := io.ReadAll(c)
		fmt.Fprintf(c, "got %s", all)
	}()
	w := newWorld(t, Config{
		Policy: decideAlways(policy.Verdict{Action: policy.Forward, Egress: "out"}),
		Ways:   ways{"out": dialTo(ln.Addr().String())},
	})
	c := newClient(t)
	w.handle(c, 25)
	io.WriteString(c, "question")
	c.Conn.(*net.TCPConn).CloseWrite()
	got, err := io.ReadAll(c)
	if err != nil || string(got) != "got question" {
		t.Fatalf("got %q, %v; want the answer after the client's FIN", got, err)
	}
	<-w.ended
}

// later is a policy under which a name could still change the egress, until the flow has been read.
func later(f policy.Flow) policy.Later {
	if f.Sniffed {
		return policy.LaterNothing
	}
	return policy.LaterEgress
}
