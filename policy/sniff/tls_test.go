package sniff

import (
	"bytes"
	"crypto/tls"
	"testing"
)

// cuts feeds growing prefixes of a stream and returns the final result. It fails if that changes afterwards.
func cuts(t testing.TB, stream []byte, step int) Result {
	t.Helper()
	want := TCP(stream)
	decided := false
	for n := 0; n <= len(stream); n += step {
		got := TCP(stream[:n])
		if got.Status == NeedMore && !decided {
			continue
		}
		decided = true
		if got != want {
			t.Fatalf("after %d of %d bytes: got %+v, want %+v", n, len(stream), got, want)
		}
	}
	return want
}

func TestHelloOfCryptoTLS(t *testing.T) {
	for _, tt := range []struct {
		name   string
		config *tls.Config
		want   Result
	}{
		{"today's default, post-quantum key share", &tls.Config{ServerName: "Site.Example"},
			Result{Status: Found, Protocol: TLS, Host: hostOf(t, "site.example")}},
		{"with ALPN", &tls.Config{ServerName: "site.example", NextProtos: []string{"h2", "http/1.1"}},
			Result{Status: Found, Protocol: TLS, Host: hostOf(t, "site.example")}},
		{"TLS 1.2", &tls.Config{ServerName: "site.example", MaxVersion: tls.VersionTLS12},
			Result{Status: Found, Protocol: TLS, Host: hostOf(t, "site.example")}},
		{"without a name", &tls.Config{InsecureSkipVerify: true},
			Result{Status: NoName, Protocol: TLS}},
		{"to an address", &tls.Config{ServerName: "192.0.2.1"},
			Result{Status: NoName, Protocol: TLS}},
		{"with Encrypted Client Hello", &tls.Config{
			ServerName: "secret.example", MinVersion: tls.VersionTLS13,
			EncryptedClientHelloConfigList: echConfigs(t, "outer.example"),
		}, Result{Status: Found, Protocol: TLS, Host: hostOf(t, "outer.example"), ECH: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stream := clientHello(t, tt.config)
			if got := cuts(t, stream, 1); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
			message := stream[recordHeader:]
			for _, size := range []int{1, 2, 3, 4, 5, 63, 64, 500, len(message) - 1} {
				if got := cuts(t, records(message, size), 29); got != tt.want {
					t.Errorf("records of %d bytes: got %+v, want %+v", size, got, tt.want)
				}
			}
			split := records(message, len(message)/2)
			if got := TCP(append(split, "what comes after the hello"...)); got != tt.want {
				t.Errorf("with more behind it: got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestTodaysHelloSpansTwoSegments(t *testing.T) {
	if n := len(clientHello(t, &tls.Config{ServerName: "site.example"})); n <= 1400 {
		t.Errorf("got a hello of %d bytes, want more than 1400: the tests above no longer try what browsers send", n)
	}
}

func TestHelloThatIsOdd(t *testing.T) {
	name := serverName("x.bet")
	cut := helloWith(t, name)
	cut[len(cut)-len(name.data)-1]++ // the length of the extension
	for _, tt := range []struct {
		name   string
		stream []byte
		want   Result
	}{
		{"an empty record before the hello is skipped", append([]byte{22, 3, 1, 0, 0}, records(helloWith(t, name), 9999)...),
			Result{Status: Found, Protocol: TLS, Host: hostOf(t, "x.bet")}},
		{"a trailing dot and upper case are one name", records(helloWith(t, serverName("X.Bet.")), 9999),
			Result{Status: Found, Protocol: TLS, Host: hostOf(t, "x.bet")}},
		{"an unknown extension is skipped", records(helloWith(t, extension{0x1a1a, []byte("x")}, name), 9999),
			Result{Status: Found, Protocol: TLS, Host: hostOf(t, "x.bet")}},
		{"GREASE ECH looks like ECH", records(helloWith(t, name, extension{extECH, make([]byte, 200)}), 9999),
			Result{Status: Found, Protocol: TLS, Host: hostOf(t, "x.bet"), ECH: true}},
		{"ECH without an outer name", records(helloWith(t, extension{extECH, make([]byte, 200)}), 9999),
			Result{Status: NoName, Protocol: TLS, ECH: true}},
		{"no extensions", records([]byte("\x01\x00\x00\x29\x03\x01"+string(make([]byte, 32))+"\x00\x00\x02\x00\x2f\x01\x00"), 9999),
			Result{Status: NoName, Protocol: TLS}},
		{"two names", records(helloWith(t, serverName("good.example", "x.bet")), 9999), ambiguous(TLS)},
		{"two name extensions", records(helloWith(t, serverName("good.example"), name), 9999), ambiguous(TLS)},
		{"an empty name", records(helloWith(t, serverName("")), 9999), noName(TLS)},
		{"the root as a name", records(helloWith(t, serverName(".")), 9999), noName(TLS)},
		{"an empty list of names", records(helloWith(t, extension{extServerName, []byte{0, 0}}), 9999), noName(TLS)},
		{"an empty extension for names", records(helloWith(t, extension{extServerName, nil}), 9999), noName(TLS)},
		{"an empty name, then another", records(helloWith(t, serverName(""), name), 9999), ambiguous(TLS)},
		{"a NUL in the name", records(helloWith(t, serverName("x.bet\x00.good.example")), 9999), ambiguous(TLS)},
		{"an extension longer than the hello", records(cut, 9999), ambiguous(TLS)},
		{"an alert inside the hello", append(records(helloWith(t, name)[:20], 9999), 21, 3, 1, 0, 2, 1, 0), ambiguous(TLS)},
		{"a hello beyond the bound", records([]byte{1, 0, 0x40, 0, 3, 3}, 9999), ambiguous(TLS)},
		{"a hello in too many records", records(append([]byte{1, 0, 0x3f, 0}, make([]byte, 0x3f00)...), 1), ambiguous(TLS)},
		{"a server's message", records([]byte{2, 0, 0, 4, 3, 3, 0, 0}, 9999), Result{Status: NotThis}},
		{"a record too long", append([]byte{22, 3, 1, 0x50, 0}, helloWith(t, name, extension{21, make([]byte, 0x4f00)})...), ambiguous(TLS)},
		{"a record that says it is too long", append([]byte{22, 3, 1, 0x50, 0}, helloWith(t, name)...), ambiguous(TLS)},
		{"a version of a record that is none", append([]byte{22, 0x20}, records(helloWith(t, name), 9999)[2:]...), ambiguous(TLS)},
		{"one, of many records", append([]byte{22, 0x20}, records(helloWith(t, name), 1)[2:]...), ambiguous(TLS)},
		{"a record of no version, and no hello", []byte{22, 0x20, 1, 0, 9, 1, 0, 1, 0, 5}, Result{Status: NotThis}},
		{"random bytes that begin like a hello", []byte{22, 0x20, 1, 0, 9, 1, 0x77}, Result{Status: NotThis}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := cuts(t, tt.stream, 1+len(tt.stream)>>9); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestPaddingDoesNotHideTheName(t *testing.T) {
	hello := helloWith(t, extension{21, make([]byte, 12<<10)}, serverName("x.bet"))
	if got := TCP(records(hello, 1<<14)); got.Host != hostOf(t, "x.bet") {
		t.Errorf("behind 12 KiB of padding: got %+v, want x.bet", got)
	}
	hello = helloWith(t, extension{21, make([]byte, MaxBytes)}, serverName("x.bet"))
	if got := TCP(records(hello, 1<<14)); got != ambiguous(TLS) {
		t.Errorf("behind 16 KiB of padding: got %+v, want ambiguous", got)
	}
}

func TestResultKeepsNothingOfItsInput(t *testing.T) {
	b := records(helloWith(t, serverName("x.bet")), 9999)
	got := TCP(b)
	clear(b)
	if got.Host.String() != "x.bet" || !bytes.Equal(b, make([]byte, len(b))) {
		t.Errorf("got %q after the input was cleared, want x.bet", got.Host)
	}
}

// Go's server passes over the warnings, and OpenSSL's over a change of cipher, so the name would decide there and not here.
func TestAHelloBehindOtherRecords(t *testing.T) {
	hello := string(clientHello(t, &tls.Config{ServerName: "x.bet"}))
	const warning = "\x15\x03\x01\x00\x02\x01\x5a"
	for _, tt := range []struct {
		name, in string
		want     Result
	}{
		{"a warning", warning + hello, ambiguous(TLS)},
		{"one of a version that is none", "\x15\x33" + warning[2:] + hello, ambiguous(TLS)},
		{"three warnings", warning + warning + warning + hello, ambiguous(TLS)},
		{"a change of cipher without content", "\x14\x03\x01\x00\x00" + hello, ambiguous(TLS)},
		{"one with", "\x14\x03\x03\x00\x01\x01" + hello, ambiguous(TLS)},
		{"both", "\x14\x03\x01\x00\x00" + warning + "\x14\x03\x01\x00\x00" + hello, ambiguous(TLS)},
		{"an empty record between", "\x14\x03\x01\x00\x00\x16\x03\x01\x00\x00" + hello, ambiguous(TLS)},
		{"a change of cipher of two bytes", "\x14\x03\x01\x00\x02\x01\x01" + hello, Result{Status: NotThis}},
		{"a change of cipher and data", "\x14\x03\x01\x00\x00\x17\x03\x03\x00\x01\x00", Result{Status: NotThis}},
		{"an alert and something else", warning + "GET / HTTP/1.1\r\n\r\n", Result{Status: NotThis}},
		{"an alert and another message of a handshake", warning + "\x16\x03\x01\x00\x04\x00\x00\x00\x00", Result{Status: NotThis}},
		{"an alert of three bytes", "\x15\x03\x01\x00\x03\x01\x5a\x00" + hello, Result{Status: NotThis}},
		{"text that begins with the byte of an alert", "\x15hello", Result{Status: NotThis}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := cuts(t, []byte(tt.in), 1); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
	if got := TCP([]byte(warning)); got != needMore(TLS) {
		t.Errorf("the alert alone: got %+v, want %+v", got, needMore(TLS))
	}
}
