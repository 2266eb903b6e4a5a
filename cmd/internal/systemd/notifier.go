// Package systemd tells the service manager that penstock is ready, how it is, and that it is alive: sd_notify(3).
//
// It does not know what any of that means.
package systemd

import (
	"context"
	"os"
	"strings"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
)

// statusEvery is how often the state goes to the service manager if nothing changes and it runs no watchdog.
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

// state is a line that says how the daemon is. What would end the line becomes a space: the rest would be lines of their own.
func state(text string) string {
	return "STATUS=" + strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, text)
}

// Run reports that the daemon is ready, and then its state, at every change, until ctx ends. It feeds the watchdog each time
// alive returns. If alive hangs, the service manager notices.
func (n *Notifier) Run(ctx context.Context, changed <-chan struct{}, alive func(context.Context), status func() string) error {
	if n == nil {
		<-ctx.Done()
		return nil
	}
	n.send("READY=1", state(status()))
	every := statusEvery
	if n.watchdog > 0 {
		every = n.watchdog / 2
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		alive(ctx)
		lines := []string{state(status())}
		if n.watchdog > 0 {
			lines = append(lines, "WATCHDOG=1")
		}
		n.send(lines...)
		for due := false; !due; {
			select {
			case <-ctx.Done():
				n.send("STOPPING=1")
				return nil
			case <-changed:
				n.send(state(status()))
			case <-ticker.C:
				due = true
			}
		}
	}
}
