package acme

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"penstock/cmd/internal/private"
)

// Bounds of what is believed of an attempt before this start. Our clock may have been set since.
const (
	recallFor = 24 * time.Hour // after its wait
	clockSlip = time.Hour      // by which the clock may be behind when it was
)

// interrupted is the fault of an attempt of which nothing is known.
const interrupted = "penstock ended while the authority was asked"

// attempt is what a restart must not forget of the last attempt for a host: else a penstock that restarts in a loop asks the authority
// each time, which has limits. The zero value is none.
type attempt struct {
	Of       string    `json:"of"` // see (*Certificates).of
	Failures int       `json:"failures"`
	At       time.Time `json:"at"`
	Next     time.Time `json:"next"` // there is none before
	Fault    string    `json:"fault"`
}

// of is a digest of a host and of the settings that an attempt is made with: with others it may go well.
func (c *Certificates) of(name string) string {
	s := c.Settings
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q %q %q %v %v", name, s.Directory, s.Email, s.CA, s.HTTP, s.Via, c.Port80, c.Port443))
	return hex.EncodeToString(sum[:])
}

// doubt says why an attempt before this start does not count, or returns "".
func (a attempt) doubt(of string, now time.Time) string {
	pause := a.Next.Sub(a.At)
	switch {
	case a.Of != of:
		return "the configuration has changed"
	case a.Failures < 0 || pause < 0 || pause > limitedMost+limitedMost/10:
		return "it cannot be"
	case now.Before(a.At.Add(-clockSlip)):
		return "it is in the future: the clock has been set"
	case now.After(a.Next.Add(recallFor)):
		return "it was long ago"
	}
	return ""
}

// lastLocked is what a restart must know of the last attempt for a host. That is nothing if there is nothing to be done any more: after a
// success, there is if our clock is so fast that what was issued is to be renewed.
func (c *Certificates) lastLocked(name string, now time.Time) attempt {
	h := c.hosts[name]
	if h.failures == 0 && now.Before(h.renewal()) {
		return attempt{}
	}
	return attempt{Of: c.of(name), Failures: h.failures, At: now, Next: h.next, Fault: h.fault}
}

// recall makes a new host wait as the last attempt before this start says.
func (c *Certificates) recall(name string, h *host, now time.Time) {
	a, err := c.store.attempt(name)
	if err != nil {
		c.Log.Warn("the last attempt to get a certificate cannot be read, and does not count", "host", name, "err", err)
		return
	}
	if a == (attempt{}) {
		return
	}
	if why := a.doubt(c.of(name), now); why != "" {
		c.Log.Info("the last attempt to get a certificate does not count any more", "host", name, "reason", why)
		return
	}
	h.kept, h.failures, h.fault = a, a.Failures, a.Fault
	h.next = now.Add(a.Next.Sub(now)) // by the monotonic clock, which nobody sets
	if now.Before(h.next) {
		c.Log.Info("the authority is not asked for a certificate before the time that was set before this start", "host", name, "failures", a.Failures, "reason", a.Fault, "next", h.next)
	}
}

// keep keeps an attempt for the next start, or none. If that fails, the next start may try at once.
func (c *Certificates) keep(ctx context.Context, name string, h *host, a attempt) {
	if a == h.kept {
		return
	}
	if err := c.store.keep(name, a); err != nil {
		c.Log.WarnContext(ctx, "a restart will not know of the last attempt to get a certificate", "host", name, "err", err)
		return
	}
	h.kept = a
}

// attemptPath is the file with the last attempt for a host.
func (s store) attemptPath(host string) string { return s.file("attempt-", host, ".json") }

// attempt returns the last attempt for a host; zero if there is none.
func (s store) attempt(host string) (a attempt, err error) {
	text, err := private.Read(s.attemptPath(host), maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return attempt{}, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &a)
	}
	if err != nil {
		return attempt{}, fmt.Errorf("%s: %w", s.attemptPath(host), err)
	}
	return a, nil
}

// keep keeps an attempt, or removes the one that is kept.
func (s store) keep(host string, a attempt) error {
	if a == (attempt{}) {
		if err := os.Remove(s.attemptPath(host)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	text, err := json.Marshal(a)
	if err != nil {
		return err
	}
	return private.Replace(s.attemptPath(host), string(text)+"\n")
}
