package sniff

import (
	"crypto/tls"
	"fmt"
	"testing"
)

func TestResultsReadAsWords(t *testing.T) {
	for _, tt := range []struct {
		in   fmt.Stringer
		want string
	}{
		{NeedMore, "need-more"}, {Found, "found"}, {NoName, "no-name"}, {NotThis, "not-this"}, {Status(9), "status(9)"},
		{Unknown, "unknown"}, {TLS, "tls"}, {HTTP, "http"}, {HTTP2, "http2"}, {QUIC, "quic"}, {Protocol(9), "protocol(9)"},
	} {
		if got := tt.in.String(); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}

func TestReadingANameAllocatesNothing(t *testing.T) {
	hello := clientHello(t, &tls.Config{ServerName: "site.example"})
	for name, stream := range map[string][]byte{
		"a hello": hello, "a hello in records": records(hello[recordHeader:], 50), "an HTTP head": []byte(chromeHead),
	} {
		if n := testing.AllocsPerRun(100, func() { TCP(stream) }); n != 0 {
			t.Errorf("%s: got %v allocations, want 0", name, n)
		}
	}
}
