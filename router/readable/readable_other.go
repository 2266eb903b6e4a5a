//go:build !linux

package readable

// poll is nothing: Go's own poller needs a goroutine for each.
type poll struct{}

// WhenReadable calls f once, in a goroutine of its own, when a read of the socket would not wait: there are bytes, an end or an error,
// or somebody calls Wake. ok is false, and f is not called, where that cannot be told or if the socket is closed.
func (*Socket) WhenReadable(func()) (ok bool) { return false }

func (*poll) interrupt() {}
