//go:build !linux

package pathmon

import "errors"

// logind exists on Linux only.
type logind struct{ prepare chan bool }

func listenLogind() (logind, error) { return logind{}, errors.ErrUnsupported }

func (logind) close() {}
