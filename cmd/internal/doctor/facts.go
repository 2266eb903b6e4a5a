package doctor

import (
	"net/netip"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
	"penstock/router/hostnet"
	"penstock/router/hostnet/direct"
	"penstock/router/transport/wireguard"
)

// Fact is something that was looked up. The zero Fact is not known.
type Fact[T any] struct {
	Is    T
	Known bool
	Why   string // it is not known
}

// known returns a fact.
func known[T any](is T) Fact[T] { return Fact[T]{Is: is, Known: true} }

// Facts are what the checks judge.
type Facts struct {
	Now   time.Time
	Built time.Time // when this program was committed; zero: not known

	Config  Fact[*config.Config]
	Invalid string // why the configuration cannot be used: its faults, in lines of file:line:column: text
	Checked Fact[Checked]
	Running Fact[control.Status] // of the penstock that runs; not known: none does, or it may not be asked
	Absent  bool                 // none runs
	Lists   Fact[[]control.ListStatus]

	Rights    Fact[Rights]
	Device    Fact[Device]
	Kernel    Fact[Kernel]
	Nftables  Fact[string] // why nftables cannot be used; "": it can
	Resolver  Fact[Resolver]
	Links     Fact[[]Link]
	Routes    Fact[[]Route]
	Ways      Fact[[]direct.Way] // of packets to the internet and to the resolvers, without our mark
	Past      Fact[wireguard.Past]
	Sockets   Fact[[]Socket] // that listen
	OtherVPNs Fact[[]direct.Other]
	Secrets   Fact[[]SecretFile]
	Disks     Fact[[]Disk]
	Left      Fact[hostnet.Left]
	Endpoints Fact[[]Endpoint]
	Behind    Fact[map[string][]netip.Prefix] // networks that transports carry, without default routes
	Unit      Fact[Unit]
}

// Checked is what penstock check says of a configuration.
type Checked struct {
	Warnings []string
	Failed   []string // tests that do not hold
	Fault    string
}

// Rights are those of this process.
type Rights struct {
	User     int
	NetAdmin bool // CAP_NET_ADMIN
}

// Device is /dev/net/tun.
type Device struct {
	Missing bool
	Refused bool   // for lack of rights
	Error   string // another reason why it does not open
	Headers bool   // packets may carry their offloads (IFF_VNET_HDR)
}

// Kernel is what the kernel offers. A text is the reason why it does not, "" if it does.
type Kernel struct {
	Release string
	GSO     string // UDP_SEGMENT
	GRO     string // UDP_GRO
	Marks   string // SO_MARK
	Rules   string // policy routing
}

// Resolver is how the programs of the host look up names.
type Resolver struct {
	File     string       // /etc/resolv.conf
	Link     string       // that it points to; "": it is no link
	Missing  bool         // there is no such file
	Servers  []netip.Addr // in it
	Writer   string       // the program that says in it that it wrote it
	Resolved bool         // systemd-resolved runs
	Behind   []netip.Addr // the servers that systemd-resolved asks
}

// Link is an interface.
type Link struct {
	Name      string
	Kind      string // of virtual ones: bridge, veth, tun, wireguard
	Up        bool
	InBridge  bool
	MTU       int
	Addresses []netip.Prefix // with their host bits
}

// Route is a route of the host.
type Route struct {
	To        netip.Prefix
	Interface string
	Gateway   netip.Addr
	Table     int
	Metric    int
	Ours      bool // made by penstock
}

// Socket is one that somebody listens on.
type Socket struct {
	Network string // tcp or udp
	Address netip.AddrPort
	Program string // ""; not readable
	PID     int
}

// String says who listens, as people write it.
func (s Socket) String() string {
	return s.Network + " " + s.Address.String()
}

// SecretFile is a file that nobody else may read.
type SecretFile struct {
	Path string
	Why  string // what is wrong with it; "": nothing
}

// Disk is where files are written.
type Disk struct {
	Path  string
	Of    []string // what is kept there
	Free  uint64   // bytes for this user
	Files uint64   // that can still be made; 0 where the file system does not count them
	Full  bool     // no further file can be made
}

// Endpoint is a server of a transport that is named, not numbered.
type Endpoint struct {
	Transport, Host string
	Error           string // why it cannot be resolved; "": it can
}

// Unit is the service as systemd has it.
type Unit struct {
	Installed bool
	State     string // active, inactive, failed ...
	Enabled   string // enabled, disabled ...
	Restarts  int
	Result    string // of the last end: success, exit-code, signal ...
	Exit      int    // code of the last end
}
