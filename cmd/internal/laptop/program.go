package laptop

import (
	"net/netip"
	"slices"

	"penstock/policy"
	"penstock/router/hostnet/program"
)

// Program adds to a flow the user of this machine that sends it, and with path the program too. Finding out costs some
// system calls: ask only where a rule needs it.
func (l *Laptop) Program(f *policy.Flow, path bool) {
	t := l.cfg.Listen.TUN
	ours := func(p netip.Prefix) bool { return p.Addr() == f.Src.Addr() }
	if t == nil || !slices.ContainsFunc(t.Address, ours) || f.Network != policy.TCP && f.Network != policy.UDP {
		return
	}
	p, err := program.Find(f.Network.String(), f.Src, f.Dst, path)
	if err != nil {
		l.log.Debug("the program that sends a flow is not known", "src", f.Src, "dst", f.Dst, "err", err)
		return
	}
	f.UID, f.Process, f.HasUID = p.UID, p.Path, true
}
