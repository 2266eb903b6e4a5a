package netlab

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Size of a ring. A ring is needed because an ordinary user cannot raise a socket's receive buffer above net.core.rmem_max, and
// at 100,000 packets/s that buffer overflows in a stall of 2 ms.
const (
	ringFrame  = 512     // bytes: the kernel's header, then as much of a frame as fits
	ringBlock  = 1 << 20 // bytes
	ringBlocks = 32
	ringFrames = ringBlocks * ringBlock / ringFrame
)

// Where a frame's struct tpacket2_hdr is followed by its struct sockaddr_ll, and the packet type in that (packet(7)).
const ringPktType = 32 + 10

// ring is memory shared with a packet socket (TPACKET_V2). The kernel delivers each frame as soon as it passes.
type ring struct {
	mem  []byte
	next int // index of the frame that the kernel will fill next
}

func newRing(fd int) (*ring, error) {
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V2); err != nil {
		return nil, fmt.Errorf("packet ring version: %w", err)
	}
	req := unix.TpacketReq{Block_size: ringBlock, Block_nr: ringBlocks, Frame_size: ringFrame, Frame_nr: ringFrames}
	if err := unix.SetsockoptTpacketReq(fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &req); err != nil {
		return nil, fmt.Errorf("packet ring: %w", err)
	}
	mem, err := unix.Mmap(fd, 0, ringBlocks*ringBlock, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map packet ring: %w", err)
	}
	return &ring{mem: mem}, nil
}

// header returns the next frame's header.
func (r *ring) header() *unix.Tpacket2Hdr {
	return (*unix.Tpacket2Hdr)(unsafe.Pointer(&r.mem[r.next*ringFrame]))
}

// ready reports whether the kernel has filled the next frame.
func (r *ring) ready() bool {
	return atomic.LoadUint32(&r.header().Status)&unix.TP_STATUS_USER != 0
}

// take passes the next frame to see and returns it to the kernel. see gets the part that fits, the length on the wire, and
// whether the host sent it. The frame must be ready.
func (r *ring) take(see func(head []byte, length int, sent bool)) {
	h := r.header()
	frame := r.mem[r.next*ringFrame:][:ringFrame]
	see(frame[h.Mac:][:h.Snaplen], int(h.Len), frame[ringPktType] == unix.PACKET_OUTGOING)
	atomic.StoreUint32(&h.Status, unix.TP_STATUS_KERNEL)
	r.next = (r.next + 1) % ringFrames
}

// close unmaps the memory. The socket stays open while it is mapped.
func (r *ring) close() { _ = unix.Munmap(r.mem) } // cannot fail for what Mmap returned
