// Package clock knows times that are surely over, for a machine whose clock may be wrong: that of the last handshake with a
// WireGuard server, which it keeps, and those of files.
//
// It does not set the clock.
package clock

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"time"

	"penstock/router/transport/wireguard"
)

// handshakeLook is how often a new handshake is looked for, and handshakeKeep is how often one is written down at most: the disk
// may be a flash card.
const (
	handshakeLook = time.Minute
	handshakeKeep = 10 * time.Minute
)

// Record knows times that are surely over. The clock of a board without a battery is behind them when it boots.
type Record struct {
	// File has the time of the last handshake with a WireGuard server. Empty: it is not kept.
	File string
	// Files returns the files of the configuration.
	Files func() []string
	// Last returns the time of the last handshake, zero if there was none yet.
	Last func() time.Time
	Log  *slog.Logger
}

// Past returns the time of the last handshake before this start or, if that is not known, when the newest file of the configuration
// was written.
func (r Record) Past() wireguard.Past {
	if text, err := os.ReadFile(r.File); err == nil {
		if at, err := time.Parse(time.RFC3339, strings.TrimSpace(string(text))); err == nil {
			return wireguard.Past{Time: at, What: "the last handshake was"}
		}
	}
	var newest wireguard.Past
	for _, file := range r.Files() {
		if info, err := os.Stat(file); err == nil && info.ModTime().After(newest.Time) {
			newest = wireguard.Past{Time: info.ModTime(), What: file + " was written"}
		}
	}
	return newest
}

// Run warns of a clock that is behind. Then it writes down the time of the last handshake until ctx ends, and then once more. After
// a failure a wrong clock may not be noticed, but nothing else is lost.
func (r Record) Run(ctx context.Context) error {
	r.tell()
	if r.File == "" {
		return nil
	}
	tick := time.NewTicker(handshakeLook)
	defer tick.Stop()
	var kept, written time.Time
	for over := false; !over; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			over = true
		}
		at := r.Last()
		if at.IsZero() || at.Equal(kept) || !over && !written.IsZero() && time.Since(written) < handshakeKeep {
			continue
		}
		if err := os.WriteFile(r.File, []byte(at.UTC().Format(time.RFC3339)+"\n"), 0o600); err != nil {
			r.Log.Debug("the time of the last handshake cannot be kept", "err", err)
			continue
		}
		kept, written = at, time.Now()
	}
	return nil
}

// tell warns of a clock that is behind.
func (r Record) tell() {
	if behind := r.Past().Behind(time.Now()); behind != "" {
		r.Log.Warn(behind + ": if the clock is wrong, WireGuard servers ignore this machine, and certificates count as not yet valid")
	}
}
