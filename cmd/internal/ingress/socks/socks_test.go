package socks

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
)

// talk is a client that has sent all that it will send.
type talk struct {
	io.Reader
	bytes.Buffer // what it is told
}

func (t *talk) Read(b []byte) (int, error) { return t.Reader.Read(b) }

func isAna(name, password string) bool { return name == "ana" && password == "secret" }

func TestGreet(t *testing.T) {
	for _, row := range []struct {
		sentence, sent string
		login          func(string, string) bool
		told           string
		refused, bad   bool
	}{
		{"who need not log in does not", "\x05\x01\x00", nil, "\x05\x00", false, false},
		{"nor with a choice", "\x05\x02\x02\x00", nil, "\x05\x00", false, false},
		{"who insists may say anything", "\x05\x01\x02\x01\x01x\x00", nil, "\x05\x02\x01\x00", false, false},
		{"ana comes in", "\x05\x02\x00\x02\x01\x03ana\x06secret", isAna, "\x05\x02\x01\x00", false, false},
		{"not with another password", "\x05\x01\x02\x01\x03ana\x06Secret", isAna, "\x05\x02\x01\x01", true, false},
		{"nor without one", "\x05\x01\x02\x01\x03ana\x00", isAna, "\x05\x02\x01\x01", true, false},
		{"nor by not offering to log in", "\x05\x01\x00", isAna, "\x05\xff", true, false},
		{"nor by offering nothing", "\x05\x00", isAna, "\x05\xff", true, false},
		{"nor with nothing where nobody logs in", "\x05\x00", nil, "\x05\xff", true, false},
		{"SOCKS4", "\x04\x01\x00\x50\x7f\x00\x00\x01\x00", nil, "", false, true},
		{"half a greeting", "\x05\x09\x00", nil, "", false, true},
		{"half a login", "\x05\x01\x02\x01\x03an", isAna, "\x05\x02", false, true},
		{"a login of another version", "\x05\x01\x02\x05\x03ana\x06secret", isAna, "\x05\x02", false, true},
		{"nothing at all", "", nil, "", false, true},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			c := &talk{Reader: strings.NewReader(row.sent)}
			err := Greet(c, row.login)
			if got := errors.Is(err, ErrLogin); got != row.refused || (err != nil) != (row.refused || row.bad) {
				t.Errorf("got %v", err)
			}
			if c.String() != row.told {
				t.Errorf("the client was told %q, want %q", c.String(), row.told)
			}
		})
	}
}

func TestReadRequest(t *testing.T) {
	for _, row := range []struct {
		sentence, sent string
		want           Request
		err            error
	}{
		{"a name", "\x05\x01\x00\x03\x0bexample.org\x01\xbb", Request{Command: 1, Host: "example.org", Port: 443}, nil},
		{"IPv4", "\x05\x01\x00\x01\xcb\x00\x71\x01\x00\x50", Request{Command: 1, Addr: netip.MustParseAddr("203.0.113.1"), Port: 80}, nil},
		{"IPv6", "\x05\x01\x00\x04\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x16",
			Request{Command: 1, Addr: netip.MustParseAddr("2001:db8::1"), Port: 22}, nil},
		{"an empty name", "\x05\x01\x00\x03\x00\x00\x50", Request{}, ErrAddress},
		{"another type", "\x05\x01\x00\x02\x00", Request{}, ErrAddress},
		{"half a name", "\x05\x01\x00\x03\x0bexam", Request{}, io.ErrUnexpectedEOF},
		{"no port", "\x05\x01\x00\x01\x01\x02\x03\x04\x00", Request{}, io.ErrUnexpectedEOF},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			const rest = "what follows"
			r := strings.NewReader(row.sent)
			all := io.MultiReader(r, strings.NewReader(rest))
			if row.err == io.ErrUnexpectedEOF {
				all = r
			}
			got, err := ReadRequest(all)
			if !errors.Is(err, row.err) || err == nil && got != row.want {
				t.Fatalf("got %+v, %v, want %+v, %v", got, err, row.want, row.err)
			}
			if err != nil {
				return
			}
			if left, _ := io.ReadAll(all); string(left) != rest {
				t.Errorf("it leaves %q, want %q", left, rest)
			}
		})
	}
}

// FuzzRequest looks for input that makes the server panic, read on without end, or let in who has not the password.
func FuzzRequest(f *testing.F) {
	f.Add([]byte("\x05\x01\x02\x01\x03ana\x06secret\x05\x01\x00\x03\x0bexample.org\x01\xbb"), true)
	f.Add([]byte("\x05\x01\x00\x05\x01\x00\x01\x01\x02\x03\x04\x00\x50"), false)
	f.Add([]byte("\x05\xff"), true)
	f.Fuzz(func(t *testing.T, sent []byte, mustLogIn bool) {
		login := func(string, string) bool { return false }
		if !mustLogIn {
			login = nil
		}
		c := &talk{Reader: bytes.NewReader(sent)}
		if err := Greet(c, login); err != nil {
			return
		}
		if mustLogIn {
			t.Fatalf("%q came in", sent)
		}
		q, err := ReadRequest(c)
		if err == nil && (q.Host == "") == !q.Addr.IsValid() {
			t.Errorf("%q asks for %+v: want a name or an address", sent, q)
		}
	})
}

func TestDatagrams(t *testing.T) {
	for _, row := range []struct {
		name, msg string
		want      Request
		payload   string
		err       error
	}{
		{"to an IPv4 address", "\x00\x00\x00\x01\x0a\x14\x00\x0a\x00\x35hello", Request{Addr: netip.MustParseAddr("10.20.0.10"), Port: 53}, "hello", nil},
		{"to a name, empty", "\x00\x00\x00\x03\x04wiki\x01\xbb", Request{Host: "wiki", Port: 443}, "", nil},
		{"to an IPv6 address", "\x00\x00\x00\x04" + strings.Repeat("\x00", 15) + "\x01\x00\x07x", Request{Addr: netip.IPv6Loopback(), Port: 7}, "x", nil},
		{"a fragment", "\x00\x00\x01\x01\x0a\x14\x00\x0a\x00\x35hello", Request{}, "", ErrFragment},
		{"an empty name", "\x00\x00\x00\x03\x00\x01\xbb", Request{Port: 443}, "", ErrAddress},
		{"another kind of address", "\x00\x00\x00\x02\x00\x01\xbb", Request{}, "", ErrAddress},
		{"cut short", "\x00\x00\x00\x01\x0a\x14", Request{}, "", io.ErrUnexpectedEOF},
		{"nothing", "", Request{}, "", io.ErrUnexpectedEOF},
	} {
		got, payload, err := ReadDatagram([]byte(row.msg))
		if got != row.want || string(payload) != row.payload || !errors.Is(err, row.err) {
			t.Errorf("%s: got %+v, %q, %v, want %+v, %q, %v", row.name, got, payload, err, row.want, row.payload, row.err)
		}
	}
	for _, from := range []string{"10.20.0.10:53", "[fd20::10]:7"} {
		at := netip.MustParseAddrPort(from)
		got, payload, err := ReadDatagram(append(DatagramHead(at), "pong"...))
		if netip.AddrPortFrom(got.Addr, got.Port) != at || string(payload) != "pong" || err != nil {
			t.Errorf("%s: got %+v, %q, %v", from, got, payload, err)
		}
	}
}

func FuzzDatagram(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x03\x04wiki\x01\xbbhello"))
	f.Fuzz(func(t *testing.T, msg []byte) {
		q, payload, err := ReadDatagram(msg)
		if err == nil && (q.Host == "") != q.Addr.IsValid() {
			t.Errorf("got %+v, want a name or an address", q)
		}
		if err == nil && !bytes.HasSuffix(msg, payload) {
			t.Errorf("the payload %q is not the end of %q", payload, msg)
		}
	})
}
