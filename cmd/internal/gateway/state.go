package gateway

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/peerbook"
)

const (
	stateLock = ".lock"
	stateWait = 10 * time.Second // for a penstock that is stopping
)

var errHeld = errors.New("another penstock uses it")

// HoldState keeps other gateways out of state_dir until release is called: each would overwrite what the others have written, such
// as what peers have used of their quotas. A folder in which nothing can be kept stops nobody: the log says so.
func HoldState(ctx context.Context, cfg *config.Config, log *slog.Logger) (release func() error, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, stateWait, errHeld)
	defer cancel()
	unlock := func() {}
	err = os.MkdirAll(cfg.StateDir, 0o700)
	if err == nil {
		unlock, err = peerbook.LockFile(ctx, filepath.Join(cfg.StateDir, stateLock))
	}
	switch {
	case err == nil:
		return func() error { unlock(); return nil }, nil
	case errors.Is(err, errHeld):
		return nil, cfg.Err("state_dir", "this gateway cannot use "+cfg.StateDir+": "+errHeld.Error(), "give each gateway a state_dir of its own")
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	log.Error("after a restart nothing is known of quotas, sign-ins and where peers were: let penstock's user, and its service, write state_dir, or choose another folder",
		"state_dir", cfg.StateDir, "err", err)
	return func() error { return nil }, nil
}
