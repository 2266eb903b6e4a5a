package sniff

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"slices"
	"testing"
	"time"
)

// recorder keeps what is written to a connection.
type recorder struct {
	net.Conn
	sent []byte
}

func (r *recorder) Write(b []byte) (int, error) {
	r.sent = append(r.sent, b...)
	return r.Conn.Write(b)
}

// conversation returns what a client of crypto/tls sends to a server of it, with a few bytes of data behind the handshake.
func conversation(t testing.TB, client, server *tls.Config) []byte {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	defer listener.Close()
	near, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	defer near.Close()
	far, err := listener.Accept()
	if err != nil {
		t.Fatalf("accept: %v", err)
	}
	defer far.Close()
	for _, c := range []net.Conn{near, far} {
		c.SetDeadline(time.Now().Add(time.Minute))
	}
	done := make(chan error, 1)
	go func() {
		c := tls.Server(far, server)
		_, err := io.CopyN(c, c, 4)
		done <- err
	}()
	r := &recorder{Conn: near}
	c := tls.Client(r, client)
	if _, err := c.Write([]byte("data")); err != nil {
		t.Fatalf("send: %v", err)
	}
	if err := <-done; err != nil {
		t.Fatalf("server: %v", err)
	}
	if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
		t.Fatalf("receive: %v", err)
	}
	return r.sent
}

// certificate is one that a server of a test shows.
func certificate(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatalf("make a key: %v", err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatalf("make a certificate: %v", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func behind(b []byte, res Result) *Hellos {
	h := BehindHello(b, res)
	return &h
}

// hellos returns what is read behind the first hello of a stream. It fails if that depends on how the stream is cut.
func hellos(t testing.TB, stream []byte) []event {
	t.Helper()
	res := TCP(stream)
	if res.Status == NeedMore || res.Status == NotThis || res.Ambiguous {
		t.Fatalf("the first hello: got %+v", res)
	}
	want := scanBy(t, behind(stream, res), stream, whole)
	for n := 1; n < 20; n++ {
		if got := scanBy(t, behind(stream, res), stream, inParts(n)); !slices.Equal(got, want) {
			t.Fatalf("in %d parts: got %+v, want %+v", n, got, want)
		}
	}
	return want
}

func TestWhatFollowsTheHelloOfCryptoTLS(t *testing.T) {
	over := event{status: NotThis}
	cert := []tls.Certificate{certificate(t)}
	for _, tt := range []struct {
		name           string
		client, server *tls.Config
		again          bool // on a second connection
		want           []event
	}{
		{"TLS 1.3", &tls.Config{}, &tls.Config{}, false, []event{over}},
		{"TLS 1.3, resumed", &tls.Config{}, &tls.Config{}, true, []event{over}},
		{"TLS 1.2", &tls.Config{}, &tls.Config{MaxVersion: tls.VersionTLS12}, false, []event{over}},
		{"TLS 1.2, resumed", &tls.Config{}, &tls.Config{MaxVersion: tls.VersionTLS12}, true, []event{over}},
		{"TLS 1.3, asked for another hello", &tls.Config{}, &tls.Config{CurvePreferences: []tls.CurveID{tls.CurveP521}}, false,
			[]event{{status: Found, host: "site.example"}, over}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.client.ServerName, tt.client.InsecureSkipVerify = "site.example", true
			tt.client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
			tt.client.CurvePreferences = []tls.CurveID{tls.X25519, tls.CurveP521}
			tt.server.Certificates = cert
			if tt.again {
				conversation(t, tt.client, tt.server)
			}
			got := hellos(t, conversation(t, tt.client, tt.server))
			for i := range got {
				got[i].at = 0
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestWhatFollowsAHello(t *testing.T) {
	record := func(kind byte, n int) []byte {
		return append([]byte{kind, 3, 3, byte(n >> 8), byte(n)}, make([]byte, n)...)
	}
	plain := records(helloWith(t, serverName("good.example")), 9999)
	early := records(helloWith(t, serverName("good.example"), extension{extEarlyData, nil}), 9999)
	message := helloWith(t, serverName("x.bet"))
	other := records(message, 9999)
	versioned := func(major byte) []byte {
		m := bytes.Clone(message)
		m[messageHeader] = major
		return m
	}
	data, change, alert := record(recordData, 100), []byte{20, 3, 3, 0, 1, 1}, []byte{21, 3, 3, 0, 2, 1, 0}
	finished := append([]byte{22, 3, 3, 0, 40, 1}, make([]byte, 39)...) // encrypted, and begins like a hello
	bet, over, bad := event{status: Found, host: "x.bet"}, event{status: NotThis}, event{status: NoName, bad: true}
	for _, tt := range []struct {
		name   string
		stream [][]byte
		want   []event
	}{
		{"nothing", [][]byte{plain}, nil},
		{"another hello", [][]byte{plain, other}, []event{bet}},
		{"in many records", [][]byte{plain, records(message, 1)}, []event{bet}},
		{"a first hello in many records", [][]byte{records(plain[recordHeader:], 7), other}, []event{bet}},
		{"behind a change of cipher", [][]byte{plain, change, other}, []event{bet}},
		{"behind a warning", [][]byte{plain, alert, other}, []event{bet}},
		{"behind an empty record", [][]byte{plain, {22, 3, 3, 0, 0}, other}, []event{bet}},
		{"behind early data", [][]byte{early, change, data, data, other}, []event{bet}},
		{"behind data that was not offered", [][]byte{plain, data, other}, []event{over}},
		{"behind more early data than a server passes over", [][]byte{early, bytes.Repeat(record(recordData, 16384), 5), other}, []event{over}},
		{"a third", [][]byte{plain, other, other}, []event{bet, bet}},
		{"another without a name", [][]byte{plain, records(helloWith(t), 9999), data}, []event{{status: NoName}, over}},
		{"another that is ambiguous", [][]byte{plain, records(helloWith(t, serverName("a.example", "x.bet")), 9999)}, []event{bad}},
		{"another with data inside", [][]byte{plain, records(message[:50], 9999), data}, []event{bad}},
		{"another with a warning early inside", [][]byte{plain, records(message[:5], 9999), alert, records(message[5:], 9999)}, []event{bad}},
		{"another of a version above those of TLS", [][]byte{plain, records(versioned(4), 9999)}, []event{bet}},
		{"another of no version", [][]byte{plain, records(versioned(2), 9999)}, []event{over}},
		{"another as large as can be", [][]byte{plain, records(append([]byte{1, 2, 1, 0x40}, bytes.Repeat(message[messageHeader:], 1<<10)...), 16384)}, []event{bad}},
		{"another in a record of a version that is none", [][]byte{plain, {22, 0x33}, other[2:]}, []event{bad}},
		{"what a client of TLS 1.2 encrypts", [][]byte{plain, change, finished, data}, []event{over}},
		{"what it encrypts with ChaCha20, which begins even more like a hello", [][]byte{plain, change, records(versioned(3)[:32], 32), data}, []event{over}},
		{"another protocol", [][]byte{plain, []byte("QUIT\r\n")}, []event{over}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := hellos(t, slices.Concat(tt.stream...))
			for i := range got {
				got[i].at = 0
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestAnotherMessageInTheRecordOfAHello(t *testing.T) {
	message := helloWith(t, serverName("good.example"))
	two := append(bytes.Clone(message), helloWith(t, serverName("x.bet"))...)
	for _, size := range []int{9999, 50, len(message) - 1, len(message) + 1} {
		if got := cuts(t, records(two, size), 1); got != ambiguous(TLS) {
			t.Errorf("records of %d bytes: got %+v, want ambiguous", size, got)
		}
	}
	if got, want := cuts(t, records(two, len(message)), 1), TCP(records(message, 9999)); got != want {
		t.Errorf("a record for each: got %+v, want %+v", got, want)
	}
}

func TestAnotherHelloOfAQUICConnection(t *testing.T) {
	first, second := helloWith(t, serverName("good.example")), helloWith(t, serverName("x.bet"))
	good, bet := Result{Status: Found, Protocol: QUIC, Host: hostOf(t, "good.example")}, Result{Status: Found, Protocol: QUIC, Host: hostOf(t, "x.bet")}
	all := append(bytes.Clone(first), second...)
	at, middle, end := len(first), len(first)+len(second)/2, len(all)
	for _, tt := range []struct {
		name   string
		frames [][2]int // of all, one in each datagram
		want   []Result
	}{
		{"whole", [][2]int{{0, at}, {at, end}}, []Result{good, bet}},
		{"in two parts", [][2]int{{0, at}, {at, middle}, {middle, end}}, []Result{good, needMore(QUIC), bet}},
		{"in two parts, swapped", [][2]int{{0, at}, {middle, end}, {at, middle}}, []Result{good, needMore(QUIC), bet}},
		{"with the first repeated", [][2]int{{0, at}, {0, at}, {0, end}, {0, at}}, []Result{good, good, bet, bet}},
		{"before the server can have asked", [][2]int{{0, end}}, []Result{ambiguous(QUIC)}},
		{"a part before the server can have asked", [][2]int{{0, 20}, {middle, end}, {20, at}},
			[]Result{needMore(QUIC), needMore(QUIC), ambiguous(QUIC)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var in Initials
			for i, f := range tt.frames {
				payload := padded(cryptoFrame(all, f[0], f[1]))
				if got := in.Datagram(sealed{dcid: []byte("original"), number: uint64(i), payload: payload}.packet(t)); got != tt.want[i] {
					t.Fatalf("datagram %d: got %+v, want %+v", i, got, tt.want[i])
				}
			}
		})
	}
}
