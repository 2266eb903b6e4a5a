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

// statusEvery is how often the state goes to the service manager if it runs no watchdog.
const statusEvery = 10 * time.Second

// Notifier reports the state of the daemon to the service manager: sd_notify(3). A nil *Notifier does nothing.
type Notifier struct {
	watchdog time.Duration // 0: no watchdog
}

// NewNotifier reads the environment that systemd sets. It returns nil if there is none.
func NewNotifier() *Notifier {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return nil
	}
	every, err := sd.SdWatchdogEnabled(false)
	if err != nil {
		every = 0 // not a number: no watchdog
	}
	return &Notifier{watchdog: every}
}

// send sends lines in one datagram. It ignores errors: penstock runs without a listener too.
func (n *Notifier) send(lines ...string) { _, _ = sd.SdNotify(false, strings.Join(lines, "\n")) }

// run reports that the daemon is ready, and then its state until ctx ends. It feeds the watchdog each time alive returns. If
// alive hangs, the service manager notices.
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

// notify reports the state of this daemon to the service manager.
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
