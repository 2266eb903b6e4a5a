// Package kernel is the way out by the host's kernel, on Linux: the packets of flows with the verdict direct cross to a stack behind a
// TUN device of our own, and the kernel routes and masquerades them. The answers come back by its connection tracking.
//
// On a gateway it carries all that the host may forward. On a laptop it carries TCP to what lies behind a router. Containers and other
// VPNs are reached by sockets, because their firewalls expect the host itself, and so is everything over UDP, because a socket keeps one
// port for all destinations and masquerading does not. So is what lies behind a route that names a source address which masquerading
// may not take.
//
// Only that stack writes to the TUN, and it accepts no flow. What the host must change for this is recorded before, and undone when
// the Way is closed, by Cleanup, or by the next start. While it does not work, flows leave by sockets of penstock's own.
//
// It judges nothing, and carries no flow to the host itself.
package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"penstock/cmd/internal/config"
	"penstock/policy"
	"penstock/router/hostnet"
	"penstock/router/hostnet/direct"
	"penstock/stack"
	"penstock/stack/link"
)

// Config is what Open needs. The zero value opens nothing.
type Config struct {
	Config *config.Config
	Limits stack.Limits
	// Reserved reports whether packets to an address may not be forwarded: because it is the host's own, for example, or on a laptop
	// because no router is between.
	Reserved func(netip.Addr) bool
	Mark     uint32 // of our own packets; 0: none
	Metrics  *stack.Metrics
	Log      *slog.Logger // nil: nothing is logged
}

// Cleanup undoes what a killed penstock left on the host, as the state file says: see StateFile and LaptopStateFile.
func Cleanup(stateFile string, log *slog.Logger) error {
	err := hostnet.CleanupForwarding(stateFile, log)
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return err
}

// Way is the way out by the kernel. A nil Way carries nothing.
type Way struct {
	cfg   Config
	plan  plan
	name  string // of the TUN
	host  *hostnet.Host
	stack *stack.Stack
	own   atomic.Pointer[[]netip.Prefix] // the networks of the TUN

	clash atomic.Pointer[direct.OverlapError] // another interface has one of them since; nil: none has
	off   atomic.Pointer[string]              // why flows leave by sockets; nil: they do not
	gap   [2]atomic.Bool                      // probes of IPv4 and of IPv6 do not come through
	bar   [2]atomic.Pointer[string]           // whose rules may stop what a gateway forwards of IPv4 and of IPv6; nil: nobody's
	out   atomic.Pointer[string]              // whose rules may treat a laptop's packets otherwise if they are forwarded; nil: nobody's
	mu    sync.Mutex                          // guards below
	was   string                              // what need not be logged again
}

// probes are what is sent to see whether another program's firewall lets our packets through: the dummy address of RFC 7600, and the
// prefix that discards, of RFC 6666.
var probes = [2]netip.Addr{netip.MustParseAddr("192.0.0.8"), netip.MustParseAddr("100::1")}

// Open opens the way, if the configuration wants it. It cannot fail: Reason says why flows leave by sockets. It is nil for a
// configuration that asks for no such way.
func Open(ctx context.Context, c Config) *Way {
	if c.Config == nil || c.Config.Listen.WireGuard == nil && c.Config.Listen.TUN == nil {
		return nil
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	w := &Way{cfg: c, plan: planOf(c.Config)}
	if why := w.plan.off; why != "" {
		if err := Cleanup(w.plan.state, c.Log); err != nil {
			c.Log.Warn("cannot undo what an earlier penstock left on the host", "err", err)
		}
		w.off.Store(&why)
		w.was = w.String() // as the configuration says: status tells it, and it is no news for the log
		return w
	}
	if err := w.open(ctx); err != nil {
		if err := w.shut(); err != nil {
			c.Log.Warn("cannot undo all changes to the host", "err", err)
		}
		w.fail(err)
	}
	return w
}

// open opens the parts: the state file, the TUN, which nobody can use yet, and only when a stack reads that, what makes the host
// forward.
func (w *Way) open(ctx context.Context) error {
	own, err := hostnet.ChooseAddresses(hostnet.Choice{Forward: true})
	if err != nil {
		return err
	}
	w.own.Store(&own)
	if err := os.MkdirAll(filepath.Dir(w.plan.state), 0o700); err != nil {
		return err
	}
	w.name = freeName(w.plan.name)
	c := hostnet.Config{
		Interface: w.name, StateFile: w.plan.state, Beside: w.plan.beside, Gateway: true, Log: w.cfg.Log, Mark: w.cfg.Mark, MarkMask: w.cfg.Mark,
		Gone:    func() { w.fail(errors.New("the TUN " + w.name + " is gone: restart penstock")) },
		Overlap: func(o *direct.OverlapError) { w.clash.Store(o) },
		Warning: func(err error) { w.cfg.Log.Debug("cannot apply all settings to the host", "err", err) },
	}
	if w.host, err = hostnet.Open(c); err != nil {
		return err
	}
	tun, err := link.OpenTUN(link.TUNConfig{Name: w.name, MTU: w.plan.mtu})
	if err != nil {
		return err
	}
	w.stack, err = stack.New(stack.Config{
		Name: "kernel", MTU: w.plan.mtu, Addrs: w.behind(), Routed: true, Lossless: true, Limits: w.cfg.Limits, Metrics: w.cfg.Metrics, Log: w.cfg.Log,
		LinkFailed: func(err error) { w.fail(fmt.Errorf("the TUN %s has failed: %w: restart penstock", w.name, err)) },
	})
	if err != nil {
		return errors.Join(err, tun.Close())
	}
	if err := w.stack.Attach(tun); err != nil {
		return errors.Join(err, tun.Close())
	}
	if err := w.apply(ctx); err != nil {
		return err
	}
	if v4, v6 := w.host.Forwarding.Families(); !v4 && !v6 {
		return fmt.Errorf("the host cannot be made to forward: %w", whyNot(w.name))
	}
	return w.probe(ctx)
}

// apply makes the host forward what comes out of the TUN.
func (w *Way) apply(ctx context.Context) error {
	return w.host.Apply(ctx, hostnet.Settings{Addresses: *w.own.Load(), MTU: w.plan.mtu, Forward: true, Probes: probes[:]})
}

// move gives the TUN other networks, because an interface that has come since has one of them, too: our table would drop its packets. Flows
// that left by the kernel are reset.
func (w *Way) move(ctx context.Context, from *direct.OverlapError) error {
	own, err := hostnet.ChooseAddresses(hostnet.Choice{Forward: true, Interface: w.name})
	if err != nil {
		return err
	}
	if err := w.stack.SetAddrs(nil); err != nil {
		return err
	}
	w.own.Store(&own)
	if err := w.apply(ctx); err != nil {
		return err
	}
	w.cfg.Log.Warn("another interface has a network of the TUN by which direct flows leave: the TUN has moved, and its flows were reset",
		"tun", w.name, "from", from.Own.Masked(), "interface", from.Interface, "network", from.Network, "to", own)
	w.clash.CompareAndSwap(from, nil)
	if w.plan.laptop && w.out.Load() != nil {
		return nil // sieve gives the stack its addresses
	}
	return w.stack.SetAddrs(w.behind())
}

// behind returns the addresses of the stack: the other one of each network of the TUN.
func (w *Way) behind() []netip.Prefix {
	var list []netip.Prefix
	for _, p := range *w.own.Load() {
		list = append(list, netip.PrefixFrom(p.Addr().Next(), p.Bits()))
	}
	return list
}

// freeName returns a name that no interface has.
func freeName(base string) string {
	name := base
	for i := 1; i < 10; i++ {
		if _, err := net.InterfaceByName(name); err != nil {
			break
		}
		name = base + "-" + strconv.Itoa(i)
	}
	return name
}

// whyNot returns why the sysctls cannot be written.
func whyNot(name string) error {
	f, err := os.OpenFile(filepath.Join("/proc/sys/net/ipv4/conf", name, "forwarding"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	f.Close()
	return errors.New("net.ipv4.conf." + name + ".forwarding does not stay 1")
}

// Carrier returns the stack that carries packets of a protocol to dst by the kernel. ok is false if a socket has to.
func (w *Way) Carrier(n policy.Network, dst netip.Addr) (s *stack.Stack, ok bool) {
	if w == nil || w.off.Load() != nil || !w.takes(n) || !w.carries(dst.Is4()) || w.cfg.Reserved(dst) || w.host.Forwarding.Elsewhere(dst) ||
		slices.ContainsFunc(*w.own.Load(), func(p netip.Prefix) bool { return p.Contains(dst) }) {
		return nil, false
	}
	return w.stack, true
}

// carries reports whether the kernel forwards a family.
func (w *Way) carries(v4 bool) bool {
	is4, is6 := w.host.Forwarding.Families()
	if w.out.Load() != nil {
		return false
	}
	if v4 {
		return is4 && w.bar[0].Load() == nil && !w.gap[0].Load()
	}
	return is6 && w.bar[1].Load() == nil && !w.gap[1].Load()
}

// takes reports whether flows of a protocol may leave by the kernel.
func (w *Way) takes(n policy.Network) bool { return n == policy.TCP || !w.plan.laptop }

// Reason says why flows of a protocol to addresses of a family leave by sockets. It is "" if they do not.
func (w *Way) Reason(n policy.Network, to netip.Addr) string {
	if !w.takes(n) && w.off.Load() == nil {
		return "on a laptop only TCP leaves by the kernel: a socket keeps its port for all destinations"
	}
	why := w.reason(!to.Is6())
	if why == "" && to.IsValid() && w.host.Forwarding.Elsewhere(to) {
		return elsewhere
	}
	return why
}

// elsewhere is why flows leave by sockets although the kernel forwards.
const elsewhere = "a route names a source address that masquerading may not take: see src in ip route show table all"

func (w *Way) reason(v4 bool) string {
	if why := w.off.Load(); why != nil {
		return *why
	}
	forwards, forwards6 := w.host.Forwarding.Families()
	bar := w.bar[0].Load()
	if !v4 {
		forwards, bar = forwards6, w.bar[1].Load()
	}
	all := netip.IPv4Unspecified()
	if !v4 {
		all = netip.IPv6Unspecified()
	}
	switch {
	case w.carries(v4) && w.host.Forwarding.Elsewhere(all):
		return elsewhere
	case w.carries(v4):
		return ""
	case w.out.Load() != nil:
		return "another program's firewall may treat what this host forwards otherwise than what it sends: " + *w.out.Load()
	case v4 && !forwards:
		return "the host does not forward IPv4"
	case !forwards:
		return "the host does not forward IPv6: set net.ipv6.conf.all.forwarding to 1, or use Linux 6.17 or later"
	case bar != nil:
		return "another program's firewall may stop what the host forwards, or the answers: " + *bar +
			": see nft list ruleset, and admit what comes in by " + w.name + " and what goes out by it"
	}
	return "another program's firewall drops what the host forwards, or a rule routes it otherwise than what the host sends: " +
		"see nft list ruleset and ip rule, and admit what comes in by " + w.name
}

// String says in one line where direct flows leave; "" where there is no choice.
func (w *Way) String() string {
	if w == nil {
		return ""
	}
	why4, why6 := w.reason(true), w.reason(false)
	switch {
	case why4 == "" && why6 == "":
		return "direct by the kernel"
	case why4 == "":
		return "direct by the kernel, IPv6 by sockets: " + why6
	case why6 == "":
		return "direct by the kernel, IPv4 by sockets: " + why4
	}
	return "direct by sockets: " + why4
}

// tell logs where flows leave, when that has changed.
func (w *Way) tell() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if now := w.String(); now != w.was {
		w.was = now
		w.cfg.Log.Info(now)
	}
}

// fail makes flows leave by sockets from now on. The first reason stays.
func (w *Way) fail(err error) {
	why := strings.ReplaceAll(err.Error(), "\n", "; ")
	if errors.Is(err, fs.ErrPermission) && !strings.Contains(why, "CAP_NET_ADMIN") {
		why += ": this needs CAP_NET_ADMIN"
	}
	w.off.CompareAndSwap(nil, &why)
}

const (
	lookEvery  = time.Second
	probeEvery = 10 * time.Second
	// answersIn is how long a probe may take from our stack through the kernel.
	answersIn = 500 * time.Millisecond
)

// Run puts back what others remove, follows the uplinks, and looks whether packets come through, until ctx ends.
func (w *Way) Run(ctx context.Context) error {
	if w == nil {
		return nil
	}
	w.tell()
	if w.off.Load() != nil {
		return nil
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		if err := w.host.Watch(ctx); err != nil && ctx.Err() == nil {
			w.fail(err) // or it was closed because of another reason, which stays
		}
	})
	look, full := time.NewTicker(lookEvery), false
	defer look.Stop()
	for last := time.Now(); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		}
		if clash := w.clash.Load(); clash != nil && w.off.Load() == nil {
			if err := w.move(ctx, clash); err != nil && ctx.Err() == nil {
				w.fail(err)
			}
		}
		if w.off.Load() != nil { // its flows end, so that their clients try again; the host need not forward any more
			w.tell()
			if err := w.shut(); err != nil {
				w.cfg.Log.Warn("cannot undo all changes to the host", "err", err)
			}
			return nil
		}
		if time.Since(last) >= probeEvery {
			last = time.Now()
			if err := w.probe(ctx); err != nil && ctx.Err() == nil {
				w.cfg.Log.Debug("cannot see whether the host forwards", "err", err)
			}
			full = w.crowded(full)
		}
		w.tell()
	}
}

// crowded warns once when the kernel's table of connections is nearly full: it then drops what begins one, a socket's too.
func (w *Way) crowded(before bool) bool {
	count, most := number("nf_conntrack_count"), number("nf_conntrack_max")
	full := most > 0 && count > most/20*19
	if full && !before {
		w.cfg.Log.Warn("the host's table of connections is nearly full: new flows will be lost. Raise net.netfilter.nf_conntrack_max", "now", count, "most", most)
	}
	return full
}

func number(name string) int {
	raw, _ := os.ReadFile(filepath.Join("/proc/sys/net/netfilter", name))
	n, _ := strconv.Atoi(strings.TrimSpace(string(raw)))
	return n
}

// probe sends a packet of each family through the kernel, which ends before it leaves the host, and notes whether it came as far as
// that. One that does not even begin to be forwarded says nothing if the host itself has no route either.
func (w *Way) probe(ctx context.Context) error {
	if err := w.sieve(); err != nil || w.out.Load() != nil {
		return err
	}
	w.barred()
	begunBefore, leftBefore, err := w.host.Forwarding.Probed()
	if err != nil {
		return err
	}
	var sends [len(probes)]bool
	for i, a := range probes {
		sends[i] = w.host.Forwarding.Sends(a)
		c, err := w.stack.DialContext(ctx, "udp", netip.AddrPortFrom(a, 9).String())
		if err != nil {
			continue // there is no address of this family
		}
		c.Write([]byte("penstock"))
		defer c.Close() // later, so that what comes back is taken for an answer
	}
	deadline := time.Now().Add(answersIn)
	for {
		begun, left, err := w.host.Forwarding.Probed()
		if err != nil {
			return err
		}
		if len(begun) < len(probes) || len(begunBefore) < len(probes) {
			return errors.New("the nftables table of penstock has no counters")
		}
		through, late := true, time.Now().After(deadline)
		for i := range probes {
			b, l := begun[i] > begunBefore[i], left[i] > leftBefore[i]
			through = through && l
			if l || late {
				w.gap[i].Store(!l && (b || sends[i]))
			}
		}
		if through || late {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// sieve looks whether rules of another firewall may treat the packets of a laptop's programs otherwise than those that the host sends.
// Then the flows that have left by the kernel are reset, and none can follow: the stack has no address to leave from. A gateway's peers
// have always been forwarded.
func (w *Way) sieve() error {
	if !w.plan.laptop {
		return nil
	}
	chain, err := w.host.Forwarding.Sieve()
	switch {
	case err != nil:
		return err
	case chain != "":
		w.out.Store(&chain)
		return w.stack.SetAddrs(nil)
	}
	if err := w.stack.SetAddrs(w.behind()); err != nil {
		return err
	}
	w.out.Store(nil)
	return nil
}

// barred looks whether rules of another firewall may stop or change what a gateway forwards. Probes alone do not show that: rules may be
// for TCP, or for the answers. What cannot be read counts as such rules.
func (w *Way) barred() {
	if w.plan.laptop {
		return
	}
	for i := range w.bar {
		chain, err := w.host.Forwarding.Bar(i == 0)
		switch {
		case err != nil:
			chain = "its rules cannot be read: " + err.Error()
			fallthrough
		case chain != "":
			w.bar[i].Store(&chain)
		default:
			w.bar[i].Store(nil)
		}
	}
}

// Close restores the host and closes the TUN: what leads packets into it goes first.
func (w *Way) Close() error {
	if w == nil {
		return nil
	}
	why := "penstock is stopping"
	w.off.CompareAndSwap(nil, &why)
	return w.shut()
}

func (w *Way) shut() error {
	var errs []error
	if w.host != nil {
		errs = append(errs, w.host.Close())
	}
	if w.stack != nil {
		errs = append(errs, w.stack.Close())
	}
	return errors.Join(errs...)
}
