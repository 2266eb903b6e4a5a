package daemon

import (
	"context"
	"net/netip"

	"penstock/router/clients"
)

// notify reports the state of this daemon to the service manager.
func (d *Daemon) notify(ctx context.Context) error {
	return d.opts.Notify.Run(ctx, d.changed, d.alive, func() string {
		s, err := d.status.Status(ctx)
		if err != nil {
			return err.Error()
		}
		return s.Verdict
	})
}

// nobody returns a documentation address (RFC 5737). Nothing is sent to it.
func nobody() netip.AddrPort { return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), 9) }

// alive takes the locks of the tables and opens a socket in each stack. If one of them hangs, alive returns late or never. It
// ignores errors.
func (d *Daemon) alive(ctx context.Context) {
	d.router.Active()
	d.dns.Names().Lookup(clients.Nobody, nobody().Addr())
	d.laptop.Touch(ctx, nobody())
	if d.gateway != nil {
		d.gateway.Touch(ctx, nobody())
	}
	d.egress.Touch(ctx, nobody())
}
