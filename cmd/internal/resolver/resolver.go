// Package resolver runs the embedded DNS server: it keeps its settings up to date, finds the ways to its upstreams, and opens its
// addresses on the host.
//
// It does not say what the settings are: package edition does.
package resolver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/edition"
	"penstock/cmd/internal/egress"
	"penstock/cmd/internal/handover"
	"penstock/dnsproxy"
	"penstock/policy"
)

// Config is what New needs.
type Config struct {
	Live    *edition.Live
	Egress  *egress.Egress
	Own     func() []netip.Addr    // the DNS servers of the network that the host is in
	Access  func() *edition.Access // what that network resolves
	Server  dnsproxy.Config        // without Policy, Clients, Dialer, Resolve and NoIPv6
	Sockets *handover.Sockets      // may be nil
	Log     *slog.Logger           // must be set
}

// Resolver is a DNS server with its settings. They depend on the current edition, on what transports push, and on the name of a
// captive portal.
type Resolver struct {
	*dnsproxy.Server
	Config

	mu       sync.Mutex // held while settings change
	settings atomic.Pointer[dnsproxy.Settings]
}

// New returns the DNS server of the current edition.
func New(c Config) (*Resolver, error) {
	r := &Resolver{Config: c}
	outside := c.Egress.Outside
	s := c.Server
	s.Policy, s.Clients = edition.Questions{Live: c.Live, Own: outside.Direct.Reserved}, edition.Strangers{Live: c.Live}
	s.Dialer, s.Resolve, s.NoIPv6 = r.way, outside.Resolve, r.noIPv6
	plan, settings, pushed := c.Live.Now().CompileDNS(c.Egress.Naming(), nil)
	if pushed != nil {
		return nil, pushed // nothing has been pushed yet
	}
	r.settings.Store(&settings)
	var err error
	r.Server, err = dnsproxy.New(s, plan)
	return r, err
}

// Settings returns the current settings.
func (r *Resolver) Settings() dnsproxy.Settings { return *r.settings.Load() }

// way returns the dialer for upstreams with this via. On a trusted network transports are down, so it is the direct one.
func (r *Resolver) way(via string) (dnsproxy.Dialer, bool) {
	if r.Live.Conditions().Trusted {
		via = policy.EgressDirect
	}
	return r.Egress.Dialer(via)
}

// Follow applies the DNS settings of the edition, with what transports and the network say now.
func (r *Resolver) Follow() {
	r.mu.Lock()
	defer r.mu.Unlock()
	plan, settings, pushed := r.Live.Now().CompileDNS(r.naming(), r.Access())
	if pushed != nil {
		r.Log.Error("cannot use the DNS servers that a transport pushed; using only those of the configuration", "err", pushed)
	}
	r.settings.Store(&settings)
	r.Server.Use(plan)
}

// naming returns what transports say about DNS, and what the network says where they leave the rest to it.
func (r *Resolver) naming() []egress.Naming {
	return r.Live.Now().Followed(r.Egress.Naming(), r.Live.Conditions(), r.Own)
}

// noIPv6 reports whether an egress carries no IPv6, and rules do not send it elsewhere.
func (r *Resolver) noIPv6(egress string) bool {
	if r.Egress.CarriesIPv6(egress) {
		return false
	}
	outside := r.Live.Now().FollowsRoutes(egress) && r.Live.Conditions().LeavesOut(egress, netip.IPv6Unspecified())
	return !outside
}

// Listen opens the host addresses in dns.listen, and serves them with start.
func (r *Resolver) Listen(ctx context.Context, cfg *config.Config, start func(string, func(context.Context) error)) error {
	lc := net.ListenConfig{Control: r.Egress.Outside.Direct.Control}
	for _, a := range cfg.DNS.Listen {
		pc, err := r.Sockets.ListenPacket(ctx, lc, "udp", a.String())
		if err != nil {
			return fmt.Errorf("dns.listen: %w", err)
		}
		ln, err := r.Sockets.Listen(ctx, lc, "tcp", a.String())
		if err != nil {
			return errors.Join(fmt.Errorf("dns.listen: %w", err), pc.Close())
		}
		start("dns "+a.String(), func(ctx context.Context) error {
			defer pc.Close()
			return r.ServePacketConn(ctx, pc)
		})
		start("dns "+a.String(), func(ctx context.Context) error {
			defer ln.Close()
			return r.ServeListener(ctx, ln)
		})
	}
	return nil
}

// DialContext is never used: the router prefers DialFlow, which knows whose questions they are.
func (r *Resolver) DialContext(context.Context, string, string) (net.Conn, error) {
	return nil, syscall.EAFNOSUPPORT
}

// DialFlow serves the questions of one flow. So the DNS server is an egress, and capturing port 53 is an ordinary rule.
func (r *Resolver) DialFlow(ctx context.Context, f policy.Flow) (net.Conn, error) {
	if f.Network == policy.ICMP {
		return nil, syscall.ECONNREFUSED
	}
	return r.Server.DialFlow(ctx, f)
}
