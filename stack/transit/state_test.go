package transit

import (
	"math"
	"sync"
	"testing"
	"time"

	"penstock/stack/link"
)

// ISNs at which sequence numbers wrap at the first byte, a little later, change sign, or are zero.
var isns = []uint32{0, 1, math.MaxUint32, math.MaxUint32 - 3, math.MaxInt32, math.MaxInt32 - 3, 1 << 31, 12345}

// each runs f for a new flow of each family and each ISN.
func each(t *testing.T, reading bool, f func(t *testing.T, w *track)) {
	for _, c := range families {
		for _, c.ISN = range isns {
			f(t, newTrack(t, c, reading))
		}
	}
}

func (w *track) counts(what string, opened, ended int32) {
	w.t.Helper()
	if o, e := w.opened.Load(), w.ended.Load(); o != opened || e != ended {
		w.t.Errorf("%s: Opened was called %d times and Ended %d times, want %d and %d", what, o, e, opened, ended)
	}
}

func TestAnOpeningFlowLetsNothingFollowItsSYN(t *testing.T) {
	each(t, false, func(_ *testing.T, w *track) {
		isn := w.ISN
		w.want("SYN", Cross, w.up(isn, 0, flagSYN))
		w.want("the SYN once more", Cross, w.up(isn, 0, flagSYN))
		w.want("data", Stay, w.up(isn+1, 7, flagACK, 'x'))
		w.want("ACK", Stay, w.up(isn+1, 7, flagACK))
		w.want("FIN", Stay, w.up(isn+1, 7, flagACK|flagFIN))
		w.want("SYN-ACK of the client's", Stay, w.up(isn, 7, flagSYN|flagACK))
		w.want("a SYN with another number", Renew, w.up(isn+1, 0, flagSYN))
		w.want("SYN-ACK of another connection", Stay, w.down(5, isn, flagSYN|flagACK))
		w.want("SYN-ACK of what was not sent", Stay, w.down(5, isn+2, flagSYN|flagACK))
		w.want("SYN of the server's", Stay, w.down(5, 0, flagSYN))
		w.counts("before the SYN-ACK", 0, 0)
		w.want("SYN-ACK", Cross, w.down(serverISN, isn+1, flagSYN|flagACK))
		w.want("the SYN-ACK once more", Cross, w.down(serverISN, isn+1, flagSYN|flagACK))
		w.counts("after it", 1, 0)
		w.want("data", Cross, w.up(isn+1, serverISN+1, flagACK, 'x'))
	})
}

func TestASYNThatIsRepeatedAfterItsAnswerEndsNothing(t *testing.T) {
	each(t, false, func(_ *testing.T, w *track) {
		w.want("SYN", Cross, w.up(w.ISN, 0, flagSYN))
		w.want("SYN-ACK, which the client does not get", Cross, w.down(serverISN, w.ISN+1, flagSYN|flagACK))
		w.want("the SYN once more", Cross, w.up(w.ISN, 0, flagSYN))
		w.want("the SYN-ACK once more", Cross, w.down(serverISN, w.ISN+1, flagSYN|flagACK))
		w.want("ACK", Cross, w.up(w.ISN+1, serverISN+1, flagACK, 'x'))
		w.want("the SYN, which was late", Stay, w.up(w.ISN, 0, flagSYN))
		w.counts("all along", 1, 0)
	})
}

// TestAServerMayAnswerASYNAgainWithAnotherNumber: one that keeps no SYN does (RFC 4987, 3.6), and so does another behind the same address.
func TestAServerMayAnswerASYNAgainWithAnotherNumber(t *testing.T) {
	for _, other := range []uint32{serverISN - 1<<30, serverISN + 1<<30} {
		each(t, false, func(t *testing.T, w *track) {
			c, s := w.ISN+1, other+1
			w.want("SYN", Cross, w.up(w.ISN, 0, flagSYN))
			w.want("SYN-ACK, which the client does not get", Cross, w.down(serverISN, c, flagSYN|flagACK))
			w.want("the SYN once more", Cross, w.up(w.ISN, 0, flagSYN))
			w.want("another SYN-ACK", Cross, w.down(other, c, flagSYN|flagACK))
			w.want("ACK", Cross, w.up(c, s, flagACK))
			w.want("the first SYN-ACK, late", Cross, w.down(serverISN, c, flagSYN|flagACK))
			w.want("the server's data", Cross, w.down(s, c, flagACK, 'a', 'b'))
			w.want("their ACK", Cross, w.up(c, s+2, flagACK))
			if _, out := w.Bytes(); out != 2 || w.carries.Load() != 1 || w.Stale(int64(OpeningFor), false) {
				t.Errorf("got %d bytes, carries %d, stale %v, want an open flow with 2 bytes", out, w.carries.Load(), w.Stale(int64(OpeningFor), false))
			}
			w.counts("all along", 1, 0)
			w.Reset()
			if h, _ := parse(parsed(t, w.toClient[0].m, w.toClient[0].b)); h.seq != s+2 {
				t.Errorf("the client got RST %d, want %d", h.seq, s+2)
			}
		})
	}
}

// TestAClientThatMeetsAnOldConnectionOfItsPortGoesOn: a server that still knows one answers the SYN with what it expects of that
// (RFC 9293, 3.5.1).
func TestAClientThatMeetsAnOldConnectionOfItsPortGoesOn(t *testing.T) {
	each(t, true, func(_ *testing.T, w *track) {
		w.want("SYN", Cross, w.up(w.ISN, 0, flagSYN))
		w.want("ACK of an older connection", Cross, w.down(5, w.ISN-1000, flagACK))
		w.want("RST for it", Cross, w.up(w.ISN-1000, 0, flagRST))
		w.counts("then", 0, 0)
		w.want("the SYN once more", Cross, w.up(w.ISN, 0, flagSYN))
		w.want("SYN-ACK", Cross, w.down(serverISN, w.ISN+1, flagSYN|flagACK))
		w.want("ACK", Cross, w.up(w.ISN+1, serverISN+1, flagACK))
		w.counts("in the end", 1, 0)
	})
	each(t, false, func(_ *testing.T, w *track) {
		w.want("SYN", Cross, w.up(w.ISN, 0, flagSYN))
		w.want("RST of a client that gives up", Cross, w.up(w.ISN+1, 0, flagRST))
		w.counts("then", 0, 1)
	})
}

func TestAFlowCarriesWithItsFirstPayload(t *testing.T) {
	for _, reading := range []bool{false, true} {
		for _, serverFirst := range []bool{false, true} {
			if reading && serverFirst {
				continue
			}
			each(t, reading, func(t *testing.T, w *track) {
				carries := func(when string, want int32) {
					t.Helper()
					if got := w.carries.Load(); got != want {
						t.Errorf("%s: Carries was called %d times, want %d", when, got, want)
					}
				}
				w.want("SYN", Cross, w.up(w.ISN, 0, flagSYN))
				w.want("ACK of nothing", Stay, w.up(w.ISN+1, serverISN+1, flagACK))
				w.want("SYN-ACK", Cross, w.down(serverISN, w.ISN+1, flagSYN|flagACK))
				w.want("the SYN once more", Cross, w.up(w.ISN, 0, flagSYN))
				carries("while the handshake is half done", 0)
				w.want("ACK", Cross, w.up(w.ISN+1, serverISN+1, flagACK))
				carries("before there is payload", 0)
				if serverFirst {
					w.want("the server's payload", Cross, w.down(serverISN+1, w.ISN+1, flagACK, 'x'))
					carries("before the client has it", 0)
					w.want("its ACK", Cross, w.up(w.ISN+1, serverISN+2, flagACK))
				} else {
					w.give(w.up(w.ISN+1, serverISN+1, flagACK, 'x')) // is held if it is read
				}
				carries("with payload", 1)
				w.give(w.up(w.ISN+1, serverISN+1, flagACK, 'x'))
				carries("later", 1)
			})
		}
	}
	each(t, false, func(t *testing.T, w *track) {
		w.want("SYN", Cross, w.up(w.ISN, 0, flagSYN))
		w.want("SYN-ACK", Cross, w.down(serverISN, w.ISN+1, flagSYN|flagACK))
		w.want("RST", Cross, w.up(w.ISN+1, 0, flagRST))
		if n := w.carries.Load(); n != 0 {
			t.Errorf("a client that resets: Carries was called %d times", n)
		}
	})
}

func TestASYNOfAnotherConnectionRenews(t *testing.T) {
	each(t, false, func(_ *testing.T, w *track) {
		isn := w.ISN
		w.open()
		w.want("open", Renew, w.up(isn+100000, 0, flagSYN))
		w.want("FIN", Cross, w.up(isn+1, serverISN+1, flagACK|flagFIN))
		w.want("closing", Renew, w.up(isn+100000, 0, flagSYN))
		w.want("FIN of the server's", Cross, w.down(serverISN+1, isn+2, flagACK|flagFIN))
		w.want("ACK", Cross, w.up(isn+2, serverISN+2, flagACK))
		w.counts("both FINs", 1, 1)
		w.want("over", Renew, w.up(isn+100000, 0, flagSYN))
		w.want("over, with the same number", Renew, w.up(isn, 0, flagSYN))
		w.Reset()
		w.want("after a reset", Renew, w.up(isn, 0, flagSYN))
		w.counts("in the end", 1, 1)
	})
}

func TestAFlowEndsWhenBothSidesHaveEachOthersFIN(t *testing.T) {
	const fin = flagACK | flagFIN
	each(t, false, func(_ *testing.T, w *track) {
		c, s := w.ISN+1, uint32(serverISN+1)
		for name, order := range map[string][]seg{
			"the client first": {w.up(c, s, fin), w.down(s, c+1, flagACK), w.down(s, c+1, fin), w.up(c+1, s+1, flagACK)},
			"the server first": {w.down(s, c, fin), w.up(c, s+1, flagACK), w.up(c, s+1, fin), w.down(s+1, c+1, flagACK)},
			"answered at once": {w.up(c, s, fin), w.down(s, c+1, fin), w.up(c+1, s+1, flagACK)},
			"both at once":     {w.up(c, s, fin), w.down(s, c, fin), w.up(c+1, s+1, flagACK), w.down(s+1, c+1, flagACK)},
			"with data": {w.up(c, s, fin, 'a', 'b'), w.down(s, c+3, flagACK, 'c', 'd'), w.down(s+2, c+3, fin, 'e'),
				w.up(c+3, s+4, flagACK)},
			"repeated": {w.up(c, s, fin), w.up(c, s, fin), w.down(s, c+1, fin), w.down(s, c+1, fin), w.up(c+1, s+1, flagACK)},
			"out of order": {w.down(s+2, c, fin, 'c'), w.up(c, s, flagACK), w.down(s, c, flagACK, 'a', 'b'), w.up(c, s+4, fin),
				w.down(s+4, c+1, flagACK)},
			"half open for long": {w.up(c, s, fin), w.down(s, c+1, flagACK, 'a'), w.up(c+1, s+1, flagACK), w.down(s+1, c+1, flagACK, 'b'),
				w.up(c+1, s+2, flagACK), w.down(s+2, c+1, fin), w.up(c+1, s+3, flagACK)},
		} {
			w := newTrack(w.t, w.Config, false).open()
			for i, segment := range order {
				w.counts(name, 1, 0)
				if w.want(name, Cross, segment); w.Over() != (i == len(order)-1) {
					w.t.Errorf("%s: over is %v after %d of %d segments", name, w.Over(), i+1, len(order))
				}
			}
			w.counts(name, 1, 1)
			for _, segment := range order { // the last ACK was lost: all is repeated
				w.want(name+", repeated", Cross, segment)
			}
			w.want(name+", new data of the client's", Stay, w.up(c+3, s+4, flagACK, 'n', 'e', 'w'))
			w.want(name+", new data of the server's", Stay, w.down(s+5, c+3, flagACK, 'n', 'e', 'w'))
			w.Reset()
			w.counts(name+", reset", 1, 1)
			if len(w.toClient)+len(w.toServer) > 0 {
				w.t.Errorf("%s: a flow that was over sent RST", name)
			}
		}
	})
}

func TestBytesAreCountedOnce(t *testing.T) {
	each(t, false, func(_ *testing.T, w *track) {
		w.open()
		c, s := w.ISN+1, uint32(serverISN+1)
		for _, segment := range []seg{
			w.up(c, s, flagACK, 1, 2, 3), w.up(c, s, flagACK, 1, 2, 3), w.up(c+1, s, flagACK, 2, 3, 4), w.up(c, s, flagACK, 1, 2),
			w.up(c, s, flagACK|flagFIN, 1, 2, 3, 4), w.up(c, s, flagACK|flagFIN, 1, 2, 3, 4), w.up(c+5, s, flagACK),
			w.down(s, c, flagACK, 1, 2), w.down(s, c, flagACK|flagFIN, 1, 2), w.down(s+1, c, flagACK|flagFIN, 2),
		} {
			w.give(segment)
		}
		if in, out := w.Bytes(); in != 4 || out != 2 {
			w.t.Errorf("got %d and %d bytes, want 4 and 2", in, out)
		}
	})
}

func TestSilentFlowsAreStale(t *testing.T) {
	const ns = int64(1)
	w := newTrack(t, families[0], false)
	crowds := false
	at := func(what string, silence time.Duration, want bool) {
		t.Helper()
		if got := w.Stale(w.seen.Load()+int64(silence), crowds); got != want {
			t.Errorf("%s, silent for %v: got stale %v, want %v", what, silence, got, want)
		}
	}
	atCrowded := func(what string, silence time.Duration, want bool) {
		t.Helper()
		crowds = true
		at(what+", one of very many", silence, want)
		crowds = false
	}
	say := func(s seg, now time.Duration) {
		t.Helper()
		step := w.FromClient
		if s.src == w.Server {
			step = w.FromServer
		}
		if got := step(link.Meta{}, s.packet(t), int64(now)); got != Cross || w.seen.Load() != int64(now) {
			t.Errorf("got step %d, seen at %d, want %d, %d", got, w.seen.Load(), Cross, int64(now))
		}
	}
	say(w.up(0, 0, flagSYN), time.Hour)
	at("opening", OpeningFor-1, false)
	at("opening", OpeningFor, true)
	atCrowded("opening", CrowdedFor-1, false)
	atCrowded("opening", CrowdedFor, true)
	say(w.down(serverISN, 1, flagSYN|flagACK), 2*time.Hour)
	at("half open", OpeningFor-1, false)
	at("half open", OpeningFor, true)
	atCrowded("half open", CrowdedFor, true)
	say(w.up(1, serverISN+1, flagACK), 2*time.Hour)
	at("open", OpenFor-1, false)
	at("open", OpenFor, true)
	atCrowded("open", OpenFor-1, false)
	say(w.up(1, serverISN+1, flagACK|flagFIN), 3*time.Hour)
	at("half closed", OpenFor-1, false)
	say(w.down(serverISN+1, 2, flagACK|flagFIN), 4*time.Hour)
	at("closing", OpenFor-1, false)
	say(w.up(2, serverISN+2, flagACK), 5*time.Hour)
	if !w.Over() {
		t.Error("not over after both FINs")
	}
	at("over", OverFor-1, false)
	at("over", OverFor, true)
	say(w.up(2, serverISN+2, flagACK), 6*time.Hour)
	at("over, and heard of since", OverFor-1, false)
	if w.Stale(int64(time.Hour)*ns, false) {
		t.Error("a clock that was read before the last packet makes a flow stale")
	}
}

// TestAFlowEndsOnce ends flows in every way at the same time.
func TestAFlowEndsOnce(t *testing.T) {
	for i := range 200 {
		c := families[i%2]
		c.ISN = uint32(i)
		w := newTrack(t, c, true).open()
		w.give(w.up(c.ISN+1, serverISN+1, flagACK, 1, 2, 3))
		var wg sync.WaitGroup
		for _, f := range []func(){
			w.Reset, w.Reset, w.Open,
			func() { w.Permit(2) },
			func() { w.give(w.up(c.ISN+1, serverISN+1, flagRST|flagACK)) },
			func() { w.give(w.down(serverISN+1, c.ISN+1, flagRST|flagACK)) },
			func() {
				w.give(w.up(c.ISN+1, serverISN+1, flagACK|flagFIN, 1, 2, 3))
				w.give(w.up(c.ISN+5, serverISN+2, flagACK))
			},
			func() { w.give(w.down(serverISN+1, c.ISN+5, flagACK|flagFIN)) },
			func() { w.Stale(1, true); w.Over(); w.Bytes(); w.Repeat(); w.Nudge() },
			func() { w.QuoteToClient(w.up(c.ISN+1, 0, flagACK).bytes(), false) },
		} {
			wg.Go(f)
		}
		wg.Wait()
		w.counts("all at once", 1, 1)
	}
}

// TestANudgeAsksTheServerAgain: what it sends is finished, whatever came.
func TestANudgeAsksTheServerAgain(t *testing.T) {
	each(t, false, func(t *testing.T, w *track) {
		for range 2 {
			m, b := w.up(w.ISN, 0, flagSYN, 'x').unfinished(0)
			if got := w.FromClient(m, parsed(t, m, b), 0); got != Cross {
				t.Fatalf("got step %d", got)
			}
		}
		w.Nudge()
		if len(w.toServer) != 1 || w.toServer[0].m != (link.Meta{}) {
			t.Fatalf("got %d packets, want the SYN, finished", len(w.toServer))
		}
		checkCrossed(t, w.Config, true, w.toServer[0].b)
		w.want("SYN-ACK", Cross, w.down(serverISN, w.ISN+1, flagSYN|flagACK))
		w.want("ACK", Cross, w.up(w.ISN+1, serverISN+1, flagACK))
		w.Nudge()
		if len(w.toServer) != 1 || len(w.toClient) != 0 {
			t.Error("an open flow that waits for nothing was nudged")
		}
		w.want("data", Cross, w.up(w.ISN+1, serverISN+1, flagACK, 'x'))
		w.Nudge()
		for _, s := range w.toClient {
			p := parsed(t, s.m, s.b)
			if src := w.Server.Addr(); p.Src != src || p.Dst != w.Client.Addr() {
				t.Errorf("got %v -> %v, want an ICMP error for the client", p.Src, p.Dst)
			}
		}
		if len(w.toClient) == 0 {
			t.Error("a client whose data were lost was not told to repeat them")
		}
	})
}

func TestAFlowThatExpiresTellsWhoDoesNotTryAnyMore(t *testing.T) {
	for _, row := range []struct {
		name    string
		answers bool // the server has
		silence time.Duration
		told    int // each side
	}{
		{"one of very many, which the server has not answered", false, CrowdedFor, 0},
		{"which the server has not answered", false, OpeningFor, 1},
		{"one of very many, which the client has not acknowledged", true, CrowdedFor, 1},
	} {
		w := newTrack(t, families[0], false)
		w.give(w.up(0, 0, flagSYN))
		if row.answers {
			w.give(w.down(serverISN, 1, flagSYN|flagACK))
		}
		w.Expire(w.seen.Load() + int64(row.silence))
		if len(w.toClient) != row.told || len(w.toServer) != row.told {
			t.Errorf("a flow, %s: got %d packets to the client and %d to the server, want %d each", row.name, len(w.toClient), len(w.toServer), row.told)
		}
		if n := w.ended.Load(); n != 1 || Result(w.result.Load()) != Unanswered && !row.answers {
			t.Errorf("a flow, %s: ended %d times with %d, want once, unanswered", row.name, n, w.result.Load())
		}
	}
}
