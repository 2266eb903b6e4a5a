// Package dnsproxy is the DNS server of penstock. It resolves for the clients behind a stack or on a host socket, judges every
// question and every name and hint of its answer with the policy, and remembers which client was given which address for which
// name, so that the flow which follows can be judged by name.
//
// A query takes one of two ways. The fast one runs on the goroutine of the caller: header and question are read from the wire, the
// policy is asked, and a blocked or cached answer is written without an allocation. The slow one is a miss: a bounded worker asks
// an upstream, the answer is cleaned, cached in wire format, and then answered like a hit.
//
//	client -> question -> special names -> policy -> records -> cache ---------------------> filter -> names -> client
//	                                                              \-> flight -> upstream -> clean -/
//
// The parts stand in packages of their own, and none knows the one above it:
//
//	dnsproxy -> upstream, cache -> wire
//	         -> names, records, pipe
//
// [Settings] are what a configuration says, [Compile] makes a [Plan] of them, and a [Server] carries out one plan after another.
// Upstreams are reached only through [Config.Dialer], so that resolving through a tunnel is a matter of configuration. The server
// is itself an egress: [Server.DialFlow] makes capturing port 53 a rule like any other.
//
// It does not validate DNSSEC, transfer zones, resolve iteratively, open listening sockets or read configuration files.
package dnsproxy
