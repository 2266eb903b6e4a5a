package hostnet

import (
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"penstock/router/hostnet/direct"
)

// The defaults of [Config]. They stand clear of Tailscale (rules 5210-5270, table 52), wg-quick (table 51820, rules just
// below main) and sing-box (rules from 9000, table 2022). For the mark see package direct.
const (
	DefaultMark         = direct.DefaultMark
	DefaultMarkMask     = direct.DefaultMarkMask
	DefaultTable        = 7077
	DefaultRulePriority = 5000
	DefaultResolvConf   = "/etc/resolv.conf"
)

// RouteProtocol is the origin of our routes and rules ("proto 119" in ip route). A path monitor knows our own writes by it.
const RouteProtocol = 119

// rulePriorities is how many rule priorities we use, from Config.RulePriority on.
const rulePriorities = 7

// repairWithin is how often Watch looks without an event. What has no events (sysctls, resolver settings) must be back within
// 2 s.
const repairWithin = time.Second

var (
	// ErrInUse is returned by Open and Cleanup while another process holds the state file.
	ErrInUse = errors.New("state file is in use by another penstock")
	// ErrClosed is returned by the methods of a Host after Close or Release.
	ErrClosed = errors.New("hostnet: closed")
)

// ResolverMode is how the host's programs learn of our DNS server.
type ResolverMode string

// The resolver modes.
const (
	ResolverAuto     ResolverMode = "auto"     // resolved if resolv.conf points at its stub, else file
	ResolverResolved ResolverMode = "resolved" // systemd-resolved over D-Bus: link DNS, domain "~." and default route
	ResolverFile     ResolverMode = "file"     // resolv.conf rewritten, also if it is a link of resolvconf or NetworkManager
	ResolverNone     ResolverMode = "none"     // resolver settings are left alone
)

// Config configures a Host. It cannot change while the Host is open.
type Config struct {
	// Interface is the name of our TUN. The caller creates it before Apply.
	Interface string
	// StateFile is the journal. It must survive a reboot (/var/lib, not /run), because it has the original resolv.conf.
	// Its directory must exist. StateFile+".lock" is created beside it.
	StateFile string
	// Mark and MarkMask are the bit (or bits) that our own sockets carry. Default DefaultMark, DefaultMarkMask.
	Mark, MarkMask uint32
	// Table is the routing table of captured traffic. Default DefaultTable. No other program may use it.
	Table int
	// RulePriority is the first of the seven rule priorities taken. Default DefaultRulePriority.
	RulePriority int
	// ResolvConf is the path of the resolver file. Default DefaultResolvConf.
	ResolvConf string
	// Gateway says that this Host only makes the kernel forward: it never closes the host, and looks only for what forwards if its state
	// file is damaged.
	Gateway bool
	// Beside is another interface of ours, which need not forward: with Settings.Forward it is left alone. It may be empty.
	Beside string
	// Others, if not nil, is kept up to date with the networks that other programs lead into interfaces of their own. Our
	// marked sockets reach them once bound to these interfaces.
	Others *direct.Others
	// The callbacks may be nil. They are called under the Host's lock, so they must not block and must not call the Host.

	// Repaired is called for each thing that others removed. err is nil if it was put back. Otherwise it is called once, and
	// again when the reason changes, or with nil when all of that kind is in place again. kind is one of nft, sysctl, link,
	// address, route, rule, resolver.
	Repaired func(kind string, err error)
	// Gone is called once when Watch finds that the interface which Apply set up is gone, also if there is another one of
	// the same name by now. The host stays closed. Make the interface again and call Apply: until then Watch leaves an
	// interface of this name alone.
	Gone func()
	// Overlap is called when a network of the TUN overlaps one that the host is connected to, by Apply and by Watch, once
	// for each such network; and with nil when that is over. Packets of both networks go astray.
	Overlap func(*direct.OverlapError)
	// Warning is called by Apply and Watch when the host could not be configured in full, but goes on. The error says how
	// to fix that.
	Warning func(error)
	// Log may be nil: nothing is logged.
	Log *slog.Logger
}

// Settings is how the host should be configured. The zero value changes nothing and, applied after another, undoes it.
type Settings struct {
	// Addresses are set on the TUN with their prefix lengths. Packets for them that arrive by another interface are
	// dropped, and ARP requests for them are not answered there.
	Addresses []netip.Prefix
	// MTU of the TUN in bytes, IP header included. 0 leaves it.
	MTU int
	// Capture is what is routed into the TUN, usually 0.0.0.0/0 and ::/0. Empty: addresses only.
	// Name both families: a family that is not captured leaves in clear.
	Capture []netip.Prefix
	// Exclude is left to the host's own routes, even if Capture has it.
	Exclude []netip.Prefix
	// LAN leaves the directly connected networks, link-local multicast and broadcast to the host, except for DNS (port
	// 53), which is captured.
	//
	// A network is connected if an interface other than our TUN has an address in it. It is believed only if it is
	// private or link-local and overlaps no captured prefix but the default routes: a hostile network could claim any
	// other range to pull traffic out (TunnelCrack LocalNet). A route with a gateway never counts (TunnelVision). Name the
	// prefixes of an intranet in Capture, beside the default routes, and no LAN can claim them.
	LAN bool
	// Lockdown closes the host to everything but marked packets, loopback, the TUN, DHCP, neighbour discovery, Exclude
	// and, with LAN, connected networks, whatever Capture names. It needs nftables. Without it only captured prefixes are
	// closed, and a kernel without nftables is enough.
	Lockdown bool
	// Forward makes the host route what comes out of the TUN, with its own address as the source, and the answers to it back. If
	// the host, or an interface, did not forward before, nothing else is forwarded there. What comes out of the TUN cannot reach the
	// host itself, and nobody but the host can send to the networks of Addresses. It needs nftables, and excludes Capture, Lockdown
	// and DNS. See Host.Forwarding.
	Forward bool
	// Probes are addresses that mean nothing. With Forward, what is sent to them out of the TUN is dropped just before it would
	// leave. Forwarding.Probed shows whether it came as far as that.
	Probes []netip.Addr
	// DNS are the servers that the host's programs ask. Empty leaves the resolver settings alone.
	DNS []netip.Addr
	// Search are the domains that complete short names. The search domains of the network that the host is in are kept
	// behind them. A domain that begins with ~ is only routed to DNS, and not searched.
	Search []string
	// Resolver chooses how programs learn of DNS. "" is ResolverAuto.
	Resolver ResolverMode
}
