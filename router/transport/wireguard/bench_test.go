package wireguard

import (
	"os"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/tun"
)

// floodTUN sends one packet over and over, in full batches, and counts what it receives.
type floodTUN struct {
	*fakeTUN
	packet []byte        // nil: send nothing
	tokens chan struct{} // each is leave to send a batch
	bytes  chan int      // of each batch received
}

// batch is how many packets the devices read at once.
const batch = 128

func (f *floodTUN) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	if f.packet == nil {
		<-f.closed
		return 0, os.ErrClosed
	}
	select {
	case <-f.closed:
		return 0, os.ErrClosed
	case <-f.tokens:
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

// BenchmarkClientServer measures full packets from client to server, both in this process and on its cores, through UDP
// on the loopback. What is on the way is bounded, as TCP would, so that it is throughput and not loss that is measured.
// An iteration is one batch of packets sent; MB/s count the inner bytes that arrived.
func BenchmarkClientServer(b *testing.B) {
	const window, lossTimeout = 4, 50 * time.Millisecond // batches on the way; when to take what is missing for lost
	key, a := GeneratePrivateKey(), newAccount(2)
	sink := &floodTUN{fakeTUN: newFakeTUN(), bytes: make(chan int, batch)}
	s, err := NewServer(ServerConfig{Device: sink, PrivateKey: key, Peers: List{a.peer}})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	source := &floodTUN{
		fakeTUN: newFakeTUN(),
		packet:  packet(a.addr, serverAddr, string(make([]byte, 1400))),
		tokens:  make(chan struct{}, window),
		bytes:   make(chan int),
	}
	c, err := NewClient(ClientConfig{Name: "bench", Device: source, Wireguard: a.file(key.Public(), s.Port())})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	connect(b, c)

	b.ReportAllocs()
	total, onTheWay := 0, 0 // bytes
	full := batch * len(source.packet)
	for b.Loop() {
		for onTheWay > (window-1)*full {
			select {
			case n := <-sink.bytes:
				total += n
				onTheWay -= n
			case <-time.After(lossTimeout):
				onTheWay = 0
			}
		}
		source.tokens <- struct{}{}
		onTheWay += full
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
