package sniff

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// event is a result of Requests, and how many bytes had been released before it.
type event struct {
	at     int
	status Status
	host   string
	other  string
	bad    bool
}

// scan acts as the caller of Requests: see scanBy.
func scan(t testing.TB, stream []byte, cut func(left int) int) []event {
	t.Helper()
	return scanBy(t, new(Requests), stream, cut)
}

// scanBy acts as the caller of a reader: it holds bytes back, feeds the pieces that cut returns, and collects the results.
func scanBy(t testing.TB, r interface{ Feed([]byte) (int, Result) }, stream []byte, cut func(left int) int) []event {
	t.Helper()
	var (
		events   []event
		held     []byte
		released int
	)
	for len(stream) > 0 {
		n := cut(len(stream))
		held = append(held, stream[:n]...)
		stream = stream[n:]
		for len(held) > 0 {
			n, res := r.Feed(held)
			if n < 0 || n > len(held) {
				t.Fatalf("got %d bytes released of %d", n, len(held))
			}
			if res.Status == NeedMore && n == 0 && len(held) >= MaxHead {
				t.Fatalf("got a wait for more than %d bytes", len(held))
			}
			released += n
			held = held[n:]
			if res.Status != NeedMore {
				events = append(events, event{released, res.Status, res.Host.String(), res.Other.String(), res.Ambiguous})
			}
			if res.Ambiguous && n != 0 {
				t.Fatalf("got %d bytes released with an ambiguous result", n)
			}
			if res.Ambiguous || res.Status == NotThis {
				events[len(events)-1].at = 0 // how many bytes were released before depends on the split
				return events
			}
			if n == 0 {
				break
			}
		}
	}
	return events
}

func whole(left int) int { return left }
func bytewise(int) int   { return 1 }
func inParts(n int) func(int) int {
	return func(left int) int { return min(n, left) }
}

func atRandom(r *rand.Rand) func(int) int {
	return func(left int) int { return min(left, 1+r.IntN(40)) }
}

func TestEveryRequestOfAConnectionIsSeen(t *testing.T) {
	get := func(host string) string { return lines("GET / HTTP/1.1", "Host: "+host) }
	const bad = "ambiguous"
	const opaque = "opaque"
	for _, tt := range []struct {
		name, in string
		want     []string
	}{
		{"one", get("a.example"), []string{"a.example"}},
		{"pipelined", get("a.example") + get("x.bet") + get("b.example"), []string{"a.example", "x.bet", "b.example"}},
		{"empty lines between", get("a.example") + "\r\n" + get("x.bet"), []string{"a.example", "x.bet"}},
		{"behind a body", lines("POST / HTTP/1.1", "Host: a.example", "Content-Length: 36") + get("not.example")[:36] + get("x.bet"),
			[]string{"a.example", "x.bet"}},
		{"behind an empty body", lines("POST / HTTP/1.1", "Host: a.example", "Content-Length: 0") + get("x.bet"), []string{"a.example", "x.bet"}},
		{"behind chunks", lines("POST / HTTP/1.1", "Host: a.example", "Transfer-Encoding: Chunked") +
			"5\r\nhello\r\n1A;ext=\"a b\"\r\nGET / HTTP/1.1\r\nHost: no\r\n\r\n0\r\n\r\n" + get("x.bet"), []string{"a.example", "x.bet"}},
		{"behind chunks with trailers", lines("POST / HTTP/1.1", "Host: a.example", "Transfer-Encoding: chunked") +
			"000\r\nSum: 1\r\nHosts: t.example\r\n\r\n" + get("x.bet"), []string{"a.example", "x.bet"}},
		{"a host among the trailers", lines("POST / HTTP/1.1", "Host: a.example", "Transfer-Encoding: chunked") +
			"0\r\nSum: 1\r\nhost: x.bet\r\n\r\n", []string{"a.example", bad}},
		{"a request in the place of trailers", lines("POST / HTTP/1.1", "Host: a.example", "Transfer-Encoding: chunked") + "0\r\n" + get("x.bet"),
			[]string{"a.example", bad}},
		{"a request in the body of another method", lines("POST / HTTP/1.1", "Host: a.example", "Content-Length: 36") + get("not.example")[:36], []string{"a.example"}},
		{"a request in the body of a GET", lines("GET / HTTP/1.1", "Host: a.example", "Content-Length: 33") + get("x.bet"), []string{"a.example", bad}},
		{"text in the body of a GET", lines("GET /_search HTTP/1.1", "Host: a.example", "Content-Length: 20") + "{\"size\": 1,\n\"a\": 22}" + get("x.bet"),
			[]string{"a.example", "x.bet"}},
		{"without a name and then with one", lines("GET / HTTP/1.0") + get("x.bet"), []string{"", "x.bet"}},
		{"target and Host differ", get("a.example") + lines("GET http://x.bet/ HTTP/1.1", "Host: b.example"), []string{"a.example", "x.bet b.example"}},

		{"a WebSocket is opaque", lines("GET / HTTP/1.1", "Host: a.example", "Upgrade: websocket", "Connection: Upgrade") + "\x81\x85abcdGET / HTTP/1.1",
			[]string{"a.example"}},
		{"a refused upgrade hides no request", lines("GET / HTTP/1.1", "Host: a.example", "Upgrade: nonsense") + get("x.bet") + get("y.bet"),
			[]string{"a.example", "x.bet", "y.bet"}},
		{"an upgrade with a body", lines("POST / HTTP/1.1", "Host: a.example", "Upgrade: x", "Content-Length: 4") + "GET " + get("x.bet"),
			[]string{"a.example", "x.bet"}},
		{"TLS behind CONNECT is opaque", lines("CONNECT a.example:443 HTTP/1.1", "Host: a.example") + "\x16\x03\x01\x00\x05\x01",
			[]string{"a.example"}},
		{"TLS behind CONNECT with an empty body is opaque", lines("CONNECT a.example:443 HTTP/1.0", "Content-Length: 0") + "\x16\x03\x01\x00\x05\x01",
			[]string{"a.example"}},
		{"SSH behind CONNECT is opaque", lines("CONNECT a.example:22 HTTP/1.1", "Host: a.example") + "SSH-2.0-x\r\n\x00\x00\x06" + get("x.bet"),
			[]string{"a.example", opaque}},
		{"a refused CONNECT hides no request", lines("CONNECT a.example:80 HTTP/1.1", "Host: a.example") + get("x.bet"), []string{"a.example", "x.bet"}},
		{"a word without end is opaque", strings.Repeat("a", maxOdd+1), []string{opaque}},
		{"a word without end later is not", get("a.example") + strings.Repeat("a", MaxHead), []string{"a.example", bad}},
		{"what is opaque stays so", lines("GET / HTTP/1.1", "Host: a.example", "Upgrade: x") + "EHLO me\r\nQUIT\r\n" + get("x.bet"), []string{"a.example", opaque}},
		{"another protocol from the start is opaque", "EHLO a.example\r\nMAIL FROM:<me@a.example>\r\n", []string{opaque}},

		{"a stream of sound", lines("SOURCE /live HTTP/1.0", "Host: a.example") + "ID3\x04\x00\r\n\xff\xfb" + get("x.bet"), []string{"a.example", opaque}},
		{"a stream of sound by PUT", lines("PUT /live HTTP/1.1", "Host: a.example", "Expect: 100-continue") + "ID3\x04\x00\r\n\xff\xfb" + get("x.bet"),
			[]string{"a.example", opaque}},
		{"the place of a client of NTRIP", lines("GET /mount HTTP/1.0", "User-Agent: NTRIP client/1.0", "Host: a.example") +
			"$GPGGA,120000,5200.0,N\r\n$GPGGA,120005,5200.0,N\r\n", []string{"a.example", opaque}},
		{"the place of another client", lines("GET /mount HTTP/1.0", "Host: a.example") + "$GPGGA,120000,5200.0,N\r\n", []string{"a.example", bad}},

		{"a method that is no word", lines("(GET / HTTP/1.1", "Host: x.bet") + get("y.bet"), []string{"x.bet", "y.bet"}},
		{"a binary method", lines("\x00\x01 / HTTP/1.1", "Host: x.bet") + get("y.bet"), []string{"x.bet", "y.bet"}},
		{"a method of 17 KiB", lines(strings.Repeat("A", 17<<10)+" / HTTP/1.1", "Host: x.bet") + get("y.bet"), []string{"x.bet", "y.bet"}},
		{"a target of 130 KiB, blanks and another version", lines("GET /"+strings.Repeat("a", 130<<10)+" HTTP/9.9"+strings.Repeat(" ", 40), "Host: x.bet") + get("y.bet"),
			[]string{"x.bet", "y.bet"}},
		{"an odd method and a URL", lines("(GET http://x.bet/ HTTP/1.1", "Host: a.example"), []string{bad}},
		{"an odd method and a URL of a long scheme", lines("(GET a."+strings.Repeat("b", 99)+"://x.bet/ HTTP/1.1", "Host: a.example"), []string{bad}},
		{"SOCKS, and a request for a path with a URL", "\x05\x01\x00\x05\x01\x00\x01\xc0\x00\x02\x01\x00\x50" + lines("GET /?to=http://x.bet/ HTTP/1.1", "Host: a.example"),
			[]string{"a.example"}},
		{"an odd method and a bare line feed", "(GET / HTTP/1.1\nHost: x.bet\n\n", []string{bad}},
		{"words apart by line feeds", "GET\n" + lines("/ HTTP/1.1", "Host: x.bet"), []string{"x.bet"}},
		{"log lines that end with a version", "me GET /\nme GET / HTTP/1.1\nyou GET / HTTP/1.1\n", nil},
		{"RTSP, and a request behind it", lines("OPTIONS * RTSP/1.1", "CSeq: 1") + get("x.bet"), []string{"x.bet"}},
		{"RTSP with a host", lines("POST http://a.example/ RTSP/1.0", "Host: x.bet"), []string{"x.bet"}},
		{"RTSP with a body, and a request behind it", lines("ANNOUNCE rtsp://a.example/ RTSP/1.0", "Content-Length: 10") + "v=0\r\nm=0\r\n" + get("x.bet"),
			[]string{"x.bet"}},
		{"any line and a host", lines("hello", "X: y", "HOST: x.bet"), []string{"x.bet"}},
		{"any line and two hosts", lines("hello", "Host: a.example", "Host: x.bet"), []string{"a.example", bad}},
		{"any line and a host that is none", lines("hello", "Host: x.bet:1:1"), []string{bad}},
		{"STOMP", lines("CONNECT", "accept-version:1.2", "host:/") + "\x00", nil},
		{"any line and a folded host", lines("hello", "Host:", " x.bet"), []string{bad}},
		{"any line, no field, and a host", lines("hello", "you there", "Host: x.bet"), []string{opaque}},
		{"any line and a long field", lines("hello", "X: "+strings.Repeat("y", 140<<10), "Host: x.bet"), []string{"x.bet"}},

		{"another protocol later is not", get("a.example") + "EHLO a.example\r\n", []string{"a.example", bad}},
		{"binary later is not", get("a.example") + "\x00", []string{"a.example", bad}},
		{"length and chunked", get("a.example") + lines("POST / HTTP/1.1", "Host: a.example", "Content-Length: 4", "Transfer-Encoding: chunked"),
			[]string{"a.example", bad}},
		{"a chunk size with a sign", lines("POST / HTTP/1.1", "Host: a.example", "Transfer-Encoding: chunked") + "+5\r\nhello\r\n", []string{"a.example", bad}},
		{"a chunk size with a blank", lines("POST / HTTP/1.1", "Host: a.example", "Transfer-Encoding: chunked") + "5 \r\nhello\r\n", []string{"a.example", bad}},
		{"a chunk size that overflows", lines("POST / HTTP/1.1", "Host: a.example", "Transfer-Encoding: chunked") + "10000000000000005\r\nhello\r\n", []string{"a.example", bad}},
		{"no chunk size", lines("POST / HTTP/1.1", "Host: a.example", "Transfer-Encoding: chunked") + "\r\n", []string{"a.example", bad}},
		{"a chunk line ended by a bare line feed", lines("POST / HTTP/1.1", "Host: a.example", "Transfer-Encoding: chunked") + "5\nhello\r\n", []string{"a.example", bad}},
		{"a bare line feed in an extension", lines("POST / HTTP/1.1", "Host: a.example", "Transfer-Encoding: chunked") + "5;a\nhello\r\n", []string{"a.example", bad}},
		{"a chunk longer than its size", lines("POST / HTTP/1.1", "Host: a.example", "Transfer-Encoding: chunked") + "4\r\nhello\r\n", []string{"a.example", bad}},
		{"a folded trailer", lines("POST / HTTP/1.1", "Host: a.example", "Transfer-Encoding: chunked") + "0\r\n x\r\n\r\n", []string{"a.example", bad}},
		{"trailers without end", lines("POST / HTTP/1.1", "Host: a.example", "Transfer-Encoding: chunked") + "0\r\nA: " + strings.Repeat("a", MaxBytes), []string{"a.example", bad}},
		{"HTTP/2 behind HTTP/1", get("a.example") + preface, []string{"a.example", bad}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			events := scan(t, []byte(tt.in), whole)
			var got []string
			for _, e := range events {
				switch {
				case e.bad:
					got = append(got, bad)
				case e.status == NotThis:
					got = append(got, opaque)
				default:
					got = append(got, strings.TrimSpace(e.host+" "+e.other))
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			for n := 1 + len(tt.in)>>9; n < min(len(tt.in), 100); n += 1 + len(tt.in)>>10 {
				if again := scan(t, []byte(tt.in), inParts(n)); !slices.Equal(again, events) {
					t.Fatalf("in parts of %d bytes: got %+v, want %+v", n, again, events)
				}
			}
		})
	}
}

func TestABodyOfGigabytesPassesByLength(t *testing.T) {
	var r Requests
	head := []byte(lines("PUT / HTTP/1.1", "Host: a.example", "Content-Length: 8589934593"))
	if n, res := r.Feed(head); n != len(head) || res.Status != Found {
		t.Fatalf("head: got %d, %+v", n, res)
	}
	part := make([]byte, 1<<20)
	for i := range 8 << 10 {
		if n, res := r.Feed(part); n != len(part) || res.Status != NeedMore {
			t.Fatalf("part %d: got %d, %+v", i, n, res)
		}
	}
	next := []byte("." + lines("GET / HTTP/1.1", "Host: x.bet"))
	n, res := r.Feed(next)
	if n != 1 || res.Status != NeedMore {
		t.Fatalf("last byte: got %d, %+v", n, res)
	}
	if n, res = r.Feed(next[1:]); n != len(next)-1 || res.Host.String() != "x.bet" {
		t.Errorf("next request: got %d, %+v, want x.bet", n, res)
	}
}

func TestABrokenConnectionStaysBroken(t *testing.T) {
	var r Requests
	for i, in := range []string{lines("GET / HTTP/1.1", "Host: a.example", "Host: x.bet"), lines("GET / HTTP/1.1", "Host: a.example")} {
		if n, res := r.Feed([]byte(in)); n != 0 || !res.Ambiguous {
			t.Errorf("request %d: got %d, %+v; want nothing released", i, n, res)
		}
	}
}

func ExampleRequests() {
	received := []byte("GET / HTTP/1.1\r\nHost: good.example\r\n\r\nGET / HTTP/1.1\r\nHost: x.bet\r\n\r\n")
	var requests Requests
	for len(received) > 0 {
		n, res := requests.Feed(received)
		if res.Ambiguous || res.Host.String() == "x.bet" {
			fmt.Println("closed before", len(received), "bytes were forwarded")
			return
		}
		if n == 0 {
			return // read more
		}
		fmt.Println("forwarded", n, "bytes for", res.Host)
		received = received[n:]
	}
	// Output:
	// forwarded 38 bytes for good.example
	// closed before 31 bytes were forwarded
}
