package transit

import (
	"testing"

	"penstock/stack/link"
	"penstock/stack/packet"
)

func TestAHopIsCountedOnce(t *testing.T) {
	for _, c := range families {
		for _, keep := range []bool{false, true} {
			c.KeepHops = keep
			w := newTrack(t, c, false).open()
			up, down := w.up(w.ISN+1, serverISN+1, flagACK), w.down(serverISN+1, w.ISN+1, flagACK)
			for _, row := range []struct {
				sentence string
				s        seg
				ttl      byte
				want     Step
			}{
				{"a client's packet", up, 9, Cross},
				{"a server's packet", down, 9, Cross},
				{"a client's last hop", up, 1, Expire}, // the other router's answer would come from an address that it does not know
				{"a server's last hop", down, 1, map[bool]Step{false: Expire, true: Cross}[keep]},
			} {
				row.s.ttl = row.ttl
				got, p := w.give(row.s)
				left := row.ttl
				if got == Cross && !keep {
					left--
				}
				if got != row.want || hops(p) != left {
					t.Errorf("%s, another router counts %t: got step %d with %d hops, want %d with %d", row.sentence, keep, got, hops(p), row.want, left)
				}
			}
			d, from, to := ToServer(c.Client, c.Mapped, keep), c.Client, c.Server
			p := parsed(t, link.Meta{}, datagram(packet.ProtoUDP, true, from, to, []byte("x")))
			before := hops(p)
			if !d.UDP(link.Meta{}, p) || (hops(p) == before) != keep {
				t.Errorf("a datagram, another router counts %t: got %d hops of %d", keep, hops(p), before)
			}
		}
	}
}
