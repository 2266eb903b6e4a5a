package wireguard

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/curve25519"
	"golang.zx2c4.com/wireguard/device"

	"penstock/router/transport/wireguard/internal/door"
)

// TestServerWithPeersAway does what the other tests of a server do with one that keeps peers out of its device while they are away.
func TestServerWithPeersAway(t *testing.T) {
	tests := map[string]func(*testing.T){
		"TestSetPeers":                            TestSetPeers,
		"TestAddressMovesBetweenPeers":            TestAddressMovesBetweenPeers,
		"TestForeignSourceIsDropped":              TestForeignSourceIsDropped,
		"TestSetPeersRefuses":                     TestSetPeersRefuses,
		"TestManyPeers":                           TestManyPeers,
		"TestServerRun":                           TestServerRun,
		"TestNewServerRefuses":                    TestNewServerRefuses,
		"TestNothingPassesOnceAPeerWasRemoved":    TestNothingPassesOnceAPeerWasRemoved,
		"TestDataBothWays":                        TestDataBothWays,
		"TestConnectAgainMakesNewHandshake":       TestConnectAgainMakesNewHandshake,
		"TestServerRestart":                       TestServerRestart,
		"TestRebindKeepsSession":                  TestRebindKeepsSession,
		"TestRebindGoesOnAtAnotherPort":           TestRebindGoesOnAtAnotherPort,
		"TestConnectFails":                        TestConnectFails,
		"TestConnectCancelled":                    TestConnectCancelled,
		"TestCandidatesInTurn":                    TestCandidatesInTurn,
		"TestNowhereToSend":                       TestNowhereToSend,
		"TestProbe":                               TestProbe,
		"TestClose":                               TestClose,
		"TestLost":                                TestLost,
		"TestSeveralPeers":                        TestSeveralPeers,
		"TestNoKeyIsLogged":                       TestNoKeyIsLogged,
		"TestAClockThatIsBehindIsTold":            TestAClockThatIsBehindIsTold,
		"TestAClockThatWasSetBackIsTold":          TestAClockThatWasSetBackIsTold,
		"TestAServerTellsThatItIgnoresAHandshake": TestAServerTellsThatItIgnoresAHandshake,
	}
	t.Run("away", func(t *testing.T) {
		for name, test := range tests {
			t.Run(name, test)
		}
	})
}

const mac1At = device.MessageInitiationSize - 2*blake2s.Size128

// initiation makes a handshake initiation (WireGuard whitepaper, 5.4.2), made at a time and by a peer that calls itself sender.
func initiation(t testing.TB, from PrivateKey, to PublicKey, at time.Time, sender uint32) []byte {
	t.Helper()
	seal := func(key, text, hash []byte) []byte {
		aead, err := chacha20poly1305.New(key)
		if err != nil {
			t.Fatal(err)
		}
		return aead.Seal(nil, device.ZeroNonce[:], text, hash)
	}
	shared := func(private secret, public []byte) []byte {
		s, err := curve25519.X25519(private[:], public)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	mix := func(hash, data []byte) [blake2s.Size]byte { return blake2s.Sum256(append(bytes.Clone(hash), data...)) }
	once, own := GeneratePrivateKey(), from.Public()
	ephemeral := once.Public()
	packet := binary.LittleEndian.AppendUint32(nil, device.MessageInitiationType)
	packet = append(binary.LittleEndian.AppendUint32(packet, sender), ephemeral[:]...)

	var chain, key [blake2s.Size]byte
	hash := mix(device.InitialHash[:], to[:])
	hash = mix(hash[:], ephemeral[:])
	device.KDF1(&chain, device.InitialChainKey[:], ephemeral[:])
	device.KDF2(&chain, &key, chain[:], shared(once.secret, to[:]))
	static := seal(key[:], own[:], hash[:])
	hash = mix(hash[:], static)
	device.KDF2(&chain, &key, chain[:], shared(from.secret, to[:]))
	stamp := binary.BigEndian.AppendUint64(nil, 1<<62+uint64(at.Unix()))
	stamp = binary.BigEndian.AppendUint32(stamp, uint32(at.Nanosecond()))
	packet = append(append(packet, static...), seal(key[:], stamp, hash[:])...)

	label := blake2s.Sum256(append([]byte(device.WGLabelMAC1), to[:]...))
	mac, err := blake2s.New128(label[:])
	if err != nil {
		t.Fatal(err)
	}
	mac.Write(packet)
	return append(mac.Sum(packet), make([]byte, blake2s.Size128)...)
}

// caller is a socket that speaks with a server.
func newCaller(t testing.TB, s *Server) *net.UDPConn {
	t.Helper()
	c, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(s.Port())})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// present returns how many peers are in the device of a server.
func (s *Server) present(t testing.TB) int {
	t.Helper()
	_, states, err := readStatus(s.dev)
	if err != nil {
		t.Fatal(err)
	}
	return len(states)
}

// until waits for a condition.
func until(t testing.TB, what string, is func() bool) {
	t.Helper()
	ctx, tick := within(t, time.Minute), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-ctx.Done():
			t.Fatalf("waited in vain until %s", what)
		case <-tick.C:
		}
	}
}

// TestAPeerLeavesAndComesBack lets a peer leave the device, and it returns twice: once it calls, once it is called.
func TestAPeerLeavesAndComesBack(t *testing.T) {
	key, ana, bob := GeneratePrivateKey(), newAccount(2), newAccount(3)
	ana.peer.Name, bob.peer.Name = "ana", "bob"
	s, server := newTestServer(t, ServerConfig{PrivateKey: key, Peers: List{ana.peer, bob.peer}, Many: -1})
	if n := s.present(t); n != 0 {
		t.Fatalf("at the beginning: got %d peers in the device, want none", n)
	}
	c, client := newTestClient(t, ClientConfig{Wireguard: ana.file(key.Public(), s.Port())})
	connect(t, c)
	echo(t, client, server, ana, "first")
	before := s.Peers()[0]

	s.leave(time.Now().Add(leaveAfter - time.Minute)) // notes what it sees
	s.leave(time.Now().Add(leaveAfter))
	if n := s.present(t); n != 1 {
		t.Fatalf("soon after it was there: got %d peers in the device, want ana", n)
	}
	s.leave(time.Now().Add(3 * leaveAfter))
	if n := s.present(t); n != 0 {
		t.Fatalf("long after it was there: got %d peers in the device, want none", n)
	}
	left := s.Peers()[0]
	if left.Name != "ana" || left.RxBytes < before.RxBytes || left.TxBytes < before.TxBytes || !left.LastHandshake.Equal(before.LastHandshake) || left.Endpoint != before.Endpoint {
		t.Errorf("a peer that has left: got %+v, want at least what was before, %+v", left, before)
	}
	if got := s.Callers(); len(got) != 1 || got[0].PublicKey != ana.peer.PublicKey {
		t.Errorf("callers: got %+v, want ana", got)
	}

	// Somebody sends to it: the first packets are lost, or not. It has no session here any more, and is called.
	deliver(t, server, client, serverAddr, ana.addr, "from inside")
	if n := s.present(t); n != 1 {
		t.Errorf("after something was sent to it: got %d peers in the device, want ana", n)
	}
	s.leave(time.Now().Add(4 * leaveAfter))
	s.leave(time.Now().Add(6 * leaveAfter))
	if n := s.present(t); n != 0 {
		t.Fatalf("after it left again: got %d peers in the device, want none", n)
	}
	connect(t, c)
	echo(t, client, server, ana, "back")
	back := s.Peers()[0]
	if back.RxBytes <= left.RxBytes || back.TxBytes <= left.TxBytes || !back.LastHandshake.After(left.LastHandshake) {
		t.Errorf("a peer that is back: got %+v, want more than before, %+v", back, left)
	}
	if err := s.SetPeers(List{bob.peer}); err != nil {
		t.Fatal(err)
	}
	if n := s.present(t); n != 0 || len(s.Callers()) != 0 {
		t.Errorf("after its removal: got %d peers in the device and callers %+v, want none", n, s.Callers())
	}
}

// TestAKeepaliveKeepsAPeer: the server calls it as long as it is a peer.
func TestAKeepaliveKeepsAPeer(t *testing.T) {
	key, ana := GeneratePrivateKey(), newAccount(2)
	ana.peer.PersistentKeepalive = 25 * time.Second
	s, _ := newTestServer(t, ServerConfig{PrivateKey: key, Peers: List{ana.peer}, Many: -1})
	c, _ := newTestClient(t, ClientConfig{Wireguard: ana.file(key.Public(), s.Port())})
	connect(t, c)
	s.leave(time.Now().Add(2 * leaveAfter))
	s.leave(time.Now().Add(4 * leaveAfter))
	if n := s.present(t); n != 1 {
		t.Errorf("got %d peers in the device, want the one with a keepalive", n)
	}
}

// TestWhoIsRefusedAtTheDoor sends what must not reach the device.
func TestWhoIsRefusedAtTheDoor(t *testing.T) {
	key, ana, eve := GeneratePrivateKey(), newAccount(2), GeneratePrivateKey()
	s, _ := newTestServer(t, ServerConfig{PrivateKey: key, Peers: List{ana.peer}, Many: -1})
	socket, now := newCaller(t, s), time.Now()
	good := initiation(t, ana.key, key.Public(), now, 7)
	changed := func(at int) []byte {
		packet := initiation(t, ana.key, key.Public(), now.Add(time.Hour), 8)
		packet[at]++
		mac1 := initiation(t, eve, key.Public(), now, 8) // only to have the right size
		label := blake2s.Sum256(append([]byte(device.WGLabelMAC1), func() []byte { p := key.Public(); return p[:] }()...))
		mac, err := blake2s.New128(label[:])
		if err != nil {
			t.Fatal(err)
		}
		mac.Write(packet[:mac1At])
		copy(mac1, packet[:mac1At])
		copy(mac1[mac1At:], mac.Sum(nil))
		return mac1
	}
	forged := initiation(t, ana.key, key.Public(), now.Add(time.Hour), 8)
	forged[mac1At]++
	for _, row := range []struct {
		name   string
		packet []byte
		why    string
	}{
		{"a wrong mac1", forged, door.Forged.String()},
		{"a key that no peer has", initiation(t, eve, key.Public(), now, 8), door.Stranger.String()},
		{"another ephemeral key", changed(8), door.Stranger.String()},
		{"another static key", changed(40), door.Stranger.String()},
		{"the key of a peer, and not its time", changed(88), door.Replayed.String()},
	} {
		before := s.Refused()[row.why]
		if _, err := socket.Write(row.packet); err != nil {
			t.Fatal(err)
		}
		until(t, row.name+" is refused", func() bool { return s.Refused()[row.why] == before+1 })
		if n := s.present(t); n != 0 {
			t.Errorf("%s: got %d peers in the device, want none", row.name, n)
		}
	}

	answer := make([]byte, 2048)
	if _, err := socket.Write(good); err != nil {
		t.Fatal(err)
	}
	if n, err := socket.Read(answer); err != nil || n != device.MessageResponseSize || answer[8] != 7 {
		t.Fatalf("the right initiation: got %d bytes and %v, want a response to it", n, err)
	}
	for _, away := range []bool{false, true} {
		if away {
			s.leave(time.Now().Add(2 * leaveAfter))
			s.leave(time.Now().Add(4 * leaveAfter))
		}
		before := s.Refused()[door.Replayed.String()]
		if _, err := socket.Write(good); err != nil {
			t.Fatal(err)
		}
		until(t, "it is refused when it is repeated", func() bool { return s.Refused()[door.Replayed.String()] == before+1 })
		if n := s.present(t); away && n != 0 {
			t.Errorf("after an old initiation: got %d peers in the device, want none", n)
		}
	}
}

// TestAFloodOfStrangers sends ten times as many initiations as are read, which only differ from good ones in who has made them. A
// peer connects all the same, and no more of them are read than door.LookRate allows. It sends no faster, because what the socket has
// no room for is lost in any case, with the peer's.
func TestAFloodOfStrangers(t *testing.T) {
	key, ana := GeneratePrivateKey(), newAccount(2)
	s, server := newTestServer(t, ServerConfig{PrivateKey: key, Peers: List{ana.peer}, Many: -1})
	socket := newCaller(t, s)
	packet := initiation(t, GeneratePrivateKey(), key.Public(), time.Now(), 9)
	began := time.Now()
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	wg.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			for range 10 * door.LookRate / 1000 {
				_, _ = socket.Write(packet) // a full buffer is as good
			}
			<-tick.C
		}
	})
	until(t, "the door is under load", func() bool { return s.Refused()[door.Unproved.String()] > 0 })
	c, client := newTestClient(t, ClientConfig{Wireguard: ana.file(key.Public(), s.Port())})
	connect(t, c)
	echo(t, client, server, ana, "in spite of the flood")
	stop()
	got, most := s.Refused(), uint64(door.LookRate*time.Since(began).Seconds())+door.LookBurst
	if got[door.Stranger.String()] > most {
		t.Errorf("got %d strangers looked at, want at most %d", got[door.Stranger.String()], most)
	}
	t.Logf("in %.1f s: %d strangers looked at, %d sent a cookie, %d dropped", time.Since(began).Seconds(), got[door.Stranger.String()], got[door.Unproved.String()], got[door.Busy.String()])
	if n := s.present(t); n != 1 {
		t.Errorf("got %d peers in the device, want ana", n)
	}
}

// manyPeersOf returns n peers, of which the first few are those of accounts. The others have keys that nobody has.
func manyPeersOf(n int, accounts ...account) []Peer {
	peers := make([]Peer, n)
	for i := range peers {
		addr := netip.AddrFrom4([4]byte{10, 100 + byte(i>>16), byte(i >> 8), byte(i)})
		peers[i] = Peer{Name: "p" + strconv.Itoa(i), AllowedIPs: []netip.Prefix{netip.PrefixFrom(addr, 32)}}
		if i < len(accounts) {
			peers[i].PublicKey, peers[i].PresharedKey = accounts[i].peer.PublicKey, accounts[i].peer.PresharedKey
		} else {
			rand.Read(peers[i].PublicKey[:])
		}
	}
	return peers
}

// heap returns how much is in use, bytes.
func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestAHundredThousandPeers lets 200 of them call at once.
func TestAHundredThousandPeers(t *testing.T) {
	const many, calling, each = 100_000, 200, 400 // bytes
	key := GeneratePrivateKey()
	accounts := make([]account, calling)
	for i := range accounts {
		accounts[i] = newAccount(0)
	}
	peers := manyPeersOf(many, accounts...)
	s, _ := newTestServer(t, ServerConfig{PrivateKey: key, Many: -1})
	before := heap()
	if err := s.SetPeers(List(peers)); err != nil {
		t.Fatal(err)
	}
	if took := (int64(heap()) - int64(before)) / many; took > each {
		t.Errorf("got %d bytes for each peer, want at most %d", took, each)
	} else {
		t.Logf("%d bytes for each peer", took)
	}
	socket := newCaller(t, s)
	packets := make([][]byte, calling)
	for i, a := range accounts {
		packets[i] = initiation(t, a.key, key.Public(), time.Now(), uint32(i))
	}
	answered := make(map[uint32]bool)
	buf := make([]byte, 2048)
	for round := 1; len(answered) < calling; round++ { // as a peer that gets no answer does; a full buffer may have lost some
		if round > 50 {
			t.Fatalf("got answers to %d of %d initiations, refused: %v", len(answered), calling, s.Refused())
		}
		for i := range packets {
			if !answered[uint32(i)] {
				if _, err := socket.Write(packets[i]); err != nil {
					t.Fatal(err)
				}
				packets[i] = initiation(t, accounts[i].key, key.Public(), time.Now(), uint32(i))
			}
		}
		if err := socket.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		for len(answered) < calling {
			n, err := socket.Read(buf)
			if err != nil {
				break
			}
			if n == device.MessageResponseSize {
				answered[binary.LittleEndian.Uint32(buf[8:])] = true
			}
		}
	}
	if n := s.present(t); n != calling {
		t.Errorf("got %d peers in the device, want %d", n, calling)
	}
	if err := s.SetPeers(List(peers[1:])); err != nil {
		t.Fatal(err)
	}
	if n, all := s.present(t), len(s.Peers()); n != calling-1 || all != many-1 {
		t.Errorf("after one was removed: got %d peers in the device and %d in all, want %d and %d", n, all, calling-1, many-1)
	}
}

// TestManyPeersCallAtOnce sends the initiations of many peers in one go, as after an outage. Each is answered at once, and nobody is sent
// a cookie, with which a peer would come back only after 5 s.
func TestManyPeersCallAtOnce(t *testing.T) {
	const calling = 300
	key := GeneratePrivateKey()
	accounts := make([]account, calling)
	for i := range accounts {
		accounts[i] = newAccount(0)
	}
	s, _ := newTestServer(t, ServerConfig{PrivateKey: key, Peers: List(manyPeersOf(calling, accounts...))})
	packets := make([][]byte, calling)
	for i, a := range accounts {
		packets[i] = initiation(t, a.key, key.Public(), time.Now(), uint32(i))
	}
	sockets := make([]*net.UDPConn, 10) // so that the answers find room
	for i := range sockets {
		sockets[i] = newCaller(t, s)
	}
	for i, packet := range packets {
		if _, err := sockets[i%len(sockets)].Write(packet); err != nil {
			t.Fatal(err)
		}
	}
	answers, cookies := 0, 0
	for i := range packets {
		socket, buf := sockets[i%len(sockets)], make([]byte, 2048)
		if err := socket.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := socket.Read(buf)
		switch {
		case err != nil:
			t.Fatalf("after %d answers and %d cookies: %v, refused: %v", answers, cookies, err, s.Refused())
		case n == device.MessageResponseSize:
			answers++
		case n == device.MessageCookieReplySize:
			cookies++
		}
	}
	if answers != calling || cookies > 0 {
		t.Errorf("got %d answers and %d cookies, want %d and none", answers, cookies, calling)
	}
}

// TestAThousandPeersComeInDespiteCookies sends more initiations in one go, all from one address, than the server answers without asking
// for proof. Who is sent a cookie comes back with it after 5 s, as stock clients do. It prints how long that takes.
func TestAThousandPeersComeInDespiteCookies(t *testing.T) {
	const calling = 1000
	if os.Getenv("PENSTOCK_SOAK") != "1" {
		return // it takes ten seconds: task soak
	}
	key := GeneratePrivateKey()
	accounts := make([]account, calling)
	for i := range accounts {
		accounts[i] = newAccount(0)
	}
	s, _ := newTestServer(t, ServerConfig{PrivateKey: key, Peers: List(manyPeersOf(calling, accounts...))})
	sockets, cookies := make([]*net.UDPConn, 20), make([]device.CookieGenerator, calling)
	for i := range sockets {
		sockets[i] = newCaller(t, s)
	}
	packet := func(i int) []byte {
		packet := initiation(t, accounts[i].key, key.Public(), time.Now(), uint32(i))
		cookies[i].AddMacs(packet)
		return packet
	}
	call := func(i int, packet []byte) {
		if _, err := sockets[i%len(sockets)].Write(packet); err != nil {
			t.Fatal(err)
		}
	}
	packets := make([][]byte, calling) // made before, so that they come together
	for i := range accounts {
		cookies[i].Init(device.NoisePublicKey(key.Public()))
		packets[i] = packet(i)
	}
	began, waiting := time.Now(), calling
	for i := range packets {
		call(i, packets[i])
	}
	var asked []int // for a cookie
	for n, buf := 0, make([]byte, 2048); waiting > 0; n++ {
		socket := sockets[n%len(sockets)]
		if err := socket.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		size, err := socket.Read(buf)
		if err != nil {
			t.Fatalf("%d peers are not answered, %d were sent a cookie: %v, refused: %v", waiting, len(asked), err, s.Refused())
		}
		waiting--
		if size == device.MessageCookieReplySize {
			var reply device.MessageCookieReply
			if err := binary.Read(bytes.NewReader(buf[:size]), binary.LittleEndian, &reply); err != nil {
				t.Fatal(err)
			}
			if !cookies[reply.Receiver].ConsumeReply(&reply) {
				t.Fatalf("peer %d cannot open its cookie", reply.Receiver)
			}
			asked = append(asked, int(reply.Receiver))
		}
	}
	t.Logf("%d of %d answered at once after %v", calling-len(asked), calling, time.Since(began))
	if len(asked) == 0 {
		t.Error("nobody was sent a cookie: the test proves nothing")
	}
	time.Sleep(device.RekeyTimeout)
	for _, i := range asked {
		call(i, packet(i))
	}
	for _, i := range asked {
		socket, buf := sockets[i%len(sockets)], make([]byte, 2048)
		if err := socket.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if size, err := socket.Read(buf); err != nil || size != device.MessageResponseSize {
			t.Fatalf("a peer with a cookie: got %d bytes, %v; refused: %v", size, err, s.Refused())
		}
	}
	t.Logf("all answered after %v", time.Since(began))
}

// BenchmarkStart100k starts a server with 100,000 peers of which none calls.
func BenchmarkStart100k(b *testing.B) {
	key, peers := GeneratePrivateKey(), manyPeersOf(100_000)
	b.ReportAllocs()
	for b.Loop() {
		s, err := NewServer(ServerConfig{Device: newFakeTUN(), PrivateKey: key, Peers: List(peers)})
		if err != nil {
			b.Fatal(err)
		}
		s.Close()
	}
}
