//go:build !linux

package pathmon

import "errors"

// logind is known on Linux only.
type logind struct{ prepare chan bool }

func listenLogind() (logind, error) { return logind{}, errors.ErrUnsupported }

func (logind) close() {}
