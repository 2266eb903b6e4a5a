package transit

import (
	"testing"

	"penstock/stack/link"
)

func TestARSTEndsAFlowIfTheClientTakesIt(t *testing.T) {
	const sent = 1000
	data := make([]byte, sent)
	for _, row := range []struct {
		name  string
		seq   uint32 // after the server's SYN
		acked uint32 // what the client has of the server's data
		ended int32
	}{
		{"the next number", sent, sent, 1},
		{"the next number, with data on its way", sent, 0, 1},
		{"the number that the client expects", 0, 0, 1},
		{"behind what was sent", sent + 1, sent, 0},
		{"before what the client has", sent - 1, sent, 0},
		{"far off", 1 << 30, sent, 0},
		{"far off, behind", 3 << 30, sent, 0},
	} {
		each(t, false, func(_ *testing.T, w *track) {
			w.open()
			w.want("data", Cross, w.down(serverISN+1, w.ISN+1, flagACK, data...))
			if row.acked > 0 {
				w.want("ACK", Cross, w.up(w.ISN+1, serverISN+1+row.acked, flagACK))
			}
			w.want(row.name, Cross, w.down(serverISN+1+row.seq, w.ISN+1, flagRST|flagACK))
			w.counts(row.name, 1, row.ended)
		})
	}
}

func TestARSTRightBehindTheSYNACKEndsTheFlow(t *testing.T) {
	for _, serverISN := range isns {
		each(t, false, func(_ *testing.T, w *track) {
			w.want("SYN", Cross, w.up(w.ISN, 0, flagSYN))
			w.want("SYN-ACK", Cross, w.down(serverISN, w.ISN+1, flagSYN|flagACK))
			w.want("RST", Cross, w.down(serverISN+1, w.ISN+1, flagRST|flagACK))
			w.counts("RST", 1, 1)
		})
	}
}

func TestARefusedSYNEndsTheFlow(t *testing.T) {
	each(t, false, func(_ *testing.T, w *track) {
		w.want("SYN", Cross, w.up(w.ISN, 0, flagSYN))
		w.want("RST for another SYN", Cross, w.down(0, w.ISN, flagRST|flagACK))
		w.want("RST without ACK", Cross, w.down(0, 0, flagRST))
		w.counts("RSTs that the client ignores", 0, 0)
		w.want("RST", Cross, w.down(0, w.ISN+1, flagRST|flagACK))
		w.counts("RST", 0, 1)
		w.want("RST", Cross, w.down(0, w.ISN+1, flagRST|flagACK))
		w.counts("RST again", 0, 1)
	})
}

func TestWhatABlindThirdPartySaysIsNotBelieved(t *testing.T) {
	each(t, false, func(_ *testing.T, w *track) {
		w.open()
		s := uint32(serverISN + 1)
		for _, ack := range []uint32{w.ISN + 2, w.ISN + 1<<30, w.ISN + 1<<31, w.ISN - 1<<30} {
			w.give(w.down(s+1<<20, ack, flagACK|flagFIN, 'x')) // to make a RST in the middle look right
			w.give(w.down(s+1<<19, 0, flagRST))
			w.give(w.down(s+1<<20+2, 0, flagRST))
		}
		w.counts("lies", 1, 0)
		w.want("data", Cross, w.down(s, w.ISN+1, flagACK, 'x'))
		w.want("RST", Cross, w.down(s+1, w.ISN+1, flagACK|flagRST))
		w.counts("the truth", 1, 1)
	})
}

func TestTheClientsRSTEndsTheFlow(t *testing.T) {
	each(t, true, func(_ *testing.T, w *track) {
		w.open()
		for i, segment := range []seg{
			w.up(w.ISN+1, serverISN+1, flagRST|flagACK, []byte("nobody has read this")...),
			w.up(w.ISN+1, 0, flagRST, []byte("nor this")...),
		} {
			p := w.want("RST", Cross, segment)
			if s, _ := parse(p); len(s.payload) > 0 {
				w.t.Errorf("RST %d leaves with %q", i, s.payload)
			}
			w.counts("RST", 1, 1)
		}
		m, b := w.up(w.ISN+1, serverISN+1, flagRST|flagACK, make([]byte, 3000)...).unfinished(1000)
		p := parsed(w.t, m, b)
		if got := w.FromClient(m, p, 0); got != Cross {
			w.t.Errorf("a super-packet with RST: got step %d, want %d", got, Cross)
		}
		for _, p := range finished(w.t, m, p.Raw) {
			if s, _ := parse(p); len(s.payload) > 0 {
				w.t.Errorf("a super-packet with RST leaves with %d bytes", len(s.payload))
			}
		}
		w.want("data", Stay, w.up(w.ISN+1, serverISN+1, flagACK, 'x'))
		w.want("data of the server's", Stay, w.down(serverISN+1, w.ISN+1, flagACK, 'x'))
	})
}

// peer is what a kernel knows of a connection.
type peer struct {
	synSent bool   // it waits for the SYN-ACK
	acked   uint32 // what it expects an ACK of then
	next    uint32 // what it expects
}

// takes reports whether a kernel ends the connection for a RST (RFC 9293, 3.10.7; RFC 5961, 3.2). It answers one that is only near
// with an ACK of its own.
func (k peer) takes(t *testing.T, b []byte) bool {
	s, _ := parse(parsed(t, link.Meta{}, b))
	if k.synSent {
		return s.has(flagRST) && s.has(flagACK) && s.ack == k.acked
	}
	return s.has(flagRST) && s.seq == k.next
}

func TestAResetIsTaken(t *testing.T) {
	const synACK = flagSYN | flagACK
	for _, serverISN := range isns {
		each(t, false, func(t *testing.T, w *track) {
			c, s := w.ISN+1, serverISN+1
			for name, tt := range map[string]struct {
				cross          []seg
				client, server peer
			}{
				"before any answer": {nil, peer{synSent: true, acked: c}, peer{next: c}},
				"with the SYN-ACK on its way": {[]seg{w.down(serverISN, c, synACK)},
					peer{synSent: true, acked: c}, peer{next: c}},
				"with the first ACK on its way": {[]seg{w.down(serverISN, c, synACK)},
					peer{next: s}, peer{next: c}},
				"just open": {[]seg{w.down(serverISN, c, synACK), w.up(c, s, flagACK)}, peer{next: s}, peer{next: c}},
				"after data": {[]seg{w.down(serverISN, c, synACK), w.up(c, s, flagACK, 1, 2, 3), w.down(s, c+3, flagACK, 4, 5), w.up(c+3, s+2, flagACK)},
					peer{next: s + 2}, peer{next: c + 3}},
				"with an old ACK last": {[]seg{w.down(serverISN, c, synACK), w.up(c, s, flagACK, 1, 2, 3), w.down(s, c+3, flagACK, 4, 5),
					w.up(c+3, s+2, flagACK), w.up(c+3, s, flagACK), w.down(s, c, flagACK)}, peer{next: s + 2}, peer{next: c + 3}},
				"with ACKs of what was never sent": {[]seg{w.down(serverISN, c, synACK), w.up(c, s, flagACK), w.up(c, s+99, flagACK),
					w.down(s, c+99, flagACK)}, peer{next: s}, peer{next: c}},
				"half closed": {[]seg{w.down(serverISN, c, synACK), w.up(c, s, flagACK|flagFIN, 1), w.down(s, c+2, flagACK)},
					peer{next: s}, peer{next: c + 2}},
			} {
				w := newTrack(t, w.Config, false)
				w.want("SYN", Cross, w.up(w.ISN, 0, flagSYN))
				for _, segment := range tt.cross {
					w.want(name, Cross, segment)
				}
				w.Reset()
				w.Reset()
				if len(w.toClient) != 1 || len(w.toServer) != 1 || w.ended.Load() != 1 {
					t.Fatalf("%s: got %d and %d packets and %d calls of Ended, want 1 each", name, len(w.toClient), len(w.toServer), w.ended.Load())
				}
				checkCrossed(t, w.Config, false, w.toClient[0].b)
				checkCrossed(t, w.Config, true, w.toServer[0].b)
				if !tt.client.takes(t, w.toClient[0].b) {
					t.Errorf("ISNs %d and %d, %s: the client ignores %x", w.ISN, serverISN, name, w.toClient[0].b)
				}
				if !tt.server.takes(t, w.toServer[0].b) {
					t.Errorf("ISNs %d and %d, %s: the server ignores %x", w.ISN, serverISN, name, w.toServer[0].b)
				}
			}
		})
	}
}

func TestNothingCrossesAfterAReset(t *testing.T) {
	for _, reading := range []bool{false, true} {
		each(t, reading, func(_ *testing.T, w *track) {
			w.open()
			w.give(w.up(w.ISN+1, serverISN+1, flagACK, 'h', 'e', 'l', 'd'))
			w.Reset()
			for _, flags := range []byte{flagACK, flagACK | flagPSH, flagACK | flagFIN, flagRST, flagRST | flagACK, 0} {
				for _, data := range [][]byte{nil, {1, 2, 3}} {
					w.want("of the client's", Stay, w.up(w.ISN+1, serverISN+1, flags, data...))
					w.want("of the server's", Stay, w.down(serverISN+1, w.ISN+1, flags, data...))
				}
			}
			w.want("SYN-ACK", Stay, w.down(serverISN, w.ISN+1, flagSYN|flagACK))
			w.Permit(4)
			w.Open()
			if len(w.toServer) != 1 || len(w.toClient) != 1 {
				w.t.Errorf("got %d and %d packets, want a RST each", len(w.toServer), len(w.toClient))
			}
			w.counts("reset", 1, 1)
		})
	}
}
