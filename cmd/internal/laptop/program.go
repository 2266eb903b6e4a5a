package laptop

import (
	"net/netip"
	"slices"

	"penstock/policy"
	"penstock/router/hostnet/program"
)

// Program adds the local user who sends a flow to its facts and, if path is set, the program too. This costs some system calls,
// so call it only if a rule needs it.
func (l *Laptop) Program(f *policy.Flow, path bool) {
	t := l.networks.tun()
	ours := func(p netip.Prefix) bool { return p.Addr() == f.Src.Addr() }
	to := f.Dst
	if p := l.cfg.Listen.Proxy; p != nil && f.Src.Addr().IsLoopback() { // it has asked our proxy, and its socket leads there
		to = p.Address
	} else if t == nil || !slices.ContainsFunc(t.Address, ours) || f.Network != policy.TCP && f.Network != policy.UDP {
		return
	}
	p, err := program.Find(f.Network.String(), f.Src, to, path)
	if err != nil {
		l.log.Debug("cannot find the program that sends a flow", "src", f.Src, "dst", f.Dst, "err", err)
		return
	}
	f.UID, f.Process, f.HasUID = p.UID, p.Path, true
}
