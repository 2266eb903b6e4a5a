package router

import (
	"fmt"
	"runtime/debug"
)

// aside runs f in a goroutine of its own and returns when f has. A panic in f goes on in the caller.
//
// It is for deep calls of a goroutine that will wait for long. The runtime makes a stack as large as its deepest call
// needs, and takes the memory back only when the collector finds three quarters of it unused. A client that began a hello
// and sent no more held 16 KiB of stack for calls that were over; now it holds 4 KiB. Flows are set up faster, too,
// because fewer stacks grow.
func aside(f func()) {
	var panicked any
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if v := recover(); v != nil {
				panicked = fmt.Sprintf("%v\n%s", v, debug.Stack())
			}
		}()
		f()
	}()
	<-done
	if panicked != nil {
		panic(panicked)
	}
}
