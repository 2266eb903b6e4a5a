package dnsproxy

import (
	"bytes"
	"testing"

	"github.com/miekg/dns"

	"penstock/dnsproxy/wire"
)

// FuzzServePacket: whatever is asked, there is no panic, and an answer parses and keeps id and question.
func FuzzServePacket(f *testing.F) {
	for _, name := range []string{"casino.example", "localhost", "www.example", "1.0.0.10.in-addr.arpa", "use-application-dns.net", "."} {
		for _, qtype := range []string{"A", "HTTPS", "ANY"} {
			octets, err := query(name, qtype).Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(octets)
			f.Add(octets[:len(octets)-11])
			f.Add(octets[:len(octets)-5])
		}
	}
	s := newServer(f, Settings{
		Upstreams: []Upstream{{Address: "10.0.0.53", Via: "way"}},
	}, through(downDialer{}), judged(blocks(map[string]string{"casino.example": "gambling"})))
	f.Fuzz(func(t *testing.T, octets []byte) {
		answers := make(chan []byte, 1)
		s.ServePacket(t.Context(), ana, octets, func(msg []byte) error {
			answers <- bytes.Clone(msg)
			return nil
		})
		if len(octets) < wire.HeaderLen || octets[2]&0x80 != 0 {
			if len(answers) > 0 {
				t.Fatal("answered what is no query")
			}
			return
		}
		checkAnswer(t, octets, <-answers)
	})
}

func checkAnswer(t *testing.T, octets, answer []byte) {
	t.Helper()
	a := new(dns.Msg)
	if err := a.Unpack(answer); err != nil {
		t.Fatalf("answer does not parse: %v\n%x", err, answer)
	}
	if !bytes.Equal(answer[:2], octets[:2]) || !a.Response {
		t.Fatalf("answer to another query: %s", a)
	}
	if len(answer) > wire.MaxUDP {
		t.Fatalf("answer of %d octets", len(answer))
	}
	if len(a.Question) == 0 {
		if a.Rcode != dns.RcodeFormatError && a.Rcode != dns.RcodeNotImplemented {
			t.Fatalf("no question in the answer: %s", a)
		}
		return
	}
	end := wire.SkipName(octets, wire.HeaderLen) + 4
	if len(answer) < end || !bytes.Equal(answer[wire.HeaderLen:end], octets[wire.HeaderLen:end]) {
		t.Fatalf("question changed:\n%x\n%x", octets, answer)
	}
}
