package stack

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
	"time"

	"penstock/stack/datagram"
)

// flock are datagrams that come together: runs of one size with a shorter last one, empty ones, and some that need fragments.
func flock() (list [][]byte) {
	for i, size := range []int{
		1200, 1200, 1200, 300, 300, 301, 0, 0, 5, 5, 5, 5, 1472, 1472, 1, 1473, 3000, 3000, 700, 1452, 1452, 1453, 1453, 9,
	} {
		list = append(list, bytes.Repeat([]byte{byte('a' + i)}, size))
	}
	for i := range 100 { // more than one super-packet has, by number and by bytes
		list = append(list, bytes.Repeat([]byte{byte(i)}, 1100), bytes.Repeat([]byte{byte(i)}, 1100))
	}
	for i := range 200 {
		list = append(list, []byte{byte(i)})
	}
	return list
}

// flockPart is how many come together, so many that a socket has room for them.
const flockPart = 70

// sendFlock answers a client with all of them, a few at a time.
func sendFlock(t *testing.T, r *Request) {
	c, err := r.Accept()
	if err != nil {
		t.Error(err)
		return
	}
	c.Read(make([]byte, 10))
	total := 0
	for list := flock(); len(list) > 0; {
		n := min(len(list), flockPart)
		if err := c.(*datagram.Conn).WriteAll(list[:n]); err != nil {
			t.Error(err)
		}
		for _, b := range list[:n] {
			total += len(b)
		}
		list = list[n:]
		c.Read(make([]byte, 10)) // the client has read so far
	}
	if _, out := c.(*datagram.Conn).Bytes(); out != uint64(total) {
		t.Errorf("the flow has sent %d bytes, want %d", out, total)
	}
	c.Close()
	if err := c.(*datagram.Conn).WriteAll(flock()[:3]); err == nil {
		t.Error("a closed flow sends")
	}
}

func readFlock(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(c, "go")
	b := make([]byte, 1<<16)
	for i, want := range flock() {
		n, err := c.Read(b)
		if err != nil || !bytes.Equal(b[:n], want) {
			t.Fatalf("datagram %d: got %d bytes, %v, want %d of %q", i, n, err, len(want), want[:min(1, len(want))])
		}
		if i%flockPart == flockPart-1 {
			io.WriteString(c, "go on")
		}
	}
	io.WriteString(c, "done")
}

func TestDatagramsThatAreSentTogetherComeOneByOne(t *testing.T) {
	for _, address := range []string{"203.0.113.9:4000", "[2001:db8::9]:4000"} {
		for _, how := range []joint{byPipe, byDevice} {
			done := make(chan struct{})
			p := newPair(t, how, Limits{}, func(_ context.Context, r *Request) {
				defer close(done)
				sendFlock(t, r)
			})
			readFlock(t, p.dial(t, "udp", address))
			within(t, done)
		}
	}
}
