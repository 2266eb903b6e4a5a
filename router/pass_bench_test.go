package router

import (
	"context"
	"testing"
)

// BenchmarkCrossings opens, judges and ends flows whose packets cross.
func BenchmarkCrossings(b *testing.B) {
	hello := string(clientHello("good.example"))
	for _, bb := range []struct {
		name string
		port uint16
		send []string
	}{
		{"TLS", 443, []string{hello, change + encrypted}},
		{"HTTP", 8880, []string{"GET / HTTP/1.1\r\nHost: good.example\r\n\r\n"}},
		{"no name", 22, []string{"SSH-2.0-client\r\n"}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			w := newWorld(b, Config{Policy: decide(blocksBet), Ways: carrying{ways{}}})
			b.ReportAllocs()
			for b.Loop() {
				c := &crossed{client: new(client)}
				w.Handle(context.Background(), crossingRequest(c, bb.port))
				for _, s := range bb.send {
					c.send(s)
				}
				c.Abort()
				<-w.ended
			}
		})
	}
}
