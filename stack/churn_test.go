package stack

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestFlowsOfEveryKindEndWhileAllChanges has several goroutines send first packets while clients are closed and addresses go, and wants
// nothing left of any flow.
func TestFlowsOfEveryKindEndWhileAllChanges(t *testing.T) {
	for round := range 4 {
		far, _ := newWire(t, Config{Name: "far", Addrs: farAddrs}, nil)
		var ended, passed, rests, restsDone atomic.Int32
		life, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		act := func(r *Request) {
			switch rand.IntN(6) {
			case 0:
				r.Refuse()
			case 1:
				r.Drop()
			case 2:
				if r.Network == "tcp" {
					if _, err := r.Pass(far, watching{ended: &ended}, nil); err == nil {
						passed.Add(1)
					}
				} else if _, err := r.PassDatagrams(far, DatagramPassage{Ended: func(error) { ended.Add(1) }}); err == nil {
					passed.Add(1)
				}
			case 3:
				r.Accept()
			case 4:
				panic("test")
			}
		}
		handle := func(_ context.Context, r *Request) func(context.Context) {
			if rand.IntN(2) == 0 {
				act(r)
				if rand.IntN(2) == 0 {
					return nil
				}
			}
			return func(ctx context.Context) {
				rests.Add(1)
				defer restsDone.Add(1)
				if rand.IntN(3) == 0 {
					select {
					case <-ctx.Done():
					case <-time.After(time.Duration(rand.IntN(20)) * time.Millisecond):
					}
				}
				act(r)
			}
		}
		limits := Limits{Handshake: 20 * time.Millisecond, Dials: 30, TCPFlows: 40, UDPFlows: 40, UDPPerClient: 10}
		s, _ := newWire(t, Config{Client: byNetwork, Limits: limits, Handle: handle}, nil)
		d := s.Device() // packets out go there, and several write
		go func() {
			bufs, sizes := [][]byte{make([]byte, 70000)}, make([]int, 1)
			for {
				if _, err := d.Read(bufs, sizes, 0); err != nil {
					return
				}
			}
		}()
		var wg sync.WaitGroup
		for g := range 4 {
			wg.Go(func() {
				for life.Err() == nil {
					a := netip.AddrFrom4([4]byte{10, 0, byte(1 + g%3), 2})
					src := netip.AddrPortFrom(a, uint16(1000+rand.IntN(20)))
					var b []byte
					switch rand.IntN(6) {
					case 0, 1, 2:
						b = segment(src, web, rand.Uint32N(5), 0, flagSYN, nil)
						if rand.IntN(5) == 0 {
							b = withOption(b)
						}
					case 3:
						b = segment(src, web, rand.Uint32N(5), 0, flagRST, nil)
					case 4:
						b = segment(src, web, rand.Uint32N(5), rand.Uint32N(5), flagACK, nil)
					case 5:
						b = udpFrom(src, addr("203.0.113.9:9999"), []byte("x"))
					}
					d.Write([][]byte{append(make([]byte, 16), b...)}, 16)
				}
			})
		}
		wg.Go(func() {
			for life.Err() == nil {
				s.CloseClient(uint64(1 + rand.IntN(3)))
				time.Sleep(time.Millisecond)
			}
		})
		wg.Go(func() {
			for life.Err() == nil {
				far.SetAddrs(farAddrs[:1])
				far.SetAddrs(farAddrs[1:])
				far.SetAddrs(farAddrs)
				time.Sleep(3 * time.Millisecond)
			}
		})
		if round%2 == 0 { // close while they send
			time.Sleep(300 * time.Millisecond)
			if round%4 == 0 {
				s.Quit()
			}
			done := make(chan struct{})
			go func() { s.Close(); close(done) }()
			within(t, done)
		}
		wg.Wait()
		cancel()
		eventually(t, "all flows are over", func() bool {
			for c := range uint64(4) {
				s.CloseClient(c)
			}
			s.tcp.mu.Lock()
			defer s.tcp.mu.Unlock()
			return s.tcp.syns.Len() == 0 && s.tcp.dials.Len() == 0 && s.tcp.open.Len() == 0 && ended.Load() == passed.Load() && rests.Load() == restsDone.Load()
		})
		for c := range uint64(4) {
			eventually(t, "all places of those that are judged are back", func() bool {
				n := 0
				for n < flowBegins && s.tcp.begins.Add(c) {
					n++
				}
				for range n {
					s.tcp.begins.Done(c)
				}
				return n == flowBegins/2
			})
		}
		done := make(chan struct{})
		go func() { s.Close(); close(done) }()
		within(t, done)
		if passed.Load() == 0 || rests.Load() == 0 {
			t.Errorf("got %d flows that crossed and %d handlers that waited, want some of both", passed.Load(), rests.Load())
		}
	}
}
