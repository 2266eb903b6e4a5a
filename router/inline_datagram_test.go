package router

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"penstock/policy"
	"penstock/policy/sniff"
)

// crossedDatagrams stands in for a stack that lets the packets of a datagram flow cross. It is the flow's Answerer, Passer and
// PassedDatagrams.
type crossedDatagrams struct {
	*client
	first   []byte       // the datagram that began the flow
	late    bool         // first comes later, and is sent by the test
	sending func([]byte) // is called by Send before anything else; may be nil

	mu    sync.Mutex // guards below
	watch *DatagramWatch
	left  [][]byte
	state string
	begun bool // the first has been taken: what comes now comes after it
}

func (c *crossedDatagrams) Pass(Carrier, Watch, func([]byte)) (PassedStream, error) {
	return nil, errors.ErrUnsupported
}

func (c *crossedDatagrams) PassDatagrams(_ Carrier, w DatagramWatch) (PassedDatagrams, error) {
	c.mu.Lock()
	c.watch, c.state = &w, "passed"
	c.mu.Unlock()
	if !c.late {
		c.send(c.first)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.begun = true
	return c, nil
}

// send does what a stack does with what the client sends.
func (c *crossedDatagrams) send(b []byte) {
	c.mu.Lock()
	passed := c.state == "passed"
	c.mu.Unlock()
	if passed && (c.watch.Read == nil || c.watch.Read(b, testManner)) {
		c.Send(b, testManner)
	}
}

// testManner is that of every datagram in these tests.
const testManner = 0x2e40

func (c *crossedDatagrams) Send(b []byte, manner uint32) {
	if manner != testManner {
		panic("it leaves in another manner than it came")
	}
	if c.sending != nil {
		c.sending(b)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left = append(c.left, bytes.Clone(b))
}

// end ends the flow, once.
func (c *crossedDatagrams) end(as string, err error) {
	c.mu.Lock()
	first := c.state == "passed"
	if first {
		c.state = as
	}
	c.mu.Unlock()
	if first {
		c.watch.Ended(err)
	}
}

func (c *crossedDatagrams) Refuse()                 { c.end("refused", nil) }
func (c *crossedDatagrams) Drop()                   { c.end("dropped", nil) }
func (c *crossedDatagrams) Abort()                  { c.end("aborted", nil) }
func (c *crossedDatagrams) Port() uint16            { return 4000 }
func (c *crossedDatagrams) Bytes() (in, out uint64) { return 0, 0 }

func (c *crossedDatagrams) is() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.begun && c.state == "passed" {
		return ""
	}
	return c.state
}

func (c *crossedDatagrams) sent() [][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.left
}

// initial reads the first datagrams of a QUIC client that asks for a host, and whose hello takes as many as the name says.
func initial(t *testing.T, name string) (list [][]byte) {
	t.Helper()
	files, err := filepath.Glob("testdata/" + name + ".[0-9]")
	if err != nil || len(files) == 0 {
		t.Fatalf("no datagrams of %s: %v", name, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, b)
	}
	return list
}

// What a client sends in datagrams that cross is judged before it leaves, on every port.
func TestNamesOfDatagramsThatCross(t *testing.T) {
	bad, good := initial(t, "bad.bet")[0], initial(t, "good.example")[0]
	bad2, good2 := initial(t, "bad.bet-two"), initial(t, "good.example-two")
	chosen := initial(t, "bad.bet-chosen")
	data, dns := []byte("\x40short header"), []byte("\x12\x34\x01\x00")
	for _, row := range []struct {
		name string
		send [][]byte
		left int // how many of them may leave, the first ones
		want string
		rule string
	}{
		{"an allowed hello, and what follows", [][]byte{good, data, data}, 3, "passed", "rest"},
		{"a blocked hello", [][]byte{bad, data}, 0, "refused", "no-gambling"},
		{"an allowed hello of two datagrams", append(good2[:2:2], data), 3, "passed", "rest"},
		{"a blocked hello of two datagrams", append(bad2[:2:2], data), 0, "refused", "no-gambling"},
		{"half a hello", good2[:1], 0, "passed", "rest"},
		{"half a hello, again and again", [][]byte{good2[0], good2[0], good2[0]}, 0, "passed", "rest"},
		{"half a hello behind others", [][]byte{dns, data, good2[0]}, 2, "passed", "rest"},
		{"a blocked hello behind an allowed one", [][]byte{good, data, bad, data}, 2, "refused", "no-gambling"},
		{"a blocked hello behind others", [][]byte{dns, dns, bad}, 2, "refused", "no-gambling"},
		{"a blocked hello around an allowed one", [][]byte{bad2[0], good, bad2[1], data}, 0, "refused", "no-gambling"},
		{"a blocked hello around an allowed one, its end with the server's connection ID", [][]byte{chosen[0], good, chosen[1], data}, 0, "refused", "no-gambling"},
		{"half a hello around an allowed one", [][]byte{chosen[0], good, data}, 0, "passed", "rest"},
		{"an allowed hello around another", [][]byte{good2[0], good, good2[1], data}, 4, "passed", "rest"},
		{"a protocol without names", [][]byte{dns, dns, data, nil}, 4, "passed", "rest"},
		{"an empty datagram", [][]byte{nil}, 1, "passed", "rest"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, Config{Policy: decide(blocksBet), Ways: carrying{ways{}}})
			c := &crossedDatagrams{client: newClient(t), first: row.send[0]}
			w.wg.Go(func() { w.Handle(context.Background(), datagramRequest(c, 4433)) })
			eventually(t, "the flow pass", func() bool { return c.is() != "" })
			for _, b := range row.send[1:] {
				c.send(b)
			}
			eventually(t, row.want, func() bool { return c.is() == row.want && len(c.sent()) >= row.left })
			if got := c.sent(); len(got) != row.left {
				t.Fatalf("%d datagrams have left, want %d", len(got), row.left)
			}
			for i, b := range c.sent() {
				if !bytes.Equal(b, row.send[i]) {
					t.Errorf("datagram %d has left as another, or in another order", i)
				}
			}
			c.Abort()
			if f := <-w.ended; f.Verdict.Rule != row.rule || f.Path != Inline {
				t.Errorf("got rule %q, %v, want %q, %v", f.Verdict.Rule, f.Path, row.rule, Inline)
			}
			eventually(t, "the memory for names given back", func() bool {
				w.heads.mu.Lock()
				defer w.heads.mu.Unlock()
				return w.heads.total == 0
			})
		})
	}
}

func datagramRequest(c *crossedDatagrams, port uint16) Request {
	return Request{
		Network: policy.UDP, Src: netip.MustParseAddrPort("10.77.0.2:40000"),
		Dst: netip.AddrPortFrom(netip.MustParseAddr("203.0.113.9"), port), Answer: c,
	}
}

func TestAHelloInDatagramsThatNeverEnds(t *testing.T) {
	w := newWorld(t, Config{Policy: decide(blocksBet), Ways: carrying{ways{}}})
	half := initial(t, "good.example-two")[0]
	c := &crossedDatagrams{client: newClient(t), first: half}
	w.wg.Go(func() { w.Handle(context.Background(), datagramRequest(c, 443)) })
	eventually(t, "the flow pass", func() bool { return c.is() != "" })
	for range 2*sniff.MaxBytes/len(half) + 1 {
		c.send(half)
	}
	eventually(t, "the flow end", func() bool { return c.is() == "aborted" })
	if n := len(c.sent()); n != 0 {
		t.Errorf("%d datagrams have left", n)
	}
	if f := <-w.ended; f.Err != "read: "+errEndless.Error() {
		t.Errorf("got the error %q, want %q", f.Err, errEndless)
	}
}

// Small datagrams behind half a hello cost more than their bytes.
func TestAHelloBehindWhichEmptyDatagramsCome(t *testing.T) {
	const most = 2 * sniff.MaxBytes / 32
	half := initial(t, "good.example-two")[0]
	w := newWorld(t, Config{Policy: decide(blocksBet), Ways: carrying{ways{}}})
	c := &crossedDatagrams{client: newClient(t), first: half}
	w.wg.Go(func() { w.Handle(context.Background(), datagramRequest(c, 443)) })
	eventually(t, "the flow pass", func() bool { return c.is() != "" })
	for range most {
		c.send(nil)
	}
	eventually(t, "the flow that crosses end", func() bool { return c.is() == "aborted" })
	if c.is() == "aborted" {
		<-w.ended
	}
	f := helloFilter{r: w.Router}
	_, err := f.Write(half)
	for range most {
		if err == nil {
			_, err = f.Write(nil)
		}
	}
	if !errors.Is(err, errNoMore) {
		t.Errorf("one that ends in penstock: got %v, want %v", err, errNoMore)
	}
	f.letGo()
	if n := w.heads.total; n != 0 {
		t.Errorf("%d bytes were not given back", n)
	}
}

// A client goes on while what was kept of its hello is sent.
// handshake is a Handshake packet, which nobody can read, of the client that has sent an Initial.
func handshake(initial []byte) []byte {
	scid := initial[6+initial[5]:]
	b := append([]byte{0xe0}, initial[1:5]...)
	b = append(append(b, 0), scid[:1+scid[0]]...)
	return append(append(b, 20), make([]byte, 20)...)
}

func TestADatagramWhileMuchIsSentDoesNotEndAnAllowedFlow(t *testing.T) {
	w := newWorld(t, Config{Policy: decide(blocksBet), Ways: carrying{ways{}}})
	hello := initial(t, "good.example-two")
	c := &crossedDatagrams{client: newClient(t), first: hello[0]}
	var once sync.Once
	c.sending = func([]byte) { once.Do(func() { c.send(make([]byte, sniff.MaxBytes)) }) }
	w.wg.Go(func() { w.Handle(context.Background(), datagramRequest(c, 443)) })
	eventually(t, "the flow pass", func() bool { return c.is() != "" })
	const repeats = 15
	for range repeats {
		c.send(hello[0])
	}
	c.send(hello[1])
	eventually(t, "all of the hello leave", func() bool { return len(c.sent()) >= repeats+2 })
	c.send(handshake(hello[0]))
	eventually(t, "the memory given back", func() bool { w.heads.mu.Lock(); defer w.heads.mu.Unlock(); return w.heads.total == 0 })
	c.send([]byte("\x40more"))
	if got := c.is(); got != "passed" {
		t.Errorf("the flow is %s", got)
	}
}

// The first datagram may come when the flow has passed already, and be as large as any.
func TestALargeFirstDatagramThatComesLaterLeaves(t *testing.T) {
	w := newWorld(t, Config{Policy: decide(blocksBet), Ways: carrying{ways{}}})
	c := &crossedDatagrams{client: newClient(t), late: true}
	w.Handle(context.Background(), datagramRequest(c, 7)) // it returns when the flow has passed
	large := bytes.Repeat([]byte{0x60}, 60000)
	c.send(large)
	eventually(t, "the datagram leave, or the flow end", func() bool { return len(c.sent()) == 1 || c.is() != "passed" })
	if got := c.is(); got != "passed" || !bytes.Equal(c.sent()[0], large) {
		t.Errorf("the flow is %s", got)
	}
	eventually(t, "the memory given back", func() bool { w.heads.mu.Lock(); defer w.heads.mu.Unlock(); return w.heads.total == 0 })
}

func TestWhatWasKeptIsNotHeldOnceItHasLeft(t *testing.T) {
	w := newWorld(t, Config{Policy: decide(blocksBet), Ways: carrying{ways{}}})
	hello := initial(t, "good.example-two")
	c := &crossedDatagrams{client: newClient(t), first: hello[0]}
	var freed atomic.Int32
	c.sending = func(b []byte) { runtime.AddCleanup(&b[0], func(struct{}) { freed.Add(1) }, struct{}{}) }
	w.wg.Go(func() { w.Handle(context.Background(), datagramRequest(c, 443)) })
	eventually(t, "the flow pass", func() bool { return c.is() != "" })
	c.send(hello[1])
	eventually(t, "the hello leave, and its memory", func() bool {
		runtime.GC()
		return freed.Load() == 2
	})
	c.Abort()
	<-w.ended
}

// To describe a client can take long: which program of this machine it is, the kernel is asked. Packets of others wait behind.
func TestReadingADatagramThatCrossesDoesNotWaitForAJudgement(t *testing.T) {
	let, slow := make(chan struct{}), new(atomic.Bool)
	w := newWorld(t, Config{Ways: carrying{ways{}}, Policy: decide(func(f policy.Flow) policy.Verdict {
		if slow.Load() {
			<-let
		}
		return blocksBet(f)
	})})
	c := &crossedDatagrams{client: newClient(t), first: initial(t, "good.example")[0]}
	w.wg.Go(func() { w.Handle(context.Background(), datagramRequest(c, 443)) })
	eventually(t, "the hello leave", func() bool { return len(c.sent()) == 1 })
	slow.Store(true)
	read := make(chan struct{})
	go func() {
		c.send(append([]byte{0xc0, 0xfa, 0xce, 0xb0, 0x0c}, make([]byte, 1195)...)) // may be another hello, of a version of its own
		close(read)
	}()
	select {
	case <-read:
	case <-time.After(5 * time.Second):
		t.Error("it waits")
	}
	close(let)
	eventually(t, "the flow end", func() bool { return c.is() == "refused" })
	if f := <-w.ended; len(c.sent()) != 1 || f.Verdict.Action != policy.Refuse {
		t.Errorf("%d datagrams have left, under %v", len(c.sent()), f.Verdict.Action)
	}
}

// A flow that got only an ICMP error was dialled all the same, as one that ends in penstock.
func TestAnErrorOfDatagramsThatCrossIsNoFailedDial(t *testing.T) {
	reg := prometheus.NewRegistry()
	w := newWorld(t, Config{Policy: decide(blocksBet), Ways: carrying{ways{}}, Metrics: NewMetrics(reg)})
	c := &crossedDatagrams{client: newClient(t), first: []byte("x")}
	w.wg.Go(func() { w.Handle(context.Background(), datagramRequest(c, 4433)) })
	eventually(t, "the flow pass", func() bool { return c.is() != "" })
	c.end("answered with an error", syscall.ECONNREFUSED)
	if f := <-w.ended; f.Err != "relay: connection refused" {
		t.Errorf("got %q", f.Err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			if f.GetName() == "penstock_dial_errors_total" && m.Counter.GetValue() > 0 {
				t.Errorf("a failed dial was counted: %v", m)
			}
		}
	}
}

func TestAKilledFlowOfDatagramsEnds(t *testing.T) {
	w := newWorld(t, Config{Policy: decide(blocksBet), Ways: carrying{ways{}}})
	c := &crossedDatagrams{client: newClient(t), first: []byte("x")}
	w.wg.Go(func() { w.Handle(context.Background(), datagramRequest(c, 4433)) })
	eventually(t, "the flow pass", func() bool { return len(c.sent()) == 1 })
	w.Kill(func(Flow) bool { return true })
	if got := c.is(); got != "aborted" {
		t.Errorf("got %s, want aborted", got)
	}
	<-w.ended
	if n := w.mappings.live.Len(); n != 0 {
		t.Errorf("%d mappings are left", n)
	}
}

// A QUIC connection to a host that a new policy blocks is ended, and does not go on as a flow that shows no name: its client sends the next
// packet from the same port.
func TestAKilledQUICConnectionDoesNotGoOn(t *testing.T) {
	var blocked atomic.Bool
	p := decide(func(f policy.Flow) policy.Verdict {
		v := policy.Verdict{Action: policy.Forward, Egress: "out", Rule: "rest", Later: policy.LaterBlock}
		for _, n := range f.Names {
			if n.Host == "good.example" && blocked.Load() {
				return policy.Verdict{Rule: "now-blocked"}
			}
		}
		if f.Sniffed {
			v.Later = policy.LaterNothing
		}
		return v
	})
	now := time.Now()
	w := newWorld(t, Config{Policy: p, Ways: carrying{ways{}}, Clock: func() time.Time { return now }})
	c := &crossedDatagrams{client: newClient(t), first: initial(t, "good.example")[0]}
	w.wg.Go(func() { w.Handle(context.Background(), datagramRequest(c, 443)) })
	eventually(t, "the hello leave", func() bool { return len(c.sent()) == 1 })
	blocked.Store(true)
	changed := w.Rejudge(nil, p)
	if len(changed) != 1 {
		t.Fatalf("got %d changed flows, want 1", len(changed))
	}
	w.Kill(func(f Flow) bool { return f.ID == changed[0].Flow.ID })
	eventually(t, "the flow end", func() bool { return c.is() == "aborted" })
	<-w.ended
	next := func(first []byte, left int) {
		t.Helper()
		again := &crossedDatagrams{client: newClient(t), first: first}
		w.Handle(context.Background(), datagramRequest(again, 443))
		if n := len(again.sent()); n != left {
			t.Errorf("%.20q after its flow was killed: %d datagrams left, want %d", first, n, left)
		}
		again.Abort()
		<-w.ended
	}
	short := []byte("\x40short header of the same connection")
	next(short, 0)
	blocked.Store(false) // by the next policy
	next(short, 1)
	blocked.Store(true)
	now = now.Add(killedFor)
	next(short, 0)
	now = now.Add(1)
	next(short, 1)
}
