// Package transit carries flows whose packets cross from one stack to another, without ending at either.
//
// A Flow is one TCP connection: it rewrites each packet for the other side and follows the connection far enough to know when it
// is over and how to reset it. If a policy has still to learn a name, the flow holds what its client sends until somebody who
// reads it in order permits it. A Table finds flows by their addresses, and a Merger joins segments that came one by one into
// super-packets. Datagrams rewrites UDP and echoes, whose flows need no more than that.
//
// Packets go in and come out. The package opens nothing, starts no goroutine and decides nothing.
package transit
