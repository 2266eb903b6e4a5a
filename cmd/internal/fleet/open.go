package fleet

import (
	"context"
	"errors"
	"log/slog"
	"os"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/fleet/jetstream"
	"penstock/cmd/internal/fleet/store"
)

// OpenStore opens the store of a fleet. It returns without a connection: whoever uses the store finds out. The store ends with ctx, or
// when the caller calls closing, which it must.
func OpenStore(ctx context.Context, c config.FleetStore, log *slog.Logger) (s store.Store, closing func(), err error) {
	switch {
	case c.Dir != "" && c.NATS != nil:
		return nil, nil, errors.New("a fleet has one store: dir or nats")
	case c.Dir != "":
		d, err := store.OpenDir(c.Dir)
		if err != nil {
			return nil, nil, err
		}
		d.Log = log
		return d, func() {}, nil
	case c.NATS != nil:
		name, _ := os.Hostname() // for the operators of NATS only
		j, err := jetstream.Open(ctx, jetstream.Config{NATS: *c.NATS, Name: "penstock " + name, Log: log})
		if err != nil {
			return nil, nil, err
		}
		return j, func() { j.Close() }, nil
	}
	return nil, nil, errors.New("a fleet needs a store: dir or nats")
}
