package demo

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"penstock/cmd/internal/control"
	"penstock/e2e/netlab"
)

// labWorld is the world in network namespaces. Two processes of this program run in it.
type labWorld struct {
	lab      *netlab.Lab
	files    files
	self     string
	procs    []*proc
	capture  *netlab.Capture
	progress io.Writer
}

// proc is a running penstock and its output.
type proc struct {
	name string
	cmd  *exec.Cmd
	said *bytes.Buffer
	over chan struct{}
}

// build makes a world in network namespaces if this machine allows it, and otherwise in memory.
func build(ctx context.Context, o Options) (world, error) {
	if o.Memory {
		return newMemoryWorld(ctx)
	}
	if err := netlab.Available(ctx); err != nil {
		fmt.Fprintf(o.Stderr, "network namespaces are not available (%v): running the same daemons over in-memory links\n", err)
		return newMemoryWorld(ctx)
	}
	fmt.Fprintln(o.Stderr, "building a small internet in network namespaces")
	return newLabWorld(ctx, o.Stderr)
}

func newLabWorld(ctx context.Context, progress io.Writer) (w *labWorld, err error) {
	w = &labWorld{progress: progress}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if err := w.open(ctx); err != nil {
		return w, err
	}
	endpoint := netip.AddrPortFrom(netip.MustParseAddr(netlab.GatewayIPv4), 51820)
	w.files, err = writeFiles(w.files.dir, endpoint, netip.MustParseAddr(netlab.IntranetIPv4), w.tun())
	if err != nil {
		return w, err
	}
	if err := w.watch(ctx, endpoint); err != nil {
		return w, err
	}
	fmt.Fprintln(progress, "starting the gateway's and the laptop's penstock")
	if err := w.start(ctx, w.lab.Gateway, "gateway", w.files.gateway); err != nil {
		return w, err
	}
	return w, w.start(ctx, w.lab.Laptop, "laptop", w.files.laptop)
}

// open makes the hosts, and a folder for files.
func (w *labWorld) open(ctx context.Context) (err error) {
	if w.self, err = os.Executable(); err != nil {
		return err
	}
	if w.files.dir, err = os.MkdirTemp("", "penstock-demo-"); err != nil {
		return err
	}
	w.lab, err = netlab.New(ctx, netlab.Options{})
	return err
}

// tun is the laptop's listen.tun.
func (w *labWorld) tun() string {
	return fmt.Sprintf("{name: pen0, address: [10.77.0.1/24, fd77::1/64], state_file: %s}", filepath.Join(w.files.dir, "host.json"))
}

// watch starts the capture on the access router. What goes to and from the gateways' endpoints is the tunnel.
func (w *labWorld) watch(ctx context.Context, endpoints ...netip.AddrPort) (err error) {
	var tunnels []netlab.Endpoint
	for _, e := range endpoints {
		tunnels = append(tunnels, netlab.Endpoint{Network: "udp", Addr: e})
	}
	if w.capture, err = w.lab.Access.Capture("lan", tunnels...); err != nil {
		return err
	}
	// The positive control: the capture must see what is sent before penstock runs, or it proves nothing.
	return w.capture.Control(ctx, w.lab.Laptop, "lan0")
}

func (w *labWorld) socket(name string) string { return filepath.Join(w.files.dir, name+".sock") }

// start runs a penstock on a host and waits until its control socket answers.
func (w *labWorld) start(ctx context.Context, h *netlab.Host, name, config string) error {
	cmd := h.Command(ctx, w.self, "run", "-c", config, "--socket", w.socket(name))
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	p, err := begin(name, cmd.Cmd, cmd.Start)
	if err != nil {
		return err
	}
	w.procs = append(w.procs, p)
	return p.awaitSocket(ctx, w.socket(name))
}

// begin starts a command, whose output is kept.
func begin(name string, cmd *exec.Cmd, start func() error) (*proc, error) {
	p := &proc{name: name, cmd: cmd, said: new(bytes.Buffer), over: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.said, p.said
	if err := start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.over)
		cmd.Wait()
	}()
	return p, nil
}

// kill ends the process with SIGKILL.
func (p *proc) kill() error {
	err := p.cmd.Process.Kill()
	<-p.over
	return err
}

// awaitSocket waits until the control socket answers.
func (p *proc) awaitSocket(ctx context.Context, socket string) error {
	limit := time.After(30 * time.Second)
	for {
		if c, err := control.Dial(ctx, socket); err == nil {
			c.Close()
			return nil
		}
		select {
		case <-p.over:
			return fmt.Errorf("the %s's penstock ended:\n%s", p.name, p.said)
		case <-limit:
			return fmt.Errorf("the %s's penstock does not answer", p.name)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (w *labWorld) dial(ctx context.Context, network, address string) (net.Conn, error) {
	return w.lab.Laptop.DialContext(ctx, network, address)
}

func (w *labWorld) lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	return w.lab.Laptop.Lookup(ctx, name)
}

// ping sends ICMP through a raw socket of the laptop.
func (w *labWorld) ping(ctx context.Context, to netip.Addr, size int) error {
	var c *net.IPConn
	err := w.lab.Laptop.Do(func() (err error) {
		c, err = net.DialIP("ip4:icmp", nil, &net.IPAddr{IP: to.AsSlice()})
		return err
	})
	if err != nil {
		return err
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	c.SetDeadline(deadline)
	msg := make([]byte, 8+size)
	msg[0] = 8
	binary.BigEndian.PutUint16(msg[4:], 0x7065)
	binary.BigEndian.PutUint16(msg[2:], ^sum(msg))
	if _, err := c.Write(msg); err != nil {
		return err
	}
	buf := make([]byte, 65535)
	for {
		n, _, err := c.ReadFromIP(buf) // unlike Read, without the IP header
		if err != nil {
			return err
		}
		if n == len(msg) && buf[0] == 0 && bytes.Equal(buf[4:n], msg[4:]) {
			return nil
		}
	}
}

// sum is the Internet checksum of b, not complemented (RFC 1071).
func sum(b []byte) uint16 {
	var s uint32
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

func (w *labWorld) trust() *trust { return &trust{w.lab.CA.Pool()} }

func (w *labWorld) control(ctx context.Context) (*control.Client, error) {
	return control.Dial(ctx, w.socket("laptop"))
}

func (w *labWorld) seen() (string, error) {
	r := w.capture.Stop()
	if err := r.Err(); err != nil {
		return "", err
	}
	return fmt.Sprintf("The access router saw %d packets of the tunnel (%d bytes) and 0 packets in clear; %d questions reached its resolver.",
		r.Tunnel, r.TunnelBytes, len(w.lab.AccessDNS.Queries())), nil
}

func (w *labWorld) hints() []string {
	laptop := strings.Join(w.lab.Laptop.Nsenter(), " ")
	return []string{
		laptop + " curl -v --cacert " + netlab.CAFile + " https://" + intranetSite + "/",
		laptop + " curl -v https://" + gamblingSite + "/",
		w.self + " --socket " + w.socket("laptop") + " status",
		w.self + " --socket " + w.socket("laptop") + " flows",
		w.self + " --socket " + w.socket("laptop") + " explain https://" + gamblingSite + "/",
		w.self + " --socket " + w.socket("gateway") + " flows",
	}
}

func (w *labWorld) close() error {
	var errs []error
	for i := len(w.procs) - 1; i >= 0; i-- {
		w.procs[i].cmd.Process.Signal(os.Interrupt)
		select {
		case <-w.procs[i].over:
		case <-time.After(5 * time.Second):
			errs = append(errs, fmt.Errorf("the %s's penstock did not stop", w.procs[i].name))
			w.procs[i].cmd.Process.Kill()
		}
	}
	if w.lab != nil {
		errs = append(errs, w.lab.Close())
	}
	if w.files.dir != "" {
		errs = append(errs, os.RemoveAll(w.files.dir))
	}
	return errors.Join(errs...)
}
