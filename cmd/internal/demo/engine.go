//go:build !release

package demo

import (
	"strings"

	"penstock/cmd/internal/fleet/engine"
)

// startEngine starts a NATS server in this process, which listens on loopback. closing ends it and removes what it has stored.
func startEngine() (address string, closing func() error, err error) {
	e, err := engine.Start(engine.Options{SyncAlways: true})
	if err != nil {
		return "", nil, err
	}
	return strings.TrimPrefix(e.URL(), "nats://"), e.Close, nil
}
