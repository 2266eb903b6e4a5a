package e2e

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"penstock/e2e/netlab"
)

// In a soak the floods have the size that the figures are promised for, and penstock its default limits. Otherwise both are small.
const smallLimits = `limits: {udp_flows: 400, udp_flows_per_client: 200, tcp_flows: 400, dials: 300, udp_idle: 3s, udp_idle_short: 1s, udp_idle_quic: 1s}
`

// silentNet leads nowhere: the internet drops what goes there.
const silentNet = "198.18.0.0/15"

// floodRules judge every name, so that what a flow says is read wherever it goes.
const floodRules = `rules:
  - {name: no-casino, match: {domain: casino.example}, do: block}
  - {name: rest, do: direct}
`

// victim is a penstock that somebody floods through a device, while somebody else fetches pages through it.
type victim struct {
	*world
	name     string
	p        *penstock  // nil: wireguard-go and the kernel stand in its place
	device   string     // of the flooder's
	fd       int        // what is written to it comes in as the flooder's
	network  netip.Addr // the flooder sends from addresses of this /24
	flooder  *netlab.Host
	honest   *netlab.Host
	resolver string // the honest one's
}

// newVictim makes a victim by its name.
//
//	laptop: wireguard-go, packets made by hand ===> [penstock, or wireguard-go and the kernel] gateway --- intranet, internet
//	access: wireguard-go, an honest peer ========>
//
//	laptop: packets made by hand, an honest program [pen0 -> penstock] === WireGuard ===> [penstock] gateway --- intranet, internet
func newVictim(t *testing.T, name string) *victim {
	t.Helper()
	v := &victim{world: newWorld(t), name: name}
	sh(t, v.Internet, "ip route add blackhole "+silentNet)
	limits := ""
	if !soaking() {
		limits = smallLimits
	}
	if name == "laptop" {
		v.edit(t, "laptop.yaml", rulesOf(t, v.world, "laptop.yaml"), strings.Replace(floodRules, "direct", "{via: corp}", 1))
		v.edit(t, "laptop.yaml", "metrics:", limits+"metrics:")
		v.edit(t, "gateway.yaml", rulesOf(t, v.world, "gateway.yaml"), "rules:\n  - {name: rest, do: direct}\n")
		v.gateway = start(t, v.Gateway, v.path("gateway.yaml"))
		v.laptop = start(t, v.Laptop, v.path("laptop.yaml"))
		v.connected(t)
		v.p, v.flooder, v.honest, v.resolver = v.laptop, v.Laptop, v.Laptop, netlab.ResolverIPv4
		v.network = netip.MustParseAddr("10.77.0.0")
		v.device = "pen0"
		v.fd = packetSocket(t, v.Laptop, v.device, unix.ETH_P_IP)
		return v
	}
	key, public := keyPair(t)
	v.flooder, v.honest, v.network = v.Laptop, v.Access, netip.MustParseAddr("10.98.0.0")
	v.write(t, "honest.conf", strings.NewReplacer(v.fill.Replace("LAPTOP_KEY"), key, "10.99.0.2/32, fd99::2/128", "10.99.0.3/32").Replace(v.read(t, "corp.conf")))
	if direct, ours := strings.CutPrefix(name, "gateway, direct: "); ours {
		v.edit(t, "gateway.yaml", "listen_port:", "direct: "+direct+", listen_port:")
		v.edit(t, "gateway.yaml", "include:", "state_dir: "+v.path("state")+"\ninclude:")
		v.edit(t, "gateway.yaml", "peers:\n", "peers:\n  - {name: honest, public_key: "+public+", allowed_ips: [10.99.0.3/32]}\n")
		v.edit(t, "gateway.yaml", `"fd99::2/128"`, `"fd99::2/128", 10.98.0.0/24`)
		v.edit(t, "gateway.yaml", rulesOf(t, v.world, "gateway.yaml"), floodRules)
		v.edit(t, "gateway.yaml", "metrics:", limits+"metrics:")
		v.gateway = start(t, v.Gateway, v.path("gateway.yaml"))
		v.p, v.resolver = v.gateway, gatewayInner4
		if direct == "kernel" {
			v.gateway.wantDirect(t, "direct by the kernel")
		}
	} else {
		conf := strings.Replace(stockGateway, "fd99::2/128", "fd99::2/128, 10.98.0.0/24", 1) + "\n[Peer]\nPublicKey = " + public + "\nAllowedIPs = 10.99.0.3/32\n"
		v.write(t, "stock.conf", v.fill.Replace(conf))
		stock(t, v.Gateway, v.path("stock.conf"), "10.98.0.0/24")
		sh(t, v.Gateway, "sysctl -qw net.ipv4.ip_forward=1; nft add table ip n; nft 'add chain ip n post { type nat hook postrouting priority srcnat; }'; "+
			"nft 'add rule ip n post oifname != wg0 masquerade'")
		v.resolver = netlab.IntranetIPv4
	}
	stock(t, v.Laptop, v.path("corp.conf"), "10.20.0.0/24", "10.99.0.0/24")
	stock(t, v.Access, v.path("honest.conf"), "10.20.0.0/24", "10.99.0.0/24")
	v.device = "wg0"
	v.fd = packetSocket(t, v.Laptop, v.device, unix.ETH_P_IP)
	return v
}

// source is where packet i comes from: one address and port each for 60,000 flows from each address. No kernel has the address, so none
// answers.
func (v *victim) source(i int) netip.AddrPort {
	a := v.network.As4()
	a[3] = byte(20 + i/60000)
	return netip.AddrPortFrom(netip.AddrFrom4(a), uint16(2000+i%60000))
}

// fromSource is an IPv4 packet from src with a payload.
func fromSource(protocol byte, src netip.Addr, dst netip.Addr, payload []byte) []byte {
	b := ipv4(protocol, dst.String(), payload)
	copy(b[12:16], src.AsSlice())
	return withChecksum(b)
}

// udp is a datagram without a checksum, which IPv4 allows.
func (v *victim) udp(src, dst netip.AddrPort) []byte {
	b := make([]byte, 8+32)
	binary.BigEndian.PutUint16(b[0:], src.Port())
	binary.BigEndian.PutUint16(b[2:], dst.Port())
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	return fromSource(unix.IPPROTO_UDP, src.Addr(), dst.Addr(), b)
}

func (v *victim) syn(src, dst netip.AddrPort) []byte {
	c := &rawTCP{src: src, dst: dst, seq: rand.Uint32()}
	return fromSource(unix.IPPROTO_TCP, src.Addr(), dst.Addr(), c.segment(2, nil))
}

// silent is one of the hosts that do not answer.
func silent(i int) netip.Addr { return netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}) }

var (
	echoServer = netip.MustParseAddrPort(netlab.IntranetIPv4 + ":7")
	heldServer = netip.MustParseAddrPort(netlab.IntranetIPv4 + ":4009") // see serveHeld
)

// serveHeld has the intranet's kernel end handshakes at a port, of which nobody accepts a connection: so none takes a descriptor.
func (v *victim) serveHeld(t *testing.T, n int) {
	t.Helper()
	sh(t, v.Intranet, fmt.Sprintf("sysctl -qw net.core.somaxconn=%d net.ipv4.tcp_max_syn_backlog=%d", n, n))
	err := v.Intranet.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		t.Cleanup(func() { unix.Close(fd) })
		return errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Port: int(heldServer.Port())}), unix.Listen(fd, n))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// poured is what a flood came to.
type poured struct {
	sent int
	rate float64 // a second, as it was reached
}

// pour calls send n times, rate times a second or as often as the machine allows. A full queue is tried again.
func pour(n, rate int, send func(i int) error) (p poured, err error) {
	began := time.Now()
	for p.sent < n {
		due := min(n, int(time.Since(began).Seconds()*float64(rate))+1)
		for p.sent < due {
			err := send(p.sent)
			if errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EAGAIN) {
				break
			}
			if err != nil {
				return p, err
			}
			p.sent++
		}
		time.Sleep(time.Millisecond) // paces, and waits for nothing
	}
	p.rate = float64(p.sent) / time.Since(began).Seconds()
	return p, nil
}

// fetches are what the honest one's came to.
type fetches struct {
	mu        sync.Mutex // guards below
	good, all int
	failed    map[string]int
	slowest   time.Duration
}

func (f *fetches) add(took time.Duration, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all++
	f.slowest = max(f.slowest, took)
	if err == nil {
		f.good++
		return
	}
	if f.failed == nil {
		f.failed = map[string]int{}
	}
	f.failed[err.Error()]++
}

func (f *fetches) share() float64 { return float64(f.good) / float64(max(1, f.all)) }

func (f *fetches) String() string {
	s := fmt.Sprintf("%d of %d fetches", f.good, f.all)
	if len(f.failed) > 0 {
		s += fmt.Sprintf(" (%v)", f.failed)
	}
	return s
}

const (
	fetchSize  = 20000
	fetchLimit = 5 * time.Second // as a user would wait
)

// fetch looks a name up and fetches a page from there, on new sockets, as curl does.
func (v *victim) fetch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, fetchLimit)
	defer cancel()
	addr, err := v.lookUp(ctx)
	if err != nil {
		return fmt.Errorf("look up: %w", plain(err))
	}
	conn, err := v.honest.DialContext(ctx, "tcp", addr+":80")
	if err != nil {
		return fmt.Errorf("connect: %w", plain(err))
	}
	defer conn.Close()
	end, _ := ctx.Deadline()
	if err := conn.SetDeadline(end); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(conn, "GET /bytes/%d HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", fetchSize, netlab.IntranetSite); err != nil {
		return fmt.Errorf("ask: %w", plain(err))
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return fmt.Errorf("answer: %w", plain(err))
	}
	defer res.Body.Close()
	if n, err := io.Copy(io.Discard, res.Body); err != nil || n != fetchSize {
		return fmt.Errorf("page: %w", plain(err))
	}
	return nil
}

// plain is an error without the addresses in it, so that equal ones are equal.
func plain(err error) error {
	var timeout net.Error
	var errno unix.Errno
	switch {
	case errors.As(err, &errno):
		return errno
	case errors.As(err, &timeout) && timeout.Timeout():
		return os.ErrDeadlineExceeded
	}
	return err
}

// lookUp asks for the intranet's address, again each second as resolvers do.
func (v *victim) lookUp(ctx context.Context) (addr string, err error) {
	client := &dns.Client{Timeout: time.Second}
	for ctx.Err() == nil {
		var conn net.Conn
		if conn, err = v.honest.DialContext(ctx, "udp", v.resolver+":53"); err != nil {
			return "", err
		}
		var a *dns.Msg
		a, _, err = client.ExchangeWithConn(new(dns.Msg).SetQuestion(netlab.IntranetSite+".", dns.TypeA), &dns.Conn{Conn: conn})
		conn.Close()
		if err != nil {
			continue
		}
		if len(a.Answer) != 1 {
			return "", fmt.Errorf("%d answers, %s", len(a.Answer), dns.RcodeToString[a.Rcode])
		}
		return a.Answer[0].(*dns.A).A.String(), nil
	}
	return "", err
}

// fetching fetches, four at a time, until the returned function is called and at least as many were tried as prove anything.
func (v *victim) fetching(t *testing.T) (stop func() *fetches) {
	f := new(fetches)
	ctx, cancel := context.WithCancel(t.Context())
	var begun atomic.Int64
	var over sync.WaitGroup
	const least = 40
	for range 4 {
		over.Go(func() {
			for ctx.Err() == nil || begun.Load() < least && t.Context().Err() == nil {
				begun.Add(1)
				start := time.Now()
				err := v.fetch(t.Context())
				f.add(time.Since(start), err)
				time.Sleep(50 * time.Millisecond) // a user, not a flood
			}
		})
	}
	return func() *fetches { cancel(); over.Wait(); return f }
}

// size is what a penstock holds.
type size struct {
	rss, peak               int64 // MiB
	goroutines, descriptors float64
}

// memory reads the resident memory of a process now and at its peak since forgetPeak, in bytes.
func (p *penstock) memory() (rss, peak int64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(b)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kib); n == 1 {
			rss = kib << 10
		}
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
			peak = kib << 10
		}
	}
	return rss, peak, nil
}

func (p *penstock) forgetPeak(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.cmd.Process.Pid), []byte("5"), 0); err != nil {
		t.Fatal(err)
	}
}

func (v *victim) size(t *testing.T) (s size) {
	t.Helper()
	if v.p == nil {
		return s
	}
	rss, peak, err := v.p.memory()
	if err != nil {
		t.Fatal(err)
	}
	s.rss, s.peak = rss>>20, peak>>20
	s.goroutines, s.descriptors = v.metric(t, v.p.host, "go_goroutines"), v.metric(t, v.p.host, "process_open_fds")
	return s
}

// orphan is a fragment of a datagram of which no other comes.
func (v *victim) orphan(i int, first bool) []byte {
	payload := make([]byte, 1200)
	src := v.source(0)
	binary.BigEndian.PutUint16(payload[0:], src.Port())
	binary.BigEndian.PutUint16(payload[2:], 7)
	binary.BigEndian.PutUint16(payload[4:], 2000)
	b := fromSource(unix.IPPROTO_UDP, src.Addr(), echoServer.Addr(), payload)
	binary.BigEndian.PutUint16(b[4:], uint16(i))
	field := uint16(0x2000)
	if !first {
		field |= 1200 / 8
	}
	binary.BigEndian.PutUint16(b[6:], field)
	return withChecksum(b)
}

// held are connections that were opened by hand.
type held struct {
	fd   int
	mu   sync.Mutex // guards below
	open []*rawTCP
}

// answer ends the handshakes whose SYN-ACKs come, until over is closed.
func (h *held) answer(over <-chan struct{}) {
	buf := make([]byte, 1<<16)
	for {
		select {
		case <-over:
			return
		default:
		}
		if n, err := unix.Poll([]unix.PollFd{{Fd: int32(h.fd), Events: unix.POLLIN}}, 100); n < 1 || err != nil {
			continue
		}
		n, err := unix.Read(h.fd, buf)
		if err != nil || n < 40 || buf[0] != 0x45 || buf[9] != unix.IPPROTO_TCP || buf[33] != 0x12 {
			continue // no SYN-ACK
		}
		addr := func(at int) netip.Addr { return netip.AddrFrom4([4]byte(buf[at : at+4])) }
		c := &rawTCP{
			src: netip.AddrPortFrom(addr(16), binary.BigEndian.Uint16(buf[22:])), dst: netip.AddrPortFrom(addr(12), binary.BigEndian.Uint16(buf[20:])),
			seq: binary.BigEndian.Uint32(buf[28:]), ack: binary.BigEndian.Uint32(buf[24:]) + 1,
		}
		if c.dst != heldServer {
			continue
		}
		if h.send(c, 0x10) == nil {
			h.mu.Lock()
			h.open = append(h.open, c)
			h.mu.Unlock()
		}
	}
}

func (h *held) send(c *rawTCP, flags byte) error {
	_, err := unix.Write(h.fd, fromSource(unix.IPPROTO_TCP, c.src.Addr(), c.dst.Addr(), c.segment(flags, nil)))
	return err
}

// hold opens n connections by hand, 1,500 a second, and holds them. At the end it resets them.
func (v *victim) hold(t *testing.T, n int) (poured, func()) {
	t.Helper()
	h := &held{fd: packetSocket(t, v.flooder, v.device, unix.ETH_P_IP)}
	if err := unix.SetsockoptInt(h.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20); errors.Is(err, unix.EPERM) {
		t.Skip("only root may have a large buffer for packets")
	} else if err != nil {
		t.Fatal(err)
	}
	v.serveHeld(t, n)
	over := make(chan struct{})
	var answering sync.WaitGroup
	answering.Go(func() { h.answer(over) })
	p, err := pour(n, 1500, func(i int) error {
		_, err := unix.Write(v.fd, v.syn(v.source(i), heldServer))
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return p, func() {
		close(over)
		answering.Wait()
		t.Logf("%s: %d of %d handshakes were ended", v.name, len(h.open), n)
		for range 3 { // a full queue loses some
			if _, err := pour(len(h.open), 3000, func(i int) error { return h.send(h.open[i], 0x04) }); err != nil {
				t.Error(err)
			}
		}
	}
}

// connections opens n sockets to the intranet's web server, says something on each and then nothing more, and reads nothing.
func (v *victim) connections(t *testing.T, n int, say string) (p poured, end func()) {
	t.Helper()
	var all []net.Conn
	p, err := pour(n, 500, func(int) error {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		c, err := v.flooder.DialContext(ctx, "tcp", netlab.IntranetIPv4+":80")
		if err != nil {
			return nil // refused, as a flooder may be
		}
		_ = c.(*net.TCPConn).SetReadBuffer(4096)
		all = append(all, c)
		_, _ = io.WriteString(c, say)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAll(all) })
	return p, func() { closeAll(all) }
}

func closeAll(all []net.Conn) {
	for _, c := range all {
		c.Close()
	}
}
