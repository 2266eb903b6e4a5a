package wireguard

import (
	"os"
	"testing"

	"golang.zx2c4.com/wireguard/tun"
)

// floodTUN sends one packet over and over, in full batches, and counts what it receives.
type floodTUN struct {
	*fakeTUN
	packet []byte        // nil: send nothing
	start  chan struct{} // closed when the flood may begin
	bytes  chan int      // of each batch received
}

func (f *floodTUN) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	if f.packet == nil {
		<-f.closed
		return 0, os.ErrClosed
	}
	select {
	case <-f.closed:
		return 0, os.ErrClosed
	case <-f.start:
	}
	if f.isClosed() {
		return 0, os.ErrClosed
	}
	for i := range bufs {
		sizes[i] = copy(bufs[i][offset:], f.packet)
	}
	return len(bufs), nil
}

func (f *floodTUN) Write(bufs [][]byte, offset int) (int, error) {
	n := 0
	for _, buf := range bufs {
		n += len(buf) - offset
	}
	select {
	case f.bytes <- n:
	case <-f.closed:
	}
	return len(bufs), nil
}

var _ tun.Device = (*floodTUN)(nil)

// BenchmarkClientServer measures what arrives of a flood of full packets from client to server, both in this process and
// on its cores, through UDP on the loopback. An iteration is one batch that arrived; MB/s count inner bytes.
func BenchmarkClientServer(b *testing.B) {
	key, a := GeneratePrivateKey(), newAccount(2)
	sink := &floodTUN{fakeTUN: newFakeTUN(), bytes: make(chan int)}
	s, err := NewServer(ServerConfig{Device: sink, PrivateKey: key, Peers: []Peer{a.peer}})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	source := &floodTUN{
		fakeTUN: newFakeTUN(),
		packet:  packet(a.addr, serverAddr, string(make([]byte, 1400))),
		start:   make(chan struct{}),
		bytes:   make(chan int),
	}
	c, err := NewClient(ClientConfig{Name: "bench", Device: source, Wireguard: a.file(key.Public(), s.Port())})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	connect(b, c)
	close(source.start)
	<-sink.bytes

	b.ReportAllocs()
	total := 0
	for b.Loop() {
		total += <-sink.bytes
	}
	b.ReportMetric(float64(total)/b.Elapsed().Seconds()/1e6, "MB/s")
}

func BenchmarkStats(b *testing.B) {
	c, _, _, _, _ := newPair(b)
	connect(b, c)
	b.ReportAllocs()
	for b.Loop() {
		c.Stats()
	}
}
