//go:build !linux

package pathmon

import "errors"

// Uplinks returns errors.ErrUnsupported.
func Uplinks(string) ([]string, error) { return nil, errors.ErrUnsupported }
