package transit

import "testing"

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
