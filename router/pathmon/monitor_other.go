//go:build !linux

package pathmon

import (
	"context"
	"errors"
)

// Run returns errors.ErrUnsupported.
func (m *Monitor) Run(context.Context) error { return errors.ErrUnsupported }
