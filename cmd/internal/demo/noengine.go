//go:build release

package demo

import "errors"

// startEngine returns an error: what is released has no NATS server, which would make it larger for this demo alone.
func startEngine() (address string, closing func() error, err error) {
	return "", nil, errors.New("this build of penstock has no NATS server, as packages and images have none: " +
		"for one that has, run go run ./cmd/penstock demo --fleet in penstock's source")
}
