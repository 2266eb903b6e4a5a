//go:build unix

package dnsproxy

import (
	"syscall"
	"time"
)

// cpuTime is the processor time that this process has used, client and server together.
func cpuTime() time.Duration {
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		return 0
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}
