// Package machine boots a Debian with systemd as its first process, on the access network of a lab: a host as people have it,
// for what only such a host shows, such as booting, powering off and the services that share the network with penstock.
//
//	machine [lan0] --- [br0: 192.168.70.1, fd70::1; DHCP] access --- the rest of the lab
//
// It uses systemd-nspawn, so the machine has its own processes, files and network, but the kernel, its clock and its sleep are
// shared: it cannot suspend, and it cannot show what a kernel does while it starts.
//
// It does not make the Debian that it boots: .ci/machine does.
package machine

import "errors"

// ErrUnavailable means that this computer or process cannot boot machines. It is wrapped with the reason.
var ErrUnavailable = errors.New("no machine can be booted")

// Image is the environment variable with the folder of the Debian to boot.
const Image = "PENSTOCK_MACHINE"

// Interface is the machine's connection to the access network.
const Interface = "lan0"

// Addresses of the access network. The router is also the resolver and the DHCP server, and Domain is the domain that it tells.
const (
	RouterIPv4 = "192.168.70.1"
	RouterIPv6 = "fd70::1"
	Domain     = "lan.example"
)
