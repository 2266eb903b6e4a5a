package transit

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"

	"penstock/stack/link"
	"penstock/stack/packet"
)

func TestQuotesOfErrorsAreTranslated(t *testing.T) {
	for _, c := range families {
		for _, c.ISN = range isns {
			w := newTrack(t, c, false)
			// What routers quote are packets as they travel beyond: of mapped to server, and of server to client.
			out := func(seq uint32) []byte {
				return seg{src: c.Mapped, dst: c.Server, seq: seq, flags: flagACK, data: []byte("data")}.bytes()
			}
			back := func(seq uint32) []byte {
				return seg{src: c.Server, dst: c.Client, seq: seq, flags: flagACK, data: []byte("data")}.bytes()
			}
			check := func(what string, toClient bool, quoted []byte, want bool) {
				t.Helper()
				f, src, dst := w.QuoteToServer, c.Server, c.Mapped
				if toClient {
					f, src, dst = func(b []byte) ([]byte, bool) { return w.QuoteToClient(b, false) }, c.Client, c.Server
				}
				before := string(quoted)
				b, ok := f(quoted)
				if string(quoted) != before {
					t.Errorf("%s: the quotation was changed in place", what)
				}
				if ok != want {
					t.Errorf("%s: got %v, want %v", what, ok, want)
				}
				if !ok {
					return
				}
				q, ok := packet.Quoted(b)
				if !ok || len(b) != len(quoted) || netip.AddrPortFrom(q.Src, binary.BigEndian.Uint16(q.Body)) != src ||
					netip.AddrPortFrom(q.Dst, binary.BigEndian.Uint16(q.Body[2:])) != dst || string(q.Body[4:]) != string(quoted[len(b)-len(q.Body)+4:]) {
					t.Errorf("%s: got %x of %x", what, b, quoted)
				}
				if b[0]>>4 == 4 && link.Checksum(b[:20], 0) != 0 {
					t.Errorf("%s: the IP header's checksum is wrong: %x", what, b)
				}
			}
			w.want("SYN", Cross, w.up(c.ISN, 0, flagSYN))
			check("a SYN", true, out(c.ISN), true)
			check("another SYN", true, out(c.ISN+1), false)
			check("of the server's, which has said nothing", false, back(0), false)
			w.want("SYN-ACK", Cross, w.down(serverISN, c.ISN+1, flagSYN|flagACK))
			w.want("data", Cross, w.up(c.ISN+1, serverISN+1, flagACK, make([]byte, 1000)...))
			w.want("data", Cross, w.down(serverISN+1, c.ISN+501, flagACK, make([]byte, 1000)...))
			w.want("ACK", Cross, w.up(c.ISN+1001, serverISN+501, flagACK))
			hdr := packet.HeaderLen(c.Client.Addr())
			for _, row := range []struct {
				seq  uint32
				want bool
			}{{0, false}, {500, false}, {501, true}, {1000, true}, {1001, false}, {1 << 30, false}, {1 << 31, false}} {
				for _, n := range []int{hdr + 8, hdr + 9, hdr + 20, hdr + 24} { // ports and number are enough (RFC 792)
					check("cut", true, out(c.ISN + row.seq)[:n], row.want)
					check("cut", false, back(serverISN + row.seq)[:n], row.want)
				}
			}
			for n := range hdr + 8 {
				check("cut too short", true, out(c.ISN + 501)[:n], false)
				check("cut too short", false, back(serverISN + 501)[:n], false)
			}
			w.Reset()
			check("after the end", true, out(c.ISN+501), false)
			check("after the end", false, back(serverISN+501), false)
		}
	}
}

// TestQuotesThatLieAreNotTranslated gives a flow heads whose length or family cannot be. The numbers in them are right.
func TestQuotesThatLieAreNotTranslated(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	for _, c := range families {
		w := newTrack(t, c, false).open()
		w.want("data", Cross, w.up(1, serverISN+1, flagACK, make([]byte, 1000)...))
		good := seg{src: c.Mapped, dst: c.Server, seq: 100, flags: flagACK}.bytes()
		for first := range 256 {
			if byte(first) == good[0] {
				continue
			}
			b := append(append([]byte(nil), good...), make([]byte, 60)...)
			b[0] = byte(first)
			hdr := int(first&0xf) * 4
			if first>>4 == 4 && hdr >= 20 && c.Client.Addr().Is4() {
				continue // options may be quoted
			}
			copy(b[max(hdr, 8):], good[packet.HeaderLen(c.Client.Addr()):]) // where the lie says that TCP begins
			for i := 0; i+4 <= len(b); i += 4 {
				if i > 0 && (i < 8 || i > 40) {
					binary.BigEndian.PutUint32(b[i:], 100)
				}
			}
			if first>>4 == 6 && c.Client.Addr().Is6() {
				continue // traffic class
			}
			if q, ok := w.QuoteToClient(b, true); ok {
				t.Errorf("a quotation that begins with %#x became %x", first, q)
			}
			w.QuoteToServer(b)
		}
		for range 20000 {
			b := append([]byte(nil), good[:rng.IntN(len(good)+1)]...)
			for range rng.IntN(4) {
				if len(b) > 0 {
					b[rng.IntN(len(b))] = byte(rng.Uint32())
				}
			}
			w.QuoteToClient(b, true)
			w.QuoteToServer(b)
		}
	}
}
