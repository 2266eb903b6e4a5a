package transit

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"penstock/stack/link"
	"penstock/stack/packet"
)

// merged is what a Merger sends.
type merged struct {
	k int
	m link.Meta
	b []byte
}

// merge gives a Merger packets, each of the connection whose number stands beside it, and flushes it.
func merge(t testing.TB, ks []int, pkts [][]byte) (out []merged) {
	t.Helper()
	g := Merger[int]{Send: func(k int, m link.Meta, pieces [][]byte) { out = append(out, merged{k, m, bytes.Join(pieces, nil)}) }}
	for i, b := range pkts {
		g.Add(ks[i], parsed(t, link.Meta{}, bytes.Clone(b)))
	}
	g.Flush()
	n := len(out)
	if g.Flush(); len(out) != n {
		t.Errorf("a second Flush sent %d packets", len(out)-n)
	}
	return out
}

// plain is a packet without what merging may change: IPv4 identification and checksum.
func plain(b []byte) string {
	b = bytes.Clone(b)
	if b[0]>>4 == 4 {
		b[4], b[5], b[10], b[11] = 0, 0, 0, 0
	}
	return string(b)
}

// checkMerged checks that what was merged and then cut is what was given, connection by connection.
func checkMerged(t testing.TB, ks []int, pkts [][]byte) (out []merged) {
	t.Helper()
	want, got := map[int][]string{}, map[int][]string{}
	for i, b := range pkts {
		want[ks[i]] = append(want[ks[i]], plain(b))
	}
	out = merge(t, ks, pkts)
	for _, o := range out {
		for _, p := range finished(t, o.m, o.b) {
			got[o.k] = append(got[o.k], plain(p.Raw))
		}
	}
	for k := range want {
		if !slices.Equal(got[k], want[k]) {
			for i := range want[k] {
				if i >= len(got[k]) || got[k][i] != want[k][i] {
					t.Fatalf("connection %d: got %d packets, want %d; number %d was %x", k, len(got[k]), len(want[k]), i, want[k][i])
				}
			}
			t.Fatalf("connection %d: got %d packets, want %d", k, len(got[k]), len(want[k]))
		}
	}
	return out
}

func TestWhatWasMergedIsCutIntoTheSame(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	fewer := 0
	for range 300 {
		type flow struct {
			seg
			size int
		}
		flows := make([]flow, 1+rng.IntN(12))
		for i := range flows {
			c := families[rng.IntN(2)]
			flows[i] = flow{seg{src: c.Server, dst: c.Client, seq: rng.Uint32(), ack: rng.Uint32(), window: 500, opts: make([]byte, 4*rng.IntN(4))}, 1 + rng.IntN(1400)}
			if rng.IntN(4) == 0 {
				flows[i].seq = -uint32(rng.IntN(5000)) // wraps
			}
		}
		var ks []int
		var pkts [][]byte
		for range 1 + rng.IntN(300) {
			k := rng.IntN(len(flows))
			f := &flows[k]
			f.flags = flagACK
			n := f.size
			switch rng.IntN(30) {
			case 0:
				n = rng.IntN(f.size + 1)
			case 1:
				f.flags |= flagPSH
			case 2:
				f.flags |= flagFIN
			case 3:
				f.flags |= []byte{0x20, 0x40, 0x80, flagRST, flagSYN}[rng.IntN(5)]
			case 4:
				f.ack++
			case 5:
				f.window++
			case 6:
				f.tos = byte(rng.IntN(256))
			case 7:
				f.ttl = byte(1 + rng.IntN(255))
			case 8:
				f.opts = random(rng, 4*rng.IntN(11))
			case 9:
				f.seq += uint32(rng.IntN(3)) - 1
			case 10:
				f.size = 1 + rng.IntN(1400)
			}
			f.data = random(rng, n)
			ks, pkts = append(ks, k), append(pkts, f.bytes())
			f.seq += uint32(n)
		}
		fewer += len(pkts) - len(checkMerged(t, ks, pkts))
	}
	if fewer < 1000 {
		t.Errorf("only %d packets were saved: the test tries too little", fewer)
	}
}

func TestSegmentsAreMerged(t *testing.T) {
	for _, c := range families {
		for _, tt := range []struct {
			name        string
			size, count int
			want        []int // segments in each super-packet
		}{
			{"one", 1000, 1, []int{1}},
			{"two", 1000, 2, []int{2}},
			{"as many as one holds", 1000, maxPieces, []int{maxPieces}},
			{"one more", 1000, maxPieces + 1, []int{maxPieces, 1}},
			{"as long as one may be", 1448, 50, []int{45, 5}},
			{"bytes", 1, 100, []int{48, 48, 4}},
		} {
			var ks []int
			var pkts [][]byte
			for i := range tt.count {
				ks = append(ks, 1)
				pkts = append(pkts, seg{src: c.Server, dst: c.Client, seq: uint32(i * tt.size), flags: flagACK, data: make([]byte, tt.size)}.bytes())
			}
			var got []int
			for _, o := range checkMerged(t, ks, pkts) {
				n := len(finished(t, o.m, o.b))
				got = append(got, n)
				if n > 1 && (o.m.GSO == link.GSONone || !o.m.Partial || len(o.b) > link.MaxPacket || !isSound(o.m, parsed(t, o.m, o.b))) {
					t.Errorf("%s: got %+v for %d segments of %d bytes", tt.name, o.m, n, len(o.b))
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("%v, %s: got %v, want %v", c.Client, tt.name, got, tt.want)
			}
		}
	}
}

func TestWhatMustStayApartIsNotMerged(t *testing.T) {
	for _, c := range families {
		first := seg{src: c.Server, dst: c.Client, seq: 1000, ack: 7, flags: flagACK, window: 9, data: make([]byte, 100), opts: []byte{1, 1, 1, 1}, tos: 2}
		next := first
		next.seq += 100
		for name, change := range map[string]func(a, b *seg){
			"a gap":                         func(_, b *seg) { b.seq++ },
			"an overlap":                    func(_, b *seg) { b.seq-- },
			"a repetition":                  func(a, b *seg) { b.seq = a.seq },
			"a longer one":                  func(_, b *seg) { b.data = make([]byte, 101) },
			"behind PSH":                    func(a, _ *seg) { a.flags |= flagPSH },
			"FIN":                           func(_, b *seg) { b.flags |= flagFIN },
			"behind FIN":                    func(a, b *seg) { a.flags |= flagFIN; b.seq++ },
			"SYN":                           func(_, b *seg) { b.flags |= flagSYN },
			"RST":                           func(_, b *seg) { b.flags |= flagRST },
			"URG":                           func(_, b *seg) { b.flags |= 0x20 },
			"ECE":                           func(_, b *seg) { b.flags |= 0x40 },
			"CWR":                           func(_, b *seg) { b.flags |= 0x80 },
			"both CWR":                      func(a, b *seg) { a.flags |= 0x80; b.flags |= 0x80 },
			"no ACK":                        func(_, b *seg) { b.flags = 0 },
			"another acknowledgement":       func(_, b *seg) { b.ack++ },
			"another window":                func(_, b *seg) { b.window++ },
			"another option":                func(_, b *seg) { b.opts = []byte{1, 1, 1, 0} },
			"another number of options":     func(_, b *seg) { b.opts = nil },
			"another DSCP":                  func(_, b *seg) { b.tos = 0x12 },
			"congestion experienced":        func(_, b *seg) { b.tos = 3 },
			"another hop count":             func(_, b *seg) { b.ttl = 63 },
			"nothing but an ACK":            func(_, b *seg) { b.data = nil },
			"behind nothing but an ACK":     func(a, b *seg) { a.data = nil; b.seq = a.seq },
			"behind one that was the last":  func(a, b *seg) { a.flags |= flagPSH | flagFIN },
			"a whole one behind a reserved": func(_, b *seg) { b.flags |= 0x40 | flagPSH },
		} {
			a, b := first, next
			change(&a, &b)
			if out := checkMerged(t, []int{1, 1}, [][]byte{a.bytes(), b.bytes()}); len(out) != 2 {
				t.Errorf("%v, %s: got %d packets, want 2", c.Client, name, len(out))
			}
		}
		if out := checkMerged(t, []int{1, 2}, [][]byte{first.bytes(), next.bytes()}); len(out) != 2 {
			t.Errorf("two connections: got %d packets, want 2", len(out))
		}
		short := next
		short.data = short.data[:50]
		last := short
		last.seq += 50
		if out := checkMerged(t, []int{1, 1, 1}, [][]byte{first.bytes(), short.bytes(), last.bytes()}); len(out) != 2 {
			t.Errorf("behind a shorter one: got %d packets, want 2", len(out))
		}
	}
	// IPv4 flags, and options, which a flow does not let cross but a Merger may get.
	c := families[0]
	first := seg{src: c.Server, dst: c.Client, flags: flagACK, data: make([]byte, 100)}
	next := first
	next.seq += 100
	mayBeCut := next.bytes()
	mayBeCut[6] = 0
	mayBeCut[10], mayBeCut[11] = 0, 0
	binary.BigEndian.PutUint16(mayBeCut[10:], link.Checksum(mayBeCut[:20], 0))
	if out := checkMerged(t, []int{1, 1}, [][]byte{first.bytes(), mayBeCut}); len(out) != 2 {
		t.Errorf("another DF: got %d packets, want 2", len(out))
	}
	withOption := func(s seg) []byte {
		b := s.bytes()
		b = append(append(bytes.Clone(b[:20]), 1, 1, 1, 0), b[20:]...)
		b[0] = 0x46
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], link.Checksum(b[:24], 0))
		return b
	}
	if out := checkMerged(t, []int{1, 1}, [][]byte{withOption(first), withOption(next)}); len(out) != 2 {
		t.Errorf("IP options: got %d packets, want 2", len(out))
	}
}

func TestAMergerKeepsManyConnectionsApart(t *testing.T) {
	for _, n := range []int{maxRuns - 1, maxRuns, maxRuns + 1, 3 * maxRuns} {
		var ks []int
		var pkts [][]byte
		for i := range 10 {
			for k := range n {
				ks = append(ks, k)
				pkts = append(pkts, seg{src: server4, dst: client4, seq: uint32(i * 100), flags: flagACK, data: fmt.Appendf(nil, "%0100d", k)}.bytes())
			}
		}
		if out := checkMerged(t, ks, pkts); n <= maxRuns && len(out) != n {
			t.Errorf("%d connections: got %d packets, want %d", n, len(out), n)
		}
	}
}

// TestAMergerIsUsedAgain checks that what one batch had does not turn up in the next.
func TestAMergerIsUsedAgain(t *testing.T) {
	sent := map[int]int{}
	g := Merger[int]{Send: func(k int, m link.Meta, pieces [][]byte) {
		for _, p := range finished(t, m, bytes.Join(pieces, nil)) {
			s, _ := parse(p)
			sent[k] += len(s.payload)
		}
	}}
	for batch := range 20 {
		for i := range 1 + batch%5 {
			for k := range 1 + batch%9 {
				g.Add(k, seg{src: server6, dst: client6, seq: uint32(i * 100), flags: flagACK, data: make([]byte, 100)}.packet(t))
			}
		}
		g.Flush()
		for k := range 1 + batch%9 {
			if want := (1 + batch%5) * 100; sent[k] != want {
				t.Errorf("batch %d, connection %d: got %d bytes, want %d", batch, k, sent[k], want)
			}
		}
		if len(sent) != 1+batch%9 {
			t.Errorf("batch %d: got packets of %d connections, want %d", batch, len(sent), 1+batch%9)
		}
		clear(sent)
	}
	g.Add(1, &packet.Packet{Raw: make([]byte, 30), Body: make([]byte, 10), Src: client4.Addr()})
	g.Send = func(_ int, m link.Meta, pieces [][]byte) {
		if m != (link.Meta{}) || len(pieces) != 1 || len(pieces[0]) != 30 {
			t.Errorf("a packet without TCP header: got %+v, %d pieces", m, len(pieces))
		}
	}
	g.Flush()
}
