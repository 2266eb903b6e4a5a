package laptop

import (
	"context"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"penstock/cmd/internal/edition"
	"penstock/router/hostnet"
)

// DHCP clients write the resolver file after the route, and nothing announces that. So the LAN is looked at again some time after
// a change, and now and then without one.
const (
	lanAfterChange = 2 * time.Second
	lanWithout     = 30 * time.Second
)

// lanNames knows which servers resolve names for the LAN that the host is in.
type lanNames struct {
	look    func(context.Context) edition.LAN
	fresh   func() // puts a LAN in force that is not the one before
	current atomic.Pointer[edition.LAN]
	changed chan struct{} // capacity 1: the network may be another one
}

func newLANNames(l *Laptop, core Core) *lanNames {
	return &lanNames{look: func(ctx context.Context) edition.LAN { return lookAtLAN(ctx, l.net, l.log) }, fresh: core.FreshenDNS, changed: make(chan struct{}, 1)}
}

// now returns the LAN that was seen last.
func (n *lanNames) now() edition.LAN {
	if lan := n.current.Load(); lan != nil {
		return *lan
	}
	return edition.LAN{}
}

// again makes run look again. It does not block.
func (n *lanNames) again() {
	select {
	case n.changed <- struct{}{}:
	default:
	}
}

// run follows the LAN until ctx ends.
func (n *lanNames) run(ctx context.Context) error {
	for wait := time.Duration(0); ; {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-n.changed:
			timer.Stop()
			wait = lanAfterChange
		case <-timer.C:
			wait = lanWithout
		}
		lan := n.look(ctx)
		if ctx.Err() != nil || reflect.DeepEqual(lan, n.now()) {
			continue
		}
		n.current.Store(&lan)
		n.fresh()
	}
}

// lookAtLAN returns the resolvers of the LANs that the host may reach, their search domains, and the networks of the interfaces
// that they are on. It leaves out the networks of other interfaces, such as bridges to containers: these resolvers do not know
// the names there.
func lookAtLAN(ctx context.Context, host *hostnet.Host, log *slog.Logger) edition.LAN {
	var lan edition.LAN
	networks, err := host.LAN(ctx)
	if err != nil {
		log.Debug("cannot list the networks of the LAN", "err", err)
	}
	if len(networks) == 0 {
		return lan
	}
	servers, err := host.OriginalResolvers(ctx)
	if err != nil {
		log.Debug("cannot read the DNS servers of the LAN", "err", err)
		return lan
	}
	if lan = lanOf(networks, servers); len(lan.Servers) == 0 {
		return lan
	}
	if lan.Search, err = host.OriginalSearchDomains(ctx); err != nil {
		log.Debug("cannot read the search domains of the LAN", "err", err)
	}
	return lan
}

// lanOf returns the servers that are on a network of an interface, and the networks of their interfaces.
func lanOf(networks map[string][]netip.Prefix, servers []netip.Addr) edition.LAN {
	var lan edition.LAN
	for _, server := range servers {
		for name, list := range networks {
			if server.Zone() != name && !within(list, server) {
				continue
			}
			if !slices.Contains(lan.Servers, server) {
				lan.Servers = append(lan.Servers, server)
			}
			for _, p := range list {
				if !p.Addr().IsLinkLocalUnicast() && !slices.Contains(lan.Networks, p) {
					lan.Networks = append(lan.Networks, p)
				}
			}
		}
	}
	slices.SortFunc(lan.Networks, netip.Prefix.Compare)
	return lan
}
