package laptop

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	"penstock/cmd/internal/config"
	"penstock/policy"
	"penstock/router/hostnet/program"
)

const (
	maxShown     = 4096 // flows whose program is to be looked up for showing; of others it is not shown
	maxSearching = 256  // of those, for which /proc is searched at once; of others the path is not shown
)

// Programs finds the programs of this machine that send flows.
type Programs struct {
	finder *program.Finder
	proxy  *config.ProxyListen
	tun    func() *config.TUN
	log    *slog.Logger
	queue  chan shown
	warned sync.Once
}

// shown is a flow whose program is looked up only to be shown.
type shown struct {
	network  string
	src, dst netip.AddrPort
	sender   *policy.Sender
}

func newPrograms(l *Laptop) *Programs {
	return &Programs{finder: program.New(), proxy: l.cfg.Listen.Proxy, tun: l.networks.tun, log: l.log, queue: make(chan shown, maxShown)}
}

// Describe adds the program that sends a flow of this machine to its facts, as far as rules ask for it. That may take a search of
// /proc. If mode, which is that of the configuration, is "all", Run looks up the rest, so that it can be shown.
func (p *Programs) Describe(f *policy.Flow, asked policy.Asked, mode string) {
	all := mode == "all"
	if !asked.Any() && (!all || f.Sender != nil) {
		return
	}
	dst, ok := p.socketOf(f)
	if !ok {
		return
	}
	network := f.Network.String()
	lacks := asked.UID && !f.HasUID || asked.Process && f.Process == "" || asked.Unit && f.Unit == "" && f.Container == ""
	more := all && f.Sender == nil && !asked.Process
	if f.Sender == nil {
		f.Sender = new(policy.Sender)
	}
	if lacks {
		found, err := p.finder.Find(network, f.Src, dst, program.Want{Path: asked.Process, Group: asked.Unit || all})
		if err != nil {
			p.log.Debug("cannot find the program that sends a flow", "src", f.Src, "dst", f.Dst, "err", err)
			return
		}
		if found.Path == "" && asked.Process {
			p.warned.Do(p.warn)
		}
		q := inPolicy(found)
		f.SentBy(q)
		f.Sender.Is(q)
	}
	if more {
		select {
		case p.queue <- shown{network, f.Src, dst, f.Sender}:
		default: // it is not shown
		}
	}
}

// warn says why no program is found, if it is for lack of a right.
func (p *Programs) warn() {
	if !p.finder.Sees() {
		p.log.Warn("rules with process do not match programs of other users: give penstock CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH, or write unit instead")
	}
}

// socketOf returns where the socket that a program of this machine sends a flow from leads.
func (p *Programs) socketOf(f *policy.Flow) (dst netip.AddrPort, ok bool) {
	if f.Network != policy.TCP && f.Network != policy.UDP {
		return dst, false
	}
	if p.proxy != nil && f.Src.Addr().IsLoopback() { // it has asked our proxy
		dst = p.proxy.Address
		if dst.Addr().IsUnspecified() {
			dst = netip.AddrPortFrom(f.Src.Addr(), dst.Port())
		}
		if f.Network == policy.UDP { // the relay of its association has a port of its own
			dst = netip.AddrPortFrom(dst.Addr(), 0)
		}
		return dst, true
	}
	t := p.tun()
	ours := func(own netip.Prefix) bool { return own.Addr() == f.Src.Addr() }
	return f.Dst, t != nil && slices.ContainsFunc(t.Address, ours)
}

func inPolicy(p program.Program) *policy.Program {
	return &policy.Program{
		UID: p.UID, Path: p.Path, Deleted: p.Deleted, Several: p.Several, Unit: p.Group.Unit, Container: p.Group.Container, UserUnit: p.Group.User,
	}
}

// Run looks up programs that are only shown, until ctx ends. No flow waits for that.
func (p *Programs) Run(ctx context.Context) error {
	defer p.finder.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	searching := make(chan struct{}, maxSearching)
	for {
		select {
		case <-ctx.Done():
			return nil
		case s := <-p.queue:
			socket, ok := p.finder.Look(s.network, s.src, s.dst) // at once: it may be closed soon
			if ok {
				s.sender.Is(inPolicy(p.finder.Known(socket)))
			}
			select {
			case searching <- struct{}{}:
				wg.Go(func() {
					defer func() { <-searching }()
					p.search(s, socket, ok)
				})
			default:
			}
		}
	}
}

// search finds all that can be known of a program. looked is false if its socket is still to be found.
func (p *Programs) search(s shown, socket program.Socket, looked bool) {
	all := program.Want{Path: true, Group: true}
	if looked {
		s.sender.Is(inPolicy(p.finder.Holder(socket, all)))
		return
	}
	if found, err := p.finder.Find(s.network, s.src, s.dst, all); err == nil {
		s.sender.Is(inPolicy(found))
	}
}
