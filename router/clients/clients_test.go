package clients

import (
	"net/netip"
	"slices"
	"testing"
)

func peer(name, id string, addrs ...string) Peer {
	p := Peer{Name: name, ID: id, Groups: []string{"staff"}}
	for _, a := range addrs {
		p.Addrs = append(p.Addrs, netip.MustParsePrefix(a))
	}
	return p
}

func TestAPeerIsOneClientWithAllItsAddresses(t *testing.T) {
	b := NewBook(List{peer("ana", "A", "10.99.0.2/32", "fd99:0:0:2::/64"), peer("bob", "B", "10.99.0.3/32")}, nil)
	ana, ok := b.Peer(netip.MustParseAddr("10.99.0.2"))
	if !ok {
		t.Fatal("ana is not known by her address")
	}
	for _, a := range []string{"fd99:0:0:2::1", "fd99:0:0:2:ffff::9", "::ffff:10.99.0.2"} {
		if key, ok := b.Peer(netip.MustParseAddr(a)); !ok || key != ana {
			t.Errorf("%s: got client %d, %v; want ana's %d", a, key, ok, ana)
		}
	}
	if bob, _ := b.Peer(netip.MustParseAddr("10.99.0.3")); bob == ana {
		t.Error("bob has ana's key")
	}
	if _, ok := b.Peer(netip.MustParseAddr("10.99.0.4")); ok {
		t.Error("an unused address belongs to a peer")
	}
	if c, ok := b.Client(ana); !ok || c.Name != "ana" || !slices.Equal(c.Groups, []string{"staff"}) {
		t.Errorf("got %+v, %v for ana's key", c, ok)
	}
}

func TestKeysLiveAsLongAsTheirClients(t *testing.T) {
	before := NewBook(List{peer("ana", "A", "10.99.0.2/32"), peer("bob", "B", "10.99.0.3/32"), peer("eve", "E", "10.99.0.4/32")}, nil)
	renamed := peer("anna", "A", "10.99.0.2/32")
	renamed.Groups = []string{"admins"}
	after := NewBook(List{
		renamed,
		peer("dan", "D", "10.99.0.3/32"), // has bob's address
		peer("eve", "E", "10.99.0.5/32"), // has moved
	}, before)
	key := func(b *Book, addr string) uint64 { key, _ := b.Peer(netip.MustParseAddr(addr)); return key }
	if key(before, "10.99.0.2") != key(after, "10.99.0.2") {
		t.Error("a peer with another name and group lost its key: it is the same client")
	}
	if key(before, "10.99.0.3") == key(after, "10.99.0.3") {
		t.Error("a peer inherited the key of the one that had its address before")
	}
	want := []uint64{key(before, "10.99.0.3"), key(before, "10.99.0.4")}
	slices.Sort(want)
	if got := before.Gone(after); !slices.Equal(got, want) {
		t.Errorf("gone: got %v, want bob and eve's first address, %v", got, want)
	}
	for _, k := range want {
		if _, ok := after.Client(k); ok {
			t.Errorf("client %d is gone and still known", k)
		}
	}
	again := NewBook(List{peer("bob", "B", "10.99.0.3/32")}, after)
	if key(again, "10.99.0.3") == key(before, "10.99.0.3") {
		t.Error("a peer that comes back has its old key: what was ended could continue")
	}
}

func TestTheOrderOfAddressesDoesNotMatter(t *testing.T) {
	before := NewBook(List{peer("ana", "A", "10.99.0.2/32", "fd99::2/128")}, nil)
	after := NewBook(List{peer("ana", "A", "fd99::2/128", "10.99.0.2/32")}, before)
	if gone := before.Gone(after); len(gone) != 0 {
		t.Errorf("got %v gone, want nobody: ana has the addresses that she had", gone)
	}
}

func TestStrangers(t *testing.T) {
	b := NewBook(List{peer("ana", "A", "10.99.0.2/32")}, nil)
	keys := make(map[uint64]string)
	for _, a := range []string{"192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8:0:1::1", "10.99.0.3"} {
		key := b.Key(netip.MustParseAddr(a))
		if other := keys[key]; other != "" {
			t.Errorf("%s and %s are one client", a, other)
		}
		keys[key] = a
		if c, ok := b.Client(key); !ok || c.Name != "" {
			t.Errorf("%s: got %+v, %v; want a client without a name", a, c, ok)
		}
	}
	if b.Key(netip.MustParseAddr("2001:db8::1")) != b.Key(netip.MustParseAddr("2001:db8::ffff:1")) {
		t.Error("two addresses of one /64 are two clients, but one host can use all of them")
	}
	if b.Key(netip.MustParseAddr("192.0.2.1")) != b.Key(netip.MustParseAddr("::ffff:192.0.2.1")) {
		t.Error("one address in two forms is two clients")
	}
	if ana, _ := b.Peer(netip.MustParseAddr("10.99.0.2")); b.Key(netip.MustParseAddr("10.99.0.2")) != ana {
		t.Error("a peer is a stranger")
	}
	if _, ok := b.Client(Nobody); ok {
		t.Error("Nobody is a known client")
	}
	if _, ok := b.Client(Machine); !ok {
		t.Error("this machine is not known")
	}
}

func TestNamed(t *testing.T) {
	b := NewBook(List{peer("ana", "A", "10.99.0.2/32"), peer("dan", "D")}, nil)
	if key, addr, ok := b.Named("dan"); !ok || key == Nobody || addr.IsValid() {
		t.Errorf("a peer without an address: got %d, %v, %v", key, addr, ok)
	}
	if key, addr, ok := b.Named("ana"); !ok || addr != netip.MustParseAddr("10.99.0.2") || key != b.Key(addr) {
		t.Errorf("got %d, %v, %v", key, addr, ok)
	}
	if _, _, ok := b.Named("bob"); ok {
		t.Error("a peer that is not there has a name")
	}
}

func BenchmarkPeer(b *testing.B) {
	var peers []Peer
	for i := range 1000 {
		a := netip.AddrFrom4([4]byte{10, 99, byte(i >> 8), byte(i)})
		peers = append(peers, Peer{Name: a.String(), ID: a.String(), Addrs: []netip.Prefix{netip.PrefixFrom(a, 32)}})
	}
	book, addr := NewBook(List(peers), nil), netip.MustParseAddr("10.99.1.7")
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := book.Peer(addr); !ok {
			b.Fatal("not found")
		}
	}
}
