package config

import (
	"net/netip"
	"time"

	"penstock/cmd/internal/config/fault"
	"penstock/cmd/internal/fleet/bundle"
)

// Config is a configuration file with its includes merged and its defaults filled in.
type Config struct {
	// Version of the format. This penstock reads version 1.
	Version int `yaml:"version" default:"1"`
	// Include names further files or globs. They are read first, in order. Lists are joined; any other value may be set only
	// once.
	Include []string `yaml:"include"`

	// Profile is a wg-quick or .ovpn file, whatever its name is: the short form for a laptop. It stands for a TUN device, a
	// transport named after the file, DNS through that transport, and a last rule that sends everything through it. If a
	// wg-quick file does not carry all of IPv4 or all of IPv6, that family goes through it only for the networks in AllowedIPs,
	// and a DNS server outside of AllowedIPs is asked directly; but if it carries no IPv6 and all of IPv4, or nearly all, IPv6 is
	// refused. An .ovpn file sends everything through the tunnel if it or its server says redirect-gateway, and otherwise only
	// the networks of its routes and its server's; until the server has said that, nothing leaves. Check says so.
	Profile string `yaml:"profile" path:"file"`
	// Block lists categories that the short form refuses.
	Block []string `yaml:"block"`
	// Intranet lists domains that the short form always sends through the profile and resolves with the profile's DNS servers.
	Intranet []string `yaml:"intranet"`

	// Listen says where flows come from: a TUN device (laptop), WireGuard peers (gateway), a proxy port, or several of them.
	Listen Listen `yaml:"listen"`
	// Peers may connect to listen.wireguard with a key, and to listen.proxy with a password.
	Peers PeerList `yaml:"peers"`
	// GroupLimits are the limits of each peer in a group, by the group's name: each member has them for itself. Up, down and quota are
	// decided one by one: a limit in the peer's own entry comes before those of its groups, and of several groups that have one the
	// most generous counts.
	GroupLimits map[string]PeerLimits `yaml:"group_limits"`
	// SignIn says which peers need somebody who has signed in with an account of the company.
	SignIn *SignIn `yaml:"sign_in"`
	// ACME is an authority that issues certificates for the pages of this gateway.
	ACME *ACME `yaml:"acme"`
	// Transports are the encrypted ways out, by name. Rules use them with `via`.
	Transports map[string]Transport `yaml:"transports"`
	// Categories are named sets of domains. A rule may use a built-in category without naming it here.
	Categories map[string]Category `yaml:"categories"`
	// DNS configures the embedded DNS server.
	DNS DNS `yaml:"dns"`
	// Programs says for which flows of this machine penstock looks up the program that sends them (Linux). With rules, for those that
	// rules with uid, process, unit or container are for. With all, for every flow, so that it can be shown: a flow does not wait
	// for that. With off, for none.
	Programs string `yaml:"programs" default:"rules" oneof:"off,rules,all"`
	// Rules judge every flow and DNS question. The first match wins; the last rule has no match.
	Rules []Rule `yaml:"rules"`
	// Datapath says how flows through a transport, and direct ones that leave by the kernel, are carried. With auto, their packets cross penstock
	// wherever no name can lead the flow elsewhere any more: client and server speak with each other, and what the client sends first is held until it shows a
	// name. With terminate, every flow ends in penstock, which opens another one to the server.
	Datapath string `yaml:"datapath" default:"auto" oneof:"auto,terminate"`
	// OnDemand says on which networks transports connect. The first match wins; no match means connect.
	OnDemand []OnDemand `yaml:"on_demand"`
	// AlwaysOn says what happens while no transport is up.
	AlwaysOn AlwaysOn `yaml:"always_on"`
	// CaptivePortal says what happens on a network that lets nothing through until somebody signs in.
	CaptivePortal CaptivePortal `yaml:"captive_portal"`
	// Tests are run by `penstock check` and before every reload.
	Tests []Test `yaml:"tests"`
	// Metrics configures the endpoint for Prometheus and health checks.
	Metrics Metrics `yaml:"metrics"`
	// Health lists what must be reached for /readyz to say ready, each as host:port. Every 10 s penstock opens a TCP connection to
	// each of them and closes it, by the rules for this machine: a rule for some peers does not match.
	Health []string `yaml:"health"`
	// Control configures the socket that penstock's own commands use.
	Control Control `yaml:"control"`
	// FlowLog records every finished flow.
	FlowLog FlowLog `yaml:"flow_log"`
	// History keeps finished flows and questions in a database. Without it penstock remembers the last thousand only.
	History *History `yaml:"history"`
	// Console configures the page that shows what penstock does.
	Console Console `yaml:"console"`
	// Limits bound what a hostile neighbour can make penstock hold.
	Limits Limits `yaml:"limits"`
	// StateDir is a folder for what a gateway must know after a restart: where its peers were, what they have used of their quotas,
	// who has signed in, who is invited. Each gateway needs its own. Default: the folder of listen.tun.state_file; without a TUN, the
	// folder that systemd names in $STATE_DIRECTORY; without systemd, one of this configuration's own in $XDG_STATE_HOME/penstock or
	// ~/.local/state/penstock.
	StateDir string `yaml:"state_dir" path:"written"`

	// Fleet makes this gateway one of several that share their peers and rules.
	Fleet *Fleet `yaml:"fleet"`
	// Site says which gateways and operators a site has. It is written in bundles only.
	Site *Site `yaml:"site"`

	// Managed is the file for what somebody has decided with penstock allow, penstock block or the console, and that is to last.
	// penstock writes it, and reads what is changed in it by hand. Default: decisions.yaml in the folder of state_dir.
	Managed string `yaml:"managed" path:"written"`

	// Path is the absolute path of the file that was loaded. Files are that file and its includes, in the order read.
	Path  string   `yaml:"-"`
	Files []string `yaml:"-"`
	// Inputs are the files that values name and that penstock reads, such as profiles, keys and lists.
	Inputs []string `yaml:"-"`
	// Bad are the files of peers that have faults, and Absent the peers that rules and tests name and that may be in one of them
	// that is left out. Only LoadServing and the reloads leave any.
	Bad    []BadPeers `yaml:"-"`
	Absent []string   `yaml:"-"`

	root      string              // of the copy that this was loaded from; "" for the files themselves
	positions map[string]Position // where each value is written, by path: rules[2].match.domain[0]
	plains    map[string]span     // of plain files: their peers, whose positions are not in positions
	texts     map[string]string   // of each file, as it was read
	warnings  []string            // see Warnings

	globs    map[string]*sections // of include, with what is in the files that they match
	globbed  map[string]*globbed  // those files
	seen     Seen                 // the same as they were before they were read
	standing map[string]standing  // of files of peers
	leftOut  int                  // files of peers

	invited map[bundle.PublicKey]int // the index of the peer that an invitation is for
}

// Position is a place in a configuration file.
type Position = fault.Position

// Fault is one thing that is wrong, where it is, and how to mend it.
type Fault = fault.Fault

// Error is everything that is wrong with a configuration.
type Error = fault.Error

// Peer is someone who may connect to the gateway.
type Peer struct {
	// Name identifies the peer in rules, logs and metrics. Commands and invitations give a new peer only a name whose parts between
	// dots begin and end with a letter or digit. `check` warns of others.
	Name string `yaml:"name" required:"true"`
	// PublicKey is the peer's WireGuard public key, base64. With proxy_password or dns.serve a peer may have none: then it has no
	// tunnel.
	PublicKey string `yaml:"public_key"`
	// Invite stands in the place of public_key for a peer of a fleet that is invited and has no key yet. Only bundles have it, and
	// `penstock fleet peer invite` writes it.
	Invite *Invite `yaml:"invite"`
	// PresharedKey is an optional second secret, base64.
	PresharedKey Secret `yaml:"preshared_key"`
	// AllowedIPs are the addresses that the peer may use inside the tunnel. Required with public_key.
	AllowedIPs []netip.Prefix `yaml:"allowed_ips"`
	// ProxyPassword lets the peer log in to listen.proxy, with its name as the user name. It has 8 to 255 bytes. It is read again
	// at each reload; a new one ends what came in with the old one.
	ProxyPassword Secret `yaml:"proxy_password"`
	// Groups are the names by which rules address several peers.
	Groups []string `yaml:"groups"`
	// PersistentKeepalive is the interval between packets that keep a NAT mapping open; 0 is off.
	PersistentKeepalive time.Duration `yaml:"persistent_keepalive"`
	// Disabled refuses the peer but keeps its entry.
	Disabled bool `yaml:"disabled"`
	// DNSRenewals makes the peer's tokens for dns.serve others than they were: with another number those before are dead. A peer
	// without public_key that has the name of a former one needs another number, too; `penstock peer add` chooses it.
	DNSRenewals int `yaml:"dns_renewals"`
	// Expires is when the peer's access ends: then its flows and handshakes are refused, and its entry is kept.
	Expires time.Time `yaml:"expires"`
	// Rate limits the peer's bandwidth. One rate alone, such as 20Mbit, is for both directions.
	Rate Rates `yaml:"rate"`
	// Quota limits what the peer may send and get in a month. A size alone, such as 50GiB, is the volume.
	Quota *Quota `yaml:"quota"`

	Pos Position `yaml:"-"`
}

// Invite is an invitation to the gateways of a fleet: whoever has its token gives the peer a key.
type Invite struct {
	// Key is the public key that the token of the invitation stands for. The token itself is only in the link.
	Key string `yaml:"key" required:"true"`
	// Until is when the link ends.
	Until time.Time `yaml:"until" required:"true"`
	// Endpoint is where the peer dials, HOST:PORT, several separated by commas. Default: listen.wireguard.endpoint.
	Endpoint string `yaml:"endpoint"`
	// AllowedIPs are the networks that the peer sends through the tunnel. Default: all.
	AllowedIPs []netip.Prefix `yaml:"allowed_ips"`

	Pos Position `yaml:"-"`
}

// AlwaysOn says what happens while no transport is up.
type AlwaysOn struct {
	// Hold is how long flows of a lost transport wait for it before they are reset.
	Hold time.Duration `yaml:"hold" default:"30s"`
	// Lockdown lets only penstock's own packets reach the network. The host stays closed when penstock stops or dies, until
	// `penstock lockdown off`. Needs listen.tun.
	Lockdown bool `yaml:"lockdown"`
	// LAN is allow or block: whether directly connected networks stay reachable, and whether their own resolver answers for the
	// domains that DHCP names and for their addresses.
	LAN string `yaml:"lan" default:"allow" oneof:"allow,block"`
}

// CaptivePortal says what happens on a network that lets nothing through until somebody signs in. penstock looks for such a
// portal only after transports have failed to connect for 2 s (1 min if one was connected before) and no server has answered,
// and at most four times on each network. It asks outside the transports, in requests that identify no user, and status shows
// where to sign in. Under always_on.lockdown it looks only if the file has a section captive_portal.
type CaptivePortal struct {
	// Detect is whether penstock looks for portals at all. Default under always_on.lockdown, in a file without captive_portal: false.
	Detect bool `yaml:"detect" default:"true"`
	// Probe lists URLs of empty pages (status 204, plain HTTP) to fetch. Default: two public ones that exist for this purpose.
	Probe []string `yaml:"probe"`
	// Window is how long the portal's host, and nothing else, may be resolved by the network's servers and reached over TCP.
	// It ends early when a transport connects. 0 keeps it closed. Needs detect.
	Window time.Duration `yaml:"window"`
}

// OnDemand is one step of the on_demand list.
type OnDemand struct {
	// If must hold for the step to apply. Without it the step always applies.
	If *Condition `yaml:"if"`
	// Then is connect, disconnect, filter_only or ignore. With filter_only, transports are down and filtering goes on. Flows
	// of rules with `trusted: direct`, and questions to DNS servers, then leave directly.
	Then string `yaml:"then" required:"true" oneof:"connect,disconnect,filter_only,ignore"`

	Pos Position `yaml:"-"`
}

// Condition describes a network. All fields that are set must hold. A field that cannot be determined does not hold.
type Condition struct {
	// Interface is the name of the interface with the default route.
	Interface []string `yaml:"interface"`
	// SSID is the name of the Wi-Fi network.
	SSID []string `yaml:"ssid"`
	// DNSSearch is a search domain that the network hands out.
	DNSSearch []string `yaml:"dns_search"`
	// DNSServer is a DNS server that the network hands out.
	DNSServer []netip.Addr `yaml:"dns_server"`
	// GatewayIP is the address of the default gateway.
	GatewayIP []netip.Addr `yaml:"gateway_ip"`
	// ProbeURL must answer 200 without a redirect.
	ProbeURL string `yaml:"probe_url"`
	// Beacon is a TLS server whose certificate proves a trusted network.
	Beacon *Beacon `yaml:"beacon"`
}

// Beacon is a TLS server known by the digest of its certificate.
type Beacon struct {
	// Addr is the server's address and port.
	Addr netip.AddrPort `yaml:"addr" required:"true"`
	// SHA256 is the digest of its DER certificate, hexadecimal.
	SHA256 string `yaml:"sha256" required:"true"`
}

// Metrics configures the endpoint for Prometheus and health checks.
type Metrics struct {
	// Listen is the address that serves /metrics, /healthz and /readyz over plain HTTP. Without it they are not served.
	Listen string `yaml:"listen"`
	// Peers adds the handshake, the bytes and the quota of each peer of a gateway. That is up to five series for each, with its name.
	Peers bool `yaml:"peers"`
	// Compat is wireguard for three more series of each peer, with the names and labels of prometheus_wireguard_exporter, so that
	// its dashboards go on: wireguard_sent_bytes_total, wireguard_received_bytes_total and wireguard_latest_handshake_seconds. The
	// label interface is penstock.
	Compat string `yaml:"compat" oneof:"wireguard"`
}

// Control configures the control socket.
type Control struct {
	// Socket is the path of the control socket. Default: /run/penstock/control.sock for root, else
	// penstock/control.sock in $XDG_RUNTIME_DIR or .penstock/control.sock in the home directory.
	Socket string `yaml:"socket" path:"written"`
	// Group is a group whose members may read through the socket: status, flows, explain. Only root and the daemon's own
	// user may change anything.
	Group string `yaml:"group"`
}

// FlowLog records finished flows: in a file as JSON lines, in systemd's journal, with a syslog daemon, or in several of them.
type FlowLog struct {
	// File is the file. Without it none is written.
	File string `yaml:"file" path:"written"`
	// MaxSize is the size at which the file is rotated.
	MaxSize Size `yaml:"max_size" default:"10MiB"`
	// Keep is how many rotated files are kept.
	Keep int `yaml:"keep" default:"5"`
	// Journal sends each record to systemd's journal, with a field for each of its values.
	Journal bool `yaml:"journal"`
	// Syslog is the socket of a syslog daemon on this machine, which gets each record as JSON in a message of RFC 5424: a path such as
	// /dev/log, or 127.0.0.1:514 for UDP. Records have the names of hosts, and other machines are reached in clear: let the daemon
	// forward them.
	Syslog string `yaml:"syslog"`
}

// History keeps finished flows and questions in a database.
type History struct {
	// File is the database. Default: history.db in state_dir.
	File string `yaml:"file" path:"written"`
	// Keep is for how long records stay. Sums by the hour stay for a year.
	Keep time.Duration `yaml:"keep" default:"168h"`
	// MaxSize is the size of the database at which the oldest records go, even if they are younger than keep.
	MaxSize Size `yaml:"max_size" default:"256MiB"`
	// Names is full to keep the names of hosts, category to keep only those of blocked ones with a category, off to keep none. The
	// addresses of hosts are kept with their names only.
	Names string `yaml:"names" default:"full" oneof:"full,category,off"`
	// Clients is off to keep no record of who asked: neither peers nor addresses nor programs.
	Clients string `yaml:"clients" default:"full" oneof:"full,off"`
}

// Console configures the page that shows what penstock does. "penstock console" opens it, also without this section.
type Console struct {
	// Listen is a loopback address and port where the page is always served, such as 127.0.0.1:9478. Without it the page has a port
	// only while somebody uses it. Either way it opens with a link of "penstock console" only.
	Listen string `yaml:"listen"`
}
