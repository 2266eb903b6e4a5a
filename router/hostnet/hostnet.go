package hostnet

import (
	"errors"
	"log/slog"
	"net/netip"
	"time"
)

// The defaults of [Config]. They stand clear of Tailscale (mark 0xff0000, rules 5210-5270, table 52),
// kube-proxy (0x4000, 0x8000), wg-quick (0xca6c, table 51820, rules just below main) and sing-box
// (0x2023-0x2025, rules from 9000, table 2022).
const (
	DefaultMark         = 0x1000000
	DefaultMarkMask     = 0x1000000
	DefaultTable        = 7077
	DefaultRulePriority = 5000
	DefaultResolvConf   = "/etc/resolv.conf"
)

// RouteProtocol is the origin that our routes and rules carry ("proto 119" in ip route), by which a
// path monitor tells our own writes from those of others.
const RouteProtocol = 119

// rulePriorities is how many rule priorities are taken, from Config.RulePriority on.
const rulePriorities = 7

// repairWithin is how often everything is looked at although no event told of a change: what has no
// events (nftables, sysctls, resolver settings) must be back within 2 s.
const repairWithin = time.Second

var (
	// ErrInUse is returned by Open and Cleanup while another process holds the state file.
	ErrInUse = errors.New("state file is in use by another penstock")
	// ErrClosed is returned by the methods of a Host after Close or Release.
	ErrClosed = errors.New("hostnet: closed")
	// ErrLoop is matched by the errors of dials that would have come back into our own TUN.
	ErrLoop = errors.New("destination leads into our own TUN")
	// ErrNoEscape is returned when our sockets can neither be marked nor bound to an uplink.
	ErrNoEscape = errors.New("sockets can be neither marked nor bound to an uplink")
)

// ResolverMode says how the host's programs are told to ask our DNS server.
type ResolverMode string

// The resolver modes.
const (
	ResolverAuto     ResolverMode = "auto"     // resolved where resolv.conf points at it, else file; the zero value means the same
	ResolverResolved ResolverMode = "resolved" // systemd-resolved over D-Bus: link DNS, domain "~." and default route
	ResolverFile     ResolverMode = "file"     // resolv.conf rewritten; also over resolvconf's or NetworkManager's link
	ResolverNone     ResolverMode = "none"     // resolver settings are left alone
)

// Config names what a Host works with. It cannot change while the Host is open.
type Config struct {
	// Interface is the name of our TUN. Somebody else creates it, before Apply.
	Interface string
	// StateFile is the journal. It must survive a reboot (/var/lib, not /run): it holds the original
	// resolv.conf. Its directory must exist. StateFile+".lock" is made beside it.
	StateFile string
	// Mark and MarkMask are the bit (or bits) that our own sockets carry. Default DefaultMark, DefaultMarkMask.
	Mark, MarkMask uint32
	// Table is the routing table of captured traffic. Default DefaultTable. Nobody else may use it.
	Table int
	// RulePriority is the first of the seven rule priorities taken. Default DefaultRulePriority.
	RulePriority int
	// ResolvConf is the path of the resolver file. Default DefaultResolvConf.
	ResolvConf string
	// Repaired, if set, is called for each thing others removed: err is nil when it was put back.
	// kind is one of nft, sysctl, link, address, route, rule, resolver. It must not block nor call the Host.
	Repaired func(kind string, err error)
	// Log may be nil: nothing is logged.
	Log *slog.Logger
}

// Settings is what the host shall look like. The zero value changes nothing and, applied after
// another, removes what that one made.
type Settings struct {
	// Addresses are put on the TUN with their prefix lengths. Packets for them that arrive by another
	// interface are dropped, and ARP for them is not answered there.
	Addresses []netip.Prefix
	// MTU of the TUN in bytes, IP header included. 0 leaves it.
	MTU int
	// Capture is what is routed into the TUN, usually 0.0.0.0/0 and ::/0. Empty: addresses only.
	// Name both families: a family that is not captured goes its own way, in clear.
	Capture []netip.Prefix
	// Exclude is left to the host's own routes, whatever Capture says.
	Exclude []netip.Prefix
	// LAN leaves the directly connected networks, and link-local multicast and broadcast, to the host, but for questions
	// to port 53, which are captured.
	// A network is connected when an interface (not our TUN) has an address in it, and it is believed
	// only if it is private or link-local, and overlaps no captured prefix but the default routes:
	// a hostile network can claim any other range to pull traffic out (TunnelCrack LocalNet).
	// A route with a gateway never counts (TunnelVision). Name the prefixes of an intranet in Capture,
	// beside the default routes, and no LAN can claim them.
	LAN bool
	// Lockdown admits nothing but marked packets, loopback, the TUN, DHCP, neighbour discovery, Exclude
	// and, with LAN, connected networks: also what Capture does not name. Without it only captured
	// prefixes are closed, and a kernel without nftables is put up with.
	Lockdown bool
	// DNS is where the host's programs ask. Empty leaves the resolver settings.
	DNS []netip.Addr
	// SearchDomains complete short names. Empty: none when DNS is set.
	SearchDomains []string
	// Resolver chooses the way to tell the programs. "" is ResolverAuto.
	Resolver ResolverMode
}

// A RefusedError is a dial that was refused before a packet left.
type RefusedError struct {
	Destination netip.Addr
	Reason      string // "loop"
	Interface   string // our TUN
}

// Error says what was refused and why.
func (e *RefusedError) Error() string {
	return "hostnet: dial " + e.Destination.String() + " refused, reason " + e.Reason + ": it leads into our own " + e.Interface
}

// Is reports true for ErrLoop.
func (e *RefusedError) Is(target error) bool { return target == ErrLoop && e.Reason == "loop" }
