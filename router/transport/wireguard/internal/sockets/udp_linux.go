package sockets

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// ForClient returns sockets that are not open, for a device that calls others. Each packet leaves with the source address that the
// system chooses for its way.
func ForClient() conn.Bind { return new(udp) }

// ForServer returns sockets that are not open, for a device that is called. A packet leaves with the source address that its peer has
// last sent to, as long as that is an address of this machine.
func ForServer() conn.Bind { return &udp{sticky: true} }

const (
	queueBytes = 7 << 20   // of a socket: what arrives while the device works on a batch
	mostBytes  = 1<<16 - 1 // of a datagram; IPv4 counts its headers as well
	headers4   = 20 + 8    // bytes
	headers6   = 8         // bytes: IPv6 does not count its own
	mostParts  = 64        // that the kernel cuts one datagram into (UDP_MAX_SEGMENTS)
	mostRead   = 8         // datagrams that are read at once; each may have been merged of many
	mostTries  = 100       // to find a port that is free for both families
)

// udp is the sockets of a device on Linux, one for each family.
//
// wireguard-go's own would do but for two faults (as of 2026-05-22, conn/bind_std.go). Once both families are in use they send packets to
// addresses that nobody asked for, because a pooled address that was cut to 4 bytes for IPv4 keeps but 4 bytes of the next one for
// IPv6. And where the kernel merges datagrams they forget which address of ours a packet was sent to, so that a machine with several
// answers from another one.
type udp struct {
	sticky bool

	mu        sync.RWMutex // guards below
	four, six *socket      // nil: not open, or there is no such family
}

// socket is one of them.
type socket struct {
	conn   *net.UDPConn
	batch  batchConn
	cuts   atomic.Bool // the kernel can cut what is sent
	limit  int         // bytes of what it is to cut
	source func(control []byte, src netip.Addr) []byte

	sending sync.Pool // of *[]ipv6.Message
}

// batchConn is what ipv4.PacketConn and ipv6.PacketConn have in common.
type batchConn interface {
	ReadBatch([]ipv6.Message, int) (int, error)
	WriteBatch([]ipv6.Message, int) (int, error)
}

// endpoint is where a peer is, and at which of our addresses it was heard. Several peers, and goroutines, may share one.
type endpoint struct {
	addr netip.AddrPort // an IPv4 address in its IPv4 form
	to   *net.UDPAddr   // addr
	src  atomic.Pointer[netip.Addr]
}

func newEndpoint(addr netip.AddrPort) *endpoint {
	addr = Unmapped(addr)
	return &endpoint{addr: addr, to: net.UDPAddrFromAddrPort(addr)}
}

func (e *endpoint) ClearSrc() { e.src.Store(nil) }

// SrcIP returns the address of ours, or the zero Addr if the system chooses one.
func (e *endpoint) SrcIP() netip.Addr {
	if src := e.src.Load(); src != nil {
		return *src
	}
	return netip.Addr{}
}

// AddrPort returns where the peer is.
func (e *endpoint) AddrPort() netip.AddrPort { return e.addr }

func (e *endpoint) SrcToString() string { return e.SrcIP().String() }
func (e *endpoint) DstIP() netip.Addr   { return e.addr.Addr() }
func (e *endpoint) DstToString() string { return e.addr.String() }

func (e *endpoint) DstToBytes() []byte {
	b, _ := e.addr.MarshalBinary() // it returns no error
	return b
}

// ParseEndpoint reads "ADDRESS:PORT".
func (*udp) ParseEndpoint(s string) (conn.Endpoint, error) {
	addr, err := netip.ParseAddrPort(s)
	if err != nil {
		return nil, err
	}
	return newEndpoint(addr), nil
}

// BatchSize returns how many packets the device reads at once.
func (*udp) BatchSize() int { return conn.IdealBatchSize }

// Open opens a socket for each family that the system has, both at the same port. 0: any that is free.
func (u *udp) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.four != nil || u.six != nil {
		return nil, 0, conn.ErrBindAlreadyOpen
	}
	for try := 0; ; try++ {
		four, actual, err := u.listen("udp4", port)
		if err != nil && !noFamily(err) {
			return nil, 0, err
		}
		six, actual6, err := u.listen("udp6", max(port, actual))
		if err != nil && (!noFamily(err) || four == nil) {
			if four != nil {
				four.conn.Close()
			}
			if port == 0 && errors.Is(err, syscall.EADDRINUSE) && try < mostTries {
				continue
			}
			return nil, 0, err
		}
		u.four, u.six = four, six
		var receivers []conn.ReceiveFunc
		for _, s := range []*socket{four, six} {
			if s != nil {
				receivers = append(receivers, newReceiver(s, u.sticky).receive)
			}
		}
		return receivers, max(actual, actual6), nil
	}
}

// noFamily reports whether an error says that the system has no addresses of a family.
func noFamily(err error) bool {
	return errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EADDRNOTAVAIL)
}

// listen opens the socket of a family.
func (u *udp) listen(network string, port uint16) (*socket, uint16, error) {
	c, err := net.ListenUDP(network, &net.UDPAddr{Port: int(port)})
	if err != nil {
		return nil, 0, err
	}
	s := &socket{conn: c, batch: ipv4.NewPacketConn(c), limit: mostBytes - headers4, source: appendSource4}
	if network == "udp6" {
		s.batch, s.limit, s.source = ipv6.NewPacketConn(c), mostBytes-headers6, appendSource6
	}
	if err := control(c, func(fd int) error { return s.prepare(fd, u.sticky, network == "udp6") }); err != nil {
		c.Close()
		return nil, 0, err
	}
	s.sending.New = func() any {
		messages := make([]ipv6.Message, conn.IdealBatchSize)
		for i := range messages {
			messages[i].OOB = make([]byte, 0, controlBytes)
		}
		return &messages
	}
	return s, uint16(c.LocalAddr().(*net.UDPAddr).Port), nil
}

// prepare sets what a socket needs, and finds out what the kernel can do.
func (s *socket) prepare(fd int, sticky, six bool) error {
	for _, option := range []int{unix.SO_RCVBUF, unix.SO_RCVBUFFORCE, unix.SO_SNDBUF, unix.SO_SNDBUFFORCE} {
		// As large as anybody may have it, and beyond that with CAP_NET_ADMIN. A smaller queue loses packets under load.
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, queueBytes)
	}
	_, err := unix.GetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT)
	s.cuts.Store(err == nil)
	_ = unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1) // without it each datagram comes by itself
	switch {
	case sticky && six:
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	case sticky:
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
	}
	return nil
}

// control calls f with the descriptor of a socket.
func control(c *net.UDPConn, f func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = f(int(fd)) })
	return errors.Join(err, failed)
}

// Close closes the sockets.
func (u *udp) Close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	var errs []error
	for _, s := range u.openLocked() {
		errs = append(errs, s.conn.Close())
	}
	u.four, u.six = nil, nil
	return errors.Join(errs...)
}

// SetMark marks what the sockets send.
func (u *udp) SetMark(mark uint32) error {
	u.mu.RLock()
	defer u.mu.RUnlock()
	var errs []error
	for _, s := range u.openLocked() {
		errs = append(errs, control(s.conn, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark)) }))
	}
	return errors.Join(errs...)
}

func (u *udp) openLocked() (open []*socket) {
	for _, s := range []*socket{u.four, u.six} {
		if s != nil {
			open = append(open, s)
		}
	}
	return open
}

// Send sends packets, each as a datagram.
func (u *udp) Send(packets [][]byte, to conn.Endpoint) error {
	e, ok := to.(*endpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	u.mu.RLock()
	s := u.four
	if e.addr.Addr().Is6() {
		s = u.six
	}
	u.mu.RUnlock()
	if s == nil {
		return syscall.EAFNOSUPPORT
	}
	return s.send(packets, e)
}

// send sends packets. Those of one size that follow each other are handed to the kernel as one datagram that it cuts.
func (s *socket) send(packets [][]byte, e *endpoint) error {
	messages := s.sending.Get().(*[]ipv6.Message)
	defer s.sending.Put(messages)
	cuts := s.cuts.Load()
	for len(packets) > 0 {
		src := e.SrcIP()
		n := s.pack(*messages, packets, e, src, cuts)
		sent, err := s.write((*messages)[:n])
		for i := range n {
			m := &(*messages)[i]
			if i < sent {
				packets = packets[len(m.Buffers):]
			}
			m.Buffers, m.Addr = nil, nil
		}
		switch {
		case err == nil:
		case cuts && errors.Is(err, syscall.EIO): // the device below cannot compute checksums, which cutting needs
			s.cuts.Store(false)
			cuts = false
		case cuts && (errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EMSGSIZE)): // they are too large for the path, and the kernel makes no fragments of them
			cuts = false
		case src.IsValid() && isNotOurs(err):
			e.ClearSrc()
		default:
			return err
		}
	}
	return nil
}

// isNotOurs reports whether an error may mean that an address is no longer one of this machine.
func isNotOurs(err error) bool {
	return errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EHOSTUNREACH)
}

// pack fills messages with packets from the first on, and returns how many messages there are.
func (s *socket) pack(messages []ipv6.Message, packets [][]byte, e *endpoint, src netip.Addr, cuts bool) (n int) {
	for n < len(messages) && len(packets) > 0 {
		parts := 1
		if cuts {
			parts = s.alike(packets)
		}
		m := &messages[n]
		m.Buffers, m.Addr, m.OOB = packets[:parts], e.to, m.OOB[:0]
		if src.IsValid() {
			m.OOB = s.source(m.OOB, src)
		}
		if parts > 1 {
			m.OOB = appendCut(m.OOB, len(packets[0]))
		}
		packets = packets[parts:]
		n++
	}
	return n
}

// alike returns how many of the first packets the kernel can cut one datagram into: all have the same size but the last, which may be
// smaller.
func (s *socket) alike(packets [][]byte) int {
	size, bytes := len(packets[0]), len(packets[0])
	for i, p := range packets[1:] {
		if bytes += len(p); len(p) > size || len(p) == 0 || bytes > s.limit || i+1 >= mostParts {
			return i + 1
		}
		if len(p) < size {
			return i + 2
		}
	}
	return len(packets)
}

// write sends messages, and returns how many of them were sent.
func (s *socket) write(messages []ipv6.Message) (sent int, err error) {
	for sent < len(messages) {
		n, err := s.batch.WriteBatch(messages[sent:], 0)
		if err != nil {
			return sent, err
		}
		sent += n
	}
	return sent, nil
}

// receiver reads from a socket.
type receiver struct {
	*socket
	sticky   bool
	messages []ipv6.Message
	unread   []ipv6.Message // those of messages that were read and not given out
	rest     []byte         // what is left of the one before unread
	part     int            // bytes of each packet in it
	from     *endpoint      // where it came from
}

func newReceiver(s *socket, sticky bool) *receiver {
	r := &receiver{socket: s, sticky: sticky, messages: make([]ipv6.Message, mostRead)}
	for i := range r.messages {
		r.messages[i] = ipv6.Message{Buffers: [][]byte{make([]byte, mostBytes)}, OOB: make([]byte, controlBytes)}
	}
	return r
}

// receive waits for datagrams, and splits those that the kernel has merged.
func (r *receiver) receive(packets [][]byte, sizes []int, from []conn.Endpoint) (n int, err error) {
	if len(r.rest) == 0 && len(r.unread) == 0 {
		read, err := r.batch.ReadBatch(r.messages, 0)
		if err != nil {
			return 0, err
		}
		r.unread = r.messages[:read]
	}
	for n < len(packets) {
		if len(r.rest) == 0 {
			if len(r.unread) == 0 {
				break
			}
			r.begin(&r.unread[0])
			r.unread = r.unread[1:]
		}
		size := min(r.part, len(r.rest))
		sizes[n], from[n] = copy(packets[n], r.rest[:size]), r.from
		r.rest = r.rest[size:]
		n++
	}
	return n, nil
}

// begin reads where a message came from, and what size the parts have that it was merged of.
func (r *receiver) begin(m *ipv6.Message) {
	addr := Unmapped(m.Addr.(*net.UDPAddr).AddrPort())
	src, part := parseControl(m.OOB[:m.NN])
	if !r.sticky {
		src = netip.Addr{}
	}
	if r.from == nil || r.from.addr != addr || r.from.SrcIP() != src {
		r.from = newEndpoint(addr)
		if src.IsValid() {
			r.from.src.Store(&src)
		}
	}
	if r.rest, r.part = m.Buffers[0][:m.N], part; part == 0 {
		r.part = m.N
	}
}
