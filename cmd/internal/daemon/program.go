package daemon

import (
	"net/netip"

	"penstock/policy"
	"penstock/router/hostnet"
)

// program tells who on this machine sends a flow, if a rule asks.
func (d *Daemon) program(n policy.Network, src, dst netip.AddrPort) (uid uint32, path string, ok bool) {
	uids, paths := asksForPrograms(d.rules.current())
	t := d.cfg.Listen.TUN
	if !uids && !paths || t == nil || !isOneOf(t.Address, src.Addr()) || n != policy.TCP && n != policy.UDP {
		return 0, "", false
	}
	p, err := hostnet.FindProgram(n.String(), src, dst, paths)
	if err != nil {
		d.log.Debug("the program that sends a flow is not known", "src", src, "dst", dst, "err", err)
		return 0, "", false
	}
	return p.UID, p.Path, true
}

// asksForPrograms says whether a rule has a condition on the user or the program.
func asksForPrograms(p *policy.Policy) (uids, paths bool) {
	for _, r := range p.Rules() {
		for m := &r.Match; m != nil; m = m.Not {
			uids = uids || len(m.UID) > 0
			paths = paths || len(m.Process) > 0
		}
	}
	return uids, paths
}
