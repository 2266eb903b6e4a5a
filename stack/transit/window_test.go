package transit

import (
	"encoding/binary"
	"testing"

	"penstock/stack/link"
	"penstock/stack/packet"
)

func TestAServersWindowIsClampedWhileTheClientIsRead(t *testing.T) {
	scale := func(n byte) []byte { return []byte{1, 3, 3, n} }
	for _, row := range []struct {
		name           string
		client, server []byte // options of the SYN and the SYN-ACK
		shift          int
	}{
		{"no scaling", nil, nil, 0},
		{"the client alone", scale(7), nil, 0},
		{"the server alone", nil, scale(7), 0},
		{"both", scale(3), scale(7), 7},
		{"the largest", scale(14), scale(14), 14},
		{"more than the largest", scale(0), scale(255), 14},
	} {
		for _, c := range families {
			for _, kind := range []string{"finished", "partial", "super-packet"} {
				w := newTrack(t, c, true)
				window := func(s seg, gso int) int {
					t.Helper()
					var m link.Meta
					b := s.bytes()
					if kind != "finished" {
						m, b = s.unfinished(gso)
					}
					p := parsed(t, m, b)
					if got := w.FromServer(m, p, 0); got != Cross {
						t.Fatalf("%s: got step %d", row.name, got)
					}
					out := finished(t, m, p.Raw)
					return int(binary.BigEndian.Uint16(out[0].Body[atWindow:]))
				}
				syn := w.up(0, 0, flagSYN)
				syn.opts = row.client
				w.want("SYN", Cross, syn)
				s := w.down(serverISN, 1, flagSYN|flagACK)
				s.opts, s.window = row.server, 65535
				if got := window(s, 0); got > maxWindow {
					t.Errorf("%s, %s: the SYN-ACK has window %d, want at most %d", row.name, kind, got, maxWindow)
				}
				gso := 0
				s = w.down(serverISN+1, 1, flagACK)
				if kind == "super-packet" {
					gso, s.data = 100, make([]byte, 1000)
				}
				for _, want := range []int{0, 1, maxWindow >> row.shift} {
					s.window = uint16(want)
					if got := window(s, gso); got != want {
						t.Errorf("%s, %s: got window %d, want it as it was, %d", row.name, kind, got, want)
					}
				}
				s.window = 65535
				if got := window(s, gso); got != maxWindow>>row.shift {
					t.Errorf("%s, %s: got window %d, want %d", row.name, kind, got, maxWindow>>row.shift)
				}
				w.Open()
				if got := window(s, gso); got != 65535 {
					t.Errorf("%s, %s: got window %d of a flow that is not read any more, want 65535", row.name, kind, got)
				}
			}
		}
	}
}

// TestNothingTakesBackWhatAClientWasTold: a client drops what acknowledges less than it knows by more than a window, data included (RFC
// 5961, 5.2), so that the server could neither send nor read on.
func TestNothingTakesBackWhatAClientWasTold(t *testing.T) {
	for _, c := range families {
		for _, partial := range []bool{false, true} {
			w := newTrack(t, c, true).open()
			from := func(when string, acked uint32, window uint16, wantAck uint32, wantWindow uint16) {
				t.Helper()
				s := w.down(serverISN+1, acked, flagACK, 'x')
				s.window = window
				m, b := link.Meta{}, s.bytes()
				if partial {
					m, b = s.unfinished(0)
				}
				p := parsed(t, m, b)
				if got := w.FromServer(m, p, 0); got != Cross {
					t.Fatalf("%s: got step %d", when, got)
				}
				h, _ := parse(finished(t, m, p.Raw)[0])
				if h.ack != wantAck || h.window != wantWindow {
					t.Errorf("%s: got ACK %d and window %d, want %d and %d", when, h.ack, h.window, wantAck, wantWindow)
				}
			}
			const size = 1000
			for i := range uint32(5) {
				w.give(w.up(1+i*size, serverISN+1, flagACK, make([]byte, size)...))
			}
			if n := len(w.toClient); n == 0 {
				t.Fatal("the client was not told that anything has come")
			}
			from("none has left", 1, 65535, 5001, maxWindow)
			from("none has left, and the server has no room", 1, 0, 5001, 0)
			w.Permit(5 * size)
			from("one segment has come", 1001, 20000, 5001, 20000)
			for i := range uint32(190) { // the server takes none of it
				w.give(w.up(5001+i*size, serverISN+1, flagACK, make([]byte, size)...))
			}
			from("what is remembered has no end", 1001, 65535, 195001, maxSeen-194*size)
			w.Open()
			from("the rest passes at once", 100001, 65535, 195001, 0)
			from("the rest passes, and there is room for it", 190001, 65535, 195001, 65535-5000)
			from("the server has all", 195001, 65535, 195001, 65535)
			from("then", 195001, 65535, 195001, 65535)
		}
	}
}

// TestAFullServerHearsWhatAClientHas: the client goes on from bytes that the server has no room for yet, and must be heard for all that.
func TestAFullServerHearsWhatAClientHas(t *testing.T) {
	for _, c := range families {
		for _, partial := range []bool{false, true} {
			w := newTrack(t, c, true).open()
			const size, sent = 1000, 5001
			for i := range uint32(5) {
				w.give(w.up(1+i*size, serverISN+1, flagACK, make([]byte, size)...))
			}
			said := func(seq uint32) uint32 {
				t.Helper()
				s := w.up(seq, serverISN+2, flagACK)
				m, b := link.Meta{}, s.bytes()
				if partial {
					m, b = s.unfinished(0)
				}
				p := parsed(t, m, b)
				if got := w.FromClient(m, p, 0); got != Cross {
					t.Fatalf("an ACK: got step %d", got)
				}
				h, _ := parse(finished(t, m, p.Raw)[0])
				return h.seq
			}
			for _, row := range []struct {
				window uint16
				want   uint32
			}{{0, 1}, {3000, 3001}, {5000, sent}, {60000, sent}} {
				s := w.down(serverISN+1, 1, flagACK, 'x')
				s.window = row.window
				w.give(s)
				if got := said(sent); got != row.want {
					t.Errorf("a window of %d: the client's ACK has number %d, want %d", row.window, got, row.want)
				}
			}
			full := w.down(serverISN+2, 1, flagACK)
			full.window = 0
			w.give(full)
			w.Permit(5 * size)
			w.Repeat() // the first look
			for range 3 {
				w.toServer = nil
				if w.Repeat(); len(w.toServer) != 1 || len(w.toServer[0].b) > packet.HeaderLen(c.Client.Addr())+20+536 {
					t.Errorf("a server that takes nothing got %d segments within a second, the first in %d bytes, want a small one",
						len(w.toServer), len(w.toServer[0].b))
				}
			}
			for _, row := range []struct{ acked, window, want int }{{1, 3000, 3001}, {1001, 3000, 4001}, {2001, 2000, 4001}, {2001, 60000, sent}} {
				s := w.down(serverISN+2, uint32(row.acked), flagACK)
				s.window = uint16(row.window)
				w.give(s)
				if h, _ := parse(parsed(t, link.Meta{}, w.toServer[len(w.toServer)-1].b)); int(h.end()) != row.want {
					t.Errorf("%d acknowledged, a window of %d: %d was sent, want %d", row.acked, row.window, h.end(), row.want)
				}
			}
			w.give(w.down(serverISN+2, sent, flagACK))
			if got := said(sent); got != sent {
				t.Errorf("the server has all: the client's ACK has number %d, want %d", got, sent)
			}
		}
	}
}

func TestAResetHasTheNumberThatTheServerExpects(t *testing.T) {
	w := newTrack(t, families[0], true).open()
	for i := range uint32(5) {
		w.give(w.up(1+i*1000, serverISN+1, flagACK, make([]byte, 1000)...))
	}
	w.give(w.up(5001, serverISN+1, flagACK)) // as it was told that all has come
	w.Reset()
	if h, _ := parse(parsed(t, w.toServer[0].m, w.toServer[0].b)); h.seq != 1 {
		t.Errorf("a server that has got nothing got RST %d, want 1", h.seq)
	}
}
