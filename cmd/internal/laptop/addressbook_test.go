package laptop

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// nameServer answers every name with the same addresses.
type nameServer struct {
	asked int
	found []netip.Addr
	err   error
}

func (n *nameServer) lookup(context.Context, string) ([]netip.Addr, error) {
	n.asked++
	return slices.Clone(n.found), n.err
}

func TestAddressBook(t *testing.T) {
	one, two := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	file := func(t *testing.T) string { return filepath.Join(t.TempDir(), "endpoints.json") }
	book := func(file string, n *nameServer) *addressBook {
		return openAddressBook(file, n.lookup, slog.New(slog.DiscardHandler))
	}
	want := func(t *testing.T, b *addressBook, addrs ...netip.Addr) {
		t.Helper()
		got, err := b.resolve(t.Context(), "vpn.example")
		if err != nil || !slices.Equal(got, addrs) {
			t.Errorf("got %v %v, want %v", got, err, addrs)
		}
	}
	t.Run("an address is not asked for", func(t *testing.T) {
		n := &nameServer{}
		got, err := book("", n).resolve(t.Context(), "192.0.2.9")
		if err != nil || len(got) != 1 || n.asked != 0 {
			t.Errorf("got %v %v after %d questions, want the address itself", got, err, n.asked)
		}
	})
	t.Run("a name is asked for every 10 s at most", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := &nameServer{found: []netip.Addr{one}}
			b := book("", n)
			want(t, b, one)
			n.found = []netip.Addr{two}
			time.Sleep(9 * time.Second)
			want(t, b, one)
			time.Sleep(2 * time.Second)
			want(t, b, two)
		})
	})
	t.Run("a name that was never resolved is asked for each time", func(t *testing.T) {
		n := &nameServer{err: errors.New("no network")}
		b := book("", n)
		if _, err := b.resolve(t.Context(), "vpn.example"); err == nil {
			t.Error("got no error, want that of the network")
		}
		n.found, n.err = []netip.Addr{one}, nil
		want(t, b, one)
	})
	t.Run("on another network it is asked for at once", func(t *testing.T) {
		n := &nameServer{found: []netip.Addr{one}}
		b := book("", n)
		want(t, b, one)
		n.found = []netip.Addr{two}
		b.outdated()
		want(t, b, two)
	})
	t.Run("the last good addresses survive a restart without a resolver", func(t *testing.T) {
		path := file(t)
		want(t, book(path, &nameServer{found: []netip.Addr{one, two}}), one, two)
		want(t, book(path, &nameServer{err: errors.New("no network")}), one, two)
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("got %v %v, want a file for our eyes only", info.Mode(), err)
		}
	})
	t.Run("an answer without addresses does not replace good ones", func(t *testing.T) {
		n := &nameServer{found: []netip.Addr{one}}
		b := book("", n)
		want(t, b, one)
		n.found = nil
		b.outdated()
		want(t, b, one)
	})
	t.Run("a torn file is forgotten", func(t *testing.T) {
		path := file(t)
		if err := os.WriteFile(path, []byte(`{"vpn.example":["192.0`), 0o600); err != nil {
			t.Fatal(err)
		}
		want(t, book(path, &nameServer{found: []netip.Addr{two}}), two)
	})
}

// moving is a name server whose network becomes another one while it is asked.
type moving struct {
	nameServer
	move func()
}

func (m *moving) lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	found, err := m.nameServer.lookup(ctx, name)
	if m.move != nil {
		m.move()
	}
	return found, err
}

func TestAnAnswerOfTheLastNetworkIsNotTakenOnTheNext(t *testing.T) {
	old, now := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	m := &moving{nameServer: nameServer{found: []netip.Addr{old}}}
	b := openAddressBook("", m.lookup, slog.New(slog.DiscardHandler))
	m.move = b.outdated
	if _, err := b.resolve(t.Context(), "vpn.example"); err != nil {
		t.Fatal(err)
	}
	m.move, m.found = nil, []netip.Addr{now}
	if got, err := b.resolve(t.Context(), "vpn.example"); err != nil || !slices.Equal(got, []netip.Addr{now}) {
		t.Errorf("got %v, %v, want %v: the name was asked for before the network changed", got, err, now)
	}
}
