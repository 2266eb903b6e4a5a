package link

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"

	"penstock/stack/nowait"
)

// OpenTUN makes a TUN device, or takes one over from a descriptor. This package then reads and writes packets itself,
// with their virtio headers, so that super-packets pass whole in both directions. wireguard's device is kept for the
// interface's name, its MTU and its end. A descriptor without virtio headers works one packet at a time.
//
// Where /dev/net/tun or a privilege is missing, or the name is taken, the error says what to do.
func OpenTUN(c TUNConfig) (*TUN, error) {
	dev, err := openDevice(c)
	if err != nil {
		return nil, err
	}
	name, err := dev.Name()
	if err != nil {
		dev.Close()
		return nil, fmt.Errorf("tun: read the interface's name: %w", err)
	}
	hasHeader, err := vnetHeader(dev.File())
	if err != nil {
		dev.Close()
		return nil, fmt.Errorf("tun: %s: read the descriptor's flags: %w", name, err)
	}
	if !hasHeader || c.NoOffload {
		return &TUN{Port: FromDevice(dev), name: name}, nil
	}
	port, err := newTUNPort(dev, c.HasFD)
	if err != nil {
		dev.Close()
		return nil, fmt.Errorf("tun: %s: %w", name, err)
	}
	return &TUN{Port: port, name: name}, nil
}

func openDevice(c TUNConfig) (tun.Device, error) {
	if c.HasFD {
		if err := unix.SetNonblock(c.FD, true); err != nil {
			return nil, fmt.Errorf("tun: use descriptor %d: %w", c.FD, err)
		}
		dev, err := tun.CreateTUNFromFile(os.NewFile(uintptr(c.FD), "tun"), c.mtu())
		if err != nil {
			return nil, fmt.Errorf("tun: use descriptor %d: %w", c.FD, err)
		}
		return dev, nil
	}
	dev, err := tun.CreateTUN(c.Name, c.mtu())
	if err != nil {
		return nil, notCreated(c.Name, cloneDevice, err)
	}
	return dev, nil
}

// cloneDevice is what makes TUNs.
const cloneDevice = "/dev/net/tun"

// notCreated says why there is no TUN, and how to mend that. device is cloneDevice: that it is missing, the library says only in words.
func notCreated(name, device string, err error) error {
	_, missing := os.Stat(device)
	switch {
	case errors.Is(missing, fs.ErrNotExist):
		return fmt.Errorf("tun: %s does not exist: modprobe tun; in a container: --device %s", device, device)
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("tun: open %s: %w: the kernel has no TUN devices: modprobe tun", device, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("tun: create %q: %w: run as root or with CAP_NET_ADMIN", name, err)
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("tun: create %q: %w: another program holds an interface of this name: stop it or choose another name", name, err)
	case errors.Is(err, unix.EINVAL) && isInterface(name):
		return fmt.Errorf("tun: create %q: %w: an interface of this name exists and is not a TUN: remove it or choose another name", name, unix.EEXIST)
	}
	return fmt.Errorf("tun: create %q: %w", name, err)
}

func isInterface(name string) bool {
	_, err := net.InterfaceByName(name)
	return err == nil
}

func vnetHeader(f *os.File) (bool, error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return false, err
	}
	ifr, err := unix.NewIfreq("")
	if err != nil {
		return false, err
	}
	var ioctlErr error
	if err := rc.Control(func(fd uintptr) { ioctlErr = unix.IoctlIfreq(int(fd), unix.TUNGETIFF, ifr) }); err != nil {
		return false, err
	}
	return ifr.Uint16()&unix.IFF_VNET_HDR != 0, ioctlErr
}

// isGone reports whether a TUN's interface was deleted. A read fails with EBADFD then, or, if it was waiting, with the
// runtime's "not pollable": the kernel has reported an error on the descriptor (Linux 6.18, Go 1.26).
func isGone(dev tun.Device) bool {
	f := dev.File()
	if f == nil {
		return false
	}
	_, err := vnetHeader(f)
	return errors.Is(err, unix.EBADFD)
}

// tunPort reads and writes a TUN descriptor that carries virtio headers.
type tunPort struct {
	dev   tun.Device
	rc    syscall.RawConn
	calls nowait.Vectors
	mtu   atomic.Int32

	// The reader's state: one goroutine reads.
	head    [virtioHdrLen]byte
	into    []byte // where the packet goes
	readN   int
	readErr error
	readFn  func(fd uintptr) bool

	refused [GSOUDP + 1]atomic.Bool // super-packets that the kernel refused: cut them in software from then on
	cut     sync.Pool               // *deviceBatch
	out     sync.Pool               // *tunWrite

	mu     sync.RWMutex // held for reading while the descriptor is written to, for writing by Close
	fd     int          // guarded by mu; -1 once closed
	done   chan struct{}
	closed error
}

// newTUNPort returns a port on a device. given says that somebody else made it, and may have the descriptor still.
func newTUNPort(dev tun.Device, given bool) (*tunPort, error) {
	rc, err := dev.File().SyscallConn()
	if err != nil {
		return nil, err
	}
	p := &tunPort{dev: dev, rc: rc, calls: nowait.Vectors{Shared: given}, fd: -1, done: make(chan struct{})}
	if err := rc.Control(func(fd uintptr) { p.fd = int(fd) }); err != nil {
		return nil, err
	}
	mtu, err := dev.MTU()
	if err != nil {
		return nil, err
	}
	p.mtu.Store(int32(mtu))
	p.readFn = p.readOnce
	p.cut.New = func() any { return new(deviceBatch) }
	p.out.New = func() any { return new(tunWrite) }
	go p.watch()
	return p, nil
}

// watch follows the interface's MTU until the device closes its events.
func (p *tunPort) watch() {
	defer close(p.done)
	for e := range p.dev.Events() {
		if e&tun.EventMTUUpdate == 0 {
			continue
		}
		if mtu, err := p.dev.MTU(); err == nil {
			p.mtu.Store(int32(mtu))
		}
	}
}

func (p *tunPort) readOnce(fd uintptr) bool {
	parts := [2]unix.Iovec{nowait.Part(p.head[:]), nowait.Part(p.into)}
	p.readN, p.readErr = p.calls.Read(int(fd), parts[:])
	return p.readErr != unix.EAGAIN
}

func (p *tunPort) Read(pkts []Packet) (int, error) {
	pkt := &pkts[0]
	for {
		p.into = pkt.Data[:cap(pkt.Data)]
		if err := p.rc.Read(p.readFn); err != nil {
			switch { // the runtime's own errors are none of those that Port promises
			case p.isClosed():
				err = net.ErrClosed
			case isGone(p.dev):
				err = ErrGone
			}
			return 0, fmt.Errorf("tun: read: %w", err)
		}
		switch {
		case p.readErr == unix.EBADFD: // what a TUN's descriptor gives once the interface was deleted (Linux 6.18)
			return 0, fmt.Errorf("tun: read: %w", ErrGone)
		case p.readErr != nil:
			return 0, fmt.Errorf("tun: read: %w", p.readErr)
		case p.readN <= virtioHdrLen:
			continue
		}
		m, ok := decodeVirtio(p.head[:])
		if !ok {
			continue
		}
		pkt.Meta = m
		pkt.Data = p.into[:p.readN-virtioHdrLen]
		return 1, nil
	}
}

func (p *tunPort) Write(m Meta, pieces [][]byte) error {
	if p.refused[m.GSO].Load() {
		return p.writeCut(m, pieces)
	}
	err := p.writev(m, pieces)
	if err == unix.EINVAL && m.GSO != GSONone {
		// Some kernels between 6.1 and 6.10 refuse TSO writes, and those before 6.2 UDP's. Once is enough to stop asking.
		p.refused[m.GSO].Store(true)
		return p.writeCut(m, pieces)
	}
	if err != nil {
		return fmt.Errorf("tun: write: %w", err)
	}
	return nil
}

// tunWrite is room for what a write needs.
type tunWrite struct {
	head  [virtioHdrLen]byte
	parts []unix.Iovec
}

func (p *tunPort) writev(m Meta, pieces [][]byte) error {
	w := p.out.Get().(*tunWrite)
	defer p.out.Put(w)
	encodeVirtio(&w.head, m)
	w.parts = append(w.parts[:0], nowait.Part(w.head[:]))
	for _, piece := range pieces {
		w.parts = append(w.parts, nowait.Part(piece))
	}
	defer clear(w.parts) // the pool holds no packet
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.fd < 0 {
		return net.ErrClosed
	}
	_, err := p.calls.Write(p.fd, w.parts)
	return err
}

// writeCut writes a super-packet one segment at a time.
func (p *tunPort) writeCut(m Meta, pieces [][]byte) error {
	b := p.cut.Get().(*deviceBatch)
	defer p.cut.Put(b)
	b.flat = b.flat[:0]
	for _, piece := range pieces {
		b.flat = append(b.flat, piece...)
	}
	if err := b.seg.Reset(m, b.flat); err != nil {
		return err
	}
	if len(b.bufs) == 0 {
		b.bufs = [][]byte{make([]byte, MaxPacket)}
	}
	for !b.seg.Done() {
		n, err := b.seg.Next(b.bufs[0])
		if err != nil {
			return err
		}
		if err := p.writev(Meta{}, [][]byte{b.bufs[0][:n]}); err != nil {
			return fmt.Errorf("tun: write: %w", err)
		}
	}
	return nil
}

func (p *tunPort) isClosed() bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.fd < 0
}

func (p *tunPort) BatchSize() int { return 1 }

func (p *tunPort) MTU() int { return int(p.mtu.Load()) }

func (p *tunPort) Close() error {
	p.mu.Lock()
	if p.fd < 0 {
		p.mu.Unlock()
		<-p.done
		return p.closed
	}
	p.fd = -1
	// Who was to be woken for the end may have ended with the interface, and closed one end or both of what wakes it.
	if p.closed = p.dev.Close(); errors.Is(p.closed, unix.EPIPE) || errors.Is(p.closed, os.ErrClosed) {
		p.closed = nil
	}
	p.mu.Unlock()
	<-p.done
	return p.closed
}
