package sniff

import (
	"bytes"
	"crypto/tls"
	"math/rand/v2"
	"testing"
)

// pieces splits a hello into CRYPTO frames of the given size.
func pieces(hello []byte, size int) [][]byte {
	var out [][]byte
	for at := 0; at < len(hello); at += size {
		out = append(out, cryptoFrame(hello, at, min(at+size, len(hello))))
	}
	return out
}

// datagrams puts frames into Initial packets of at most 1200 bytes, a packet in each datagram.
func datagrams(t testing.TB, version uint32, dcid []byte, frames [][]byte) [][]byte {
	t.Helper()
	var out [][]byte
	var payload []byte
	flush := func() {
		out = append(out, sealed{version: version, dcid: dcid, number: uint64(len(out)), payload: padded(payload)}.packet(t))
		payload = nil
	}
	for _, f := range frames {
		if len(payload)+len(f) > 1162 {
			flush()
		}
		payload = append(payload, f...)
	}
	flush()
	return out
}

// feed passes all datagrams, and fails unless the result comes with the last one that is needed.
func feed(t testing.TB, in *Initials, datagrams ...[]byte) Result {
	t.Helper()
	var res Result
	for i, d := range datagrams {
		before := bytes.Clone(d)
		res = in.Datagram(d)
		if !bytes.Equal(d, before) {
			t.Fatalf("datagram %d was changed", i)
		}
	}
	return res
}

func TestHelloInShuffledFrames(t *testing.T) {
	for _, tt := range []struct {
		name   string
		config *tls.Config
		want   Result
	}{
		{"today's default, post-quantum key share", &tls.Config{ServerName: "Site.Example", NextProtos: []string{"h3"}},
			Result{Status: Found, Protocol: QUIC, Host: hostOf(t, "site.example")}},
		{"without a name", &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h3"}}, Result{Status: NoName, Protocol: QUIC}},
		{"with Encrypted Client Hello", &tls.Config{
			ServerName: "secret.example", NextProtos: []string{"h3"},
			EncryptedClientHelloConfigList: echConfigs(t, "outer.example"),
		}, Result{Status: Found, Protocol: QUIC, Host: hostOf(t, "outer.example"), ECH: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			hello := quicHello(t, tt.config)
			random := rand.New(rand.NewPCG(1, 2))
			for _, version := range []uint32{version1, version2} {
				for _, size := range []int{1, 2, 5, 16, 200, 1000} {
					frames := pieces(hello, size)
					in := &Initials{}
					if got := feed(t, in, datagrams(t, version, []byte("8 octets"), frames)...); got != tt.want {
						t.Errorf("version %#x, frames of %d in order: got %+v, want %+v", version, size, got, tt.want)
					}
					frames = append(frames, pieces(hello, size+3)...) // overlaps
					random.Shuffle(len(frames), func(i, j int) { frames[i], frames[j] = frames[j], frames[i] })
					in = &Initials{}
					if got := feed(t, in, datagrams(t, version, []byte("8 octets"), frames)...); got != tt.want {
						t.Errorf("version %#x, frames of %d shuffled: got %+v, want %+v", version, size, got, tt.want)
					}
				}
			}
		})
	}
}

func TestHelloCutAtEveryByte(t *testing.T) {
	hello := quicHello(t, &tls.Config{ServerName: "site.example"})
	want := Result{Status: Found, Protocol: QUIC, Host: hostOf(t, "site.example")}
	dcid := []byte("8 octets")
	for at := 1; at < len(hello); at++ {
		a := sealed{dcid: dcid, payload: cryptoFrame(hello, 0, at)}.packet(t)
		b := sealed{dcid: dcid, number: 1, payload: cryptoFrame(hello, at, len(hello))}.packet(t)
		for _, order := range [][][]byte{{a, b}, {b, a}, {append(bytes.Clone(b), a...)}} {
			in := &Initials{}
			if got := feed(t, in, order...); got != want {
				t.Fatalf("cut at %d: got %+v, want %+v", at, got, want)
			}
		}
		in := &Initials{}
		if got := in.Datagram(a); got != needMore(QUIC) {
			t.Fatalf("the first %d bytes: got %+v, want more", at, got)
		}
	}
}

func TestFlowsOfDatagrams(t *testing.T) {
	dcid, other, retried := []byte("original"), []byte("another!"), []byte("from the server")
	site := helloWith(t, serverName("site.example"))
	bet := helloWith(t, serverName("x.bet"))
	half := len(bet) / 2
	one := func(hello []byte, s sealed) []byte {
		s.payload = padded(cryptoFrame(hello, 0, len(hello)))
		return s.packet(t)
	}
	part := func(from, to int, s sealed) []byte {
		s.payload = padded(cryptoFrame(bet, from, to))
		return s.packet(t)
	}
	of := func(payload string, s sealed) []byte {
		s.payload = padded([]byte(payload))
		return s.packet(t)
	}
	found := func(host string) Result { return Result{Status: Found, Protocol: QUIC, Host: hostOf(t, host)} }
	short := []byte("\x40 a packet with a short header, of a connection that is up")
	zeroRTT := []byte("\xd0\x00\x00\x00\x01\x08original\x00\x14aaaaaaaaaaaaaaaaaaaa")
	handshake := []byte("\xe0\x00\x00\x00\x01\x08original\x00\x14aaaaaaaaaaaaaaaaaaaa")
	unknown := []byte("\xc0\xff\x00\x00\x01\x08original\x00\x00\x14aaaaaaaaaaaaaaaaaaaa")
	not := Result{Status: NotThis}
	bad := ambiguous(QUIC)
	two := found("site.example") // of two hellos
	two.Other = hostOf(t, "x.bet")
	three := one(helloWith(t, serverName("third.example")), sealed{dcid: retried})
	for _, tt := range []struct {
		name string
		in   [][]byte
		want []Result // after each datagram
	}{
		{"one Initial", [][]byte{one(bet, sealed{dcid: dcid})}, []Result{found("x.bet")}},
		{"a packet number of one byte", [][]byte{one(bet, sealed{dcid: dcid, number: 3, size: 1})}, []Result{found("x.bet")}},
		{"a packet number that is completed", [][]byte{part(0, half, sealed{dcid: dcid, number: 200}), part(half, len(bet), sealed{dcid: dcid, number: 256, size: 1})},
			[]Result{needMore(QUIC), found("x.bet")}},
		{"an empty connection ID", [][]byte{one(bet, sealed{dcid: []byte{}})}, []Result{found("x.bet")}},
		{"a token from before", [][]byte{one(bet, sealed{dcid: dcid, token: make([]byte, 200)})}, []Result{found("x.bet")}},
		{"0-RTT in the same datagram", [][]byte{append(one(bet, sealed{dcid: dcid}), zeroRTT...)}, []Result{found("x.bet")}},
		{"0-RTT before it in the same datagram", [][]byte{append(bytes.Clone(zeroRTT), one(bet, sealed{dcid: dcid})...)}, []Result{found("x.bet")}},
		{"zeros behind the packet", [][]byte{append(one(bet, sealed{dcid: dcid}), make([]byte, 50)...)}, []Result{found("x.bet")}},
		{"two packets in a datagram", [][]byte{append(part(half, len(bet), sealed{dcid: dcid}), part(0, half, sealed{dcid: dcid, number: 1})...)},
			[]Result{found("x.bet")}},
		{"what comes behind the hello changes nothing", [][]byte{one(bet, sealed{dcid: dcid}), one(bet, sealed{dcid: dcid, number: 1}), handshake, short},
			[]Result{found("x.bet"), found("x.bet"), found("x.bet"), found("x.bet")}},
		{"the server's connection ID with the first keys", [][]byte{part(0, half, sealed{dcid: dcid}), part(half, len(bet), sealed{keyed: dcid, dcid: retried, number: 1})},
			[]Result{needMore(QUIC), found("x.bet")}},
		{"acknowledgements and pings around the hello", [][]byte{of("\x02\x05\x00\x01\x00\x00\x00\x01", sealed{dcid: dcid}), of("\x03\x05\x00\x00\x00\x01\x02\x03", sealed{dcid: dcid}), one(bet, sealed{dcid: dcid})},
			[]Result{needMore(QUIC), needMore(QUIC), found("x.bet")}},
		{"a Retry starts again with its connection ID and token", [][]byte{one(bet, sealed{dcid: dcid}), part(0, half, sealed{dcid: retried, token: []byte("token"), number: 1}), part(half, len(bet), sealed{dcid: retried, token: []byte("token"), number: 2})},
			[]Result{found("x.bet"), needMore(QUIC), found("x.bet")}},
		{"version 2 after version 1", [][]byte{one(site, sealed{dcid: dcid}), one(bet, sealed{version: version2, dcid: dcid})},
			[]Result{found("site.example"), found("x.bet")}},
		{"the versions of drafts, and MsQuic's", [][]byte{one(bet, sealed{version: 0xff00001d, dcid: dcid}), one(site, sealed{version: 0xff00001b, dcid: dcid}), one(bet, sealed{version: 0xff000022, dcid: dcid}), one(site, sealed{version: 0xabcd0000, dcid: other})},
			[]Result{found("x.bet"), found("site.example"), found("x.bet"), found("site.example")}},
		{"a second connection on the flow", [][]byte{one(site, sealed{dcid: dcid}), part(0, half, sealed{dcid: other}), part(half, len(bet), sealed{dcid: other, number: 1})},
			[]Result{found("site.example"), needMore(QUIC), found("x.bet")}},
		{"a decoy between two halves frees neither", [][]byte{part(0, half, sealed{dcid: dcid}), one(site, sealed{dcid: other}), part(half, len(bet), sealed{dcid: dcid, number: 1}), short},
			[]Result{needMore(QUIC), needMore(QUIC), two, two}},
		{"two decoys between two halves", [][]byte{part(0, half, sealed{dcid: dcid}), one(site, sealed{dcid: other}), three, part(half, len(bet), sealed{dcid: dcid, number: 1})},
			[]Result{needMore(QUIC), needMore(QUIC), needMore(QUIC), bad}},
		{"a decoy before a second half with the server's connection ID", [][]byte{part(0, half, sealed{dcid: dcid}), one(site, sealed{dcid: other}), part(half, len(bet), sealed{keyed: dcid, dcid: retried, number: 1})},
			[]Result{needMore(QUIC), needMore(QUIC), two}},
		{"a decoy of another version between two halves", [][]byte{part(0, half, sealed{dcid: dcid}), one(site, sealed{version: version2, dcid: dcid}), part(half, len(bet), sealed{dcid: dcid, number: 1})},
			[]Result{needMore(QUIC), needMore(QUIC), two}},
		{"two hellos of the same name, interleaved", [][]byte{part(0, half, sealed{dcid: dcid}), part(0, half, sealed{dcid: other}), part(half, len(bet), sealed{dcid: dcid, number: 1}), part(half, len(bet), sealed{dcid: other, number: 1}), one(site, sealed{dcid: retried})},
			[]Result{needMore(QUIC), needMore(QUIC), needMore(QUIC), found("x.bet"), found("site.example")}},
		{"the second of two interleaved hellos is bad", [][]byte{part(0, half, sealed{dcid: dcid}), of("\x08\x00a", sealed{dcid: other})}, []Result{needMore(QUIC), bad}},
		{"one of two interleaved hellos has no name", [][]byte{part(0, half, sealed{dcid: dcid}), one(helloWith(t), sealed{dcid: other}), part(half, len(bet), sealed{dcid: dcid, number: 1})},
			[]Result{needMore(QUIC), needMore(QUIC), bad}},
		{"unfinished hellos beyond the bound together", [][]byte{of("\x06\x7f\x00\x01a", sealed{dcid: dcid}), of("\x06\x7f\x00\x01a", sealed{dcid: other})},
			[]Result{needMore(QUIC), bad}},
		{"what cannot be opened may have begun on another port", [][]byte{part(0, half, sealed{dcid: dcid}), part(0, half, sealed{keyed: other, dcid: retried})},
			[]Result{needMore(QUIC), bad}},
		{"the server chooses version 2", [][]byte{one(site, sealed{dcid: dcid}), of("\x02\x05\x00\x01\x00", sealed{version: version2, keyed: dcid, dcid: retried, number: 1})},
			[]Result{found("site.example"), found("site.example")}},
		{"another hello in the version that the server chooses", [][]byte{part(0, half, sealed{dcid: dcid}), part(half, len(bet), sealed{version: version2, keyed: dcid, dcid: retried, number: 1})},
			[]Result{needMore(QUIC), found("x.bet")}},
		{"a name behind another one that servers may discard", [][]byte{of(string(cryptoFrame(site, 0, len(site))), sealed{dcid: dcid}), one(bet, sealed{dcid: dcid, number: 1})},
			[]Result{found("site.example"), bad}},
		{"a hello behind another one whose handshake went on", [][]byte{one(site, sealed{dcid: dcid}), handshake, one(bet, sealed{dcid: dcid, number: 1})},
			[]Result{found("site.example"), found("site.example"), bad}},
		{"a hello that is repeated late", [][]byte{one(site, sealed{dcid: dcid}), handshake, one(site, sealed{dcid: dcid, number: 1})},
			[]Result{found("site.example"), found("site.example"), found("site.example")}},
		{"half a hello that is repeated behind a change of version", [][]byte{part(0, half, sealed{dcid: dcid}), part(half, len(bet), sealed{dcid: dcid, number: 1}), of("\x02\x05\x00\x01\x00", sealed{version: version2, keyed: dcid, dcid: retried, number: 2}), part(half, len(bet), sealed{dcid: dcid, number: 1})},
			[]Result{needMore(QUIC), found("x.bet"), found("x.bet"), found("x.bet")}},
		{"the first of five dials at once acknowledges what its server has sent", [][]byte{one(site, sealed{dcid: []byte("1")}), one(site, sealed{dcid: []byte("2")}), one(site, sealed{dcid: []byte("3")}), one(site, sealed{dcid: []byte("4")}), one(site, sealed{dcid: []byte("5")}), of("\x02\x05\x00\x01\x00", sealed{keyed: []byte("1"), dcid: retried, number: 1})},
			[]Result{found("site.example"), found("site.example"), found("site.example"), found("site.example"), found("site.example"), found("site.example")}},
		{"acknowledgements behind a handshake that went on", [][]byte{one(site, sealed{dcid: dcid}), handshake, of("\x02\x05\x00\x01\x00", sealed{keyed: dcid, dcid: retried, number: 1})},
			[]Result{found("site.example"), found("site.example"), found("site.example")}},
		{"acknowledgements of a connection before the latest", [][]byte{one(site, sealed{dcid: dcid}), one(bet, sealed{dcid: other}), of("\x02\x05\x00\x01\x00", sealed{keyed: dcid, dcid: retried, number: 1})},
			[]Result{found("site.example"), found("x.bet"), found("x.bet")}},
		{"junk before the hello does not hide it", [][]byte{short, zeroRTT, one(bet, sealed{dcid: dcid})}, []Result{not, not, found("x.bet")}},

		{"a name does not cover a hello of another version", [][]byte{one(site, sealed{dcid: dcid}), unknown, short},
			[]Result{found("site.example"), bad, found("site.example")}},

		{"a short header", [][]byte{short}, []Result{not}},
		{"0-RTT alone", [][]byte{zeroRTT}, []Result{not}},
		{"version negotiation", [][]byte{[]byte("\xc0\x00\x00\x00\x00\x08original\x00\x00\x00\x00\x01")}, []Result{not}},
		{"an unknown version", [][]byte{unknown}, []Result{not}},
		{"a Retry", [][]byte{[]byte("\xf0\x00\x00\x00\x01\x08original\x00token and tag")}, []Result{not}},
		{"an Initial of a connection that was not seen to begin", [][]byte{one(bet, sealed{keyed: other, dcid: dcid})}, []Result{bad}},
		{"DNS", [][]byte{[]byte("\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01x\x03bet\x00\x00\x01\x00\x01")}, []Result{not}},
		{"nothing", [][]byte{{}}, []Result{not}},
		{"a connection ID too long", [][]byte{[]byte("\xc0\x00\x00\x00\x01\x15aaaaaaaaaaaaaaaaaaaaaaaaa")}, []Result{not}},

		{"packets of two connections in a datagram", [][]byte{append(one(site, sealed{dcid: dcid}), one(bet, sealed{dcid: other})...)}, []Result{bad}},
		{"packets with two keys in a datagram", [][]byte{part(0, half, sealed{dcid: other}),
			append(part(half, len(bet), sealed{keyed: other, dcid: dcid, number: 1}), one(site, sealed{dcid: dcid})...)}, []Result{needMore(QUIC), bad}},
		{"too many packets in a datagram", [][]byte{bytes.Repeat(zeroRTT, maxCoalesced+1)}, []Result{bad}},
		{"overlaps that differ", [][]byte{part(0, half, sealed{dcid: dcid}), one(site, sealed{dcid: dcid, number: 1})}, []Result{needMore(QUIC), bad}},
		{"a frame beyond the bound", [][]byte{of("\x06\x80\x00\x40\x00\x01a", sealed{dcid: dcid})}, []Result{bad}},
		{"a frame far beyond the bound", [][]byte{of("\x06\xff\xff\xff\xff\xff\xff\xff\xff\x01a", sealed{dcid: dcid})}, []Result{bad}},
		{"a frame longer than the packet", [][]byte{of("\x06\x00\x7f\xffa", sealed{dcid: dcid})}, []Result{bad}},
		{"a frame that an Initial may not hold", [][]byte{of("\x08\x00a", sealed{dcid: dcid})}, []Result{bad}},
		{"a server's message", [][]byte{of("\x06\x00\x04\x02\x00\x00\x00", sealed{dcid: dcid})}, []Result{bad}},
		{"a hello with two names", [][]byte{one(helloWith(t, serverName("site.example", "x.bet")), sealed{dcid: dcid})}, []Result{bad}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var in Initials
			for i, d := range tt.in {
				if got := feed(t, &in, d); got != tt.want[i] {
					t.Errorf("datagram %d: got %+v, want %+v", i, got, tt.want[i])
				}
			}
		})
	}
}

func TestConnectionsThatAreToldApartAreBounded(t *testing.T) {
	hello := helloWith(t, serverName("x.bet"))
	begin := func(in *Initials, i, size int) Result {
		return in.Datagram(sealed{dcid: []byte{byte(i), 1, 2, 3, 4, 5, 6, 7}, payload: padded(cryptoFrame(hello, 0, size))}.packet(t))
	}
	var in Initials
	for i := range 3 * maxHellos {
		if got := begin(&in, i, len(hello)); got.Status != Found {
			t.Fatalf("whole hello %d: got %+v", i, got)
		}
	}
	if n := 1 + len(in.others); n != maxHellos {
		t.Errorf("got %d connections, want %d", n, maxHellos)
	}
	in = Initials{}
	for i := range maxHellos {
		if got := begin(&in, i, 20); got != needMore(QUIC) {
			t.Fatalf("unfinished hello %d: got %+v", i, got)
		}
	}
	if got := begin(&in, maxHellos, 20); got != ambiguous(QUIC) {
		t.Errorf("one more: got %+v, want ambiguous", got)
	}
}

func TestMemoryOfAHelloIsBounded(t *testing.T) {
	var in Initials
	dcid := []byte("original")
	for i := range 200 {
		frame := append([]byte{frameCrypto, 0x80, 0, byte(0x3fff >> 8), 0xff}, 1, byte(i))
		in.Datagram(sealed{dcid: dcid, number: uint64(i), payload: padded(frame)}.packet(t))
		if n := cap(in.last.hello.data) + 8*cap(in.last.hello.have); n > 2*MaxBytes {
			t.Fatalf("after %d datagrams: got %d bytes held", i, n)
		}
	}
	hello := helloWith(t, serverName("x.bet"))
	in = Initials{}
	in.Datagram(sealed{dcid: dcid, payload: padded(cryptoFrame(hello, 0, len(hello)))}.packet(t))
	if n := in.Held(); n == 0 || n > 2*len(hello) {
		t.Errorf("after the verdict: got %d bytes held, want the hello, of %d", n, len(hello))
	}
	in.Datagram([]byte("\xe0\x00\x00\x00\x01\x08original\x00\x14aaaaaaaaaaaaaaaaaaaa"))
	if n := in.Held(); n != 0 {
		t.Errorf("once the handshake has gone on: got %d bytes held, want none", n)
	}
}
