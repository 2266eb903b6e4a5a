// Package nic is the network card of a stack: gVisor sees a Card, and behind it is a port or a tun.Device.
//
// Super-packets are cut as late as possible, and a full queue holds back who fills it. It looks into no packet beyond what
// cutting one takes, and it reads no port: what comes in is its owner's.
package nic

import (
	"bytes"
	"net"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"penstock/stack/link"
)

// Counter counts what goes out and what is lost, by a reason of the closed set of package stack.
type Counter interface {
	Wrote(bytes int)
	Drop(reason string)
}

// Reasons why a packet was lost.
const (
	dropQueue     = "queue"
	dropMalformed = "malformed"
)

// carrier is where a stack's packets go: a Port, or the queue behind Device.
type carrier interface {
	// sendPacket takes one packet of gVisor's and does not keep it.
	sendPacket(pkt *stack.PacketBuffer) error
	// sendBytes sends one packet of ours, in pieces, and does not keep it.
	sendBytes(m link.Meta, pieces [][]byte) error
}

// Card is a network card whose driver is gVisor. Its methods may be called by several goroutines at once.
type Card struct {
	gsoMax  uint32
	mtu     atomic.Uint32
	carrier atomic.Pointer[carrier]
	count   Counter
	later   sync.WaitGroup // packets that a goroutine of their own sends

	mu         sync.RWMutex // guards below
	dispatcher stack.NetworkDispatcher
}

// New makes a card that has nowhere to send to yet. mtu is in bytes, gsoMax is how many a super-packet may have.
func New(mtu, gsoMax int, count Counter) *Card {
	n := &Card{gsoMax: uint32(gsoMax), count: count}
	n.SetMTU(mtu)
	return n
}

// Endpoint is the card as gVisor sees it.
func (n *Card) Endpoint() stack.LinkEndpoint { return endpoint{n} }

// MTU is how long a packet may be, bytes.
func (n *Card) MTU() int { return int(n.mtu.Load()) }

// SetMTU changes how long a packet may be, bytes.
func (n *Card) SetMTU(mtu int) { n.mtu.Store(uint32(mtu)) }

// UsePort makes the card send to a port from now on.
func (n *Card) UsePort(p link.Port) { n.use(&portCarrier{port: p, count: n.count, later: &n.later}) }

// UseDevice makes the card send to a device from now on.
func (n *Card) UseDevice(d *Device) { n.use(d) }

func (n *Card) use(c carrier) { n.carrier.Store(&c) }

// Dispatcher is where packets that come in go. It is nil until gVisor has taken the endpoint.
func (n *Card) Dispatcher() stack.NetworkDispatcher {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.dispatcher
}

// endpoint is a card as gVisor sees it. gVisor leaves both checksums to the link: the owner of the card has checked what
// comes in, and whoever cuts or writes a packet finishes what goes out.
type endpoint struct{ *Card }

var (
	_ stack.LinkEndpoint = endpoint{}
	_ stack.GSOEndpoint  = endpoint{}
)

func (n endpoint) MTU() uint32                             { return n.mtu.Load() }
func (n endpoint) SetMTU(mtu uint32)                       { n.mtu.Store(mtu) }
func (n endpoint) MaxHeaderLength() uint16                 { return 0 }
func (n endpoint) LinkAddress() tcpip.LinkAddress          { return "" }
func (n endpoint) SetLinkAddress(tcpip.LinkAddress)        {}
func (n endpoint) Wait()                                   {}
func (n endpoint) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }
func (n endpoint) AddHeader(*stack.PacketBuffer)           {}
func (n endpoint) ParseHeader(*stack.PacketBuffer) bool    { return true }
func (n endpoint) Close()                                  {}
func (n endpoint) SetOnCloseAction(func())                 {}
func (n endpoint) GSOMaxSize() uint32                      { return n.gsoMax }
func (n endpoint) SupportedGSO() stack.SupportedGSO        { return stack.HostGSOSupported }
func (n endpoint) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload
}

func (n endpoint) Attach(d stack.NetworkDispatcher) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dispatcher = d
}

func (n endpoint) IsAttached() bool { return n.Dispatcher() != nil }

func (n endpoint) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	c := n.carrier.Load()
	if c == nil {
		return 0, &tcpip.ErrNoSuchFile{}
	}
	sent := 0
	for _, pkt := range pkts.AsSlice() {
		if err := (*c).sendPacket(pkt); err != nil {
			n.count.Drop(dropQueue)
			return sent, &tcpip.ErrNoBufferSpace{}
		}
		sent++
	}
	return sent, nil
}

// Finish waits for the packets that are still to be written, once nobody sends any more.
func (n *Card) Finish() { n.later.Wait() }

// Send sends a finished packet that gVisor knows nothing of, and does not keep it.
func (n *Card) Send(b []byte) error { return n.SendPieces(link.Meta{}, [][]byte{b}) }

// SendPieces sends a packet or super-packet that gVisor knows nothing of, and keeps none of its pieces.
func (n *Card) SendPieces(m link.Meta, pieces [][]byte) error {
	c := n.carrier.Load()
	if c == nil {
		return net.ErrClosed
	}
	if err := (*c).sendBytes(m, pieces); err != nil {
		return err
	}
	size := 0
	for _, b := range pieces {
		size += len(b)
	}
	n.count.Wrote(size)
	return nil
}

// metaOf translates what gVisor left to the link.
func metaOf(pkt *stack.PacketBuffer) link.Meta {
	g := &pkt.GSOOptions
	if g.Type == stack.GSONone {
		return link.Meta{}
	}
	m := link.Meta{HdrLen: uint16(pkt.HeaderSize())}
	if g.NeedsCsum {
		m.Partial, m.CsumStart, m.CsumOffset = true, g.L3HdrLen, g.CsumOffset
	}
	if pkt.Data().Size() <= int(g.MSS) {
		m.HdrLen = 0
		return m
	}
	m.SegSize = g.MSS
	if g.Type == stack.GSOTCPv4 {
		m.GSO = link.GSOTCPv4
	} else {
		m.GSO = link.GSOTCPv6
	}
	return m
}

// portCarrier writes straight from gVisor's goroutine: a TUN takes a packet without waiting.
type portCarrier struct {
	port  link.Port
	count Counter
	later *sync.WaitGroup
}

func (c *portCarrier) sendPacket(pkt *stack.PacketBuffer) error {
	views, offset := pkt.AsViewList()
	var few [8][]byte
	pieces := few[:0]
	for v := views.Front(); v != nil; v = v.Next() {
		b := v.AsSlice()
		if offset >= len(b) {
			offset -= len(b)
			continue
		}
		pieces = append(pieces, b[offset:])
		offset = 0
	}
	c.count.Wrote(pkt.Size())
	if isAnswer(pkt) {
		c.sendLater(metaOf(pkt), pieces)
		return nil
	}
	return c.port.Write(metaOf(pkt), pieces)
}

// sendLater sends a packet once gVisor has let go of the connection that it is of.
//
// gVisor sends a SYN-ACK with the endpoint locked, and its processor tries in a loop, without waiting, to lock an endpoint that has got a
// segment. A client on the same machine answers before the write returns, and may take the core of whoever writes: the processor then
// keeps the other one busy until that core is free again. A connection that came alone took 800 µs of CPU.
func (c *portCarrier) sendLater(m link.Meta, pieces [][]byte) {
	b := bytes.Join(pieces, nil)
	c.later.Go(func() {
		if err := c.port.Write(m, [][]byte{b}); err != nil {
			c.count.Drop(dropQueue)
		}
	})
}

// isAnswer reports whether a packet is a SYN-ACK.
func isAnswer(pkt *stack.PacketBuffer) bool {
	const both = header.TCPFlagSyn | header.TCPFlagAck
	h := header.TCP(pkt.TransportHeader().Slice())
	return pkt.TransportProtocolNumber == header.TCPProtocolNumber && len(h) >= header.TCPMinimumSize && h.Flags()&both == both
}

func (c *portCarrier) sendBytes(m link.Meta, pieces [][]byte) error { return c.port.Write(m, pieces) }
