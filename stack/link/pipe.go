package link

import (
	"net"
	"sync"
)

// pipeDepth is how many packets wait in one direction of a Pipe before its writer waits.
const pipeDepth = 256

// Pipe returns two joined Ports: what is written to one is read from the other, metadata and all. A full direction
// blocks its writer. It stands in for a device in tests and where no TUN may be opened.
func Pipe(mtu int) (Port, Port) {
	ab, ba := make(chan Packet, pipeDepth), make(chan Packet, pipeDepth)
	closed := make(chan struct{})
	once := new(sync.Once)
	return &pipePort{in: ba, out: ab, closed: closed, once: once, mtu: mtu},
		&pipePort{in: ab, out: ba, closed: closed, once: once, mtu: mtu}
}

type pipePort struct {
	in     <-chan Packet
	out    chan<- Packet
	closed chan struct{}
	once   *sync.Once
	mtu    int
}

func (p *pipePort) Read(pkts []Packet) (int, error) {
	select {
	case pkt := <-p.in:
		pkts[0].Meta = pkt.Meta
		pkts[0].Data = append(pkts[0].Data[:0], pkt.Data...)
		return 1, nil
	case <-p.closed:
		return 0, net.ErrClosed
	}
}

func (p *pipePort) Write(m Meta, pieces [][]byte) error {
	var data []byte
	for _, piece := range pieces {
		data = append(data, piece...)
	}
	select {
	case p.out <- Packet{Meta: m, Data: data}:
		return nil
	case <-p.closed:
		return net.ErrClosed
	}
}

func (p *pipePort) BatchSize() int { return 1 }
func (p *pipePort) MTU() int       { return p.mtu }

func (p *pipePort) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}
