package router

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"penstock/policy"
)

// carrying are ways whose egresses carry packets.
type carrying struct{ ways }

func (carrying) Carrier(egress string, _ policy.Network, _ netip.Addr) (Carrier, bool) {
	return egress, true
}

// crossed stands in for a stack that lets the packets of a flow cross. It is the flow's Answerer, Passer and Passed.
type crossed struct {
	*client
	err error // of Pass

	mu      sync.Mutex // guards below
	to      Carrier
	watch   Watch
	read    func([]byte) // nil: nothing is read
	fed     []byte
	may     int
	skips   int // bytes of a body that leave unread
	open    bool
	aborted bool
	heard   uint64 // bytes of the server's
}

func (c *crossed) PassDatagrams(Carrier, DatagramWatch) (PassedDatagrams, error) {
	return nil, errors.ErrUnsupported
}

func (c *crossed) Pass(to Carrier, w Watch, read func([]byte)) (PassedStream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil, c.err
	}
	c.to, c.watch, c.read = to, w, read
	return c, nil
}

func (c *crossed) Bytes() (in, out uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return uint64(len(c.fed)), c.heard
}

// answer does what a stack does, after a second at most, when the server has sent something.
func (c *crossed) answer() {
	c.mu.Lock()
	c.heard++
	c.mu.Unlock()
	c.watch.Heard()
}

func (c *crossed) Permit(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.may += n
}

func (c *crossed) Skip(n int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open || c.may < len(c.fed) {
		return false
	}
	c.skips += n
	return true
}

func (c *crossed) Open() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open = true
}

func (c *crossed) Abort() {
	c.mu.Lock()
	first := !c.aborted && c.watch != nil
	c.aborted = true
	c.mu.Unlock()
	if first {
		c.watch.Ended(nil)
	}
}

// send does what a stack does with what the client sends.
func (c *crossed) send(s string) {
	c.mu.Lock()
	c.fed = append(c.fed, s...)
	reads := c.read != nil && !c.open && !c.aborted
	if reads {
		c.read([]byte(s))
	}
	c.mu.Unlock()
	if reads {
		c.watch.Heard()
	}
}

// Held returns how much has not left: a server has the rest at once.
func (c *crossed) Held() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.fed) - c.may
}

// left is what may have left.
func (c *crossed) left() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open {
		return string(c.fed)
	}
	return string(c.fed[:c.may])
}

func (c *crossed) state() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.aborted:
		return "aborted"
	case c.open:
		return "open"
	case c.to != nil:
		return "read"
	}
	return "not passed"
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 5000 {
		if ok() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Errorf("did not see %s", what)
}

// blocksBet refuses bad.bet and forwards the rest, to one egress.
func blocksBet(f policy.Flow) policy.Verdict {
	v := byName(f)
	if v.Later == policy.LaterEgress {
		v.Later = policy.LaterBlock
	}
	if v.Egress == "corp" {
		v.Egress = "out"
	}
	return v
}

func (w *world) cross(t *testing.T, port uint16) *crossed {
	c := &crossed{client: newClient(t)}
	w.wg.Go(func() { w.Handle(context.Background(), crossingRequest(c, port)) })
	return c
}

func crossingRequest(c *crossed, port uint16) Request {
	return Request{
		Network: policy.TCP, Src: netip.MustParseAddrPort("10.77.0.2:40000"),
		Dst: netip.AddrPortFrom(netip.MustParseAddr("203.0.113.9"), port), Answer: c,
	}
}

// What a client sends on a flow that crosses is judged before it leaves, on every port.
// answer stands for what a server sends.
const answer = "\xffanswer"

func TestNamesOfFlowsThatCross(t *testing.T) {
	get := func(host string) string { return "GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n" }
	bad, good := string(clientHello("bad.bet")), string(clientHello("good.example"))
	rows := []struct {
		name string
		port uint16
		send []string
		left string // "*" is everything sent
		want string
		rule string
	}{
		{"an allowed SNI", 443, []string{good}, "*", "read", "rest"}, // a server may ask for another hello
		{"an allowed SNI, and what is encrypted", 443, []string{good, encrypted}, "*", "open", "rest"},
		{"an allowed SNI, asked for another hello", 443, []string{good, good, encrypted}, "*", "open", "rest"},
		{"a blocked SNI in another hello", 443, []string{good, bad}, good, "aborted", "no-gambling"},
		{"a blocked SNI in another hello, in pieces", 443, []string{good, change + bad[:20], bad[20:]}, good + change, "aborted", "no-gambling"},
		{"a blocked SNI", 443, []string{bad}, "", "aborted", "no-gambling"},
		{"a blocked SNI on another port", 4443, []string{bad}, "", "aborted", "no-gambling"},
		{"a blocked SNI in pieces", 443, []string{bad[:3], bad[3:50], bad[50:]}, bad[:3], "aborted", "no-gambling"},
		{"a blocked SNI behind others' bytes", 443, []string{good + bad}, good, "aborted", "no-gambling"},
		{"a blocked SNI behind what is encrypted", 443, []string{good + encrypted + bad}, "*", "open", "rest"}, // there it is data
		{"half a hello", 443, []string{good[:50]}, "", "read", "rest"},
		{"an allowed Host", 4443, []string{get("good.example")}, "*", "read", "rest"},
		{"a blocked Host", 4443, []string{get("bad.bet")}, "", "aborted", "no-gambling"},
		{"a blocked second request", 4443, []string{get("good.example"), get("bad.bet")}, get("good.example"), "aborted", "no-gambling"},
		{"two requests at once", 8880, []string{get("good.example") + get("bad.bet")}, get("good.example"), "aborted", "no-gambling"},
		{"settings of HTTP/2, for which the server's are waited for", 50051, []string{settings2}, "*", "read", "rest"},
		{"an allowed request behind them", 50051, []string{settings2, request2("good.example")}, "*", "read", "rest"},
		{"a blocked request behind them", 50051, []string{settings2, request2("bad.bet")}, settings2, "aborted", "no-gambling"},
		{"a blocked request together with them", 50051, []string{settings2 + request2("bad.bet")}, "", "aborted", "no-gambling"},
		{"a blocked request in pieces", 50051, []string{settings2, request2("bad.bet")[:12], request2("bad.bet")[12:]}, settings2, "aborted", "no-gambling"},
		{"a protocol without names", 22, []string{"SSH-2.0-client\r\n", "\x00\x00\x05\x3c"}, "*", "open", "rest"},
		{"a word and silence", 25, []string{"HELO"}, "*", "read", "rest"},
		{"a protocol without names on 443", 443, []string{"\x00\x01\x02"}, "*", "read", "rest"},
		{"much of it", 443, []string{"\x00\x01\x02", strings.Repeat("data", 80<<10)}, "*", "open", "rest"},
		{"a blocked Host behind a binary method", 443, []string{"\x00\x01\x02", " / HTTP/1.1\r\n", "Host: bad.bet\r\n\r\n"},
			"\x00\x01\x02 / HTTP/1.1\r\n", "aborted", "no-gambling"},
		{"a blocked Host behind any line", 4443, []string{"hello\r\n", "X: y\r\nHo", "st: bad.bet", "\r\n\r\n"},
			"hello\r\nX: y\r\nHo", "aborted", "no-gambling"},
		{"an allowed Host behind any line", 4443, []string{"hello\r\n", "X: y\r\nHo", "st: good.example\r\n\r\n"}, "*", "read", "rest"},
		{"a line without an end", 4443, []string{strings.Repeat("and from me", 100000)}, "*", "open", "rest"},
		{"a line that is answered", 25, []string{"HELO me\r\n", answer}, "*", "open", "rest"},
		{"a protocol without names that is answered", 443, []string{"\x00\x01\x02", answer}, "*", "open", "rest"},
		{"a protocol whose server speaks first", 22, []string{answer, "SSH-2.0-client\r\n"}, "*", "open", "rest"},
		{"a blocked SNI to a server that speaks first", 25, []string{answer, bad}, "", "aborted", "no-gambling"},
		{"a blocked Host behind a head that was answered", 4443, []string{"hello\r\nX: y\r\n\r\n", answer, get("bad.bet")},
			"hello\r\nX: y\r\n\r\n", "aborted", "no-gambling"},
		{"a blocked Host of which half was answered", 4443, []string{"hello\r\nX: y\r\nHost: ", answer, "bad.bet\r\n\r\n"}, "hello\r\nX: y\r\n", "aborted", "no-gambling"},
		{"a blocked second request after an answer", 4443, []string{get("good.example"), answer, get("bad.bet")}, get("good.example"), "aborted", "no-gambling"},
		{"a blocked request behind settings that were answered", 50051, []string{settings2, answer, request2("bad.bet")}, settings2, "aborted", "no-gambling"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, Config{Policy: decide(blocksBet), Ways: carrying{ways{}}})
			c := w.cross(t, row.port)
			eventually(t, "the flow pass", func() bool { return c.state() != "not passed" })
			want := row.left
			if want == "*" {
				want = strings.ReplaceAll(strings.Join(row.send, ""), answer, "")
			}
			sent := ""
			for _, s := range row.send {
				if s == answer {
					c.answer()
					continue
				}
				c.send(s)
				if sent += s; len(want) > 0 && len(sent) <= len(want) {
					eventually(t, "what may leave leave", func() bool { return len(c.left()) >= len(sent) || c.state() == "aborted" })
				}
			}
			eventually(t, row.want, func() bool { return c.state() == row.want })
			if got := c.left(); got != want {
				t.Errorf("%d bytes may leave, want %d", len(got), len(want))
			}
			if live := w.Flows(); row.want != "aborted" && (len(live) != 1 || live[0].Path != Inline) {
				t.Errorf("live flows: got %+v, want one that is judged in line", live)
			}
			c.Abort()
			if f := <-w.ended; f.Verdict.Rule != row.rule {
				t.Errorf("rule: got %q, want %q", f.Verdict.Rule, row.rule)
			}
			eventually(t, "the memory for names given back", func() bool {
				w.heads.mu.Lock()
				defer w.heads.mu.Unlock()
				return w.heads.total == 0
			})
		})
	}
}

// What a client of TLS sends behind its hello: a change of cipher, and what is encrypted.
const (
	change    = "\x14\x03\x03\x00\x01\x01"
	encrypted = "\x17\x03\x03\x00\x04data"
)

// settings2 is what a client of HTTP/2 sends before its first request.
const settings2 = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"

// request2 is a request of HTTP/2: HEADERS with GET, http, / and an authority (RFC 7541, appendix A).
func request2(host string) string {
	block := "\x82\x86\x84\x41" + string([]byte{byte(len(host))}) + host
	return string([]byte{0, 0, byte(len(block)), 1, 5, 0, 0, 0, 1}) + block
}

// What has left and was received takes no memory, however long the flow lives.
func TestRequestsThatHaveLeftTakeNoMemory(t *testing.T) {
	w := newWorld(t, Config{Policy: decide(blocksBet), Ways: carrying{ways{}}, SniffMemory: 1 << 20})
	const size = 64 << 10
	request := fmt.Sprintf("POST / HTTP/1.1\r\nHost: good.example\r\nContent-Length: %d\r\n\r\n%s", size, strings.Repeat("b", size))
	var all []*crossed
	for range 50 { // of which 8 would fill a client's part
		c := w.cross(t, 8880)
		all = append(all, c)
		eventually(t, "the flow pass", func() bool { return c.state() != "not passed" })
		c.send(request)
		eventually(t, "the request leave", func() bool {
			c.watch.Heard() // as a stack does every second
			return len(c.left()) == len(request) || c.state() == "aborted"
		})
		if c.state() != "read" {
			t.Fatalf("flow %d is %s", len(all), c.state())
		}
	}
	eventually(t, "the memory given back", func() bool {
		for _, c := range all {
			c.watch.Heard()
		}
		w.heads.mu.Lock()
		defer w.heads.mu.Unlock()
		return w.heads.total == 0
	})
	for _, c := range all {
		c.Abort()
		<-w.ended
	}
}

// A flow of HTTP/2 to a usual port waits no longer for its first request than it would for a name.
func TestAClientOfHTTP2ThatWaitsForTheServer(t *testing.T) {
	out := newListener(t, "out")
	w := newWorld(t, Config{Policy: decide(byName), Ways: ways{"out": dialTo(out.addr)}, SniffTimeout: 50 * time.Millisecond})
	c := newClient(t)
	w.handle(c, 80)
	io.WriteString(c, settings2)
	if line, err := bufio.NewReader(c).ReadString('\n'); line != "out\n" {
		t.Errorf("got %q, %v; want what the server says", line, err)
	}
	io.WriteString(c, request2("bad.bet"))
	if f := <-w.ended; f.Verdict.Rule != "no-gambling" || out.got() != settings2 {
		t.Errorf("rule %q, and the server received %q; want only the settings", f.Verdict.Rule, out.got())
	}
}

func TestWhichFlowsCross(t *testing.T) {
	forward := policy.Verdict{Action: policy.Forward, Egress: "out", Rule: "rest"}
	with := func(l policy.Later) policy.Verdict { v := forward; v.Later = l; return v }
	refuseUnnamed := func(f policy.Flow) policy.Verdict {
		if f.Sniffed {
			return policy.Verdict{Rule: "named-only"}
		}
		return with(policy.LaterBlock)
	}
	for _, row := range []struct {
		name    string
		decide  decide
		network policy.Network
		port    uint16
		want    Path
	}{
		{"a final verdict", decideAlways(forward), policy.TCP, 443, Forwarded},
		{"a name could block it", decideAlways(with(policy.LaterBlock)), policy.TCP, 443, Inline},
		{"a name could block it, and the client is shown a page", decideAlways(with(policy.LaterBlock)), policy.TCP, 80, Terminated},
		{"a name could lead it elsewhere", decideAlways(with(policy.LaterEgress)), policy.TCP, 443, Terminated},
		{"flows without a name are refused where clients speak first", refuseUnnamed, policy.TCP, 443, Terminated},
		{"and pass where servers may", refuseUnnamed, policy.TCP, 25, Inline},
		{"datagrams", decideAlways(forward), policy.UDP, 53, Forwarded},
		{"datagrams that a name could block", decideAlways(with(policy.LaterBlock)), policy.UDP, 80, Inline},
		{"datagrams that a name could lead elsewhere", decideAlways(with(policy.LaterEgress)), policy.UDP, 443, Terminated},
		{"datagrams without a name are refused", refuseUnnamed, policy.UDP, 8443, Terminated},
		{"an echo", decideAlways(forward), policy.ICMP, 0, Forwarded},
		{"a refused flow", decideAlways(policy.Verdict{}), policy.TCP, 443, Terminated},
	} {
		f := policy.Flow{Network: row.network, Dst: netip.AddrPortFrom(netip.MustParseAddr("203.0.113.9"), row.port)}
		if got, why := PathOf(f, row.decide(f), row.decide); got != row.want || why == "" && row.name != "a refused flow" {
			t.Errorf("%s: got %v, %q, want %v", row.name, got, why, row.want)
		}
	}
}

func TestAFlowThatCannotCrossIsTerminated(t *testing.T) {
	w := newWorld(t, Config{Policy: decide(blocksBet), Ways: carrying{ways{"out": dialTo(echoServer(t, "out"))}}})
	for _, port := range []uint16{22, 443} {
		c := &crossed{client: newClient(t), err: errors.New("no port is free")}
		w.wg.Go(func() { w.Handle(context.Background(), crossingRequest(c, port)) })
		if got := c.client.got(t); got != "accepted" {
			t.Errorf("port %d: got %s, want accepted", port, got)
		}
		c.client.Close()
		if f := <-w.ended; f.Path != Terminated {
			t.Errorf("port %d: path: got %v, want %v", port, f.Path, Terminated)
		}
	}
}

// A flow is killed at every moment around Pass.
func TestAFlowThatCrossesIsKilled(t *testing.T) {
	w := newWorld(t, Config{Policy: decide(blocksBet), Ways: carrying{ways{}}})
	for i := range 200 {
		c := w.cross(t, 22)
		time.Sleep(time.Duration(i) * time.Microsecond)
		killed := 0
		eventually(t, "the flow", func() bool {
			killed = w.Kill(func(Flow) bool { return true })
			return killed > 0
		})
		eventually(t, "a reset", func() bool { return c.state() == "aborted" })
		<-w.ended
	}
	if n := w.Active(); n != 0 {
		t.Errorf("%d flows are live, want none", n)
	}
}

// moving are ways of which each carries or not.
type moving struct {
	ways
	mu       sync.Mutex
	carriers map[string]Carrier
}

func (m *moving) Carrier(egress string, _ policy.Network, _ netip.Addr) (c Carrier, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, ok = m.carriers[egress]
	return c, ok
}

// A client that asks again while its transport is not up gets the way that there is by now.
func TestWhichFlowsHaveMoved(t *testing.T) {
	for _, row := range []struct {
		name     string
		fallback policy.Verdict // while "out" is not up
		carriers map[string]Carrier
		want     bool
	}{
		{"as before", policy.Verdict{Action: policy.Forward, Egress: "spare"}, map[string]Carrier{"out": "first"}, false},
		{"its group has changed", policy.Verdict{}, map[string]Carrier{"out": "second"}, true},
		{"not up, and another way leads there", policy.Verdict{Action: policy.Forward, Egress: "spare"}, nil, true},
		{"not up, and no other way does", policy.Verdict{Action: policy.Forward, Egress: "out"}, nil, false},
		{"not up, and refused until it is", policy.Verdict{}, nil, false},
	} {
		ways := &moving{carriers: map[string]Carrier{"out": "first"}}
		w := newWorld(t, Config{Policy: decide(func(f policy.Flow) policy.Verdict {
			if f.Down == "out" {
				return row.fallback
			}
			return policy.Verdict{Action: policy.Forward, Egress: "out"}
		}), Ways: ways})
		c := w.cross(t, 22)
		eventually(t, "the flow pass", func() bool { return c.state() != "not passed" })
		ways.mu.Lock()
		ways.carriers = row.carriers
		ways.mu.Unlock()
		if got := c.watch.Moved(); got != row.want {
			t.Errorf("%s: moved is %v, want %v", row.name, got, row.want)
		}
		c.Abort()
		<-w.ended
	}
}

// A name that needs no look-up is judged by whoever brought the packet, before he is back for the next.
func TestANameIsJudgedAtOnce(t *testing.T) {
	for _, row := range []struct{ sent, want string }{
		{string(clientHello("good.example")) + change + encrypted, "open"}, {string(clientHello("bad.bet")), "aborted"}, {"SSH-2.0-client\r\n\x00\x00\x05\x3c", "open"},
	} {
		w := newWorld(t, Config{Policy: decide(blocksBet), Ways: carrying{ways{}}})
		c := w.cross(t, 22)
		eventually(t, "the flow pass", func() bool { return c.state() != "not passed" })
		w.wg.Wait() // Handle has begun to read
		c.send(row.sent)
		if got := c.state(); got != row.want {
			t.Errorf("%.20q: got %s, want %s", row.sent, got, row.want)
		}
	}
}

// slowly looks names up when it is told to.
type slowly struct {
	people
	goOn chan struct{}
}

func (s slowly) Confirm(ctx context.Context, _ policy.Flow, _ string) ([]netip.Addr, error) {
	select {
	case <-s.goOn:
		return []netip.Addr{netip.MustParseAddr("203.0.113.9")}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Whoever brought the packet does not wait for a name to be looked up.
func TestALookUpKeepsNobodyWaiting(t *testing.T) {
	clients := slowly{goOn: make(chan struct{})}
	w := newWorld(t, Config{Clients: clients, Policy: decide(func(f policy.Flow) policy.Verdict {
		v := blocksBet(f)
		known := slices.ContainsFunc(f.Names, func(n policy.Name) bool { return n.From == policy.FromDNS })
		for _, n := range f.Names {
			if n.From == policy.FromSNI && !known {
				return policy.Verdict{Rule: "unknown", Claim: n.Host}
			}
		}
		return v
	}), Ways: carrying{ways{}}})
	c := w.cross(t, 22)
	eventually(t, "the flow pass", func() bool { return c.state() != "not passed" })
	w.wg.Wait()
	c.send(string(clientHello("good.example")))
	c.send("and more") // both are back
	if got := c.state(); got != "read" || c.left() != "" {
		t.Errorf("got %s, %d bytes left, before the name is known; want read, none", got, len(c.left()))
	}
	close(clients.goOn)
	eventually(t, "everything leave", func() bool { return c.state() == "open" })
}

// searching searches for the program that sends a flow once its name is known, as long as it is told to.
type searching struct {
	people
	goOn chan struct{}
}

func (searching) Searches(uint64) bool { return true }

func (s searching) Describe(f *policy.Flow) bool {
	if f.Sniffed {
		<-s.goOn
	}
	return true
}

// Nor does it wait for a program to be found.
func TestASearchKeepsNobodyWaiting(t *testing.T) {
	clients := searching{goOn: make(chan struct{})}
	w := newWorld(t, Config{Clients: clients, Policy: decide(blocksBet), Ways: carrying{ways{}}})
	c := w.cross(t, 22)
	eventually(t, "the flow pass", func() bool { return c.state() != "not passed" })
	w.wg.Wait()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		c.send(string(clientHello("good.example")) + encrypted)
	}()
	select {
	case <-sent:
	case <-time.After(5 * time.Second):
		t.Error("it waits")
	}
	close(clients.goOn)
	<-sent
	eventually(t, "everything leave", func() bool { return c.state() == "open" })
}

// A flow that ends while its hello is being judged ends with that verdict, and counts for its rule.
func TestAFlowThatEndsWhileItIsJudged(t *testing.T) {
	judging, goOn := make(chan struct{}, 9), make(chan struct{})
	w := newWorld(t, Config{Policy: decide(func(f policy.Flow) policy.Verdict {
		if f.Sniffed {
			judging <- struct{}{}
			<-goOn
		}
		return blocksBet(f)
	}), Ways: carrying{ways{}}})
	c := w.cross(t, 22)
	eventually(t, "the flow pass", func() bool { return c.state() != "not passed" })
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		c.send(string(clientHello("bad.bet")))
	}()
	<-judging
	c.Abort() // the client resets it
	select {
	case f := <-w.ended:
		t.Fatalf("the flow ended with rule %q before it was judged", f.Verdict.Rule)
	case <-time.After(50 * time.Millisecond):
	}
	close(goOn)
	<-sent
	if f := <-w.ended; f.Verdict.Rule != "no-gambling" {
		t.Errorf("rule: got %q, want no-gambling", f.Verdict.Rule)
	}
	if n := w.Hits()["no-gambling"].Count; n != 1 {
		t.Errorf("hits of no-gambling: got %d, want 1", n)
	}
}

// A hello that makes the reader panic ends its flow, and no other.
func TestAPanicOfTheReaderEndsItsFlow(t *testing.T) {
	w := newWorld(t, Config{Policy: decide(func(f policy.Flow) policy.Verdict {
		if f.Sniffed {
			panic("a fault")
		}
		return blocksBet(f)
	}), Ways: carrying{ways{}}})
	c := w.cross(t, 22)
	eventually(t, "the flow pass", func() bool { return c.state() != "not passed" })
	c.send(string(clientHello("good.example")))
	if f := <-w.ended; f.Err == "" || c.state() != "aborted" || c.left() != "" {
		t.Errorf("got error %q, state %s, %d bytes left, want an error, aborted, none", f.Err, c.state(), len(c.left()))
	}
	eventually(t, "the memory for names given back", func() bool {
		w.heads.mu.Lock()
		defer w.heads.mu.Unlock()
		return w.heads.total == 0
	})
}

// A client that begins a hello on many flows and ends none holds no more than its share of memory.
func TestHalfHellosThatCrossAreBounded(t *testing.T) {
	const limit = 16 << 10
	w := newWorld(t, Config{Policy: decide(blocksBet), Ways: carrying{ways{}}, SniffMemory: limit})
	hello := string(clientHello("good.example"))[:100]
	var all []*crossed
	for range 100 {
		c := w.cross(t, 443)
		eventually(t, "the flow pass", func() bool { return c.state() != "not passed" })
		c.send(hello)
		all = append(all, c)
		w.heads.mu.Lock()
		if w.heads.total > limit/2 {
			t.Fatalf("one client holds %d bytes, want at most %d", w.heads.total, limit/2)
		}
		w.heads.mu.Unlock()
	}
	aborted := 0
	for _, c := range all {
		if c.state() == "aborted" {
			aborted++
		}
	}
	if aborted == 0 {
		t.Error("no flow was ended for want of memory")
	}
	if reason := <-w.drops; reason != DropSniff {
		t.Errorf("dropped for %q, want %q", reason, DropSniff)
	}
	for range aborted - 1 {
		<-w.drops
	}
	go w.Kill(func(Flow) bool { return true })
	for range all {
		<-w.ended
	}
}

// Once a connection has switched to another protocol for good, no more than a little of it is read, so the stack need not hold it to the small
// window of one that is read: all that goes to a company's proxy by CONNECT, and every WebSocket.
func TestAConnectionThatHasSwitchedIsOpened(t *testing.T) {
	for _, row := range []struct{ name, head, then string }{
		{"CONNECT", "CONNECT good.example:443 HTTP/1.1\r\nHost: good.example:443\r\n\r\n", string(clientHello("good.example")) + encrypted + "\r\n\xff"},
		{"WebSocket", "GET /chat HTTP/1.1\r\nHost: good.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "\x82\x83abcdxyz" + strings.Repeat("\x82\x83abcdxyz", 32<<10)},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t, Config{Policy: decide(blocksBet), Ways: carrying{ways{}}})
			c := w.cross(t, 3128)
			eventually(t, "the flow pass", func() bool { return c.state() != "not passed" })
			c.send(row.head)
			eventually(t, "the head leave", func() bool { return c.left() == row.head })
			c.send(row.then)
			eventually(t, "the rest leave", func() bool { return c.left() == row.head+row.then })
			eventually(t, "everything may leave", func() bool { return c.state() == "open" })
			c.Abort()
			<-w.ended
		})
	}
}

// A long body crosses unread, and what follows it is read.
func TestALongBodyCrossesUnread(t *testing.T) {
	post := func(n int) string {
		return fmt.Sprintf("POST / HTTP/1.1\r\nHost: good.example\r\nContent-Length: %d\r\n\r\n", n)
	}
	for _, row := range []struct {
		name  string
		sent  []string
		skips int
	}{
		{"a long one", []string{post(1 << 20)}, 1 << 20},
		{"a long one, begun together with the head", []string{post(1<<20) + "a=b"}, 1<<20 - 3},
		{"a short one", []string{post(1 << 10)}, 0},
		{"a very long one", []string{post(1 << 30)}, maxSkip},
		{"none", []string{"GET / HTTP/1.1\r\nHost: good.example\r\n\r\n"}, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t, Config{Policy: decide(blocksBet), Ways: carrying{ways{}}})
			c := w.cross(t, 8880)
			eventually(t, "the flow pass", func() bool { return c.state() != "not passed" })
			for _, s := range row.sent {
				c.send(s)
			}
			eventually(t, "the body skipped", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return c.skips == row.skips })
			if row.skips > 0 && row.skips < maxSkip {
				c.send("GET / HTTP/1.1\r\nHost: bad.bet\r\n\r\n")
				eventually(t, "the next request refused", func() bool { return c.state() == "aborted" })
				return
			}
			c.Abort()
		})
	}
}
