package program

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"
)

// socket is what the kernel says about a socket of this machine.
type socket struct {
	family uint8
	local  netip.AddrPort
	remote netip.AddrPort // port 0: connected to nobody
	uid    uint32
	inode  uint32
	group  uint64 // ID of the control group in which it was made; 0 if the kernel does not tell
}

// The parts of sock_diag(7) that golang.org/x/sys does not have: struct inet_diag_req_v2 and struct inet_diag_msg.
const (
	sockDiagByFamily = 20
	requestLen       = unix.NLMSG_HDRLEN + 56
	messageLen       = 72
	attrCgroupID     = 21 // INET_DIAG_CGROUP_ID, since Linux 5.7
)

// diag asks the kernel about sockets over one netlink socket.
type diag struct {
	mu  sync.Mutex // guards below
	fd  int        // 0: not open
	seq uint32
	buf []byte
}

// get returns the socket that packets from remote to local would reach. It compares the ports and addresses as the kernel does, and
// does not find a socket that is bound to an interface.
func (d *diag) get(network string, local, remote netip.AddrPort) (s socket, err error) {
	if network == "udp" { // the kernel takes them as those of a packet that arrives, here alone ("historical reasons")
		local, remote = remote, local
	}
	found := false
	err = d.ask(network, local, remote, false, func(got *socket) { s, found = *got, true })
	if err == nil && !found {
		err = fs.ErrNotExist
	}
	return s, err
}

// dump calls each with all sockets of a family.
func (d *diag) dump(network string, family uint8, each func(*socket)) error {
	unspecified := netip.IPv4Unspecified()
	if family == unix.AF_INET6 {
		unspecified = netip.IPv6Unspecified()
	}
	none := netip.AddrPortFrom(unspecified, 0)
	return d.ask(network, none, none, true, each)
}

func (d *diag) ask(network string, local, remote netip.AddrPort, dump bool, each func(*socket)) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.openLocked()
	if err != nil {
		return err
	}
	d.seq++
	if err = unix.Sendto(d.fd, d.requestLocked(network, local, remote, dump), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		err = fmt.Errorf("ask for sockets: %w", err)
	} else {
		err = d.readLocked(dump, each)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.closeLocked() // what is left of the answer is not for the next question
	}
	return err
}

func (d *diag) openLocked() error {
	if d.fd != 0 {
		return nil
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_INET_DIAG)
	if err != nil {
		return fmt.Errorf("open a netlink socket: %w", err)
	}
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2}) // the kernel answers at once
	d.fd = fd
	if d.buf == nil {
		d.buf = make([]byte, 32<<10)
	}
	return nil
}

func (d *diag) closeLocked() {
	if d.fd != 0 {
		unix.Close(d.fd)
		d.fd = 0
	}
}

func (d *diag) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closeLocked()
}

// requestLocked writes a question into the buffer.
func (d *diag) requestLocked(network string, local, remote netip.AddrPort, dump bool) []byte {
	b := d.buf[:requestLen]
	clear(b)
	flags := uint16(unix.NLM_F_REQUEST)
	if dump {
		flags |= unix.NLM_F_DUMP
	}
	binary.NativeEndian.PutUint32(b, requestLen)
	binary.NativeEndian.PutUint16(b[4:], sockDiagByFamily)
	binary.NativeEndian.PutUint16(b[6:], flags)
	binary.NativeEndian.PutUint32(b[8:], d.seq)
	r := b[unix.NLMSG_HDRLEN:]
	r[0], r[1] = unix.AF_INET6, unix.IPPROTO_TCP
	if local.Addr().Is4() {
		r[0] = unix.AF_INET
	}
	if network == "udp" {
		r[1] = unix.IPPROTO_UDP
	}
	binary.NativeEndian.PutUint32(r[4:], ^uint32(0)) // in every state
	binary.BigEndian.PutUint16(r[8:], local.Port())
	binary.BigEndian.PutUint16(r[10:], remote.Port())
	putAddr(r[12:28], local.Addr())
	putAddr(r[28:44], remote.Addr())
	binary.NativeEndian.PutUint64(r[48:], ^uint64(0)) // no cookie
	return b
}

func putAddr(to []byte, a netip.Addr) {
	if a.Is4() {
		b := a.As4()
		copy(to, b[:])
		return
	}
	b := a.As16()
	copy(to, b[:])
}

// readLocked reads the answer to the last question.
func (d *diag) readLocked(dump bool, each func(*socket)) error {
	for {
		n, err := unix.Read(d.fd, d.buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("read about sockets: %w", err)
		}
		for b := d.buf[:n]; len(b) >= unix.NLMSG_HDRLEN; {
			size := int(binary.NativeEndian.Uint32(b))
			kind, seq := binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint32(b[8:])
			if size < unix.NLMSG_HDRLEN || size > len(b) {
				return errors.New("read about sockets: the kernel's answer is cut off")
			}
			body := b[unix.NLMSG_HDRLEN:size]
			b = b[min(len(b), (size+3)&^3):]
			switch {
			case seq != d.seq:
			case kind == unix.NLMSG_DONE:
				return nil
			case kind == unix.NLMSG_ERROR && len(body) >= 4:
				switch errno := unix.Errno(-int32(binary.NativeEndian.Uint32(body))); errno {
				case 0:
				case unix.ENOENT:
					return fs.ErrNotExist
				default:
					return fmt.Errorf("ask for sockets: %w", errno)
				}
			case kind == sockDiagByFamily:
				if s, ok := parseSocket(body); ok {
					each(&s)
				}
				if !dump {
					return nil
				}
			}
		}
	}
}

// parseSocket reads a struct inet_diag_msg and the attributes behind it.
func parseSocket(b []byte) (s socket, ok bool) {
	if len(b) < messageLen {
		return s, false
	}
	s.family = b[0]
	s.local = netip.AddrPortFrom(addrIn(b[8:24], s.family), binary.BigEndian.Uint16(b[4:]))
	s.remote = netip.AddrPortFrom(addrIn(b[24:40], s.family), binary.BigEndian.Uint16(b[6:]))
	s.uid, s.inode = binary.NativeEndian.Uint32(b[64:]), binary.NativeEndian.Uint32(b[68:])
	for b = b[messageLen:]; len(b) >= 4; {
		size, kind := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
		if size < 4 || size > len(b) {
			break
		}
		if kind == attrCgroupID && size >= 12 {
			s.group = binary.NativeEndian.Uint64(b[4:])
		}
		b = b[min(len(b), (size+3)&^3):]
	}
	return s, true
}

func addrIn(b []byte, family uint8) netip.Addr {
	if family == unix.AF_INET {
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	return netip.AddrFrom16([16]byte(b[:16])).Unmap()
}

// isAnyPort reports whether a socket may be connected to any port of remote: see Find.
func isAnyPort(network string, remote netip.AddrPort) bool {
	return network == "udp" && remote.Port() == 0
}

// likeness says how well a socket fits a flow: 0 is not at all; connected and bound sockets fit better than open ones.
func (s *socket) likeness(network string, local, remote netip.AddrPort) int {
	if s.local.Port() != local.Port() {
		return 0
	}
	n := 1
	switch source := s.local.Addr(); {
	case source == local.Addr():
		n += 2
	case !source.IsUnspecified():
		return 0
	}
	switch {
	case s.remote == remote, isAnyPort(network, remote) && s.remote.Addr() == remote.Addr() && s.remote.Port() != 0:
		n += 4
	case s.remote.Port() != 0, network == "tcp": // a TCP socket that is connected to nobody listens
		return 0
	}
	return n
}
