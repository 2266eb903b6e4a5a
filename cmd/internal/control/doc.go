// Package control lets others ask and steer a running penstock: an HTTP and JSON interface on a unix socket for
// penstock's own commands, and a TCP endpoint with /metrics, /healthz and /readyz for monitoring.
//
// Operations.go has what a penstock must offer, types.go what goes over the socket, and Client is the other end.
//
// The package holds no state of the daemon, decides nothing, and never serves the control interface over TCP. API is the same
// interface for a server that knows its callers in another way, such as the console.
package control
