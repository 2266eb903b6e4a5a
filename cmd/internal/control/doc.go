// Package control is how a running penstock is asked and told things: an HTTP and JSON interface on a unix socket for
// penstock's own commands, and a TCP endpoint with /metrics, /healthz and /readyz for monitoring.
//
// Both are made of function fields: what stands behind them is the daemon's business. The package holds no state of the
// daemon, decides nothing, and never serves the control interface over TCP.
package control
