// Package ondemand decides on which networks transports connect.
//
// Decide compares an ordered list of steps with what is known about the network; the first step that matches wins. A
// condition that cannot be checked does not match, and if no step matches, transports connect: a network is trusted because
// it proved something, never because a check failed.
//
// The caller provides the facts that need no request ([Network]). The others, a URL and a TLS certificate, are requested
// through an [Asker], but only if all other conditions of a step hold. [Prober] is the Asker for a real network.
//
// It connects nothing, does not notice that the network changed, and remembers nothing.
package ondemand
