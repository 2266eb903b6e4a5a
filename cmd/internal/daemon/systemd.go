package daemon

import (
	"context"
	"net/netip"
	"os"
	"strings"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"

	"penstock/router/clients"
)

// statusEvery is how often the service manager is told of the state where it wants no watchdog.
const statusEvery = 10 * time.Second

// Notifier tells the service manager how the daemon is: sd_notify(3). A nil *Notifier tells nobody.
type Notifier struct {
	watchdog time.Duration // 0: nobody watches
}

// NewNotifier takes what systemd says in the environment; nil if it says nothing.
func NewNotifier() *Notifier {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return nil
	}
	every, err := sd.SdWatchdogEnabled(false)
	if err != nil {
		every = 0 // what is no number watches nobody
	}
	return &Notifier{watchdog: every}
}

// send sends lines in one datagram. Nobody who does not listen is worth an error.
func (n *Notifier) send(lines ...string) { _, _ = sd.SdNotify(false, strings.Join(lines, "\n")) }

// run says that the daemon is ready, and from then on how it is, until ctx ends. The watchdog is fed after alive has
// returned: what hangs in it is found by the service manager.
func (n *Notifier) run(ctx context.Context, alive func(context.Context), status func() string) error {
	if n == nil {
		<-ctx.Done()
		return nil
	}
	n.send("READY=1", "STATUS="+status())
	every := statusEvery
	if n.watchdog > 0 {
		every = n.watchdog / 2
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		alive(ctx)
		lines := []string{"STATUS=" + status()}
		if n.watchdog > 0 {
			lines = append(lines, "WATCHDOG=1")
		}
		n.send(lines...)
		select {
		case <-ctx.Done():
			n.send("STOPPING=1")
			return nil
		case <-ticker.C:
		}
	}
}

// notify tells the service manager about this daemon.
func (d *Daemon) notify(ctx context.Context) error {
	return d.opts.Notify.run(ctx, d.alive, func() string {
		s, err := d.status.Status(ctx)
		if err != nil {
			return err.Error()
		}
		return strings.Map(func(r rune) rune {
			if r < ' ' {
				return ' '
			}
			return r
		}, s.Verdict)
	})
}

// nobody is a documentation address (RFC 5737). Nothing is sent to it.
func nobody() netip.AddrPort { return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), 9) }

// alive goes once through what everything else goes through: the locks of the tables, and a socket in each stack. It
// returns late, or never, where something hangs; what fails is not its business.
func (d *Daemon) alive(ctx context.Context) {
	d.router.Active()
	d.dns.Names().Lookup(clients.Nobody, nobody().Addr())
	d.laptop.Touch(ctx, nobody())
	if d.gateway != nil {
		d.gateway.Touch(ctx, nobody())
	}
	d.egress.Touch(ctx, nobody())
}
