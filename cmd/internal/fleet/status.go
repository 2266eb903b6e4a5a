package fleet

import (
	"time"

	"penstock/cmd/internal/control"
)

// Status returns how the fleet looks from here: nil without a node.
func (n *Node) Status() *control.Fleet {
	if n == nil {
		return nil
	}
	now, cfg := time.Now(), n.Live()
	v, others, own := n.see(now), n.board.others(), n.report()
	s := &control.Fleet{Site: n.site, Gateway: n.self, Connected: n.Connected(), Generation: cfg.Fleet.Generation}
	if n.board.hasTwin(now) {
		s.Trouble = twinTrouble(n.self)
	}
	for _, g := range cfg.Site.Gateways {
		o, known := others[g.Name]
		switch {
		case g.Name == n.self:
			o.Report, o.heard = own, now
		case !known:
			o.State = Silent
		case !v.alive[g.Name] && o.State != Leaving:
			o.State = Silent
		}
		s.Gateways = append(s.Gateways, o.gateway(g.Name, o.State))
	}
	return s
}

// gateway is what is known of a gateway, for people.
func (o other) gateway(name, state string) control.FleetGateway {
	return control.FleetGateway{
		Name: name, State: state, Why: o.Why, Region: o.Region, Generation: o.Generation, Refused: o.Refused, Fault: o.Fault, Peers: o.Peers,
		Version: o.Version, Heard: o.heard,
	}
}
