// Package netlab builds a small internet in Linux network namespaces, in which the end-to-end tests and the demo run real
// programs. It needs no root: Enter moves the process into a user namespace first.
//
//	                    laptop
//	lan0 192.168.50.10 /      \ lan1 192.168.60.10      (lan1 is down until Lab.Connect)
//	     fd50::10     /        \     fd60::10
//	       lan .1    /          \    lan .1
//	            access        access2                   (hostile: captures, black-holes, loses; routes without NAT)
//	       wan     \            /    wan
//	  192.0.2.2     \          /     192.0.2.6
//	  2001:db8:50::2 \        /      2001:db8:60::2
//	              internet                              web sites, resolver, echo, sink: 203.0.113.0/24, 2001:db8:113::/64
//	                   | gw 198.51.100.1, 2001:db8:51::1
//	                   |
//	                   | wan 198.51.100.10, 2001:db8:51::10
//	              gateway                               (does not forward in the kernel)
//	                   | intra 10.20.0.1, fd20::1
//	                   |
//	                   | intra 10.20.0.10, fd20::10
//	              intranet                              web, echo, DNS for corp.example and the rest
//
// Every host is one locked thread with its own network and mount namespace. It has its own resolv.conf, hosts and nsswitch.conf
// in /etc, an empty /run and, if the kernel allows it, its own /sys. Sockets made through a Host work from any goroutine.
// Programs started through it run in its namespaces and die with it. Several labs can run in one process.
//
// It does not know what is tested in it, never enters the namespaces it was started from, has no PID namespaces, and does not
// imitate Wi-Fi, NAT or DHCP.
package netlab

import (
	"errors"
	"log/slog"
)

// ErrUnavailable means that this machine or process cannot run a lab. It is wrapped with the reason.
var ErrUnavailable = errors.New("network lab unavailable")

// ErrClosed is returned by the methods of a closed Host.
var ErrClosed = errors.New("host closed")

// Options for New. The zero value builds the world as drawn.
type Options struct {
	Log *slog.Logger // if nil, nothing is logged
}

// CAFile holds the lab's CA certificate in PEM on every host.
const CAFile = "/run/netlab/ca.pem"

// Addresses of the world, as drawn in the package comment.
const (
	LaptopIPv4   = "192.168.50.10"
	LaptopIPv6   = "fd50::10"
	Laptop2IPv4  = "192.168.60.10" // on the second access network
	Laptop2IPv6  = "fd60::10"
	AccessIPv4   = "192.168.50.1" // also a resolver, the one in the laptop's resolv.conf
	AccessIPv6   = "fd50::1"
	Access2IPv4  = "192.168.60.1" // also a resolver
	Access2IPv6  = "fd60::1"
	GatewayIPv4  = "198.51.100.10"
	GatewayIPv6  = "2001:db8:51::10"
	IntranetIPv4 = "10.20.0.10"
	IntranetIPv6 = "fd20::10"
	ResolverIPv4 = "203.0.113.53" // the public resolver
	ResolverIPv6 = "2001:db8:113::53"
	DeadIPv4     = "203.0.113.254" // routed, never answers
	DeadIPv6     = "2001:db8:113::254"
)

// Names in the resolvers of the world. Every public name has an address of each family. Only the intranet's resolver has names
// of corp.example.
const (
	PublicSite   = "public.example"
	NewsSite     = "news.example"
	GamblingSite = "casino.example"
	AdultSite    = "adult.example"
	EchoSite     = "echo.example"          // TCP and UDP echo on EchoPort, a sink on SinkPort
	DeadSite     = "dead.example"          // DeadIPv4 and DeadIPv6
	GatewayName  = "vpn.example"           // GatewayIPv4 and GatewayIPv6
	IntranetSite = "intranet.corp.example" // web, echo and sink
	WikiSite     = "wiki.corp.example"     // the same host under a second name
)

// Ports of the services other than web (80 and 443) and DNS (53). All other ports are closed: hosts answer TCP with RST and UDP
// with port unreachable.
const (
	EchoPort   = 7 // TCP and UDP, datagrams of any size
	SinkPort   = 9 // TCP, counts the bytes it receives
	ClosedPort = 4 // nothing listens
)
