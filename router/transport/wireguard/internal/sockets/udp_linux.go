package sockets

import (
	"errors"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"

	"penstock/stack/nowait"
)

// ForClient returns sockets that are not open, for a device that calls others. Each packet leaves with the source address that the
// system chooses for its way.
func ForClient() conn.Bind { return &udp{open: net.ListenPacket} }

// ForServer returns sockets that are not open, for a device that is called. A packet leaves with the source address that its peer has
// last sent to, as long as that is an address of this machine. open is net.ListenPacket if nil; what it returns is a *net.UDPConn.
func ForServer(open func(network, address string) (net.PacketConn, error)) conn.Bind {
	if open == nil {
		open = net.ListenPacket
	}
	return &udp{sticky: true, open: open}
}

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
	open   func(network, address string) (net.PacketConn, error)

	mu        sync.RWMutex // guards below
	four, six *socket      // nil: not open, or there is no such family
}

// socket is one of them.
type socket struct {
	conn   *net.UDPConn
	raw    syscall.RawConn // of conn
	cuts   atomic.Bool     // the kernel can cut what is sent
	limit  int             // bytes of what it is to cut
	source func(control []byte, src netip.Addr) []byte

	sending sync.Pool // of *outgoing
}

// endpoint is where a peer is, and at which of our addresses it was heard. Several peers, and goroutines, may share one.
type endpoint struct {
	addr netip.AddrPort // an IPv4 address in its IPv4 form
	name sockaddr       // addr
	size uint32         // of name
	src  atomic.Pointer[netip.Addr]
}

func newEndpoint(addr netip.AddrPort) *endpoint {
	e := &endpoint{addr: Unmapped(addr)}
	e.name, e.size = sockaddrOf(e.addr)
	return e
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
	packets, err := u.open(network, net.JoinHostPort("", strconv.Itoa(int(port))))
	if err != nil {
		return nil, 0, err
	}
	c := packets.(*net.UDPConn)
	s := &socket{conn: c, limit: mostBytes - headers4, source: appendSource4}
	if network == "udp6" {
		s.limit, s.source = mostBytes-headers6, appendSource6
	}
	if s.raw, err = c.SyscallConn(); err != nil {
		c.Close()
		return nil, 0, err
	}
	if err := control(c, func(fd int) error { return s.prepare(fd, u.sticky, network == "udp6") }); err != nil {
		c.Close()
		return nil, 0, err
	}
	s.sending.New = func() any { return &outgoing{send: nowait.NewSend()} }
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

// outgoing is room for packets that are sent together.
type outgoing struct {
	send     *nowait.Exchange
	messages [conn.IdealBatchSize]nowait.Message
	packets  [conn.IdealBatchSize]int // in each message
	parts    [conn.IdealBatchSize]unix.Iovec
	controls [conn.IdealBatchSize][controlBytes]byte
}

// send sends packets. Those of one size that follow each other are handed to the kernel as one datagram that it cuts.
func (s *socket) send(packets [][]byte, e *endpoint) error {
	o := s.sending.Get().(*outgoing)
	defer s.sending.Put(o)
	cuts := s.cuts.Load()
	for len(packets) > 0 {
		src := e.SrcIP()
		n := o.pack(s, packets, e, src, cuts)
		sent, err := o.write(s.raw, n)
		for _, m := range o.packets[:sent] {
			packets = packets[m:]
		}
		o.forget(n)
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

// pack fills messages with packets from the first on, as many as there is room for, and returns how many messages there are.
func (o *outgoing) pack(s *socket, packets [][]byte, e *endpoint, src netip.Addr, cuts bool) (n int) {
	rest := o.parts[:]
	for len(packets) > 0 && len(rest) > 0 {
		parts := 1
		if cuts {
			parts = min(s.alike(packets), len(rest))
		}
		for i, p := range packets[:parts] {
			rest[i] = nowait.Part(p)
		}
		m, control := &o.messages[n], o.controls[n][:0]
		if src.IsValid() {
			control = s.source(control, src)
		}
		if parts > 1 {
			control = nowait.AppendCut(control, len(packets[0]))
		}
		m.Name, m.Namelen = &e.name[0], e.size
		m.SetParts(rest[:parts])
		m.SetOOB(control)
		o.packets[n] = parts
		packets, rest = packets[parts:], rest[parts:]
		n++
	}
	return n
}

// forget lets go of what the first n messages point to.
func (o *outgoing) forget(n int) {
	clear(o.messages[:n])
	clear(o.parts[:])
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

// write sends the first n messages, and returns how many of them were sent.
func (o *outgoing) write(raw syscall.RawConn, n int) (sent int, err error) {
	for sent < n {
		more, err := o.send.Do(raw.Write, o.messages[sent:n])
		if err != nil {
			return sent, err
		}
		sent += more
	}
	return sent, nil
}

// receiver reads from a socket.
type receiver struct {
	*socket
	receipt  *nowait.Exchange
	sticky   bool
	messages [mostRead]nowait.Message
	names    [mostRead]sockaddr
	parts    [mostRead]unix.Iovec
	controls [mostRead][controlBytes]byte
	buffers  [mostRead][]byte
	next     int       // of the messages that were read, the first that was not given out
	read     int       // how many were read
	rest     []byte    // what is left of the one before next
	part     int       // bytes of each packet in it
	from     *endpoint // where it came from
	name     sockaddr  // of from, as the kernel gave it
	zones    zones
}

func newReceiver(s *socket, sticky bool) *receiver {
	r := &receiver{socket: s, receipt: nowait.NewReceive(), sticky: sticky, zones: zones{ask: zoneOf}}
	for i := range r.messages {
		r.buffers[i] = make([]byte, mostBytes)
		r.parts[i] = nowait.Part(r.buffers[i])
	}
	return r
}

// fill waits for datagrams.
func (r *receiver) fill() (err error) {
	for i := range r.messages { // what the kernel has written into them is put back
		m := &r.messages[i]
		m.Name, m.Namelen = &r.names[i][0], uint32(len(r.names[i]))
		m.SetParts(r.parts[i : i+1])
		m.SetOOB(r.controls[i][:])
	}
	r.next, r.read = 0, 0
	r.read, err = r.receipt.Do(r.raw.Read, r.messages[:])
	return err
}

// receive waits for datagrams, and splits those that the kernel has merged.
func (r *receiver) receive(packets [][]byte, sizes []int, from []conn.Endpoint) (n int, err error) {
	if len(r.rest) == 0 && r.next == r.read {
		if err := r.fill(); err != nil {
			return 0, err
		}
	}
	for n < len(packets) {
		if len(r.rest) == 0 {
			if r.next == r.read {
				break
			}
			r.begin(r.next)
			r.next++
		}
		size := min(r.part, len(r.rest))
		sizes[n], from[n] = copy(packets[n], r.rest[:size]), r.from
		r.rest = r.rest[size:]
		n++
	}
	return n, nil
}

// begin reads where a message came from, and what size the parts have that it was merged of.
func (r *receiver) begin(i int) {
	m, name := &r.messages[i], &r.names[i]
	clear(name[min(int(m.Namelen), len(name)):]) // what is left of a longer one
	src, part := parseControl(r.controls[i][:m.Controllen])
	if !r.sticky {
		src = netip.Addr{}
	}
	if r.from == nil || r.name != *name || r.from.SrcIP() != src {
		r.from, r.name = r.heard(*name), *name
		if src.IsValid() {
			kept := src // so that src itself is not allocated for each message
			r.from.src.Store(&kept)
		}
	}
	if r.rest, r.part = r.buffers[i][:m.N], part; part == 0 {
		r.part = len(r.rest)
	}
}

// heard returns the endpoint of an address that the kernel has given.
func (r *receiver) heard(name sockaddr) *endpoint {
	addr := name.addr(r.zones.of)
	if addr.Addr().Zone() == "" {
		return newEndpoint(addr)
	}
	return &endpoint{addr: addr, name: name, size: unix.SizeofSockaddrInet6} // its interface need not be looked for by its name
}
