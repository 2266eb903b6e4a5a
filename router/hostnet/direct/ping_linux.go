package direct

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"penstock/router/hostnet/internal/rtnl"
)

const (
	icmpHeader = 4 // type, code and checksum: what stands before the body
	ipHeader   = 60
	solRaw     = 255 // <linux/socket.h>
	icmpFilter = 1   // <linux/icmp.h>
)

// pingConn is a socket for ICMP echo with one address: a ping socket, for which the kernel chooses the identifier, or a raw
// one, for which we do.
type pingConn struct {
	file          *os.File
	raw           bool
	request       icmp.Type
	reply         byte   // its ICMP type
	id            uint16 // on the wire, of a raw socket
	local, remote *net.IPAddr
	buf           []byte // of Read

	mu   sync.Mutex // guards sent
	sent [256]sentEcho
}

// sentEcho is one of the last 256 requests, at its sequence number modulo 256.
type sentEcho struct {
	seq, id uint16
	ok      bool
}

// dialPing opens a ping socket where the host permits it (net.ipv4.ping_group_range), else a raw one,
// which needs CAP_NET_RAW.
func (d *Dialer) dialPing(addr netip.Addr) (net.Conn, error) {
	conn, err := d.openPing(addr, unix.SOCK_DGRAM)
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EPROTONOSUPPORT) {
		conn, err = d.openPing(addr, unix.SOCK_RAW)
	}
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "ping", Addr: &net.IPAddr{IP: addr.AsSlice(), Zone: addr.Zone()}, Err: err}
	}
	return conn, nil
}

func (d *Dialer) openPing(addr netip.Addr, kind int) (*pingConn, error) {
	c := &pingConn{
		raw:     kind == unix.SOCK_RAW,
		request: ipv4.ICMPTypeEcho, reply: byte(ipv4.ICMPTypeEchoReply),
		id:     uint16(d.pingID.Add(1)),
		remote: &net.IPAddr{IP: addr.AsSlice(), Zone: addr.Zone()},
	}
	protocol := unix.IPPROTO_ICMP
	if addr.Is6() {
		protocol = unix.IPPROTO_ICMPV6
		c.request, c.reply = ipv6.ICMPTypeEchoRequest, byte(ipv6.ICMPTypeEchoReply)
	}
	fd, err := unix.Socket(rtnl.Family(addr), kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := d.setUpPing(fd, addr, c); err != nil {
		unix.Close(fd)
		return nil, err
	}
	c.file = os.NewFile(uintptr(fd), "ping")
	return c, nil
}

func (d *Dialer) setUpPing(fd int, addr netip.Addr, c *pingConn) error {
	if err := d.guard(fd, addr); err != nil {
		return err
	}
	zone := 0
	if addr.Zone() != "" {
		var err error
		if zone, err = d.indexOf(addr.Zone()); err != nil {
			return fmt.Errorf("zone %s: %w", addr.Zone(), err)
		}
	}
	var filtered error
	var to unix.Sockaddr
	if addr.Is4() {
		to = &unix.SockaddrInet4{Addr: addr.As4()}
		filtered = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_RECVERR, 1)
		if c.raw {
			filtered = errors.Join(filtered, unix.SetsockoptInt(fd, solRaw, icmpFilter, ^(1<<c.reply)))
		}
	} else {
		to = &unix.SockaddrInet6{Addr: addr.As16(), ZoneId: uint32(zone)}
		filtered = unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_RECVERR, 1)
		if c.raw {
			filtered = errors.Join(filtered, unix.SetsockoptICMPv6Filter(fd, unix.SOL_ICMPV6, unix.ICMPV6_FILTER, onlyType(c.reply)))
		}
	}
	if filtered != nil {
		return os.NewSyscallError("setsockopt", filtered)
	}
	if err := unix.Connect(fd, to); err != nil {
		return os.NewSyscallError("connect", err)
	}
	c.local = localIP(fd)
	return nil
}

// onlyType blocks every other ICMPv6 type: a set bit blocks.
func onlyType(t byte) *unix.ICMPv6Filter {
	f := &unix.ICMPv6Filter{}
	for i := range f.Data {
		f.Data[i] = ^uint32(0)
	}
	f.Data[t/32] &^= 1 << (t % 32)
	return f
}

func localIP(fd int) *net.IPAddr {
	name, err := unix.Getsockname(fd)
	if err != nil {
		return &net.IPAddr{}
	}
	switch a := name.(type) {
	case *unix.SockaddrInet4:
		return &net.IPAddr{IP: a.Addr[:]}
	case *unix.SockaddrInet6:
		return &net.IPAddr{IP: a.Addr[:]}
	}
	return &net.IPAddr{}
}

// Write sends one echo request with the body b.
func (c *pingConn) Write(b []byte) (int, error) {
	if len(b) < 4 {
		return 0, c.opError("write", errors.New("an echo body begins with an identifier and a sequence number, 4 bytes"))
	}
	id, seq := binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	sent := id
	if c.raw {
		sent = c.id
	}
	// The kernel computes the checksums of ICMPv6 and of ping sockets, and replaces the identifier of the latter.
	request := icmp.Message{Type: c.request, Body: &icmp.Echo{ID: int(sent), Seq: int(seq), Data: b[4:]}}
	msg, err := request.Marshal(nil)
	if err != nil {
		return 0, c.opError("write", err)
	}
	c.mu.Lock()
	c.sent[seq%256] = sentEcho{seq: seq, id: id, ok: true}
	c.mu.Unlock()
	_, err = c.file.Write(msg)
	if err != nil && c.raw && !c.drainErrors() {
		_, err = c.file.Write(msg) // the error was about another program's request
	}
	if err != nil {
		return 0, c.opError("write", err)
	}
	return len(b), nil
}

// Read returns the body of the next reply to a request of this connection.
func (c *pingConn) Read(b []byte) (int, error) {
	if need := ipHeader + icmpHeader + len(b); cap(c.buf) < need {
		c.buf = make([]byte, need)
	}
	for {
		n, err := c.file.Read(c.buf[:cap(c.buf)])
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, os.ErrClosed) || c.drainErrors() {
				return 0, c.opError("read", err)
			}
			continue
		}
		if body, ok := c.accept(c.buf[:n]); ok {
			return copy(b, body), nil
		}
	}
}

// accept returns the body of a reply to us, with the writer's identifier.
func (c *pingConn) accept(packet []byte) (body []byte, ok bool) {
	if c.raw && c.reply == 0 { // raw IPv4 sockets receive the IP header too
		if len(packet) < 20 || len(packet) < int(packet[0]&0x0f)*4 {
			return nil, false
		}
		packet = packet[int(packet[0]&0x0f)*4:]
	}
	if len(packet) < icmpHeader+4 || packet[0] != c.reply || packet[1] != 0 {
		return nil, false
	}
	body = packet[icmpHeader:]
	if c.raw && binary.BigEndian.Uint16(body) != c.id {
		return nil, false
	}
	seq := binary.BigEndian.Uint16(body[2:])
	c.mu.Lock()
	sent := c.sent[seq%256]
	c.mu.Unlock()
	if !sent.ok || sent.seq != seq {
		return nil, false
	}
	binary.BigEndian.PutUint16(body, sent.id)
	return body, true
}

// drainErrors empties the socket's error queue, which would fill the receive buffer otherwise, and reports whether one of
// the errors is about our own request: a raw socket receives the errors of every program's.
func (c *pingConn) drainErrors() (ours bool) {
	conn, err := c.file.SyscallConn()
	if err != nil {
		return true
	}
	empty := true
	err = conn.Control(func(fd uintptr) {
		var original [icmpHeader + 2]byte
		var oob [512]byte
		for {
			n, _, _, _, err := unix.Recvmsg(int(fd), original[:], oob[:], unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
			if err != nil {
				return
			}
			empty = false
			if !c.raw || n == len(original) && binary.BigEndian.Uint16(original[icmpHeader:]) == c.id {
				ours = true
			}
		}
	})
	return ours || empty || err != nil
}

// opError wraps an error as the net package does, with the errno for errors.Is.
func (c *pingConn) opError(op string, err error) error {
	if errors.Is(err, os.ErrClosed) {
		err = net.ErrClosed
	}
	var path *os.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	if errors.Is(err, io.EOF) {
		return err
	}
	return &net.OpError{Op: op, Net: "ping", Source: c.local, Addr: c.remote, Err: err}
}

// PathMTU returns how large a packet to the address may be, in bytes, or 0 if that is not known.
func (c *pingConn) PathMTU() (mtu int) {
	conn, err := c.file.SyscallConn()
	if err != nil {
		return 0
	}
	level, option := unix.SOL_IPV6, unix.IPV6_MTU
	if c.reply == byte(ipv4.ICMPTypeEchoReply) {
		level, option = unix.SOL_IP, unix.IP_MTU
	}
	conn.Control(func(fd uintptr) { mtu, _ = unix.GetsockoptInt(int(fd), level, option) })
	return mtu
}

func (c *pingConn) Close() error                       { return c.file.Close() }
func (c *pingConn) LocalAddr() net.Addr                { return c.local }
func (c *pingConn) RemoteAddr() net.Addr               { return c.remote }
func (c *pingConn) SetDeadline(t time.Time) error      { return c.file.SetDeadline(t) }
func (c *pingConn) SetReadDeadline(t time.Time) error  { return c.file.SetReadDeadline(t) }
func (c *pingConn) SetWriteDeadline(t time.Time) error { return c.file.SetWriteDeadline(t) }
