//go:build !unix

package dnsproxy

import "time"

// cpuTime is not known here.
func cpuTime() time.Duration { return 0 }
