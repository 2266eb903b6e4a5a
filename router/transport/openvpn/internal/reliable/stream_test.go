package reliable

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"slices"
	"testing"
	"time"

	"penstock/router/transport/openvpn/internal/wire"
)

func start() time.Time { return time.Unix(1_700_000_000, 0) }

func drain(s *Stream, now time.Time) []Outgoing {
	var out []Outgoing
	for {
		o, ok := s.Next(now)
		if !ok {
			return out
		}
		out = append(out, o)
	}
}

func ids(out []Outgoing) []uint32 {
	var ids []uint32
	for _, o := range out {
		ids = append(ids, o.ID)
	}
	return ids
}

func TestSixPacketsAreInFlight(t *testing.T) {
	s := &Stream{RTT: &RTT{}}
	for range 10 {
		s.Send(wire.Control, nil)
	}
	if got, want := ids(drain(s, start())), []uint32{0, 1, 2, 3, 4, 5}; !slices.Equal(got, want) {
		t.Errorf("first: got %v, want %v", got, want)
	}
	s.Acked([]uint32{0, 2}, start())
	if got, want := ids(drain(s, start())), []uint32{6, 7}; !slices.Equal(got, want) {
		t.Errorf("after two acknowledgements: got %v, want %v", got, want)
	}
}

func TestRetransmission(t *testing.T) {
	for _, tt := range []struct {
		name  string
		rtt   RTT
		waits []time.Duration // before each transmission
	}{
		{"is every second as long as nobody has answered", RTT{}, []time.Duration{0, 1000, 1000, 1000}},
		{"doubles from the measured round trip up to three seconds", RTT{smoothed: 400 * time.Millisecond, deviation: 50 * time.Millisecond}, []time.Duration{0, 600, 1200, 2400, 3000, 3000}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &Stream{RTT: &tt.rtt}
			s.Send(wire.HardResetClient, nil)
			now := start()
			for _, wait := range tt.waits {
				now = now.Add(wait * time.Millisecond)
				if wait > 0 {
					if out := drain(s, now.Add(-time.Millisecond)); len(out) > 0 {
						t.Fatalf("before %d ms: got %v, want nothing", wait, out)
					}
					if got := s.Due(start()); !got.Equal(now) {
						t.Errorf("Due: got %v, want %v", got, now)
					}
				}
				if out := drain(s, now); len(out) != 1 || out[0].Again != (wait > 0) {
					t.Fatalf("after %d ms: got %+v, want one packet", wait, out)
				}
			}
		})
	}
	t.Run("follows the measured round trip", func(t *testing.T) {
		s := &Stream{RTT: &RTT{}}
		s.Send(wire.Control, nil)
		drain(s, start())
		s.Acked([]uint32{0}, start().Add(200*time.Millisecond))
		s.Send(wire.Control, nil)
		drain(s, start())
		if got, want := s.Due(start()), start().Add(600*time.Millisecond); !got.Equal(want) {
			t.Errorf("Due: got %v, want %v", got, want)
		}
	})
	t.Run("is not measured from a packet sent twice", func(t *testing.T) {
		s := &Stream{RTT: &RTT{}}
		s.Send(wire.Control, nil)
		drain(s, start())
		drain(s, start().Add(time.Second))
		s.Acked([]uint32{0}, start().Add(time.Second+time.Millisecond))
		if s.RTT.smoothed != 0 {
			t.Errorf("got %v, want nothing measured", s.RTT.smoothed)
		}
	})
	t.Run("is at once after three acknowledgements of later packets", func(t *testing.T) {
		s := &Stream{RTT: &RTT{}}
		for range 5 {
			s.Send(wire.Control, nil)
		}
		drain(s, start())
		s.Acked([]uint32{1, 2}, start())
		if out := drain(s, start()); len(out) != 0 {
			t.Errorf("after two: got %v, want nothing", ids(out))
		}
		s.Acked([]uint32{2, 3, 3}, start())
		if got, want := ids(drain(s, start())), []uint32{0}; !slices.Equal(got, want) {
			t.Errorf("after three: got %v, want %v", got, want)
		}
	})
}

func TestAcknowledgements(t *testing.T) {
	t.Run("are sent alone when nothing else is due", func(t *testing.T) {
		s := &Stream{RTT: &RTT{}}
		s.Receive(wire.Control, 0, nil)
		out := drain(s, start())
		if len(out) != 1 || out[0].Op != wire.Ack || !slices.Equal(out[0].Acks, []uint32{0}) {
			t.Errorf("got %+v, want one acknowledgement of 0", out)
		}
	})
	t.Run("ride on data, at most four, and are repeated as redundancy", func(t *testing.T) {
		s := &Stream{RTT: &RTT{}}
		for id := range uint32(5) {
			s.Receive(wire.Control, id, nil)
		}
		s.Send(wire.Control, nil)
		out := drain(s, start())
		if len(out) != 2 || !slices.Equal(out[0].Acks, []uint32{0, 1, 2, 3}) || !slices.Equal(out[1].Acks, []uint32{4, 0, 1, 2, 3}) {
			t.Errorf("got %+v", out)
		}
	})
	t.Run("answer a packet seen before once more", func(t *testing.T) {
		s := &Stream{RTT: &RTT{}}
		s.Receive(wire.Control, 0, nil)
		drain(s, start())
		if got := s.Receive(wire.Control, 0, nil); got != nil {
			t.Errorf("delivered again: %v", got)
		}
		if out := drain(s, start()); len(out) != 1 || out[0].Acks[0] != 0 {
			t.Errorf("got %+v, want an acknowledgement of 0", out)
		}
	})
	t.Run("that repeat are ignored", func(t *testing.T) {
		s := &Stream{RTT: &RTT{}}
		s.Send(wire.Control, nil)
		drain(s, start())
		for range 3 {
			s.Acked([]uint32{0, 7}, start())
		}
		if s.Waiting() != 0 {
			t.Errorf("Waiting: got %d, want 0", s.Waiting())
		}
	})
	t.Run("are not given for packets beyond the window", func(t *testing.T) {
		s := &Stream{RTT: &RTT{}}
		s.Receive(wire.Control, receiveWindow, nil)
		s.Receive(wire.Control, 1<<31, nil)
		if out := drain(s, start()); len(out) != 0 {
			t.Errorf("got %+v, want nothing", out)
		}
	})
	t.Run("can be asked for by a repeated packet", func(t *testing.T) {
		s := &Stream{RTT: &RTT{}}
		if _, ok := s.Repeat(); ok {
			t.Error("nothing was sent yet: got a packet")
		}
		s.Send(wire.Control, []byte("x"))
		drain(s, start())
		s.Acked([]uint32{0}, start())
		out, ok := s.Repeat()
		if !ok || out.ID != 0 || string(out.Payload) != "x" {
			t.Errorf("got %+v, %v", out, ok)
		}
	})
}

func TestReceiveDeliversInOrder(t *testing.T) {
	s := &Stream{RTT: &RTT{}}
	var got []uint32
	for _, id := range []uint32{2, 1, 1, 0, 4, 3, 0, 5} {
		for _, in := range s.Receive(wire.Control, id, nil) {
			got = append(got, in.ID)
		}
	}
	if want := []uint32{0, 1, 2, 3, 4, 5}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// Two streams carry 200 packets each way over a link that loses, doubles and reorders.
func TestStreamsOverABadLink(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			random := mathrand.New(mathrand.NewPCG(seed, 0))
			ends := [2]*Stream{{RTT: &RTT{}}, {RTT: &RTT{}}}
			var links [2][]Outgoing
			var got [2][]uint32
			for i := range 200 {
				for _, s := range ends {
					s.Send(wire.Control, []byte{byte(i)})
				}
			}
			now := start()
			for step := 0; len(got[0]) < 200 || len(got[1]) < 200 || ends[0].Waiting()+ends[1].Waiting() > 0; step++ {
				if step > 100_000 {
					t.Fatalf("stuck with %d and %d packets delivered", len(got[0]), len(got[1]))
				}
				now = now.Add(20 * time.Millisecond)
				for i, s := range ends {
					for _, o := range drain(s, now) {
						for copies := random.IntN(10); copies > 2; copies -= 6 {
							links[1-i] = append(links[1-i], o)
						}
					}
					random.Shuffle(len(links[i]), func(a, b int) { links[i][a], links[i][b] = links[i][b], links[i][a] })
					n := random.IntN(len(links[i]) + 1)
					for _, o := range links[i][:n] {
						s.Acked(o.Acks, now)
						if o.Op == wire.Ack {
							continue
						}
						for _, in := range s.Receive(o.Op, o.ID, o.Payload) {
							got[i] = append(got[i], in.ID)
						}
					}
					links[i] = links[i][n:]
				}
			}
			for i := range got {
				if !slices.IsSorted(got[i]) || len(got[i]) != 200 {
					t.Errorf("side %d: got %v", i, got[i])
				}
			}
		})
	}
}

func TestPipe(t *testing.T) {
	t.Run("gives the reader what was delivered", func(t *testing.T) {
		p := NewPipe(func() {})
		want := make([]byte, 10_000)
		_, _ = rand.Read(want)
		go func() {
			for chunk := range slices.Chunk(want, 777) {
				if err := p.Deliver(chunk); err != nil {
					t.Error(err)
				}
			}
			p.Fail(io.EOF)
		}()
		got, err := io.ReadAll(p)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("got %d bytes, %v; want %d", len(got), err, len(want))
		}
	})
	t.Run("collects writes and wakes the session", func(t *testing.T) {
		woken := 0
		p := NewPipe(func() { woken++ })
		for _, s := range []string{"hello ", "world"} {
			if _, err := io.WriteString(p, s); err != nil {
				t.Fatal(err)
			}
		}
		if a, b, c := p.Take(8), p.Take(8), p.Take(8); string(a) != "hello wo" || string(b) != "rld" || len(c) != 0 || woken != 2 {
			t.Errorf("got %q, %q, %q and woken %d", a, b, c, woken)
		}
	})
	t.Run("refuses a flood", func(t *testing.T) {
		p := NewPipe(func() {})
		if err := p.Deliver(make([]byte, maxUnread)); err != nil {
			t.Fatal(err)
		}
		if err := p.Deliver([]byte{1}); !errors.Is(err, ErrFlooded) {
			t.Errorf("got %v, want %v", err, ErrFlooded)
		}
	})
	t.Run("ends with the error it was given", func(t *testing.T) {
		p := NewPipe(func() {})
		p.Fail(io.ErrUnexpectedEOF)
		p.Fail(io.EOF)
		if _, err := p.Read(make([]byte, 1)); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("Read: got %v, want %v", err, io.ErrUnexpectedEOF)
		}
		if _, err := p.Write([]byte{1}); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("Write: got %v, want %v", err, io.ErrUnexpectedEOF)
		}
	})
}
