package wire

import (
	"fmt"
	"runtime/debug"
)

// Rescue turns a panic into an error. Defer it where messages from others are parsed: one bad message must not stop the service.
func Rescue(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
	}
}
