package sniff

import (
	"bufio"
	"bytes"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// checkResult fails if a result contradicts itself or contains an impossible host name.
func checkResult(t *testing.T, res Result) {
	t.Helper()
	if (res.Status == Found) == res.Host.IsZero() {
		t.Fatalf("got host %q with status %v", res.Host, res.Status)
	}
	if res.Ambiguous && (res.Status != NoName || res.Protocol == Unknown) {
		t.Fatalf("got an ambiguous %+v", res)
	}
	if !res.Other.IsZero() && (res.Status != Found || res.Other == res.Host) {
		t.Fatalf("got other host %q with host %q", res.Other, res.Host)
	}
	for _, h := range []string{res.Host.String(), res.Other.String()} {
		if strings.ContainsAny(h, "\x00\r\n\t /?#@:[]\\%,") || !utf8.ValidString(h) || strings.ToLower(h) != h && isASCII(h) {
			t.Fatalf("got host %q", h)
		}
	}
}

func isASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r >= utf8.RuneSelf }) < 0
}

// checkPrefixes fails unless the result is the same for every split of the stream and never changes once it is final.
func checkPrefixes(t *testing.T, b []byte) Result {
	t.Helper()
	res := cuts(t, b, 1+len(b)/500)
	checkResult(t, res)
	return res
}

func FuzzClientHello(f *testing.F) {
	f.Add(records(helloWith(f, serverName("x.bet")), 9999))
	f.Add(records(helloWith(f, serverName("x.bet")), 3))
	f.Fuzz(func(t *testing.T, b []byte) {
		res := checkPrefixes(t, b)
		if len(b) < recordHeader+messageHeader || b[0] != recordHandshake {
			return
		}
		// The same message in other records.
		message := b[recordHeader:]
		size := int(b[3])<<8 | int(b[4])
		if size > len(message) || message[0] != clientHelloType || messageSize(message) != size {
			return
		}
		message = message[:messageSize(message)]
		for _, n := range []int{1, 7, 100} {
			split := records(message, n)
			if len(split) > MaxBytes || b[1] >= 0x10 || size > maxRecord {
				return
			}
			if got := TCP(split); got != res {
				t.Fatalf("in records of %d bytes: got %+v, want %+v", n, got, res)
			}
		}
	})
}

func FuzzHellos(f *testing.F) {
	hello := records(helloWith(f, serverName("x.bet")), 9999)
	f.Add(append(bytes.Clone(hello), hello...), uint64(1))
	f.Add(append(append(bytes.Clone(hello), 20, 3, 3, 0, 1, 1), hello...), uint64(2))
	f.Add(append(append(records(helloWith(f, extension{extEarlyData, nil}), 9999), 23, 3, 3, 0, 1, 1), hello...), uint64(3))
	f.Fuzz(func(t *testing.T, b []byte, seed uint64) {
		res := TCP(b)
		if len(b) > 4<<10 || res.Protocol != TLS || res.Status == NeedMore || res.Ambiguous {
			return
		}
		want := scanBy(t, behind(b, res), b, whole)
		for _, cut := range []func(int) int{bytewise, inParts(5), atRandom(rand.New(rand.NewPCG(seed, 0)))} {
			if got := scanBy(t, behind(b, res), b, cut); !slices.Equal(got, want) {
				t.Fatalf("cut otherwise: got %+v, want %+v", got, want)
			}
		}
	})
}

func FuzzHTTPHead(f *testing.F) {
	f.Add([]byte(chromeHead))
	f.Add([]byte(preface))
	f.Add([]byte("PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\n" + chromeHead))
	f.Add(append(proxyV2(12), chromeHead...))
	f.Add([]byte("\xa0" + lines("GET\x1c/ HTTP/1.1", "Host: x.bet")))
	f.Fuzz(func(t *testing.T, b []byte) {
		res := checkPrefixes(t, b)
		if res.Protocol != HTTP || res.Status != Found {
			return
		}
		req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			return
		}
		checkSameHost(t, res, req)
	})
}

// checkSameHost compares the host with the one that net/http would serve.
func checkSameHost(t *testing.T, res Result, req *http.Request) {
	t.Helper()
	var theirs Host
	if theirs.set([]byte(req.Host)) == hostName && theirs != res.Host && theirs != res.Other {
		t.Fatalf("got %q and %q, net/http serves %q", res.Host, res.Other, req.Host)
	}
}

func FuzzQUICInitial(f *testing.F) {
	hello := helloWith(f, serverName("x.bet"))
	f.Add(cryptoFrame(hello, 0, len(hello)), uint16(20), []byte{})
	f.Add(append(cryptoFrame(hello, 20, len(hello)), cryptoFrame(hello, 0, 30)...), uint16(7), []byte("\xc0\x00\x00\x00\x01\x08original"))
	f.Fuzz(func(t *testing.T, payload []byte, cut uint16, raw []byte) {
		// Random bytes cannot start a hello, because they are not encrypted with the right keys.
		var in Initials
		checkResult(t, in.Datagram(raw))
		checkResult(t, in.Datagram(raw))
		if len(payload) > 8<<10 {
			return
		}
		// The same frames give the same result in both versions, and with junk around the packet.
		dcid := []byte("original")
		var results []Result
		for _, version := range []uint32{version1, version2} {
			in = Initials{}
			packet := sealed{version: version, dcid: dcid, payload: padded(bytes.Clone(payload))}.packet(t)
			in.Datagram([]byte("\x40 short"))
			results = append(results, in.Datagram(packet))
			checkResult(t, results[0])
			if in.last != nil && cap(in.last.hello.data) > 2*MaxBytes {
				t.Fatalf("got %d bytes held", cap(in.last.hello.data))
			}
		}
		if results[0] != results[1] {
			t.Fatalf("got %+v by version 1 and %+v by version 2", results[0], results[1])
		}
		// As a hello, it gives the same result in one frame and in two datagrams.
		if len(payload) == 0 || len(payload) > 1100 {
			return
		}
		at := int(cut) % len(payload)
		var one, two Initials
		want := one.Datagram(sealed{dcid: dcid, payload: padded(cryptoFrame(payload, 0, len(payload)))}.packet(t))
		two.Datagram(sealed{dcid: dcid, payload: padded(cryptoFrame(payload, at, len(payload)))}.packet(t))
		got := two.Datagram(sealed{dcid: dcid, number: 1, payload: padded(cryptoFrame(payload, 0, at))}.packet(t))
		if got != want {
			t.Fatalf("cut at %d: got %+v, want %+v", at, got, want)
		}
	})
}

func FuzzRequests(f *testing.F) {
	f.Add([]byte(chromeHead+chromeHead), uint64(1))
	f.Add([]byte(lines("POST / HTTP/1.1", "Host: a.example", "Transfer-Encoding: chunked")+"5\r\nhello\r\n0\r\n\r\n"+chromeHead), uint64(2))
	f.Fuzz(func(t *testing.T, b []byte, seed uint64) {
		if len(b) > 4<<10 {
			return
		}
		want := scan(t, b, whole)
		for _, cut := range []func(int) int{bytewise, inParts(5), atRandom(rand.New(rand.NewPCG(seed, 0)))} {
			if got := scan(t, b, cut); !slices.Equal(got, want) {
				t.Fatalf("cut otherwise: got %+v, want %+v", got, want)
			}
		}
		// net/http finds the same requests in the stream.
		r := bufio.NewReader(bytes.NewReader(b))
		for _, e := range want {
			if e.bad || e.status == NotThis {
				return
			}
			req, err := http.ReadRequest(r)
			if err != nil || req.Method == "PRI" { // net/http reads the HTTP/2 preface as a request
				return
			}
			var host Host
			if host.set([]byte(req.Host)) == hostName && host.String() != e.host && host.String() != e.other {
				t.Fatalf("got %+v, net/http serves %q", e, req.Host)
			}
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				return
			}
		}
		if req, err := http.ReadRequest(r); err == nil && req.Method != "PRI" {
			t.Fatalf("got %d requests, net/http finds another for %q", len(want), req.Host)
		}
	})
}
