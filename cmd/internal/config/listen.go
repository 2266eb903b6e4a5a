package config

import (
	"net/netip"
	"reflect"
	"time"
)

// Listen says where packets come from.
type Listen struct {
	// TUN is a device of the operating system: everything that this machine sends.
	TUN *TUN `yaml:"tun"`
	// WireGuard is a port to which peers connect.
	WireGuard *WireGuardListen `yaml:"wireguard"`
}

// TUN is a device of the operating system.
type TUN struct {
	// Name of the device.
	Name string `yaml:"name" default:"pen0"`
	// Address lists the device's own addresses with their networks. The DNS server answers on them. Without it, penstock takes
	// other networks than the default if the host uses those, and moves when the host joins a network that has them.
	Address []netip.Prefix `yaml:"address" default:"10.77.0.1/24,fd77::1/64"`
	// MTU in bytes, IP header included; 0 means the smallest of the transports, so that what fits the TUN fits each of them.
	MTU int `yaml:"mtu"`
	// FD is an open TUN descriptor to use instead of making a device. Whoever opened it configures the device.
	FD *int `yaml:"fd"`
	// Routes is auto (penstock routes the host through the device, and undoes that when it stops) or manual (it leaves routes
	// alone).
	Routes string `yaml:"routes" default:"auto" oneof:"auto,manual"`
	// DNS is auto (penstock points the host's resolver at itself, and undoes that when it stops) or manual.
	DNS string `yaml:"dns" default:"auto" oneof:"auto,manual"`
	// Mark is set on penstock's own packets, so that they do not enter the device again.
	Mark uint32 `yaml:"mark" default:"0x1000000"`
	// MarkMask says which bits of a packet's mark are penstock's.
	MarkMask uint32 `yaml:"mark_mask" default:"0x1000000"`
	// StateFile records every change to the host before it is made, so that it can be undone after a crash.
	StateFile string `yaml:"state_file" default:"/var/lib/penstock/host.json" path:"written"`

	Pos Position `yaml:"-"`
	// AddressGiven reports whether a file says Address. If not, it is a default that may be replaced.
	AddressGiven bool `yaml:"-"`
}

// newTUN returns a TUN with its defaults.
func newTUN() *TUN {
	var t TUN
	setDefaults(reflect.ValueOf(&t).Elem())
	return &t
}

// DefaultStateFile is the default of listen.tun.state_file.
func DefaultStateFile() string { return newTUN().StateFile }

// WireGuardListen is the gateway side of WireGuard.
type WireGuardListen struct {
	// ListenPort is the UDP port that peers connect to.
	ListenPort int `yaml:"listen_port" default:"51820"`
	// Address is the gateway's own addresses inside the tunnel, with the peers' network.
	Address []netip.Prefix `yaml:"address" required:"true"`
	// PrivateKey is the gateway's key, as `penstock genkey` prints it.
	PrivateKey Secret `yaml:"private_key" required:"true"`
	// MTU in bytes inside the tunnel, IP header included.
	MTU int `yaml:"mtu" default:"1420"`
	// Direct says how flows with the verdict direct leave this host if there is no listen.tun. With auto, on Linux and with
	// CAP_NET_ADMIN, the kernel forwards their packets: penstock makes a TUN device, routes and masquerades what it has judged, and
	// undoes that when it stops. Where that does not work, and with sockets, penstock opens connections of its own.
	Direct string `yaml:"direct" default:"auto" oneof:"auto,sockets"`
	// Endpoint is what peers dial, host:port. `penstock peer add` writes it into the files that it makes.
	Endpoint string `yaml:"endpoint"`
	// DNS lists the resolvers of peers, written into the same files. Default: the gateway's own addresses.
	DNS []netip.Addr `yaml:"dns"`
	// ReuseAfter is how long the address of a removed peer rests before `penstock peer add` gives it to another peer.
	ReuseAfter time.Duration `yaml:"reuse_after" default:"24h"`

	Pos Position `yaml:"-"`
}
