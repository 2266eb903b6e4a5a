package sniff

import (
	"crypto/tls"
	"testing"
)

func BenchmarkClientHello(b *testing.B) {
	stream := clientHello(b, &tls.Config{ServerName: "www.example.com", NextProtos: []string{"h2", "http/1.1"}})
	b.ReportAllocs()
	b.SetBytes(int64(len(stream)))
	for b.Loop() {
		if res := TCP(stream); res.Status != Found {
			b.Fatalf("got %+v", res)
		}
	}
}

func BenchmarkClientHelloInRecords(b *testing.B) {
	stream := records(clientHello(b, &tls.Config{ServerName: "www.example.com"})[recordHeader:], 100)
	b.ReportAllocs()
	b.SetBytes(int64(len(stream)))
	for b.Loop() {
		if res := TCP(stream); res.Status != Found {
			b.Fatalf("got %+v", res)
		}
	}
}

func BenchmarkHTTPHead(b *testing.B) {
	stream := []byte(chromeHead)
	b.ReportAllocs()
	b.SetBytes(int64(len(stream)))
	for b.Loop() {
		if res := TCP(stream); res.Status != Found {
			b.Fatalf("got %+v", res)
		}
	}
}

func BenchmarkRequestsBody(b *testing.B) {
	var r Requests
	if _, res := r.Feed([]byte(lines("POST / HTTP/1.1", "Host: x.example", "Transfer-Encoding: chunked"))); res.Status != Found {
		b.Fatalf("got %+v", res)
	}
	chunk := append([]byte("8000\r\n"), make([]byte, 1<<15)...)
	chunk = append(chunk, "\r\n"...)
	b.ReportAllocs()
	b.SetBytes(int64(len(chunk)))
	for b.Loop() {
		if n, res := r.Feed(chunk); n != len(chunk) || res.Status != NeedMore {
			b.Fatalf("got %d, %+v", n, res)
		}
	}
}

// A typical hello: two datagrams, keys derived once.
func BenchmarkQUICInitial(b *testing.B) {
	hello := quicHello(b, &tls.Config{ServerName: "www.example.com", NextProtos: []string{"h3"}})
	flow := datagrams(b, version1, []byte("original"), pieces(hello, 1000))
	b.ReportAllocs()
	for b.Loop() {
		var in Initials
		var res Result
		for _, d := range flow {
			res = in.Datagram(d)
		}
		if res.Status != Found {
			b.Fatalf("got %+v", res)
		}
	}
}

// The cost of a packet of an established connection.
func BenchmarkQUICShortHeader(b *testing.B) {
	var in Initials
	hello := helloWith(b, serverName("x.example"))
	in.Datagram(sealed{dcid: []byte("original"), payload: padded(cryptoFrame(hello, 0, len(hello)))}.packet(b))
	packet := append([]byte{0x40}, make([]byte, 1200)...)
	b.ReportAllocs()
	for b.Loop() {
		if res := in.Datagram(packet); res.Status != Found {
			b.Fatalf("got %+v", res)
		}
	}
}
