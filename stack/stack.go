// Package stack is a small TCP/IP host in user space, and a packet device seen from outside.
//
// It hands up each flow that arrives, before anything was answered, and dials flows that leave. Whatever carries packets
// plugs into it: an operating system's TUN through Attach, an encrypted transport through Device. TCP is gVisor's;
// datagrams and echo requests are kept in a flow table of our own, because an endpoint for each would cost fifty times
// the memory.
//
// It does not know policy, names, transports or the operating system's network.
package stack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/stack/gro"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"penstock/stack/datagram"
	"penstock/stack/link"
	"penstock/stack/nic"
)

// nicID is the only NIC's number.
const nicID = tcpip.NICID(1)

// Errors that callers tell apart.
var (
	// ErrNoAddress is returned by a dial to an address family in which the stack has no address of its own.
	ErrNoAddress = errors.New("the stack has no address of this family")
)

// Config is what New needs. Every bound has the default that its comment names.
type Config struct {
	Name   string         // for logs and Device().Name; default "stack"
	MTU    int            // bytes, IP header included; default 1500
	Addrs  []netip.Prefix // the stack's own addresses; dials leave from them
	Handle Handler        // nil refuses every flow
	// Client tells whose a source address is: an opaque key, the same for all addresses of one client. Flows, dials and
	// their bounds are counted by it. ok is false for an address that belongs to nobody: its packets are dropped and
	// counted with reason "source". Nil makes every source one client, with key 0. It is called with a lock of the stack
	// held, so that no flow slips in while CloseClient runs: it must not block, and must not call the stack.
	Client func(src netip.Addr) (key uint64, ok bool)
	// LinkFailed is called, in a goroutine of the stack, when reading the attached port fails although neither the port
	// nor the stack was closed by us. It must not wait for the stack's Close. Nil: the failure is only logged.
	LinkFailed func(err error)
	// Routed says that a router on this host is behind the link: it counts the hop of what crosses to this stack. Clients know
	// another stack's address instead of that router's.
	Routed bool
	// Lossless says that the link neither loses nor reorders, as a TUN does; it chooses TCP's loss recovery and how
	// large super-packets may be.
	Lossless bool
	Limits   Limits
	Log      *slog.Logger // nil discards
	Metrics  *Metrics     // nil counts nothing
}

// Handler takes each flow that arrives, where its first packet was read: it must not block. What is left to do and may wait, if anything
// is, it returns: rest is called in a goroutine of its own, and the flow is over when that returns. A flow without a rest costs no
// goroutine. life ends with the stack, and the context of rest also when the client gives up before it was accepted.
type Handler func(life context.Context, r *Request) (rest func(ctx context.Context))

// Waiting is a Handler all of which may wait.
func Waiting(handle func(ctx context.Context, r *Request)) Handler {
	return func(_ context.Context, r *Request) func(context.Context) {
		return func(ctx context.Context) { handle(ctx, r) }
	}
}

// Stack is a host in user space. All methods may be called by several goroutines at once.
type Stack struct {
	name    string
	handle  Handler
	client  func(netip.Addr) (uint64, bool)
	failed  func(error)
	routed  bool
	limits  Limits
	log     *slog.Logger
	metrics *Metrics

	net   *stack.Stack
	nic   *nic.Card
	flows *datagram.Table
	tcp   *tcpTable
	dials dialling
	now   func() int64 // nanoseconds since the stack was made

	crossings crossings
	pauses    pauses

	gros   sync.Pool     // *gro.GRO: a device may be written by one goroutine per peer
	errors *rate.Limiter // for ICMP errors, as hosts limit them

	lastPort atomic.Uint32 // of the dials, before it is folded into their range; see bind

	life context.Context // ends when Close begins
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu     sync.Mutex // guards below
	addrs  map[netip.Prefix]bool
	ports  []link.Port
	device *nic.Device
	closed bool
}

// New makes a stack that is not attached to anything yet.
func New(c Config) (*Stack, error) {
	start := time.Now()
	return open(c, func() int64 { return int64(time.Since(start)) })
}

// open is New with a clock.
func open(c Config, now func() int64) (*Stack, error) {
	if c.Name == "" {
		c.Name = "stack"
	}
	if c.MTU == 0 {
		c.MTU = 1500
	}
	if c.MTU < 576 || c.MTU > link.MaxPacket {
		return nil, fmt.Errorf("stack %s: MTU %d is outside 576 to %d", c.Name, c.MTU, link.MaxPacket)
	}
	if c.Client == nil {
		c.Client = func(netip.Addr) (uint64, bool) { return 0, true }
	}
	if c.LinkFailed == nil {
		c.LinkFailed = func(error) {}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	s := &Stack{
		name:    c.Name,
		handle:  c.Handle,
		client:  c.Client,
		failed:  c.LinkFailed,
		routed:  c.Routed,
		limits:  c.Limits.withDefaults(),
		log:     c.Log,
		metrics: c.Metrics,
		now:     now,
		errors:  rate.NewLimiter(1000, 50),
		addrs:   make(map[netip.Prefix]bool),
	}
	// The lifetime of the object that this call makes.
	s.life, s.stop = context.WithCancel(context.Background())
	s.net = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	s.nic = nic.New(c.MTU, gsoMax(c.Lossless), c.Metrics)
	s.gros.New = func() any {
		g := &gro.GRO{Dispatcher: s.nic.Dispatcher()}
		g.Init(true)
		return g
	}
	s.lastPort.Store(rand.Uint32())
	s.flows, s.tcp = datagram.New(s.life, s.datagramConfig()), newTCPTable(s)
	if err := s.tune(c.Lossless); err != nil {
		s.abandon()
		return nil, err
	}
	if err := s.openNIC(); err != nil {
		s.abandon()
		return nil, err
	}
	if err := s.SetAddrs(c.Addrs); err != nil {
		s.abandon()
		return nil, err
	}
	s.crossings, s.pauses = newCrossings(), newPauses(s)
	s.wg.Go(s.flows.Run)
	s.wg.Go(func() { s.pauses.run(s.life) })
	if s.handle != nil {
		s.wg.Go(func() { crosser{s}.sweepAll(s.life) })
	}
	return s, nil
}

// abandon releases a stack that New could not finish.
func (s *Stack) abandon() {
	s.stop()
	s.net.Destroy()
}

func (s *Stack) openNIC() error {
	if err := s.net.CreateNIC(nicID, s.nic.Endpoint()); err != nil {
		return fmt.Errorf("stack %s: create NIC: %s", s.name, err)
	}
	s.net.SetRouteTable([]tcpip.Route{
		{Destination: allOf(4), NIC: nicID},
		{Destination: allOf(16), NIC: nicID},
	})
	receiver{s}.takeReassembled()
	if s.handle == nil {
		return nil
	}
	// Flows for any address are ours to answer: accept them all, and speak as whoever was addressed.
	if err := s.net.SetPromiscuousMode(nicID, true); err != nil {
		return fmt.Errorf("stack %s: promiscuous mode: %s", s.name, err)
	}
	if err := s.net.SetSpoofing(nicID, true); err != nil {
		return fmt.Errorf("stack %s: spoofing: %s", s.name, err)
	}
	s.forwardTCP()
	return nil
}

// allOf is the prefix of length zero of the family whose addresses have n bytes.
func allOf(n int) tcpip.Subnet {
	zero := make([]byte, n)
	subnet, err := tcpip.NewSubnet(tcpip.AddrFromSlice(zero), tcpip.MaskFromBytes(zero))
	if err != nil {
		panic("the zero prefix is valid") // impossible: lengths agree and no host bit is set
	}
	return subnet
}

// SetAddrs replaces the stack's own addresses. Flows that left from an address that goes away are reset.
func (s *Stack) SetAddrs(addrs []netip.Prefix) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	want := make(map[netip.Prefix]bool, len(addrs))
	for _, p := range addrs {
		if !p.IsValid() {
			return fmt.Errorf("stack %s: invalid address %v", s.name, p)
		}
		want[p] = true
	}
	for p := range s.addrs {
		if want[p] {
			continue
		}
		if err := s.net.RemoveAddress(nicID, tcpipAddr(p.Addr())); err != nil {
			return fmt.Errorf("stack %s: remove address %v: %s", s.name, p, err)
		}
		delete(s.addrs, p)
		s.resetFlowsOf(p.Addr())
	}
	for p := range want {
		if s.addrs[p] {
			continue
		}
		err := s.net.AddProtocolAddress(nicID, tcpip.ProtocolAddress{
			Protocol:          protocolOf(p.Addr()),
			AddressWithPrefix: tcpip.AddressWithPrefix{Address: tcpipAddr(p.Addr()), PrefixLen: p.Bits()},
		}, stack.AddressProperties{})
		if err != nil {
			return fmt.Errorf("stack %s: add address %v: %s", s.name, p, err)
		}
		s.addrs[p] = true
	}
	return nil
}

// resetFlowsOf aborts the TCP connections and closes the datagram flows whose own end is addr.
func (s *Stack) resetFlowsOf(addr netip.Addr) {
	for _, ep := range s.net.RegisteredEndpoints() {
		e, ok := ep.(interface {
			tcpip.Endpoint
			Abort()
		})
		if !ok {
			continue
		}
		if local, err := e.GetLocalAddress(); err == nil && fromTCPIP(local.Addr) == addr {
			e.Abort()
		}
	}
	s.flows.CloseLocal(addr)
	crosser{s}.resetGuests(func(c *crossing) bool { return c.Mapped.Addr() == addr })
}

// own reports whether addr is one of the stack's own addresses.
func (s *Stack) own(addr netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.addrs {
		if p.Addr() == addr {
			return true
		}
	}
	return false
}

// source is the stack's own address of the family of dst.
func (s *Stack) source(dst netip.Addr) (netip.Addr, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	best := netip.Addr{}
	for p := range s.addrs {
		a := p.Addr()
		if a.Is4() != dst.Is4() {
			continue
		}
		if p.Contains(dst) {
			return a, nil
		}
		if !best.IsValid() || a.Less(best) {
			best = a
		}
	}
	if !best.IsValid() {
		return best, fmt.Errorf("stack %s: dial %v: %w", s.name, dst, ErrNoAddress)
	}
	return best, nil
}

// Speaks reports whether the stack has an address of the family of dst, from which it can send there.
func (s *Stack) Speaks(dst netip.Addr) bool {
	_, err := s.source(dst)
	return err == nil
}

// SetMTU changes the MTU that new flows are sized by, in bytes.
func (s *Stack) SetMTU(mtu int) { s.nic.SetMTU(mtu) }

// MTU is the current MTU in bytes.
func (s *Stack) MTU() int { return s.nic.MTU() }

// Attach joins the stack to a port and reads it until the port or the stack is closed. The stack owns the port from
// then on. What the stack sends goes to the port or device that was joined last.
func (s *Stack) Attach(p link.Port) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("stack %s is closed", s.name)
	}
	s.ports = append(s.ports, p)
	s.nic.UsePort(p)
	s.wg.Go(func() { receiver{s}.readPort(p) })
	return nil
}

// Device returns the stack as a tun.Device for an encrypted transport to read and write. A device that was closed is
// replaced by a new one at the next call; flows survive that.
func (s *Stack) Device() *nic.Device {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.device != nil && !s.device.Closed() {
		return s.device
	}
	s.device = s.nic.Device(s.name, receiver{s}.inboundBatch)
	if s.closed {
		s.device.Close()
	}
	s.nic.UseDevice(s.device)
	return s.device
}

// closePatience is how long CloseClient and Quit wait for what is on its way out. Without a reader nothing goes out.
const closePatience = 200 * time.Millisecond

// CloseClient resets every flow of a client: TCP and datagrams, those that wait for their handler and those whose
// handshake is under way included. It returns how many. When it returns, nothing of those flows is on its way out any more,
// as long as the device is read. What the client sends afterwards is new.
func (s *Stack) CloseClient(key uint64) int {
	n := s.flows.CloseClient(key) + s.tcp.closeClient(key)
	s.resetEndpoints(func(addr netip.Addr, lingering bool) bool {
		of, known := s.client(addr)
		return lingering && (!known || of == key)
	})
	s.mu.Lock()
	d := s.device
	s.mu.Unlock()
	if d != nil {
		d.Settle(closePatience)
	}
	return n
}

// ResetTo resets every TCP connection with an address that has no owner for now, whoever began it, dials included. Call it before
// CloseClient if the address is about to get another owner, who would be sent what its former one has not acknowledged.
func (s *Stack) ResetTo(ownerless func(netip.Addr) bool) {
	s.resetEndpoints(func(addr netip.Addr, _ bool) bool { return ownerless(addr) })
}

// resetEndpoints aborts the connections that match. Lingering ones are those whose handler has returned, and which only wait for
// what was written last to be acknowledged.
func (s *Stack) resetEndpoints(match func(remote netip.Addr, lingering bool) bool) {
	for _, ep := range append(s.net.CleanupEndpoints(), s.net.RegisteredEndpoints()...) {
		e, ok := ep.(interface {
			tcpip.Endpoint
			Abort()
		})
		if !ok {
			continue
		}
		lingering := false
		switch tcp.EndpointState(e.State()) {
		case tcp.StateFinWait1, tcp.StateFinWait2, tcp.StateClosing, tcp.StateLastAck:
			lingering = true
		}
		info, ok := e.Info().(*stack.TransportEndpointInfo) // GetRemoteAddress fails during a dial
		if ok && info.ID.RemoteAddress.Len() > 0 && match(fromTCPIP(info.ID.RemoteAddress), lingering) {
			e.Abort()
		}
	}
}

// Quit resets every flow, and waits until the reader of the device has the resets. No flow can begin any more; Close is all that
// can follow.
func (s *Stack) Quit() {
	resetAll(s)
	s.mu.Lock()
	d := s.device
	s.mu.Unlock()
	if d != nil {
		d.Settle(closePatience)
	}
}

// resetAll lets no new flow begin, so that none does while the others are reset, and resets them.
func resetAll(s *Stack) {
	s.stop()
	s.flows.Close()
	s.tcp.closeAll()
	crosser{s}.resetGuests(nil)
	for _, ep := range append(s.net.CleanupEndpoints(), s.net.RegisteredEndpoints()...) {
		ep.Abort()
	}
}

// Close resets every flow, closes the attached port and device, and waits for the stack's goroutines and handlers.
// It is idempotent.
func (s *Stack) Close() error {
	s.mu.Lock()
	ports, dev, first := s.ports, s.device, !s.closed
	s.closed = true
	s.mu.Unlock()
	if !first {
		s.wg.Wait()
		s.flows.Wait()
		return nil
	}
	// Order: first the flows, while the link still carries their RSTs; then the link; then gVisor, whose timers nobody needs any
	// more.
	resetAll(s)
	var err error
	for _, p := range ports {
		err = errors.Join(err, p.Close())
	}
	if dev != nil {
		err = errors.Join(err, dev.Close())
	}
	s.wg.Wait()
	s.flows.Wait()
	s.net.RemoveNIC(nicID)
	s.net.Close()
	s.net.Wait()
	s.nic.Finish()
	return err
}

// protocolOf is gVisor's number of the protocol of an address.
func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}

func tcpipAddr(a netip.Addr) tcpip.Address {
	if a.Is4() {
		return tcpip.AddrFrom4(a.As4())
	}
	return tcpip.AddrFrom16(a.As16())
}

func fromTCPIP(a tcpip.Address) netip.Addr {
	addr, _ := netip.AddrFromSlice(a.AsSlice())
	return addr
}
