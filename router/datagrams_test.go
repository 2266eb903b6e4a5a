package router

import (
	"context"
	"net"
	"net/netip"
	"runtime"
	"syscall"
	"testing"
	"time"

	"penstock/policy"
)

// datagramPair is two sockets of this machine that are connected to each other.
func datagramPair(t *testing.T) (near, far *net.UDPConn) {
	t.Helper()
	var err error
	for range 10 { // somebody else may take a port in between
		if near, far, err = connectedPair(); err == nil {
			t.Cleanup(func() { near.Close(); far.Close() })
			far.SetDeadline(time.Now().Add(20 * time.Second))
			return near, far
		}
	}
	t.Fatal(err)
	return nil, nil
}

func connectedPair() (near, far *net.UDPConn, err error) {
	free, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, nil, err
	}
	at := free.LocalAddr().(*net.UDPAddr)
	free.Close()
	if far, err = net.DialUDP("udp4", nil, at); err != nil {
		return nil, nil, err
	}
	if near, err = net.DialUDP("udp4", at, far.LocalAddr().(*net.UDPAddr)); err != nil {
		far.Close()
	}
	return near, far, err
}

// toDatagrams dials a socket of this machine, whatever the address.
type toDatagrams struct{ to *net.UDPAddr }

func (d toDatagrams) DialContext(context.Context, string, string) (net.Conn, error) {
	return net.DialUDP("udp4", nil, d.to)
}

// datagramFlow is a flow of datagrams that may outlive its handler.
type datagramFlow struct {
	kept
	far *net.UDPConn // the program that began it
}

// datagramServer answers each datagram with itself.
func datagramServer(t *testing.T) *net.UDPAddr {
	t.Helper()
	server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 2048)
		for {
			n, from, err := server.ReadFromUDP(b)
			if err != nil {
				return
			}
			server.WriteToUDP(b[:n], from)
		}
	}()
	t.Cleanup(func() { server.Close(); <-done })
	return server.LocalAddr().(*net.UDPAddr)
}

// datagrams begins a flow of datagrams.
func (w *world) datagrams(t *testing.T, port uint16) *datagramFlow {
	t.Helper()
	near, far := datagramPair(t)
	f := &datagramFlow{kept{newClient(t), make(chan struct{})}, far}
	f.near.Close()
	f.near = near
	w.wg.Go(func() {
		w.Handle(t.Context(), Request{
			Network: policy.UDP, Src: far.LocalAddr().(*net.UDPAddr).AddrPort(),
			Dst: netip.AddrPortFrom(netip.MustParseAddr("203.0.113.9"), port), Answer: f,
		})
	})
	return f
}

// carries fails unless a datagram gets to the server and back.
func (f *datagramFlow) carries(t *testing.T, what string) {
	t.Helper()
	b := make([]byte, 2048)
	if _, err := f.far.Write([]byte(what)); err != nil {
		t.Fatal(err)
	}
	if n, err := f.far.Read(b); err != nil || string(b[:n]) != what {
		t.Fatalf("got %q, %v; want %q back", b[:n], err, what)
	}
}

// handled waits for the handlers of flows that go on without them. Off Linux they wait for the far side themselves.
func (w *world) handled() {
	if runtime.GOOS == "linux" {
		w.wg.Wait()
	}
}

func TestQuietFlowsOfDatagramsHaveNoGoroutine(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("elsewhere a socket is waited for by a goroutine")
	}
	for _, row := range []struct {
		name    string
		p       Policy
		crowded bool
	}{
		{"without a name that could change anything", decideAlways(policy.Verdict{Action: policy.Forward, Egress: "out"}), false},
		{"that a name could block", decide(blocksBet), false},
		{"among many others", decide(blocksBet), true},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t, Config{Policy: row.p, Ways: ways{"out": toDatagrams{datagramServer(t)}}})
			w.patience.quiet = time.Millisecond
			if row.crowded {
				w.patience.quiet = time.Hour
				w.patience.pumps.Store(manyPumps + 1)
			}
			before := runtime.NumGoroutine()
			const flows = 40
			var all []*datagramFlow
			for range flows {
				f := w.datagrams(t, 4000)
				if row.crowded {
					f.far.Write([]byte("first"))
				} else {
					f.carries(t, "first")
				}
				all = append(all, f)
			}
			w.wg.Wait() // their handlers
			if !row.crowded {
				settle(t, before+3)
				for _, f := range all {
					f.carries(t, "second")
				}
				settle(t, before+3)
			}
			if n := w.Kill(func(Flow) bool { return true }); n != flows {
				t.Errorf("got %d flows killed, want %d", n, flows)
			}
			for _, f := range all {
				if got := <-w.ended; got.Err != "" {
					t.Errorf("a flow that was killed failed: %s", got.Err)
				}
				<-f.over
			}
			settle(t, before)
		})
	}
}

// A flow that is quiet is judged again by a hello that comes late, and ends with its verdict.
func TestAQuietFlowOfDatagramsIsJudgedAgain(t *testing.T) {
	w := newWorld(t, Config{Policy: decide(blocksBet), Ways: ways{"out": toDatagrams{datagramServer(t)}}})
	w.patience.quiet = time.Millisecond
	f := w.datagrams(t, 443)
	f.carries(t, "\x40short header")
	w.handled()
	f.carries(t, string(initial(t, "good.example")[0]))
	f.carries(t, "\x40short header")
	f.far.Write(initial(t, "bad.bet")[0])
	<-f.over
	if got := <-w.ended; got.Verdict.Action == policy.Forward || got.Err != "" {
		t.Errorf("got %v with the error %q, want the flow blocked", got.Verdict.Action, got.Err)
	}
	if n := w.heads.total; n != 0 {
		t.Errorf("%d bytes were not given back", n)
	}
}

// One verdict frees no part of the hello of another connection.
func TestHellosThatComeInterleaved(t *testing.T) {
	good, bad := initial(t, "good.example")[0], initial(t, "bad.bet")[0]
	good2, chosen := initial(t, "good.example-two"), initial(t, "bad.bet-chosen")
	for _, row := range []struct {
		name string
		send [][]byte
	}{
		{"a blocked one around an allowed one", [][]byte{chosen[0], good, chosen[1]}},
		{"a blocked one behind half an allowed one", [][]byte{good2[0], bad, good2[1]}},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t, Config{Policy: decide(blocksBet), Ways: ways{"out": dialFunc(func() (net.Conn, error) {
				t.Error("the flow was dialled")
				return nil, errDown
			})}})
			f := w.datagrams(t, 443)
			for _, b := range row.send {
				f.far.Write(b)
			}
			if got := <-w.ended; got.Verdict.Action != policy.Refuse {
				t.Errorf("got %v, want the flow refused", got.Verdict.Action)
			}
			w.wg.Wait()
			if n := w.heads.total; n != 0 {
				t.Errorf("%d bytes were not given back", n)
			}
		})
	}
}

// What the parts of a hello take counts, and not only the datagrams that they came in: one byte can take as much as a hello.
func TestTheBytesOfAHelloCount(t *testing.T) {
	part := initial(t, "good.example-two")[0]
	w := newWorld(t, Config{Policy: decide(blocksBet), Ways: carrying{ways{}}})
	counted := func() bool {
		w.heads.mu.Lock()
		defer w.heads.mu.Unlock()
		return w.heads.total > heldSize(part)+100
	}
	c := &crossedDatagrams{client: newClient(t), first: part}
	w.wg.Go(func() { w.Handle(context.Background(), datagramRequest(c, 4433)) })
	eventually(t, "the bytes counted of a flow that crosses", counted)
	c.Abort()
	<-w.ended
	eventually(t, "the memory given back", func() bool { w.heads.mu.Lock(); defer w.heads.mu.Unlock(); return w.heads.total == 0 })

	w = newWorld(t, Config{Policy: decide(blocksBet), Ways: ways{}})
	f := w.datagrams(t, 443)
	f.far.Write(part)
	eventually(t, "the bytes counted of a flow that ends here", counted)
	f.near.Close()
	<-w.ended
}

// An ICMP error that comes while a hello of several datagrams is sent does not end the flow.
func TestAnICMPErrorEndsNoFlowThatBegins(t *testing.T) {
	server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	at := server.LocalAddr().(*net.UDPAddr)
	server.Close() // nobody listens: what tells of that comes before the second datagram leaves
	w := newWorld(t, Config{Policy: decide(blocksBet), Ways: ways{"out": toDatagrams{at}}})
	f := w.datagrams(t, 443)
	for _, b := range initial(t, "good.example-two") {
		f.far.Write(b)
	}
	w.handled()
	if live := w.Flows(); len(live) != 1 {
		t.Fatalf("the flow has ended: %s", (<-w.ended).Err)
	}
	w.Kill(func(Flow) bool { return true })
	<-f.over
	<-w.ended
}

// An ICMP error that comes while a flow is quiet does not end it.
func TestAnICMPErrorEndsNoQuietFlow(t *testing.T) {
	server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	at := server.LocalAddr().(*net.UDPAddr)
	server.Close() // nobody listens for now
	w := newWorld(t, Config{Policy: decide(blocksBet), Ways: ways{"out": toDatagrams{at}}})
	w.patience.quiet = time.Millisecond
	f := w.datagrams(t, 4000)
	f.far.Write([]byte("lost"))
	w.handled()
	if server, err = net.ListenUDP("udp4", at); err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	server.SetDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 10)
	for range 10 { // the first may be what tells of the error
		f.far.Write([]byte("found"))
		server.SetReadDeadline(time.Now().Add(time.Second))
		if _, _, err = server.ReadFromUDP(b); err == nil {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	w.Kill(func(Flow) bool { return true })
	<-f.over
	if got := <-w.ended; got.Err != "" {
		t.Errorf("a flow that was killed failed: %s", got.Err)
	}
}

// brokenDatagrams dials a socket of which no read succeeds.
type brokenDatagrams struct {
	toDatagrams
	err error
}

type brokenConn struct {
	net.Conn
	err error
}

func (c brokenConn) Read([]byte) (int, error) { return 0, c.err }

func (d brokenDatagrams) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := d.toDatagrams.DialContext(ctx, network, address)
	return brokenConn{c, d.err}, err
}

// The record of a flow says why its far side failed, although the client's side was then closed, which is no failure.
func TestTheRecordSaysWhyDatagramsEnded(t *testing.T) {
	for _, row := range []struct {
		name string
		err  error
		want string
	}{
		{"a failure", syscall.EPROTO, "relay: protocol error"},
		{"the end", net.ErrClosed, ""},
	} {
		w := newWorld(t, Config{
			Policy: decideAlways(policy.Verdict{Action: policy.Forward, Egress: "out"}),
			Ways:   ways{"out": brokenDatagrams{toDatagrams{datagramServer(t)}, row.err}},
		})
		f := w.datagrams(t, 4000)
		f.far.Write([]byte("first"))
		<-f.over
		if got := <-w.ended; got.Err != row.want {
			t.Errorf("%s: got %q, want %q", row.name, got.Err, row.want)
		}
	}
}

// What a client sends may make a filter panic: that ends its flow, and nothing else.
func TestAPanicEndsOneFlowOfDatagrams(t *testing.T) {
	panics := decide(func(f policy.Flow) policy.Verdict {
		for _, n := range f.Names {
			if n.Host == "bad.bet" {
				panic("bad.bet")
			}
		}
		return blocksBet(f)
	})
	for _, row := range []struct {
		name  string
		quiet bool // the hello comes once the flow is quiet
		want  string
	}{
		{"before the flow is carried", false, ""}, // the stack tells of it
		{"while it is carried", true, "relay: internal error"},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t, Config{Policy: panics, Ways: ways{"out": toDatagrams{datagramServer(t)}}})
			w.patience.quiet = time.Millisecond
			hello := initial(t, "bad.bet-two")
			near, far := datagramPair(t)
			f := &datagramFlow{kept{newClient(t), make(chan struct{})}, far}
			f.near.Close()
			f.near = near
			w.wg.Go(func() {
				defer func() { recover() }() // as the stack does
				w.Handle(t.Context(), Request{
					Network: policy.UDP, Src: far.LocalAddr().(*net.UDPAddr).AddrPort(),
					Dst: netip.MustParseAddrPort("203.0.113.9:443"), Answer: f,
				})
			})
			if row.quiet {
				f.carries(t, "\x40short header")
				w.handled()
			}
			for _, b := range hello {
				far.Write(b)
			}
			if got := <-w.ended; got.Err != row.want {
				t.Errorf("got the error %q, want %q", got.Err, row.want)
			}
			if n := w.heads.total; n != 0 {
				t.Errorf("%d bytes were not given back", n)
			}
			if n := w.Active(); n != 0 {
				t.Errorf("got %d flows, want none", n)
			}
		})
	}
}

// endedClient is the client's side of a flow that tells when it ends.
type endedClient struct {
	*net.UDPConn
	end chan func()
}

func (c endedClient) OnEnd(f func()) { c.end <- f }

// waitsForever is a resolver that answers no question before its context ends.
type waitsForever struct {
	people
	asked chan struct{}
}

func (w waitsForever) Confirm(ctx context.Context, _ policy.Flow, _ string) ([]netip.Addr, error) {
	close(w.asked)
	<-ctx.Done()
	return nil, ctx.Err()
}

// A stack waits for its flows when it is closed, so none may go on to be judged.
func TestAJudgementEndsWithItsFlow(t *testing.T) {
	claims := decide(func(f policy.Flow) policy.Verdict {
		v := blocksBet(f)
		if v.Action == policy.Refuse {
			v.Claim = "bad.bet"
		}
		return v
	})
	clients := waitsForever{asked: make(chan struct{})}
	w := newWorld(t, Config{Policy: claims, Clients: clients, Ways: ways{"out": toDatagrams{datagramServer(t)}}})
	near, far := datagramPair(t)
	client := endedClient{near, make(chan func(), 1)}
	f := &datagramFlow{kept{newClient(t), make(chan struct{})}, far}
	f.near.Close()
	f.near = client
	w.wg.Go(func() {
		w.Handle(t.Context(), Request{
			Network: policy.UDP, Src: far.LocalAddr().(*net.UDPAddr).AddrPort(),
			Dst: netip.MustParseAddrPort("203.0.113.9:443"), Answer: f,
		})
	})
	f.carries(t, "\x40short header")
	far.Write(initial(t, "bad.bet")[0])
	<-clients.asked
	near.Close()
	select {
	case end := <-client.end:
		end()
	case <-time.After(10 * time.Second):
		t.Fatal("nobody wants to be told of the end")
	}
	<-f.over
	if got := <-w.ended; got.Verdict.Action == policy.Forward {
		t.Error("the flow was forwarded, want what the policy says without its name")
	}
}

// The goroutine that ends a kept flow is nobody's but the router's.
func TestAPanicAtTheEndOfAKeptFlowEndsNothingElse(t *testing.T) {
	w := newWorld(t, Config{Policy: decide(blocksBet), Ways: ways{"out": toDatagrams{datagramServer(t)}}})
	w.patience.quiet = time.Millisecond
	w.Ended = func(Flow) { panic("a bug") }
	f := w.datagrams(t, 4000)
	f.carries(t, "first")
	w.handled()
	w.Kill(func(Flow) bool { return true })
	<-f.over
	if n := w.Active(); n != 0 {
		t.Errorf("got %d flows, want none", n)
	}
}
