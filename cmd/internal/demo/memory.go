package demo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
	"penstock/cmd/internal/daemon"
	"penstock/e2e/netlab"
	"penstock/stack"
	"penstock/stack/link"
)

// memoryWorld is the world without namespaces. Stacks in this process act as the laptop's programs and as the internet.
// In-memory links connect them to the same two daemons, whose WireGuard runs over the loopback interface.
//
//	programs -- pipe -- laptop's penstock == WireGuard, 127.0.0.1 == gateway's penstock -- dial -- stack -- pipe -- internet
type memoryWorld struct {
	files    files
	programs *stack.Stack
	internet *internet
	escaped  atomic.Int64 // flows that the laptop sent outside its tunnel

	cancel context.CancelFunc
	over   sync.WaitGroup
	failed chan error
}

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func newMemoryWorld(ctx context.Context) (w *memoryWorld, err error) {
	ctx, cancel := context.WithCancel(ctx)
	w = &memoryWorld{cancel: cancel, failed: make(chan error, 2)}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if w.files.dir, err = os.MkdirTemp("", "penstock-demo-"); err != nil {
		return w, err
	}
	if w.internet, err = newInternet(netlab.GatewayIPv4+"/24", netlab.GatewayIPv6+"/64"); err != nil {
		return w, err
	}
	ports, err := freePorts(1)
	if err != nil {
		return w, err
	}
	w.files, err = writeFiles(w.files.dir, loopback(ports[0]), netip.MustParseAddr(netlab.IntranetIPv4), memoryTUN)
	if err != nil {
		return w, err
	}
	if err := w.start(ctx, "gateway", w.files.gateway, daemon.Options{Direct: w.internet.direct()}); err != nil {
		return w, err
	}
	return w, w.startLaptop(ctx)
}

// memoryTUN is the laptop's listen.tun: the host is not changed.
const memoryTUN = "{name: pen0, address: [10.77.0.1/24, fd77::1/64], routes: manual, dns: manual}"

// startLaptop runs the laptop's daemon, and the stack that acts as its programs.
func (w *memoryWorld) startLaptop(ctx context.Context) (err error) {
	if w.programs, err = stack.New(stack.Config{Name: "programs", Addrs: prefixes("10.77.0.1/24", "fd77::1/64"), Lossless: true}); err != nil {
		return err
	}
	programs, tun := link.Pipe(1500)
	if err := w.programs.Attach(programs); err != nil {
		return err
	}
	return w.start(ctx, "laptop", w.files.laptop, daemon.Options{TUN: tun, Direct: memoryDialer{w.escape}})
}

// internet is a gateway's internet and intranet in memory.
type internet struct {
	outside *netlab.Outside
	near    *stack.Stack // the gateway's side
	far     *stack.Stack // answers for all hosts
}

// newInternet makes an internet on which the gateway has these addresses. The caller closes it.
func newInternet(addrs ...string) (n *internet, err error) {
	n = new(internet)
	defer func() {
		if err != nil {
			n, err = nil, errors.Join(err, n.close())
		}
	}()
	if n.outside, err = netlab.NewOutside(); err != nil {
		return n, err
	}
	if n.near, err = stack.New(stack.Config{Name: "near", Lossless: true, Addrs: prefixes(addrs...)}); err != nil {
		return n, err
	}
	if n.far, err = stack.New(stack.Config{Name: "far", Lossless: true, Handle: stack.Waiting(n.serve)}); err != nil {
		return n, err
	}
	a, b := link.Pipe(1500)
	return n, errors.Join(n.near.Attach(a), n.far.Attach(b))
}

// direct is the gateway's way to its internet.
func (n *internet) direct() memoryDialer { return memoryDialer{n.near.DialContext} }

func (n *internet) close() error {
	var errs []error
	for _, s := range []*stack.Stack{n.near, n.far} {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	if n.outside != nil {
		errs = append(errs, n.outside.Close())
	}
	return errors.Join(errs...)
}

// serve answers for all hosts on the internet and the intranet.
func (n *internet) serve(_ context.Context, r *stack.Request) {
	switch alive, open := n.outside.Answers(r.Network, r.Dst); {
	case !alive:
		r.Drop()
	case !open:
		r.Refuse()
	default:
		c, err := r.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		n.outside.Serve(r.Network, r.Dst, c)
	}
}

// escape is the laptop's way out outside its tunnel. No flow may use it.
func (w *memoryWorld) escape(context.Context, string, string) (net.Conn, error) {
	w.escaped.Add(1)
	return nil, syscall.ENETUNREACH
}

// freePorts returns unused UDP ports.
func freePorts(n int) ([]uint16, error) {
	var ports []uint16
	for range n {
		c, err := net.ListenUDP("udp", &net.UDPAddr{})
		if err != nil {
			return nil, err
		}
		defer c.Close()
		ports = append(ports, c.LocalAddr().(*net.UDPAddr).AddrPort().Port())
	}
	return ports, nil
}

// loopback is a UDP endpoint on the loopback interface.
func loopback(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
}

func (w *memoryWorld) socket(name string) string { return filepath.Join(w.files.dir, name+".sock") }

// start runs a daemon in this process and waits until its control socket answers.
func (w *memoryWorld) start(ctx context.Context, name, file string, o daemon.Options) error {
	cfg, err := config.Load(file)
	if err != nil {
		return err
	}
	o.Socket = w.socket(name)
	w.over.Go(func() { w.failed <- daemon.Run(ctx, cfg, o) })
	limit := time.After(10 * time.Second)
	for {
		if c, err := control.Dial(ctx, o.Socket); err == nil {
			c.Close()
			return nil
		}
		select {
		case err := <-w.failed:
			return fmt.Errorf("the %s's penstock ended: %w", name, err)
		case <-limit:
			return fmt.Errorf("the %s's penstock does not answer", name)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (w *memoryWorld) dial(ctx context.Context, network, address string) (net.Conn, error) {
	return w.programs.DialContext(ctx, network, address)
}

// lookup asks the laptop's DNS server, IPv4 first.
func (w *memoryWorld) lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return w.dial(ctx, network, "10.77.0.2:53")
	}}
	v4, err := r.LookupNetIP(ctx, "ip4", name+".")
	if err != nil {
		return nil, err
	}
	v6, err := r.LookupNetIP(ctx, "ip6", name+".")
	for i := range v4 {
		v4[i] = v4[i].Unmap()
	}
	var none *net.DNSError
	if errors.As(err, &none) && none.IsNotFound {
		err = nil
	}
	return append(v4, v6...), err
}

func (w *memoryWorld) ping(ctx context.Context, to netip.Addr, size int) error {
	c, err := w.dial(ctx, "ping", netip.AddrPortFrom(to, 0).String())
	if err != nil {
		return err
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	c.SetDeadline(deadline)
	body := make([]byte, 4+size)
	binary.BigEndian.PutUint16(body, 0x7065)
	if _, err := c.Write(body); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 65535))
	return err
}

func (w *memoryWorld) trust() *trust { return &trust{w.internet.outside.CA.Pool()} }

func (w *memoryWorld) control(ctx context.Context) (*control.Client, error) {
	return control.Dial(ctx, w.socket("laptop"))
}

func (w *memoryWorld) seen() (string, error) {
	if n := w.escaped.Load(); n > 0 {
		return "", fmt.Errorf("%d flows were sent outside the tunnel", n)
	}
	return "The laptop's penstock sent nothing outside its tunnel. (No capture: this machine has no network namespaces.)", nil
}

func (w *memoryWorld) hints() []string {
	self, err := os.Executable()
	if err != nil {
		self = "penstock"
	}
	return []string{
		self + " --socket " + w.socket("laptop") + " status",
		self + " --socket " + w.socket("laptop") + " flows --recent",
		self + " --socket " + w.socket("laptop") + " explain https://" + gamblingSite + "/",
	}
}

func (w *memoryWorld) close() error {
	w.cancel()
	w.over.Wait()
	var errs []error
	if w.programs != nil {
		errs = append(errs, w.programs.Close())
	}
	if w.internet != nil {
		errs = append(errs, w.internet.close())
	}
	if w.files.dir != "" {
		errs = append(errs, os.RemoveAll(w.files.dir))
	}
	return errors.Join(errs...)
}

// memoryDialer is a daemon's direct egress: it leads into this world instead of the machine's network.
type memoryDialer struct {
	open func(ctx context.Context, network, address string) (net.Conn, error)
}

func (d memoryDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return d.open(ctx, network, address)
}

func (memoryDialer) Control(string, string, syscall.RawConn) error { return nil }
func (memoryDialer) Reserved(netip.Addr) bool                      { return false }
func (memoryDialer) Routed(netip.Addr) bool                        { return false }
func (memoryDialer) Close() error                                  { return nil }
