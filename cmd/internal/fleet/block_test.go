package fleet

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"time"

	"penstock/cmd/internal/fleet/store"
	"penstock/router/transport/wireguard"
)

func TestABlockSaysWhatWasPut(t *testing.T) {
	at := netip.MustParseAddrPort
	rows := []struct{ sentence, at, want string }{
		{"IPv4", "192.0.2.1:7000", "192.0.2.1:7000"},
		{"IPv6", "[2001:db8::1]:65535", "[2001:db8::1]:65535"},
		{"IPv4 in IPv6 is IPv4", "[::ffff:192.0.2.1]:7000", "192.0.2.1:7000"},
		{"a zone means nothing elsewhere", "[fe80::1%eth0]:7000", ""},
		{"none", "", ""},
	}
	block, list := []byte{blockFormat}, peers(len(rows))
	for i, row := range rows {
		r := record{Age: time.Duration(i) * time.Hour, Moved: i == 1, Over: i == 2}
		if i == 3 {
			r.To = markOf("gw3")
		}
		if row.at != "" {
			r.Endpoint = at(row.at)
		}
		block = appendRecord(block, list[i], r)
	}
	i := 0
	err := records(block, func(peer wireguard.PublicKey, got record) {
		want := record{Age: time.Duration(i) * time.Hour, Moved: i == 1, Over: i == 2}
		if i == 3 {
			want.To = markOf("gw3")
		}
		if rows[i].want != "" {
			want.Endpoint = at(rows[i].want)
		}
		if peer != list[i] || got != want {
			t.Errorf("%s: got %v, %+v; want %+v", rows[i].sentence, peer, got, want)
		}
		i++
	})
	if err != nil || i != len(rows) {
		t.Errorf("got %d sessions, %v; want %d", i, err, len(rows))
	}
	if most := 1 + mostInBlock*blockEntry; most > store.MaxValue/2 {
		t.Errorf("a block has up to %d bytes, which is more than half of a value", most)
	}
	young := appendRecord([]byte{blockFormat}, list[0], record{Age: -time.Hour})
	if err := records(young, func(_ wireguard.PublicKey, r record) {
		if r.Age != 0 {
			t.Errorf("a handshake in the future: got an age of %v, want 0", r.Age)
		}
	}); err != nil {
		t.Error(err)
	}
}

func FuzzRecords(f *testing.F) {
	f.Add([]byte{blockFormat})
	f.Add(blockWith(peers(1)[0], record{Endpoint: netip.MustParseAddrPort("192.0.2.1:7000"), Moved: true}))
	f.Fuzz(func(t *testing.T, block []byte) {
		again := []byte{blockFormat}
		if records(block, func(peer wireguard.PublicKey, r record) { again = appendRecord(again, peer, r) }) != nil {
			return
		}
		if len(again) != len(block) {
			t.Errorf("%x: read and written again it is %x", block, again)
		}
	})
}

// TestTheOrderOfBlocksIsTheStores tells a board of blocks in another order than that in which they were written.
func TestTheOrderOfBlocksIsTheStores(t *testing.T) {
	b, list := newBoard("lab", names[0]), peers(3)
	all := func(string) bool { return true }
	block := func(version uint64, peer wireguard.PublicKey, r record) {
		r.Endpoint = endpointOf(peer)
		b.block(store.Entry{Key: blockKey("lab", names[1], "x"), Value: blockWith(peer, r), Version: version}, all)
	}
	block(5, list[0], record{Over: true})
	block(4, list[0], record{})
	block(7, list[1], record{})
	block(6, list[1], record{Moved: true})
	block(9, list[2], record{Moved: true})
	block(8, list[2], record{Over: true})
	if got := b.of(names[1]); len(got) != 2 || got[list[1]].Moved || !got[list[2]].Moved {
		t.Errorf("got %+v, want one session that carries and one that moved", got)
	}
	if got := b.wanted(all, nil, time.Now()); len(got) != 1 || got[list[2]].version != 9 {
		t.Errorf("nobody is gone: got %+v, want the one that moved", got)
	}
	if got := b.wanted(all, []string{names[1]}, time.Now()); len(got) != 2 {
		t.Errorf("the gateway is gone: got %+v, want both sessions", got)
	}
	if b.elsewhere(list[0], all) || !b.elsewhere(list[1], all) || b.elsewhere(list[2], all) {
		t.Error("only the session that carries is one elsewhere")
	}
	block(10, list[2], record{})
	if got := b.wanted(all, nil, time.Now()); len(got) != 0 {
		t.Errorf("the peer has come back: got %+v, want none", got)
	}
	b.sweep(time.Now().Add(store.SessionLife + time.Second))
	if got := b.of(names[1]); len(got) != 0 {
		t.Errorf("after %v without a word: got %+v, want none", store.SessionLife, got)
	}
}

// slow is a store whose writes end when the test lets them.
type slow struct {
	store.Store
	ends   chan error
	mu     sync.Mutex // guards blocks
	blocks []store.Entry
}

func (s *slow) Put(ctx context.Context, b store.Bucket, key string, value []byte, _ uint64) (uint64, error) {
	s.mu.Lock()
	s.blocks = append(s.blocks, store.Entry{Key: key, Value: value})
	s.mu.Unlock()
	select {
	case err := <-s.ends:
		return 1, err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// TestWhatWaitsForTheStoreIsOneBlock puts records while a block is on its way, which then fails.
func TestWhatWaitsForTheStoreIsOneBlock(t *testing.T) {
	s := &slow{ends: make(chan error)}
	w := newWriter(s, "lab.g.run", slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { w.run(ctx) })
	defer running.Wait()
	defer cancel()
	list := peers(3)
	written := func(n int) func() bool {
		return func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return len(s.blocks) == n
		}
	}
	w.put(list[0], record{Endpoint: endpointOf(list[0])})
	eventually(t, "the first is on its way", written(1))
	w.put(list[1], record{Endpoint: endpointOf(list[1])})
	w.put(list[1], record{Over: true})
	w.put(list[2], record{Moved: true})
	s.ends <- errors.New("no answer")
	eventually(t, "it is tried again", written(2))
	s.ends <- nil
	got := make(map[wireguard.PublicKey]record)
	if err := records(s.blocks[1].Value, func(peer wireguard.PublicKey, r record) { got[peer] = r }); err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 || got[list[0]].Endpoint != endpointOf(list[0]) || !got[list[1]].Over || !got[list[2]].Moved {
		t.Errorf("got %+v, want all three sessions as they are now", got)
	}
	if s.blocks[0].Key == s.blocks[1].Key {
		t.Errorf("both blocks are %s", s.blocks[0].Key)
	}
}
