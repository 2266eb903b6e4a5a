package transit

import (
	"encoding/binary"
	"testing"

	"penstock/stack/link"
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
