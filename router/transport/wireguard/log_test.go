package wireguard

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestDeviceLogger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := newDeviceLogger(slog.New(slog.NewTextHandler(&out, nil)), nil)
		for range 1000 {
			log.Verbosef("sending %d", 1)
			log.Errorf("failed to send: %v", "no route")
			log.Errorf("failed to write: %v", "closed")
		}
		if got := strings.Count(out.String(), "\n"); got != 2 {
			t.Errorf("lines: got %d, want one for each kind of error\n%s", got, out.String())
		}
		time.Sleep(repeatAfter)
		log.Errorf("failed to send: %v", "no route")
		if got := strings.Count(out.String(), "failed to send: no route"); got != 2 {
			t.Errorf("lines of one kind a minute later: got %d, want 2", got)
		}
	})
}
