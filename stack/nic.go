package stack

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"penstock/stack/link"
)

// carrier is where a stack's packets go: a Port, or the queue behind Device.
type carrier interface {
	// sendPacket takes one packet of gVisor's and does not keep it.
	sendPacket(pkt *stack.PacketBuffer) error
	// sendBytes sends one finished packet of ours and does not keep it.
	sendBytes(b []byte) error
}

// nic is the link endpoint that gVisor sees. gVisor leaves both checksums to it: packet.Parse has checked what comes in, and
// whoever cuts or writes a packet finishes what goes out. Fragments that come in go past it; see deliverFragment.
type nic struct {
	gsoMax  uint32
	mtu     atomic.Uint32
	carrier atomic.Pointer[carrier]
	metrics *Metrics

	mu         sync.RWMutex // guards below
	dispatcher stack.NetworkDispatcher
}

var (
	_ stack.LinkEndpoint = (*nic)(nil)
	_ stack.GSOEndpoint  = (*nic)(nil)
)

func (n *nic) MTU() uint32                                  { return n.mtu.Load() }
func (n *nic) SetMTU(mtu uint32)                            { n.mtu.Store(mtu) }
func (n *nic) MaxHeaderLength() uint16                      { return 0 }
func (n *nic) LinkAddress() tcpip.LinkAddress               { return "" }
func (n *nic) SetLinkAddress(tcpip.LinkAddress)             {}
func (n *nic) Wait()                                        {}
func (n *nic) ARPHardwareType() header.ARPHardwareType      { return header.ARPHardwareNone }
func (n *nic) AddHeader(*stack.PacketBuffer)                {}
func (n *nic) ParseHeader(*stack.PacketBuffer) bool         { return true }
func (n *nic) Close()                                       {}
func (n *nic) SetOnCloseAction(func())                      {}
func (n *nic) GSOMaxSize() uint32                           { return n.gsoMax }
func (n *nic) SupportedGSO() stack.SupportedGSO             { return stack.HostGSOSupported }
func (n *nic) Capabilities() stack.LinkEndpointCapabilities { return stack.CapabilityRXChecksumOffload }

func (n *nic) Attach(d stack.NetworkDispatcher) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dispatcher = d
}

func (n *nic) IsAttached() bool { return n.dispatch() != nil }

func (n *nic) dispatch() stack.NetworkDispatcher {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.dispatcher
}

func (n *nic) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	c := n.carrier.Load()
	if c == nil {
		return 0, &tcpip.ErrNoSuchFile{}
	}
	sent := 0
	for _, pkt := range pkts.AsSlice() {
		if err := (*c).sendPacket(pkt); err != nil {
			n.metrics.drop(dropQueue)
			return sent, &tcpip.ErrNoBufferSpace{}
		}
		sent++
	}
	return sent, nil
}

// sendBytes sends a packet that this package built.
func (n *nic) sendBytes(b []byte) error {
	c := n.carrier.Load()
	if c == nil {
		return net.ErrClosed
	}
	return (*c).sendBytes(b)
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
	port    link.Port
	metrics *Metrics
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
	c.metrics.wrote(pkt.Size())
	return c.port.Write(metaOf(pkt), pieces)
}

func (c *portCarrier) sendBytes(b []byte) error {
	return c.port.Write(link.Meta{}, [][]byte{b})
}

// closed reports whether err only says that a link was closed.
func closed(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrClosed)
}
