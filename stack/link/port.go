// Package link moves IP packets between a stack and whatever carries them, together with the work that a network card
// would do on them: a packet may be a super-packet that stands for many segments, and its checksum may be unfinished.
//
// Port is the seam. OpenTUN gives a Port on the operating system's TUN device, FromDevice makes one of any tun.Device,
// Pipe joins two stacks in memory, and a Segmenter does the card's work in software.
//
// It does not look above the transport header, keep flows or decide anything.
package link

import "errors"

// MaxPacket is the size of the largest packet or super-packet, in bytes, IP header included.
const MaxPacket = 65535

// GSO is the kind of a super-packet.
type GSO uint8

// Kinds of super-packet. The zero GSO is an ordinary packet.
const (
	GSONone GSO = iota
	GSOTCPv4
	GSOTCPv6
	GSOUDP // UDP segmentation offload, either family
)

// Meta says what is still to be done to a packet before it may go onto a wire. The zero Meta is a finished packet.
type Meta struct {
	GSO        GSO
	SegSize    uint16 // bytes of payload in each segment; the last may be shorter
	HdrLen     uint16 // bytes of IP and transport header, with GSO only
	Partial    bool   // the checksum field holds the sum of the pseudo-header only, not complemented
	CsumStart  uint16 // where the checksummed bytes start, from the IP header, with Partial
	CsumOffset uint16 // where the checksum field stands, from CsumStart, with Partial
}

// Packet is one packet of a Read. The caller supplies Data with MaxPacket bytes; Read shortens it to the packet.
type Packet struct {
	Meta
	Data []byte
}

// Port is a packet device that understands Meta.
//
// Read is called by one goroutine; Write may be called by several at once and does not keep data after it returns.
// Close makes a blocked Read return an error and is idempotent. After it both return an error that is net.ErrClosed or
// os.ErrClosed, which they never do before: a device that the system took away gives ErrGone.
type Port interface {
	// Read blocks until at least one packet has come, and fills as many of pkts as it can without blocking again.
	Read(pkts []Packet) (int, error)
	// Write sends one packet, given in pieces, and does itself what its device leaves undone. It blocks no longer than the
	// device does.
	Write(m Meta, pieces [][]byte) error
	// BatchSize is how many packets one Read may return.
	BatchSize() int
	// MTU is the device's current MTU in bytes.
	MTU() int
	Close() error
}

// ErrGone is returned by a Port whose device was removed from the system while the Port was open.
var ErrGone = errors.New("the interface is gone")

// errBadHeader says that a packet's Meta or headers contradict its length.
var errBadHeader = errors.New("packet headers and metadata disagree")
