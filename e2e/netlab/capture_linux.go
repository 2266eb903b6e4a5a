package netlab

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	captureTail    = 1200 * time.Millisecond // how long Stop still listens
	captureSamples = 32
	controlRepeat  = 50 * time.Millisecond
)

// Capture captures the frames on one link of a host. It sees each frame as it passes.
type Capture struct {
	socket  *os.File
	raw     syscall.RawConn
	ring    *ring
	allowed []Endpoint
	mark    []byte // in the payload of every control
	over    sync.WaitGroup
	stopped sync.Once
	closed  sync.Once

	mu     sync.Mutex // guards below
	report Report
}

// Capture starts a capture on an interface of the host, in both directions. It counts packets to and from the allowed
// endpoints apart from packets in clear. It ends with Stop or with the host.
func (h *Host) Capture(ifname string, allowed ...Endpoint) (*Capture, error) {
	var frames *ring
	socket, err := h.packetSocket(ifname, unix.ETH_P_ALL, func(fd int) (err error) {
		frames, err = newRing(fd)
		return err
	})
	if err != nil {
		if frames != nil {
			frames.close()
		}
		return nil, err
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		frames.close()
		socket.Close()
		return nil, err
	}
	c := &Capture{
		socket:  socket,
		raw:     raw,
		ring:    frames,
		allowed: slices.Clone(allowed),
		mark:    []byte("netlab control " + rand.Text()),
	}
	c.over.Go(c.run)
	h.onClose(c.close)
	return c, nil
}

// packetSocket opens a packet socket, calls prepare, and binds the socket to an interface and a protocol. Protocol 0 receives no
// frames.
func (h *Host) packetSocket(ifname string, protocol uint16, prepare func(fd int) error) (*os.File, error) {
	link, err := h.links.LinkByName(ifname)
	if err != nil {
		return nil, fmt.Errorf("host %s: link %s: %w", h.name, ifname, err)
	}
	var fd int
	err = h.inside(func() error {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("host %s: packet socket: %w", h.name, err)
	}
	err = prepare(fd)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(protocol), Ifindex: link.Attrs().Index})
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("host %s: packet socket on %s: %w", h.name, ifname, err)
	}
	return os.NewFile(uintptr(fd), ifname), nil
}

// run reads frames until the socket is closed, and then those left in the ring.
func (c *Capture) run() {
	for {
		err := c.raw.Read(func(uintptr) bool { return c.ring.ready() })
		if err != nil {
			break
		}
		c.ring.take(c.saw)
	}
	for range ringFrames {
		if !c.ring.ready() {
			return
		}
		c.ring.take(c.saw)
	}
}

// saw counts a frame of length bytes. head is its captured beginning.
func (c *Capture) saw(head []byte, length int, sent bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if bytes.Contains(head, c.mark) {
		c.report.Controls++
		return
	}
	p, kind := classify(head, c.allowed)
	p.Length = length
	switch kind {
	case housekeeping:
		c.report.Housekeeping++
	case tunnel:
		c.report.Tunnel++
		c.report.TunnelBytes += int64(length)
	default:
		c.report.Clear++
		if len(c.report.Samples) < captureSamples {
			c.report.Samples = append(c.report.Samples, Sample{Time: time.Now(), Packet: p, Sent: sent})
		}
	}
}

// Control proves that the capture sees packets in clear. It sends packets in clear from a host's interface, below that host's
// routing and filters, until the capture has seen one or ctx ends. They count as Controls. Send them from the other end of the
// captured link to prove the other direction.
func (c *Capture) Control(ctx context.Context, from *Host, ifname string) error {
	socket, err := from.packetSocket(ifname, 0, func(int) error { return nil })
	if err != nil {
		return err
	}
	defer socket.Close()
	before := c.Report().Controls
	repeat := time.NewTicker(controlRepeat)
	defer repeat.Stop()
	for {
		// This fails while the link is down. The link may come up before ctx ends.
		_, sendErr := socket.Write(controlFrame(c.mark))
		select {
		case <-repeat.C:
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("capture: control from %s %s was not seen: %w", from.name, ifname, ctx.Err()), sendErr)
		}
		if c.Report().Controls > before {
			return nil
		}
	}
}

// controlFrame returns a broadcast frame with a UDP datagram to the discard port, between unused documentation addresses, so
// that no host answers it.
func controlFrame(payload []byte) []byte {
	frame := bytes.Repeat([]byte{0xff}, 6)                 // to all
	frame = append(frame, 0x02, 0, 0, 0, 0, 1, 0x08, 0x00) // from a locally administered address, IPv4
	ip := make([]byte, 20, 28)
	ip[0], ip[8], ip[9] = 0x45, 1, protoUDP // TTL 1: no router forwards it
	binary.BigEndian.PutUint16(ip[2:], uint16(28+len(payload)))
	copy(ip[12:], net.IPv4(192, 0, 2, 250).To4())
	copy(ip[16:], net.IPv4(192, 0, 2, 251).To4())
	sum := uint32(0)
	for i := 0; i < len(ip); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	udp := binary.BigEndian.AppendUint16(ip, 9)
	udp = binary.BigEndian.AppendUint16(udp, 9)
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(payload)))
	udp = append(udp, 0, 0) // no checksum
	return append(append(frame, udp...), payload...)
}

// Report returns what the capture has seen so far.
func (c *Capture) Report() Report {
	c.countDrops()
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.report
	r.Samples = slices.Clone(r.Samples)
	return r
}

// Stop captures for another 1.2 s, to see late packets, and then ends the capture and returns its report. Further calls return
// the same report.
func (c *Capture) Stop() Report {
	c.stopped.Do(func() {
		time.Sleep(captureTail)
		c.countDrops()
		c.close()
	})
	return c.Report()
}

// countDrops adds the frames that the kernel has dropped since the last call. Reading the statistics resets them.
func (c *Capture) countDrops() {
	_ = c.raw.Control(func(fd uintptr) { // fails after close, when the drops have been counted
		stats, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
		if err != nil {
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.report.Dropped += int(stats.Drops)
	})
}

// close ends the capture at once.
func (c *Capture) close() {
	c.closed.Do(func() {
		c.socket.Close()
		c.over.Wait()
		c.ring.close()
	})
}

func htons(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}
