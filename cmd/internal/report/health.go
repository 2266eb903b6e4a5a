package report

import (
	"context"
	"fmt"
	"net/netip"

	"penstock/cmd/internal/control"
	"penstock/policy"
)

// Reach opens a TCP connection to host:port as a program on this machine would, and closes it: the name is resolved and the
// flow judged by the rules.
func (p *Policy) Reach(ctx context.Context, target string) error {
	f, _, err := p.hypothetical(ctx, control.ExplainQuery{Target: target, Protocol: "tcp"})
	if err != nil {
		return err
	}
	f, _ = p.believe(ctx, f)
	f.Sniffed = true // no further name will be read in it
	for {
		v := p.Live.Decide(f)
		dialer, ok := p.Egress.Dialer(v.Egress)
		switch {
		case v.Action != policy.Forward:
			return fmt.Errorf("rule %s refuses it", v.Rule)
		case !f.Dst.Addr().IsValid():
			return fmt.Errorf("there is no address for %s", target)
		case !ok:
			return fmt.Errorf("rule %s: there is no way out %q", v.Rule, v.Egress)
		}
		c, err := dialer.DialContext(ctx, "tcp"+family(f.Dst.Addr()), f.Dst.String())
		if err == nil {
			return c.Close()
		}
		if !p.Egress.IsNotUp(err) || f.Down == v.Egress {
			return err
		}
		f.Down = v.Egress // the rule may have another way
	}
}

func family(a netip.Addr) string {
	if a.Unmap().Is4() {
		return "4"
	}
	return "6"
}
