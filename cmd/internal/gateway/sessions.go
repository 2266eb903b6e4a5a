package gateway

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"penstock/cmd/internal/private"
	"penstock/router/transport/wireguard"
)

const (
	sessionLook = 2 * time.Second // how often new sessions are looked for
	// sessionKeep is how often handshakes are written down of peers that are where they were. With many peers there is always one,
	// and a file that is written at each look wears out a card.
	sessionKeep = 15 * time.Second
	// sessionLife is how long a WireGuard session carries without a new handshake (Reject-After-Time).
	sessionLife = 180 * time.Second
	maxSessions = 16 << 20 // bytes of the file
)

// Sessions remembers in a file where the peers with a session are, so that the gateway can call them after a restart.
type Sessions struct {
	Gateway *Gateway
	File    string
	// Elsewhere returns a function that reports whether a peer has a session with another gateway, so that it is not called.
	Elsewhere func() func(wireguard.PublicKey) bool
	Log       *slog.Logger // must be set
}

// session is a line of the file.
type session struct {
	Peer      wireguard.PublicKey `json:"public_key"`
	Endpoint  netip.AddrPort      `json:"endpoint"`
	Handshake time.Time           `json:"last_handshake"`
}

// due reports whether what has changed since the file was written is worth another.
func due(now, kept []session, age time.Duration) bool {
	return age >= sessionKeep || !slices.EqualFunc(now, kept, func(a, b session) bool { return a.Peer == b.Peer && a.Endpoint == b.Endpoint })
}

// Run calls the peers that had a session before the restart, and then keeps the file up to date until ctx ends. If the file cannot
// be read or written, peers come back by themselves, later. Run returns nil.
func (s Sessions) Run(ctx context.Context) error {
	s.call(ctx)
	tick := time.NewTicker(sessionLook)
	defer tick.Stop()
	var kept []session
	var written time.Time
	var failed error
	for over := false; !over; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			over = true
		}
		now := s.present()
		if !over && !due(now, kept, time.Since(written)) || slices.Equal(now, kept) {
			continue
		}
		text, err := json.Marshal(now)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(s.File), 0o700)
		}
		if err == nil {
			err = private.Replace(s.File, string(text))
		}
		if err != nil && failed == nil {
			s.Log.Warn("where the peers are cannot be kept: after a restart they need some 15 s to come back", "err", err)
		}
		if failed = err; err == nil {
			kept, written = now, time.Now()
		}
	}
	return nil
}

// call starts handshakes with the peers that may still use a session from before the restart.
func (s Sessions) call(ctx context.Context) {
	var before []session
	text, err := private.Read(s.File, maxSessions)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return
	case err == nil:
		err = json.Unmarshal(text, &before)
	}
	if err != nil {
		s.Log.Warn("where the peers were before the restart is not known: they need some 15 s to come back", "file", s.File, "err", err)
		return
	}
	elsewhere := s.Elsewhere()
	var former []wireguard.PeerStatus
	for _, p := range before {
		if age := time.Since(p.Handshake); -sessionLife < age && age < sessionLife && !elsewhere(p.Peer) {
			former = append(former, wireguard.PeerStatus{PublicKey: p.Peer, Endpoint: p.Endpoint})
		}
	}
	if err := s.Gateway.server.Call(ctx, former); err != nil {
		s.Log.Warn("cannot call the peers that had a session before the restart", "err", err)
	}
}

// present returns the peers that have a session, by key.
func (s Sessions) present() []session {
	var now []session
	for _, p := range s.Gateway.Callers() {
		if p.Endpoint.IsValid() && time.Since(p.LastHandshake) < sessionLife {
			now = append(now, session{p.PublicKey, p.Endpoint, p.LastHandshake.UTC()})
		}
	}
	slices.SortFunc(now, func(a, b session) int { return cmp.Compare(string(a.Peer[:]), string(b.Peer[:])) })
	return now
}
