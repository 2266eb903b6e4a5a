package transit

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"penstock/stack/link"
	"penstock/stack/packet"
)

// gateModel is a flow that is read, and what a naive observer knows of it. Positions are those of bytes in the client's stream.
type gateModel struct {
	*track
	permitted int          // how many bytes may leave; all of them if opened
	opened    bool         // Open was called
	acked     int          // what the server may say that it has
	left      map[int]bool // what has left
	skipped   map[int]bool // what may leave as anything, and need not
}

func newGateModel(t testing.TB, c Config) *gateModel {
	m := &gateModel{track: newTrack(t, c, true), left: make(map[int]bool), skipped: make(map[int]bool)}
	m.open()
	return m
}

// canonical is what the client means to send at a position.
func canonical(pos int) byte { return byte(pos*7 + pos>>8) }

// data is what a segment carries. Variant 0 is what the client means to send.
func data(pos, n int, variant byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = canonical(pos+i) ^ variant
	}
	return b
}

// send gives the flow a segment of the client's, and checks what is read and what leaves. size makes it a super-packet.
func (m *gateModel) send(pos int, flags byte, size int, data []byte) {
	m.t.Helper()
	s := m.up(m.ISN+1+uint32(pos), serverISN+1, flags, data...)
	var meta link.Meta
	b := s.bytes()
	if size > 0 {
		meta, b = s.unfinished(size)
	}
	known := len(m.read)
	p := parsed(m.t, meta, b)
	step := m.FromClient(meta, p, 0)
	if n := len(m.read) - known; n > 0 {
		if m.opened || pos > known || pos+len(data) <= known || !bytes.Equal(m.read[known:], data[known-pos:]) {
			m.t.Fatalf("%d bytes at %d, %d read: the reader got %d bytes at %d", len(data), pos, known, n, known)
		}
	}
	switch step {
	case Cross:
		m.leaves(meta, p.Raw)
	case Stay:
	default:
		m.t.Fatalf("got step %d for data", step)
	}
	m.sweep()
}

// sweep looks at what the flow has sent by itself.
func (m *gateModel) sweep() {
	m.t.Helper()
	for _, s := range m.toServer {
		m.leaves(s.m, s.b)
	}
	m.toServer = nil
}

// leaves checks a packet that leaves.
func (m *gateModel) leaves(meta link.Meta, b []byte) {
	m.t.Helper()
	for _, p := range finished(m.t, meta, b) {
		checkCrossed(m.t, m.Config, true, p.Raw)
		s, _ := parse(p)
		at := int(int32(s.seq - m.ISN - 1))
		for i, v := range s.payload {
			pos := at + i
			switch {
			case !m.opened && pos >= m.permitted:
				m.t.Fatalf("byte %d left, only %d are permitted", pos, m.permitted)
			case m.skipped[pos]:
			case pos >= m.acked && pos < len(m.read) && v != m.read[pos]:
				m.t.Fatalf("byte %d left as %#x, it was read as %#x", pos, v, m.read[pos])
			}
			m.left[pos] = true
		}
	}
}

func (m *gateModel) permit(n int) {
	if !m.opened {
		m.permitted = min(m.permitted+max(n, 0), len(m.read))
	}
	m.Permit(n)
	m.sweep()
}

// skip has the next bytes count as read and permitted, if the flow lets them pass unread.
func (m *gateModel) skip(n int) {
	m.t.Helper()
	if !m.Skip(n) {
		return
	}
	if m.opened || m.permitted < len(m.read) {
		m.t.Fatalf("%d bytes are skipped, of %d that were read %d are permitted, opened %v", n, len(m.read), m.permitted, m.opened)
	}
	for range n {
		m.left[len(m.read)], m.skipped[len(m.read)] = true, true
		m.read = append(m.read, 0)
	}
	m.permitted = len(m.read)
}

func (m *gateModel) openUp() {
	m.opened = true
	m.Open()
	m.sweep()
}

// ack is an acknowledgement of the server's, true or not.
func (m *gateModel) ack(pos int) {
	most := m.permitted
	if m.opened {
		most = len(m.read)
	}
	m.acked = max(m.acked, min(pos, most))
	m.want("ACK", Cross, m.down(serverISN+1, m.ISN+1+uint32(pos), flagACK))
	m.sweep()
}

// settle checks that what is permitted has left: at once if that is all, and otherwise when the client has repeated it.
func (m *gateModel) settle() {
	m.t.Helper()
	if m.opened || m.permitted == len(m.read) {
		m.mustHaveLeft("before the client repeated anything", len(m.read))
	}
	known := len(m.read)
	for pos := m.acked; pos < known; {
		n := min(100, known-pos)
		if pos < m.permitted {
			n = min(n, m.permitted-pos)
		}
		m.send(pos, flagACK, 0, bytes.Clone(m.read[pos:pos+n]))
		pos += n
	}
	if m.opened {
		m.mustHaveLeft("after the client repeated all", known)
		return
	}
	m.mustHaveLeft("after the client repeated all", m.permitted)
	m.permit(len(m.read))
	m.mustHaveLeft("after all was permitted", len(m.read))
}

func (m *gateModel) mustHaveLeft(when string, n int) {
	m.t.Helper()
	for pos := m.acked; pos < n; pos++ {
		if !m.left[pos] {
			m.t.Fatalf("%s: byte %d of %d has not left; permitted %d, opened %v, acknowledged %d, read %d",
				when, pos, n, m.permitted, m.opened, m.acked, len(m.read))
		}
	}
}

// play lets a client, a server and a reader do what the bytes say, four bytes at a time.
func (m *gateModel) play(ops []byte) {
	for ; len(ops) >= 4; ops = ops[4:] {
		kind, a, b, c := ops[0], ops[1], ops[2], ops[3]
		known := len(m.read)
		n := int(b)
		if c&1 > 0 {
			n *= 40
		}
		var flags byte = flagACK
		if c&2 > 0 {
			flags |= flagPSH
		}
		if c&0x1c == 0x1c {
			flags |= flagFIN
		}
		size := 0
		if c&0x20 > 0 {
			size = 20 + int(a)*5
		}
		variant := byte(0)
		if c&0x40 > 0 {
			variant = c>>3 | 1
		}
		switch kind % 12 {
		case 0, 1:
			m.send(known, flags, size, data(known, n, variant))
		case 2, 3: // overlaps what was read, or leaves a gap
			pos := known + int(int8(a))
			m.send(pos, flags, size, data(pos, n, variant))
		case 4: // repeats what was read, whole or cut
			if known > 0 {
				pos := int(a) * known / 256
				m.send(pos, flags, size, data(pos, min(n, known-pos), variant))
			}
		case 5: // far off
			pos := (int(a) - 128) << 23
			m.send(min(pos, -300), flags, size, nil)
			if pos > 0 {
				m.send(pos, flags, size, data(pos, n, variant))
			}
		case 6, 7:
			m.permit(n)
		case 8:
			m.permit(known) // of everything
		case 9:
			m.ack(int(a) * known / 200) // now and then of more than there is
		case 10:
			m.Repeat()
			m.sweep()
			m.want("data of the server's", Cross, m.down(serverISN+1+uint32(a), m.ISN+1, flagACK, make([]byte, b)...))
		case 11:
			switch {
			case a < 20:
				m.openUp()
			case a < 100:
				m.skip(n)
			}
		}
	}
	m.settle()
	m.Reset()
	m.toServer = m.toServer[:0]
	m.Permit(1 << 20)
	m.Open()
	if got, _ := m.give(m.up(m.ISN+1, serverISN+1, flagACK, 'x')); got != Stay || len(m.toServer) > 0 {
		m.t.Fatalf("after Reset: got step %d and %d packets", got, len(m.toServer))
	}
}

func TestTheGateAgreesWithAnObserver(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	read, repeated := 0, 0
	for i := range 400 {
		c := families[i%2]
		c.ISN = isns[rng.IntN(len(isns))]
		m := newGateModel(t, c)
		m.play(random(rng, 4*(1+rng.IntN(120))))
		read += len(m.read)
		repeated += len(m.left)
	}
	if read < 1<<18 || repeated < 1<<18 {
		t.Errorf("%d bytes were read and %d left: the test tries too little", read, repeated)
	}
}

func FuzzGate(f *testing.F) {
	for i := range byte(12) {
		f.Add(uint32(i), []byte{0, 0, 100, 0, 0, 0, 50, 1, 7, 0, 30, 0, i, 3, 60, 0x41, 2, 0xf0, 80, 0x20, 9, 90, 0, 0, i, 250, 7, 0x1f})
	}
	f.Fuzz(func(t *testing.T, isn uint32, ops []byte) {
		c := families[isn%2]
		c.ISN = isn
		newGateModel(t, c).play(ops[:min(len(ops), 1000)])
	})
}

// toServer is an Owner that is told of what leaves for the server alone.
type toServer func(b []byte)

func (f toServer) ToServer(_ link.Meta, b []byte) { f(b) }
func (toServer) ToClient(link.Meta, []byte)       {}
func (toServer) Opened()                          {}
func (toServer) Heard()                           {}
func (toServer) Carries()                         {}
func (toServer) Ended(Result)                     {}

// TestWhatWaitsLeavesInOrder sends in order, with repetitions, while another goroutine permits what was read.
func TestWhatWaitsLeavesInOrder(t *testing.T) {
	const size = 100 << 10
	for _, end := range []string{"permitted", "opened", "reset"} {
		var mu sync.Mutex // guards below
		next, known := 0, 0
		news := make(chan struct{}, 1)
		out := func(b []byte) {
			p, fault := packet.Parse(link.Meta{}, b)
			if fault != "" {
				t.Errorf("%s: a packet is %s", end, fault)
				return
			}
			s, _ := parse(&p)
			if s.has(flagRST) {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if pos := int(s.seq - 1); pos > next {
				t.Errorf("%s: byte %d left before byte %d", end, pos, next)
			} else {
				next = max(next, pos+len(s.payload))
			}
		}
		c := families[0]
		c.MTU, c.Owner = 1420, toServer(out)
		c.Read = func(b []byte) {
			mu.Lock()
			known += len(b)
			mu.Unlock()
			select {
			case news <- struct{}{}:
			default:
			}
		}
		f := New(c, 0)
		w := &track{Flow: f, t: t}
		w.give(w.up(0, 0, flagSYN))
		w.give(w.down(serverISN, 1, flagSYN|flagACK))
		done := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			given := 0
			for {
				select {
				case <-news:
				case <-done:
					return
				}
				mu.Lock()
				n := known - given
				mu.Unlock()
				f.Permit(n / 2)
				f.Permit(n - n/2)
				if given += n; given > size/2 {
					switch end {
					case "opened":
						f.Open()
					case "reset":
						f.Reset()
					}
				}
			}
		})
		for pos := 0; pos < size; { // as a client that sends 4 segments again and again until the server has them
			for i := range 4 {
				p := w.up(1+uint32(pos+i*100), serverISN+1, flagACK, data(pos+i*100, 100, 0)...).packet(t)
				if f.FromClient(link.Meta{}, p, 0) == Cross {
					out(p.Raw)
				}
			}
			mu.Lock()
			pos = max(pos, next/100*100)
			mu.Unlock()
			w.give(w.down(serverISN+1, 1+uint32(pos), flagACK))
			if f.Over() {
				break
			}
		}
		close(done)
		wg.Wait()
		if end != "reset" && next < size {
			t.Errorf("%s: %d bytes left, want %d", end, next, size)
		}
	}
}

func TestAGateHoldsABoundedAmount(t *testing.T) {
	for name, send := range map[string]func(m *gateModel, i int){
		"the same bytes from ever earlier on": func(m *gateModel, i int) {
			m.send(max(60000-i, 0), flagACK, 1000, data(max(60000-i, 0), min(i, 60000), 0))
		},
		"one byte more each time": func(m *gateModel, i int) { m.send(0, flagACK, 1000, data(0, 1+i, 0)) },
		"single bytes":            func(m *gateModel, i int) { m.send(i, flagACK, 0, data(i, 1, 0)) },
		"FINs everywhere":         func(m *gateModel, i int) { m.send(60000-i, flagACK|flagFIN, 0, nil) },
		"options of every length": func(m *gateModel, i int) {
			m.give(seg{src: m.Client, dst: m.Server, seq: 1, flags: flagACK, opts: make([]byte, i%11*4), data: data(0, 1000, 0)})
		},
		"much": func(m *gateModel, i int) { m.send(i*1000, flagACK, 0, data(i*1000, 1000, 0)) },
	} {
		m := newGateModel(t, families[0])
		if name[0] == 't' || name[0] == 'F' {
			for pos := 0; pos < 60000; pos += 10000 {
				m.send(pos, flagACK, 1000, data(pos, 10000, 0))
			}
		}
		for i := range 3000 {
			send(m, i)
		}
		bytes := 0
		for _, h := range m.gate.held {
			bytes += cap(h.b) + heldCost
		}
		if bytes > 2*maxHeld || len(m.gate.seen) > maxSeen {
			t.Errorf("%s: %d bytes in %d packets wait, and %d are remembered", name, bytes, len(m.gate.held), len(m.gate.seen))
		}
		m.settle()
		if m.gate.kept != 0 || len(m.gate.held) != 0 {
			t.Errorf("%s: %d packets of cost %d are left", name, len(m.gate.held), m.gate.kept)
		}
	}
}

// TestWhatIsOwedHasNoHole permits half of a packet before the flow begins to answer for what it holds.
func TestWhatIsOwedHasNoHole(t *testing.T) {
	m := newGateModel(t, families[0])
	m.send(0, flagACK, 0, data(0, 100, 0))
	m.permit(50)
	for pos := 100; pos < 600; pos += 100 {
		m.send(pos, flagACK, 0, data(pos, 100, 0))
	}
	if len(m.toClient) == 0 {
		t.Fatal("the client waits for an acknowledgement")
	}
	for _, s := range m.toClient {
		checkCrossed(t, m.Config, false, s.b)
		if h, _ := parse(parsed(t, s.m, s.b)); h.flags != flagACK || after(h.ack, 601) {
			t.Errorf("the client got flags %#x and an ACK of %d", h.flags, h.ack)
		}
	}
	m.permit(600)
	m.mustHaveLeft("after all was permitted", 600)
}

// TestWhatIsOwedFitsTheWay has a flow answer for bytes whose segments turn out to be too big.
func TestWhatIsOwedFitsTheWay(t *testing.T) {
	const mtu = 1280
	for _, c := range families {
		longest := 0
		c.MTU, c.Owner = 1500, toServer(func(b []byte) { longest = max(longest, len(b)) })
		read := 0
		c.Read = func(b []byte) { read += len(b) }
		f := New(c, 0)
		w := &track{Flow: f, t: t}
		w.give(w.up(0, 0, flagSYN))
		w.give(w.down(serverISN, 1, flagSYN|flagACK))
		const size = 1400
		for pos := 0; pos < 5*size; pos += size {
			f.FromClient(link.Meta{}, w.up(1+uint32(pos), serverISN+1, flagACK, data(pos, size, 0)...).packet(t), 0)
		}
		f.TooBig(mtu)
		f.Permit(read)
		if longest == 0 || longest > mtu {
			t.Errorf("%v: the longest packet has %d bytes, want %d at most", c.Server, longest, mtu)
		}
		f.TooBig(0) // a lie
		longest = 0
		f.Repeat()
		f.Repeat()
		if longest < 536 {
			t.Errorf("%v: after an error that says 0, the longest packet has %d bytes", c.Server, longest)
		}
	}
}

func TestPermitIsOfWhatWasRead(t *testing.T) {
	m := newGateModel(t, families[0])
	m.permit(1000) // of nothing
	m.permit(-1)
	m.send(0, flagACK, 0, data(0, 10, 0))
	if len(m.left) > 0 {
		t.Errorf("%d bytes left that were not read when they were permitted", len(m.left))
	}
	m.permit(5)
	m.permit(-5)
	m.send(0, flagACK, 0, data(0, 5, 0))
	m.permit(1 << 40)
	m.send(10, flagACK, 0, data(10, 10, 0))
	m.settle()
}

func TestWhatIsSkippedPassesUnread(t *testing.T) {
	m := newGateModel(t, families[0])
	m.send(0, flagACK, 0, data(0, 100, 0))
	m.skip(1000)
	if len(m.skipped) > 0 {
		t.Fatal("bytes are skipped although what was read has not been permitted")
	}
	m.permit(100)
	m.skip(1000)
	if len(m.skipped) != 1000 {
		t.Fatalf("%d bytes are skipped, want 1000", len(m.skipped))
	}
	left := func(pos, n int) bool {
		clear(m.left)
		m.send(pos, flagACK, 0, data(pos, n, 7))
		return m.left[pos] && m.left[pos+n-1]
	}
	if !left(600, 200) || !left(300, 100) || !left(1000, 100) {
		t.Error("what is skipped waits for what comes before it")
	}
	if m.send(50, flagACK, 0, data(50, 100, 7)); m.left[50] {
		t.Error("other bytes left than were read")
	}
	if left(1050, 100) {
		t.Error("what follows is read while the server does not have what was read before")
	}
	m.ack(100)
	early := left(1050, 100)
	m.permit(50)
	if early || len(m.read) != 1150 || !left(1050, 100) {
		t.Errorf("got %d bytes read, want what follows to be read, and to leave once it is permitted", len(m.read))
	}
}

func TestTheWindowOfWhatIsSkippedIsNotClamped(t *testing.T) {
	m := newGateModel(t, families[0])
	m.send(0, flagACK, 0, data(0, 100, 0))
	m.permit(100)
	m.skip(1 << 20)
	window := func(acked int) int {
		s := m.down(serverISN+1, m.ISN+1+uint32(acked), flagACK)
		s.window = 65535
		p := parsed(t, link.Meta{}, s.bytes())
		if got := m.FromServer(link.Meta{}, p, 0); got != Cross {
			t.Fatalf("got step %d", got)
		}
		return int(binary.BigEndian.Uint16(p.Body[atWindow:]))
	}
	for _, acked := range []int{0, 100, 1000, 100 + 1<<20 - 65535} {
		if got := window(acked); got != 65535 {
			t.Errorf("%d acknowledged: got window %d, want 65535", acked, got)
		}
	}
	for _, acked := range []int{100 + 1<<20 - maxWindow, 100 + 1<<20} {
		if got := window(acked); got != maxWindow {
			t.Errorf("%d acknowledged: got window %d, want %d", acked, got, maxWindow)
		}
	}
}

func TestAFINWaitsForWhatComesBeforeIt(t *testing.T) {
	for _, tt := range []struct {
		name string
		send func(m *gateModel)
	}{
		{"alone", func(m *gateModel) {
			m.send(0, flagACK, 0, data(0, 12, 0))
			m.send(12, flagACK|flagFIN, 0, nil)
			m.send(12, flagACK|flagFIN, 0, nil)
		}},
		{"with the data", func(m *gateModel) { m.send(0, flagACK|flagFIN, 0, data(0, 12, 0)) }},
		{"with the data repeated", func(m *gateModel) {
			m.send(0, flagACK, 0, data(0, 12, 0))
			m.send(0, flagACK|flagFIN, 0, data(0, 12, 0))
		}},
	} {
		m := newGateModel(t, families[0])
		tt.send(m)
		if len(m.left) > 0 || m.Over() {
			t.Errorf("%s: something left", tt.name)
		}
		m.Permit(12)
		fins := 0
		for _, s := range m.toServer {
			if h, _ := parse(parsed(t, s.m, s.b)); h.has(flagFIN) {
				fins++
			}
		}
		if fins != 1 {
			t.Errorf("%s: %d packets with FIN left, want 1", tt.name, fins)
		}
		m.permitted = 12
		m.sweep()
		m.want("the server's FIN", Cross, m.down(serverISN+1, 14, flagACK|flagFIN))
		m.want("ACK", Cross, m.up(14, serverISN+2, flagACK))
		m.counts(tt.name, 1, 1)
	}
}

func TestAGateGoesWhenItIsNotNeeded(t *testing.T) {
	m := newGateModel(t, families[0])
	m.send(0, flagACK, 0, data(0, 100, 0))
	m.permit(50)
	m.ack(100) // a lie
	if m.gate == nil || m.gate.base != 51 {
		t.Fatal("an acknowledgement of bytes that were not sent was believed")
	}
	m.openUp()
	m.send(0, flagACK, 0, data(0, 150, 9)) // other bytes
	m.send(100, flagACK, 0, data(100, 50, 0))
	m.ack(100)
	if m.gate != nil {
		t.Error("the gate is there although the server has everything that was read")
	}
	if got := len(m.read); got != 100 {
		t.Errorf("got %d bytes read, want 100", got)
	}
	keys := 0
	for pos := range m.left {
		if pos >= 0 && pos < 150 {
			keys++
		}
	}
	if keys != 150 || slices.Contains([]bool{m.left[99]}, false) {
		t.Errorf("%d bytes left, want 150", keys)
	}
}
