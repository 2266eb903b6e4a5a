// Package ondemand decides on which networks transports connect.
//
// An ordered list of steps is held against what is known of the network; the first that matches wins. What cannot be
// found out does not match, and where no step matches transports connect: a network is trusted because it proved
// something, never because a question failed.
//
// The facts that need no question ([Network]) are handed in. Those that do, a URL and a TLS certificate, are asked for
// through an [Asker], of which [Prober] is the real one, and only when all other conditions of a step hold.
//
// It does not connect anything, does not notice that the network changed, and remembers nothing.
package ondemand
