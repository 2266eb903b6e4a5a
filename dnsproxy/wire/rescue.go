package wire

import (
	"fmt"
	"runtime/debug"
)

// Rescue is deferred where messages of others are taken apart. It turns a panic into an error: one message of one server must not
// end the service.
func Rescue(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
	}
}
