// Package renewed serves a certificate from files that another program renews.
//
// It does not renew certificates, and does not know where they are.
package renewed

import (
	"crypto/tls"
	"log/slog"
	"sync"
	"time"
)

// look is how often the files are read, however many handshakes there are.
const look = 10 * time.Second

// Certificate is a certificate as its files were when they were read last. If they cannot be read any more, the former one stays.
// The zero value has none yet.
type Certificate struct {
	mu      sync.Mutex // guards below
	of      any
	looked  time.Time
	current *tls.Certificate
	err     error // of the last look
}

// Get returns the certificate. load reads the files, at most every 10 s and once for each of, which are the settings that name them.
// An error is logged once, with what the certificate is for.
func (c *Certificate) Get(of any, load func() (tls.Certificate, error), log *slog.Logger, what string) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of != of || time.Since(c.looked) >= look {
		next, err := load()
		if err != nil && (c.err == nil || c.err.Error() != err.Error()) {
			log.Error("a certificate cannot be read; a former one stays in use", "of", what, "err", err)
		}
		if c.of, c.looked, c.err = of, time.Now(), err; err == nil {
			c.current = &next
		}
	}
	if c.current == nil {
		return nil, c.err
	}
	return c.current, nil
}
