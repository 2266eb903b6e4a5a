// Package nowait makes system calls on descriptors that do not block, without telling Go's scheduler of them.
//
// The scheduler takes any other call for one that may wait. It wakes a thread that looks every 20 µs whether the call is over, and gives
// the caller's processor to another goroutine when it is not. For calls that only work, as all do that carry packets, both are a loss: they
// took 8 % of the time of a tunnel with short connections, and 10 to 15 % of what a byte costs. The price is that the garbage collector,
// which stops all goroutines for a moment, waits for the end of a call: some hundred microseconds at most.
//
// Calls on sockets say that they do not wait (MSG_DONTWAIT). The descriptors of Vectors must not block (O_NONBLOCK): one that does
// would stop its processor, and with it the whole process. Elsewhere than on Linux only Reader and Writer exist, and are the connection itself.
package nowait
