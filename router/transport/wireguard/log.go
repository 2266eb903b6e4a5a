package wireguard

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/device"
)

// repeatAfter is how long an error of one kind is not logged again. The device reports each batch that it fails to send:
// without a route, that is every packet.
const repeatAfter = time.Minute

// newDeviceLogger sends the device's messages to log: errors as warnings, each kind once a minute, and everything else at
// debug level, except that an ignored handshake is a warning too, and so is a packet with a source that is not its peer's, if foreign is
// not nil: it is called for each of them. The device names peers by the ends of their public keys and logs no other key.
func newDeviceLogger(log *slog.Logger, foreign func()) *device.Logger {
	l := &limiter{last: make(map[string]time.Time)}
	return &device.Logger{
		Verbosef: func(format string, args ...any) {
			if strings.Contains(format, "handshake replay") && l.allow(format) {
				warnOfReplay(log, fmt.Sprint(args[0]))
			}
			if foreign != nil && strings.Contains(format, "disallowed source") {
				foreign()
				if l.allow("disallowed source") {
					log.Warn("wireguard: packets were dropped because their source inside the tunnel is not an address of their peer", "peer", fmt.Sprint(args[0]))
				}
			}
			if log.Enabled(context.Background(), slog.LevelDebug) {
				log.Debug("wireguard: " + fmt.Sprintf(format, args...))
			}
		},
		Errorf: func(format string, args ...any) {
			if l.allow(format) {
				log.Warn("wireguard: " + fmt.Sprintf(format, args...))
			}
		},
	}
}

// warnOfReplay says that a handshake of a peer was ignored.
func warnOfReplay(log *slog.Logger, peer string) {
	log.Warn("wireguard: a handshake was ignored because it is older than the last one of this peer: somebody has repeated it, "+
		"or the peer's clock was set back; to forget the last one, disable the peer and enable it again", "peer", peer)
}

// limiter lets an event of a kind pass once in repeatAfter. It never forgets a kind, so there must be few.
type limiter struct {
	mu   sync.Mutex // guards below
	last map[string]time.Time
}

func (l *limiter) allow(kind string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if last, ok := l.last[kind]; ok && now.Sub(last) < repeatAfter {
		return false
	}
	l.last[kind] = now
	return true
}
