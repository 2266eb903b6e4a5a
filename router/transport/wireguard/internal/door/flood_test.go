package door

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

// somewhere is the i-th of many addresses.
func somewhere(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, byte(i >> 16), byte(i >> 8), byte(i)}), 1000)
}

// initiationTo makes an initiation to a public key, with a right mac1 and no mac2.
func initiationTo(public device.NoisePublicKey) []byte {
	var g device.CookieGenerator
	g.Init(public)
	packet := make([]byte, device.MessageInitiationSize)
	for i := range packet[:mac1At] {
		packet[i] = byte(rand.Uint32())
	}
	binary.LittleEndian.PutUint32(packet, device.MessageInitiationType)
	g.AddMacs(packet)
	return packet
}

// load puts a door under load for an hour.
func (d *Door) load() { d.loadedUntil(time.Now().Add(time.Hour)) }

// drain answers those who have asked.
func (d *Door) drain() {
	for len(d.asked) > 0 {
		c := <-d.asked
		d.sendCookie(&c)
	}
}

func TestCookiesAreBounded(t *testing.T) {
	public := device.NoisePublicKey{2}
	d, bind := newTestDoor(t, public)
	d.load()
	packet, now := initiationTo(public), time.Now()
	const seconds, rate = 10, 4 * CookieRate
	for i := range seconds * rate {
		d.receive(packet, &fakeEndpoint{dst: somewhere(i)}, now.Add(time.Duration(i)*time.Second/rate))
		d.drain()
	}
	if got, most := len(bind.sent), CookieBurst+seconds*CookieRate; got > most || got < most/2 {
		t.Errorf("got %d cookies in %d seconds, want about %d", got, seconds, most)
	}
}

func TestAFloodFromOneAddressLeavesCookiesForOthers(t *testing.T) {
	public := device.NoisePublicKey{2}
	for _, row := range []struct {
		name string
		from func(i int) netip.AddrPort
	}{
		{"IPv4", func(int) netip.AddrPort { return netip.MustParseAddrPort("192.0.2.1:1000") }},
		{"all addresses of an IPv6 network", func(i int) netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 10: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)}), 1000)
		}},
	} {
		d, bind := newTestDoor(t, public)
		d.load()
		packet, now := initiationTo(public), time.Now()
		const seconds, rate = 10, 4 * CookieRate
		for i := range seconds * rate {
			now = now.Add(time.Second / rate)
			d.receive(packet, endpoint(row.from(i).String()), now)
			d.drain()
		}
		if got, most := len(bind.sent), askBurst+1+int(seconds*time.Second/askEvery); got > most {
			t.Errorf("%s: got %d cookies, want at most %d", row.name, got, most)
		}
		answered := 0
		for i := range 100 {
			if d.receive(packet, endpoint(somewhere(i).String()), now) == Unproved {
				answered++
			}
		}
		if answered < 95 { // few share the flooder's slot
			t.Errorf("%s: got cookies for %d of 100 others, want nearly all", row.name, answered)
		}
	}
}

// TestWhoIsKnownComesIn lets peers call in a flood that takes all cookies.
func TestWhoIsKnownComesIn(t *testing.T) {
	public := device.NoisePublicKey{2}
	d, bind := newTestDoor(t, public)
	var peer device.CookieGenerator
	peer.Init(public)
	packet, now := initiationTo(public), time.Now()
	d.load()
	session, cookie, stranger := endpoint("192.0.2.1:1000"), endpoint("192.0.2.2:1000"), endpoint("192.0.2.3:1000")
	response := make([]byte, device.MessageResponseSize)
	response[0] = device.MessageResponseType
	if err := d.Send([][]byte{response}, session); err != nil {
		t.Fatal(err)
	}
	bind.sent = nil
	peer.AddMacs(packet)
	d.receive(packet, cookie, now)
	d.drain()
	var reply device.MessageCookieReply
	reply.Type, reply.Receiver = binary.LittleEndian.Uint32(bind.sent[0]), binary.LittleEndian.Uint32(bind.sent[0][4:])
	copy(reply.Nonce[:], bind.sent[0][8:])
	copy(reply.Cookie[:], bind.sent[0][32:])
	if !peer.ConsumeReply(&reply) {
		t.Fatal("the cookie cannot be opened")
	}
	proof := append([]byte(nil), packet...)
	peer.AddMacs(proof)

	flood := func() {
		for i := range 2 * CookieBurst {
			d.receive(packet, &fakeEndpoint{dst: somewhere(i)}, now)
			d.drain()
		}
	}
	flood()
	expect := func(name string, packet []byte, from conn.Endpoint, want Refusal) {
		t.Helper()
		if got := d.receive(packet, from, now); got != want {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
	expect("a stranger", packet, stranger, Busy)
	expect("where a session is", packet, session, Admitted)
	expect("with a cookie", proof, cookie, Admitted)
	for range 100 {
		d.receive(packet, cookie, now)
	}
	expect("without one, in the name of one who has", packet, cookie, TooMany)
	expect("with a cookie, after others in its name", proof, cookie, Admitted)
	expect("where a session is, after others in another's name", packet, session, Admitted)
	now = now.Add(sessionLasts + time.Minute)
	flood()
	expect("where a session was, when it is over", packet, session, Busy)
}

func TestALoadLastsAsLongAsTheFlood(t *testing.T) {
	public := device.NoisePublicKey{2}
	d, _ := newTestDoor(t, public)
	packet, now := initiationTo(public), time.Now()
	d.loadedUntil(now.Add(loadLasts))
	const rate = 2 * LookRate
	for i := range 10 * rate {
		now = now.Add(time.Second / rate)
		d.receive(packet, &fakeEndpoint{dst: somewhere(i)}, now)
		d.drain()
	}
	if len(d.waiting) > 0 {
		t.Errorf("got %d initiations that wait for a look without a proof, want none", len(d.waiting))
	}
	now = now.Add(loadLasts)
	if got := d.receive(packet, endpoint("192.0.2.1:1000"), now); got != Admitted {
		t.Errorf("when it is over: got %v, want an initiation admitted", got)
	}
}

// TestAJumpOfTheClockChangesNoTurn: while the door is under load, whoever was sent a cookie must not wait for the clock to catch up.
func TestAJumpOfTheClockChangesNoTurn(t *testing.T) {
	public := device.NoisePublicKey{2}
	packet, from := initiationTo(public), endpoint("192.0.2.1:1000")
	for _, jump := range []time.Duration{-time.Hour, time.Hour} {
		d, _ := newTestDoor(t, public)
		now := time.Now()
		d.loadedUntil(now.Add(loadLasts))
		if got := d.receive(packet, from, now); got != Unproved {
			t.Fatalf("under load: got %v, want a cookie", got)
		}
		if got := d.receive(packet, from, jumped(now.Add(loadLasts/2), jump)); got != Unproved {
			t.Errorf("under load, after a jump of %v: got %v, want a cookie", jump, got)
		}
		if got := d.receive(packet, from, jumped(now.Add(loadLasts), jump)); got != Admitted {
			t.Errorf("when it is over, after a jump of %v: got %v, want an initiation admitted", jump, got)
		}
	}
	p, addr, now := newProved(), netip.MustParseAddr("192.0.2.1"), time.Now()
	p.cookie(addr, now)
	for _, jump := range []time.Duration{-time.Hour, time.Hour} {
		if !p.has(addr, jumped(now.Add(provedLasts-1), jump)) || p.has(addr, jumped(now.Add(provedLasts), jump)) {
			t.Errorf("after a jump of %v an address is not proved for %v", jump, provedLasts)
		}
	}
}

// jumped returns what the clock reads at t after it was set: another wall time, and the same monotonic time, which the time
// package does not let anybody set.
func jumped(t time.Time, by time.Duration) time.Time {
	const seconds = 30 // the bit at which they begin in the first word of a time.Time with a monotonic reading
	*(*int64)(unsafe.Pointer(&t)) += int64(by/time.Second) << seconds
	return t
}

func TestAnswersThatNobodyWaitsForAreDropped(t *testing.T) {
	d, _ := newTestDoor(t, device.NoisePublicKey{2})
	here := endpoint("192.0.2.1:1000")
	call, response := make([]byte, device.MessageInitiationSize), make([]byte, device.MessageResponseSize)
	call[0], response[0] = device.MessageInitiationType, device.MessageResponseType
	binary.LittleEndian.PutUint32(call[4:], 5)
	binary.LittleEndian.PutUint32(response[4:], 6)
	answer := func(to uint32) []byte {
		packet := make([]byte, device.MessageResponseSize)
		packet[0] = device.MessageResponseType
		binary.LittleEndian.PutUint32(packet[8:], to)
		return packet
	}
	cookie := func(to uint32) []byte {
		packet := make([]byte, device.MessageCookieReplySize)
		packet[0] = device.MessageCookieReplyType
		binary.LittleEndian.PutUint32(packet[4:], to)
		return packet
	}
	expect := func(name string, packet []byte, dropped bool) {
		t.Helper()
		if got := arrive(d, packet, here); got != dropped {
			t.Errorf("%s: got dropped %v, want %v", name, got, dropped)
		}
	}
	expect("an answer before a call", answer(5), true)
	for _, packet := range [][]byte{call, response} {
		if err := d.Send([][]byte{packet}, here); err != nil {
			t.Fatal(err)
		}
	}
	expect("an answer to the call", answer(5), false)
	expect("a cookie for the call", cookie(5), false)
	expect("a cookie for the response", cookie(6), false)
	expect("an answer to something else", answer(7), true)
	expect("a cookie for something else", cookie(7), true)
	if got := d.Refused()[Unasked]; got != 3 {
		t.Errorf("got %d refused, want 3", got)
	}

	c, now := newCalls(), time.Now()
	c.sent(1, now)
	c.sent(2, now.Add(callLasts))
	if !c.wait(1) || !c.wait(2) {
		t.Error("a call was forgotten too soon")
	}
	c.sent(3, now.Add(2*callLasts))
	if c.wait(1) || !c.wait(2) || !c.wait(3) {
		t.Error("want the oldest call forgotten, and no other")
	}
}

func TestSessionsKeepTheirPlace(t *testing.T) {
	p, now := newProved(), time.Now()
	for i := range 2 * mostProved {
		p.cookie(somewhere(i).Addr(), now)
	}
	if len(p.cookies) > mostProved {
		t.Errorf("got %d addresses, want at most %d", len(p.cookies), mostProved)
	}
	peer := netip.MustParseAddr("192.0.2.1")
	p.session(peer, now)
	if !p.has(peer, now) {
		t.Error("the address of a session was not remembered beside many others")
	}
	p.cookie(peer, now.Add(provedLasts))
	if len(p.cookies) > 1 {
		t.Errorf("got %d addresses, want those out of date forgotten", len(p.cookies))
	}
}

// BenchmarkReceive is what a datagram of each kind costs between two of others, a batch at a time as the device reads it.
func BenchmarkReceive(b *testing.B) {
	public := device.NoisePublicKey{2}
	good := initiationTo(public)
	changed := func(at int) []byte {
		packet := append([]byte(nil), good...)
		packet[at]++
		return packet
	}
	data := append([]byte{device.MessageTransportType, 0, 0, 0}, make([]byte, 1448)...)
	answer := append([]byte{device.MessageResponseType, 0, 0, 0}, make([]byte, device.MessageResponseSize-4)...)
	for _, row := range []struct {
		name   string
		packet []byte
		many   bool // addresses
		loaded bool
	}{
		{"data", data, false, false},
		{"initiation, many addresses", good, true, true},
		{"initiation, one address", good, false, true},
		{"initiation, wrong mac1", changed(mac1At), true, false},
		{"initiation, wrong mac2", changed(mac2At), true, true},
		{"response that nobody waits for", answer, true, false},
	} {
		b.Run(row.name, func(b *testing.B) {
			d := New(new(fakeBind), device.NoisePrivateKey{1}, public, nil)
			for i := range d.rates {
				b.Cleanup(d.rates[i].Close)
			}
			if row.loaded {
				d.load()
			}
			const batch = 128
			packets, sizes, from := make([][]byte, batch), make([]int, batch), make([]conn.Endpoint, batch)
			for i := range packets {
				packets[i], from[i] = row.packet, endpoint(somewhere(0).String())
				if row.many {
					from[i] = endpoint(somewhere(i * 7919).String())
				}
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if i%batch == 0 {
					for i := range sizes {
						sizes[i] = len(row.packet)
					}
					d.hold(packets, sizes, from)
					for len(d.asked) > 0 { // what it costs is that of BenchmarkCookie
						<-d.asked
					}
				}
			}
		})
	}
}

// BenchmarkCookie is what a cookie costs without its sending.
func BenchmarkCookie(b *testing.B) {
	public := device.NoisePublicKey{2}
	d := New(&silentBind{}, device.NoisePrivateKey{1}, public, nil)
	for i := range d.rates {
		b.Cleanup(d.rates[i].Close)
	}
	c := call{from: endpoint("192.0.2.1:1000")}
	copy(c.packet[:], initiationTo(public))
	b.ReportAllocs()
	for b.Loop() {
		d.sendCookie(&c)
	}
}

// silentBind is sockets that forget what is sent.
type silentBind struct{ conn.Bind }

func (*silentBind) Send([][]byte, conn.Endpoint) error { return nil }
