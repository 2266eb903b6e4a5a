package repo

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// row is one package of the import picture.
type row struct {
	pkg    string   // below the module; a trailing "/..." stands for everything below
	owns   string   // what it is for: the reason for its imports, printed when a new one appears
	ours   []string // packages of this module it may import; "*" is any but the commands
	theirs []string // import path prefixes of other modules it may use
}

// picture is the import picture: leaves import nothing of ours; stack, router, dnsproxy and router/transport do not
// know each other; cmd/internal/daemon alone puts them together, and only the commands know it. A third-party module
// is named by the packages that may use it. Where the code shows a better map, change the row in the same commit and
// say why.
func picture() []row {
	const (
		prom = "github.com/prometheus/client_golang/prometheus"
		sys  = "golang.org/x/sys/"
		xnet = "golang.org/x/net/"
		wg   = "golang.zx2c4.com/wireguard/"

		gvisor = "gvisor.dev/gvisor/pkg/" // only the stack knows it

		openvpn = "router/transport/openvpn/internal/"
	)
	return []row{
		{"policy", "rules and verdicts, pure: no I/O, no clock",
			[]string{"policy/blocklist", "policy/iprange", "policy/spelling"}, []string{"github.com/gaissmai/bart"}},
		{"policy/blocklist", "list formats and the compact set",
			[]string{"policy/textfile"}, []string{xnet + "idna", xnet + "publicsuffix"}},
		{"policy/sniff", "host names out of first bytes, pure, a leaf",
			nil, []string{xnet + "http2/hpack"}},
		{"policy/iprange", "ranges of addresses that mean something everywhere, a leaf", nil, nil},
		{"policy/textfile", "bytes of files as editors and shells write them, turned into text, a leaf", nil, nil},
		{"policy/spelling", "the word that a misspelt one was meant to be, a leaf", nil, []string{"github.com/hbollon/go-edlib"}},

		{"stack", "the host in user space: it composes gVisor and the packages below it",
			[]string{"stack/link", "stack/packet", "stack/share", "stack/datagram", "stack/stream", "stack/nic", "stack/localport", "stack/transit", "stack/shrink"},
			[]string{gvisor, wg + "tun", "golang.org/x/time/rate", sys, prom}},
		{"stack/packet", "IP packets as bytes: headers, checksums, fragments, ICMP; it knows no flow",
			[]string{"stack/link"}, nil},
		{"stack/share", "who may hold how much of a table, a leaf", nil, nil},
		{"stack/datagram", "UDP and echo flows and their table; it is handed what sends, and knows no gVisor",
			[]string{"stack/deadline", "stack/link", "stack/packet", "stack/share", "stack/shrink"}, nil},
		{"stack/transit", "flows whose packets cross between two stacks; it is handed what sends, and knows no gVisor",
			[]string{"stack/link", "stack/packet"}, nil},
		{"stack/shrink", "a map that gives the room of what is gone back, a leaf", nil, nil},
		{"stack/stream", "a TCP connection of gVisor's as a net.Conn, and its ways to a kernel socket",
			[]string{"stack/deadline", "stack/nowait"}, []string{gvisor, sys}},
		{"stack/nic", "the network card that gVisor sees: a port or a tun.Device behind it",
			[]string{"stack/link"}, []string{gvisor, wg + "tun"}},
		{"stack/localport", "the local port that a dial should leave from, in its context, a leaf", nil, nil},
		{"stack/deadline", "a point in time that can be moved while others wait for it, a leaf", nil, nil},
		{"stack/nowait", "system calls on descriptors that do not block, unseen by the scheduler, a leaf", nil, []string{sys}},
		{"stack/link", "packets in batches with their offload metadata",
			[]string{"stack/nowait"}, []string{wg + "tun", sys}},

		{"router", "the pipeline from flow to dialer; it is handed its dialers and knows no transport, stack or resolver",
			[]string{"policy", "policy/sniff", "router/readable", "stack/localport", "stack/nowait", "stack/shrink"}, []string{sys, prom}},
		{"router/readable", "sockets that have something to read, without a goroutine for each", []string{"stack/shrink"}, []string{sys}},
		{"router/clients", "who sends: peers, this machine and strangers, as keys", []string{"router/lookup"}, []string{"github.com/gaissmai/bart"}},
		{"router/lookup", "finding the entries of a long list by a key in them, a leaf", nil, nil},
		{"router/hostnet", "what penstock changes on the host, and undoes",
			[]string{"policy/iprange", "router/hostnet/direct", "router/hostnet/firewall", "router/hostnet/resolver", "router/hostnet/internal/..."},
			[]string{"github.com/vishvananda/netlink", sys}},
		{"router/hostnet/direct", "dials that stay out of our own TUN",
			[]string{"policy/iprange", "router/hostnet/internal/rtnl", "stack/localport", "stack/nowait"}, []string{"github.com/vishvananda/netlink", sys, xnet}},
		{"router/hostnet/firewall", "the nftables table that keeps the host closed",
			nil, []string{"github.com/google/nftables", sys}},
		{"router/hostnet/resolver", "how the host's programs are told to ask us, and whom they asked before",
			[]string{"router/hostnet/internal/atomicfile"}, []string{"github.com/godbus/dbus/v5", sys}},
		{"router/hostnet/program", "the program that sends a flow, a leaf",
			nil, []string{"github.com/vishvananda/netlink", sys}},
		{"router/hostnet/internal/atomicfile", "files that are replaced in one step, a leaf", nil, nil},
		{"router/hostnet/internal/rtnl", "Go's addresses for the netlink library, a leaf",
			nil, []string{"github.com/vishvananda/netlink", sys}},
		{"router/hostnet/internal/resolvedtest", "an imitation of systemd-resolved, for tests",
			nil, []string{"github.com/godbus/dbus/v5", sys}},
		{"router/hostnet/internal/hosttest", "a laptop in namespaces, for tests",
			[]string{"router/hostnet/internal/rtnl"}, []string{"github.com/vishvananda/netlink", "github.com/google/nftables", sys}},
		{"router/pathmon", "the path to an endpoint, and sleep as the clock and logind tell it, a leaf",
			nil, []string{"github.com/godbus/dbus/v5", "github.com/vishvananda/netlink", sys}},
		{"router/ondemand", "which networks transports connect on; it asks the network through dialers that it is handed, a leaf",
			nil, []string{"github.com/vishvananda/netlink", sys}},
		{"router/portal", "captive portals, found through dialers that it is handed",
			[]string{"policy/iprange"}, nil},
		{"router/transport", "the supervisor of tunnels; it knows no protocol",
			nil, []string{prom}},
		{"router/transport/wireguard/internal/sockets", "UDP sockets below wireguard-go's device; it knows no peer",
			[]string{"stack/nowait"}, []string{wg + "conn", wg + "device", sys}},
		{"router/transport/wireguard", "the only package that knows wireguard-go's device and conn, with its sockets below it",
			[]string{"router/lookup", "router/transport", "router/transport/wireguard/internal/sockets", "router/transport/wireguard/internal/door", "router/transport/wireguard/internal/backlog", "policy/spelling", "policy/textfile"},
			[]string{wg + "conn", wg + "device", wg + "tun", "github.com/gaissmai/bart", "golang.org/x/time/rate", "golang.org/x/crypto/curve25519"}},
		{"router/transport/wireguard/internal/door", "handshake initiations, held back until it is known whose they are; it does not know the peers", nil,
			[]string{wg + "conn", wg + "device", wg + "ratelimiter", "golang.org/x/time/rate",
				"golang.org/x/crypto/blake2s", "golang.org/x/crypto/chacha20poly1305", "golang.org/x/crypto/curve25519"}},
		{"router/transport/wireguard/internal/backlog", "how many packets of each peer wait in a device; it knows no keys", nil,
			[]string{wg + "conn", wg + "device", wg + "tun"}},
		{"router/transport/openvpn", "the OpenVPN driver: it composes the parts below it",
			[]string{"router/transport", "router/transport/openvpn/profile", "router/transport/openvpn/internal/..."}, []string{prom}},
		{"router/transport/openvpn/profile", "what an .ovpn file says; it knows no session",
			[]string{openvpn + "identity", openvpn + "route", openvpn + "text", openvpn + "trust", openvpn + "datakey", openvpn + "framing", openvpn + "wire", "policy/spelling", "policy/textfile", openvpn + "certtest"}, nil},
		{"router/transport/openvpn/internal/control", "packets, negotiations and messages of the control channel; it knows no socket and no data key in use",
			[]string{openvpn + "datakey", openvpn + "link", openvpn + "reliable", openvpn + "wire"}, nil},
		{"router/transport/openvpn/internal/data", "data keys in use and the link that packets take; it knows no negotiation",
			[]string{openvpn + "datakey", openvpn + "framing", openvpn + "link", openvpn + "wire"}, nil},
		{"router/transport/openvpn/internal/login", "what proves who the user is; it knows no session",
			[]string{"router/transport", "router/transport/openvpn/profile", openvpn + "text"}, nil},
		{"router/transport/openvpn/internal/push", "what pushed options mean; it knows no session",
			[]string{"router/transport/openvpn/profile", openvpn + "datakey", openvpn + "framing", openvpn + "route", openvpn + "text", openvpn + "certtest"}, nil},
		{"router/transport/openvpn/internal/link", "whole packets on UDP and TCP",
			[]string{openvpn + "datakey", "stack/nowait"}, []string{sys}},
		{"router/transport/openvpn/internal/identity", "certificates and keys in all forms that files have", []string{openvpn + "certtest"},
			[]string{"github.com/youmark/pkcs8", "software.sslmate.com/src/go-pkcs12"}},
		{"router/transport/openvpn/internal/...", "formats, keys and texts of OpenVPN, which know no driver",
			[]string{"router/transport/openvpn/internal/..."}, []string{"golang.org/x/crypto/"}},

		{"dnsproxy", "the DNS server: who asks, what the policy says, what is answered; it asks the policy and is handed its dialers",
			[]string{"policy", "stack/deadline", "dnsproxy/upstream", "dnsproxy/cache", "dnsproxy/names", "dnsproxy/pipe", "dnsproxy/records", "dnsproxy/wire"},
			[]string{"github.com/miekg/dns", "github.com/hashicorp/golang-lru/v2/simplelru", "golang.org/x/time/rate", xnet, prom}},
		{"dnsproxy/upstream", "resolvers that are asked, over every protocol; it is handed its dialers and knows no cache",
			[]string{"dnsproxy/wire"}, []string{"github.com/miekg/dns", "github.com/quic-go/quic-go", prom}},
		{"dnsproxy/cache", "answers in wire format, cleaned and bounded; it asks nobody",
			[]string{"dnsproxy/wire", "policy/iprange"}, []string{"github.com/miekg/dns", "github.com/hashicorp/golang-lru/v2/simplelru"}},
		{"dnsproxy/names", "which names a client was given for an address",
			[]string{"policy"}, []string{"github.com/hashicorp/golang-lru/v2/simplelru"}},
		{"dnsproxy/records", "names that the server knows by itself; it asks nobody and writes no answers",
			[]string{"policy"}, []string{"github.com/miekg/dns"}},
		{"dnsproxy/wire", "DNS queries and answers as octets, a leaf", nil, []string{"github.com/miekg/dns"}},
		{"dnsproxy/pipe", "a TCP connection in memory", []string{"stack/deadline"}, nil},
		{"dnsproxy/dnstest", "resolvers on loopback for tests", []string{"dnsproxy/wire"}, []string{"github.com/miekg/dns", "github.com/quic-go/quic-go"}},

		{"cmd/internal/config", "the only package that knows YAML; it yields plain values and starts nothing",
			[]string{"cmd/internal/config/fault", "cmd/internal/config/profile", "cmd/internal/fleet/bundle", "cmd/internal/fleet/store", "policy/iprange", "policy/spelling", "policy/textfile", "cmd/internal/private"},
			[]string{"github.com/goccy/go-yaml", "github.com/gaissmai/bart"}},
		{"cmd/internal/config/fault", "what is wrong with a configuration, where, and how to mend it, a leaf", nil, nil},
		{"cmd/internal/config/profile", "what a transport's file says about DNS and networks; the transport's own package reads a wg-quick file",
			[]string{"cmd/internal/config/fault", "router/transport/wireguard"}, nil},
		{"cmd/internal/fleet", "a gateway as one of several: bundles put in force, peers taken over; it is handed the gateway and the store",
			[]string{"cmd/internal/config", "cmd/internal/control", "cmd/internal/fleet/bundle", "cmd/internal/fleet/store", "cmd/internal/fleet/jetstream", "cmd/internal/private", "router/transport/wireguard"}, []string{prom}},
		{"cmd/internal/fleet/member", "this gateway as one of a fleet, which is given its port",
			[]string{"cmd/internal/config", "cmd/internal/control", "cmd/internal/edition", "cmd/internal/fleet", "cmd/internal/fleet/bundle", "cmd/internal/gateway", "cmd/internal/health", "cmd/internal/report", "policy", "router", "router/transport/wireguard"}, []string{prom}},
		{"cmd/internal/fleet/bundle", "bundles: made, signed, checked, unpacked; it fetches nothing",
			[]string{"cmd/internal/filelock", "cmd/internal/fleet/store", "cmd/internal/private"}, []string{"filippo.io/age"}},
		{"cmd/internal/private", "files that nobody else may read or change, read and written", []string{"policy/textfile"}, nil},
		{"cmd/internal/logtest", "a log that tests read, a leaf", nil, nil},
		{"cmd/internal/filelock", "locks on files, a leaf", nil, []string{sys}},
		{"cmd/internal/lists", "fetching and keeping lists; the daemon hands it its dialers",
			[]string{"policy/blocklist"}, []string{prom, sys}},
		{"cmd/internal/control", "the control socket and the metrics endpoint; the daemon hands it what it asks",
			nil, []string{prom, sys}},
		{"cmd/internal/doctor", "what is wrong with the host, the configuration and the running penstock; it changes nothing",
			[]string{"cmd/internal/clock", "cmd/internal/config", "cmd/internal/control", "cmd/internal/edition", "cmd/internal/private", "router/hostnet",
				"router/hostnet/direct", "router/transport/wireguard"}, []string{"github.com/vishvananda/netlink", sys}},
		{"cmd/internal/bundle", "a support archive: what is put in, and what is cleaned away before",
			[]string{"cmd/internal/config", "cmd/internal/control", "cmd/internal/private"}, nil},
		{"cmd/internal/clock", "times that are surely over, for a clock that may be wrong",
			[]string{"router/transport/wireguard"}, nil},
		{"cmd/internal/fleet/store", "what the gateways of a fleet share, and the folder that can keep it; it does not know what the values mean", []string{"cmd/internal/filelock"}, nil},
		{"cmd/internal/fleet/store/storetest", "what every store must do, for tests", []string{"cmd/internal/fleet/store"}, nil},
		{"cmd/internal/fleet/jetstream", "the store in NATS JetStream; nobody else speaks NATS",
			[]string{"cmd/internal/config", "cmd/internal/fleet/store"}, []string{"github.com/nats-io/nats.go", "github.com/nats-io/nkeys"}},
		{"cmd/internal/fleet/engine", "NATS servers in this process, for tests and the demo, a leaf", nil, []string{"github.com/nats-io/nats-server/v2/server"}},
		{"cmd/internal/health", "whether what must be reached is; it is handed what dials, a leaf", nil, nil},
		{"cmd/internal/memory", "memory that goes back to the system after a burst, a leaf", nil, nil},
		{"cmd/internal/console", "who may open the page, and its files; it is handed the calls that it passes on",
			[]string{"cmd/internal/config", "cmd/internal/control", "cmd/internal/door", "cmd/internal/ports", "cmd/internal/qr"}, nil},
		{"cmd/internal/ports", "ports on which no traffic depends: one that is taken is tried again, a leaf", nil, []string{prom}},
		{"cmd/internal/show", "what the running penstock answers, in words for people; it prints nothing", nil, nil},
		{"cmd/internal/top", "the live view in a terminal; it asks the control socket",
			[]string{"cmd/internal/control", "cmd/internal/show"}, []string{"charm.land/bubbletea/v2", "github.com/charmbracelet/x/ansi"}},
		{"cmd/internal/notices", "what the user of a desktop is told; it asks the control socket, and speaks to the session's bus",
			[]string{"cmd/internal/control", "cmd/internal/show"}, []string{"github.com/godbus/dbus/v5", xnet + "publicsuffix"}},
		{"cmd/internal/record", "who is handed flows that have ended and questions: the flow log, the history, those who watch",
			[]string{"cmd/internal/config", "cmd/internal/control", "cmd/internal/flowlog", "cmd/internal/history"}, []string{prom}},
		{"cmd/internal/history", "flows and questions in a database, which nobody waits for",
			[]string{"cmd/internal/clock", "cmd/internal/control", "cmd/internal/history/database", "cmd/internal/history/offsets", "cmd/internal/history/text", "cmd/internal/peerbook"},
			[]string{"modernc.org/sqlite", prom}},
		{"cmd/internal/history/database", "the history's file: whose it is, its version, its faults, and who reads it; it knows no table", nil,
			[]string{"modernc.org/sqlite"}},
		{"cmd/internal/history/offsets", "sets of small numbers as the history stores them, a leaf", nil, nil},
		{"cmd/internal/history/text", "texts as the history keeps them, a leaf", nil, nil},
		{"cmd/internal/flowlog", "records of flows and questions on their way to a file, the journal or syslog, which nobody waits for",
			[]string{"cmd/internal/control"}, []string{prom}},
		{"cmd/internal/privatedns", "encrypted DNS for the phones of peers: tokens, certificate, addresses; it is handed the DNS server, and who has a token",
			[]string{"cmd/internal/config", "cmd/internal/door", "cmd/internal/handover", "dnsproxy", "policy"}, nil},
		{"cmd/internal/edition", "what a configuration means, compiled whole or not at all; it opens nothing",
			[]string{"cmd/internal/config", "cmd/internal/lists", "cmd/internal/egress", "cmd/internal/gateway", "cmd/internal/ingress",
				"cmd/internal/privatedns", "policy", "policy/blocklist", "policy/iprange", "router/clients", "dnsproxy", "dnsproxy/records"}, nil},
		{"cmd/internal/egress", "the ways out: direct, transports and their groups",
			[]string{"cmd/internal/config", "cmd/internal/kernel", "cmd/internal/private", "policy", "policy/iprange", "router", "router/transport",
				"router/transport/wireguard", "router/transport/openvpn", "router/transport/openvpn/profile", "stack", "stack/link"}, []string{prom}},
		{"cmd/internal/handover", "listening sockets that outlive a restart; it is handed what keeps them, a leaf",
			nil, []string{"github.com/coreos/go-systemd/v22/activation", sys}},
		{"cmd/internal/door", "how many connections strangers may hold open, a leaf", nil, nil},
		{"cmd/internal/acme", "certificates that an authority issues by ACME, in files, and their renewal; it is handed what dials the authority",
			[]string{"cmd/internal/config", "cmd/internal/door", "cmd/internal/private"}, []string{"golang.org/x/crypto/acme", prom}},
		{"cmd/internal/qr", "QR codes in a browser, a leaf", nil, nil},
		{"cmd/internal/renewed", "a certificate from files that others renew, a leaf", nil, nil},
		{"cmd/internal/peerbook", "the files of peers, and who changes them; it tells nobody",
			[]string{"cmd/internal/config", "cmd/internal/filelock", "cmd/internal/private", "router/transport/wireguard"}, nil},
		{"cmd/internal/enrol", "invitations, the page and the port where people join, and the client that joins; it is handed the gateway",
			[]string{"cmd/internal/config", "cmd/internal/control", "cmd/internal/door", "cmd/internal/fleet/bundle", "cmd/internal/handover", "cmd/internal/peerbook", "cmd/internal/private", "cmd/internal/qr", "cmd/internal/renewed", "router/transport/wireguard"},
			[]string{"github.com/hashicorp/golang-lru/v2/simplelru", "golang.org/x/time/rate", prom}},
		{"cmd/internal/gateway", "the port for peers and the stack behind it, with the limits of peers",
			[]string{"cmd/internal/config", "cmd/internal/gateway/meter", "cmd/internal/gateway/quota", "cmd/internal/handover", "cmd/internal/peerbook", "cmd/internal/private",
				"router/lookup", "router/transport/wireguard", "stack"}, nil},
		{"cmd/internal/gateway/meter", "what each peer sends and gets, counted and paced between WireGuard and the stack, a leaf",
			nil, []string{"github.com/gaissmai/bart", "golang.zx2c4.com/wireguard/tun"}},
		{"cmd/internal/gateway/quota", "what peers have used in a month, in a file, a leaf", nil, nil},
		{"cmd/internal/ingress", "the port for SOCKS5 and HTTP proxy: who may come in, and what they ask for as flows; the daemon hands it the router",
			[]string{"cmd/internal/config", "cmd/internal/door", "cmd/internal/handover", "cmd/internal/ingress/socks", "dnsproxy", "dnsproxy/pipe", "policy", "router", "router/clients", "stack/deadline"}, []string{prom}},
		{"cmd/internal/ingress/socks", "the messages of SOCKS5, a leaf", nil, nil},
		{"cmd/internal/signin", "who has signed in with which peer, and the page for it; it is handed what dials the provider",
			[]string{"cmd/internal/config", "cmd/internal/edition", "cmd/internal/private", "cmd/internal/renewed", "dnsproxy/pipe", "policy"},
			[]string{"github.com/coreos/go-oidc/v3/oidc", "golang.org/x/oauth2", prom}},
		{"cmd/internal/kernel", "the way out by the host's kernel: a TUN, the stack behind it, and what the host changes for it",
			[]string{"cmd/internal/config", "policy", "router/hostnet", "router/hostnet/direct", "stack", "stack/link"}, nil},
		{"cmd/internal/laptop", "this machine: the TUN, its network, sleep, portals and trusted networks; what it finds out becomes conditions of the policy",
			[]string{"cmd/internal/config", "cmd/internal/egress", "cmd/internal/edition", "policy", "policy/iprange", "router/clients", "router/hostnet", "router/hostnet/...",
				"router/pathmon", "router/ondemand", "router/portal", "router/transport", "stack", "stack/link"}, []string{sys}},
		{"cmd/internal/resolver", "the embedded DNS server: its settings as they change, its ways out, its addresses on the host",
			[]string{"cmd/internal/config", "cmd/internal/edition", "cmd/internal/egress", "cmd/internal/handover", "dnsproxy", "policy"}, nil},
		{"cmd/internal/report", "what operators are told, in the words of the control API; nothing imports it but the daemon",
			[]string{"cmd/internal/config", "cmd/internal/acme", "cmd/internal/control", "cmd/internal/decisions", "cmd/internal/record", "cmd/internal/edition", "cmd/internal/egress", "cmd/internal/gateway",
				"cmd/internal/health", "cmd/internal/laptop", "cmd/internal/lists", "cmd/internal/peerbook", "cmd/internal/ports", "cmd/internal/privatedns", "cmd/internal/signin", "policy", "router", "router/clients",
				"router/hostnet/direct", "router/transport", "router/transport/wireguard", "dnsproxy"}, []string{prom}},
		{"cmd/internal/daemon", "the composition root: it puts the others together, starts and stops them, and nothing but commands imports it",
			[]string{"*", "cmd/internal/..."}, []string{sys, prom}},
		{"cmd/internal/lastgood", "the copy of the last configuration that worked", []string{"cmd/internal/config", "cmd/internal/private"}, nil},
		{"cmd/internal/setup", "the first configuration of a machine, from answers; it is handed what checks it",
			[]string{"cmd/internal/config", "cmd/internal/config/profile", "cmd/internal/private", "policy/spelling", "policy/textfile",
				"router/transport/openvpn/profile"}, nil},
		{"cmd/internal/manual", "man pages as text, a leaf", nil, nil},
		{"cmd/internal/release", "the command that makes packages and the image; it runs the go command and nfpm, and imports nothing of what it packs",
			[]string{"cmd/internal/manual"}, nil},
		{"cmd/internal/systemd", "what the service manager is told", nil, []string{"github.com/coreos/go-systemd/v22/daemon"}},
		{"cmd/internal/decisions", "what somebody decides while penstock runs, in a file, in force and at its end; it is handed the table of flows",
			[]string{"cmd/internal/config", "cmd/internal/control", "cmd/internal/edition", "cmd/internal/peerbook", "cmd/internal/private", "policy", "policy/textfile", "router"},
			[]string{prom}},
		{"cmd/internal/demo", "the world of the demo, made of namespaces or of stacks in memory, its keys and the table it prints",
			[]string{"e2e/netlab", "cmd/internal/...", "router/transport/wireguard", "stack", "stack/link"}, []string{sys}},
		{"cmd/penstock", "command lines, output and exit codes; it makes keys, cleans up where no daemon can start, and enters the demo's lab before all else",
			[]string{"cmd/internal/...", "router/transport/wireguard", "router/hostnet", "e2e/netlab"},
			[]string{"github.com/spf13/cobra", "github.com/spf13/pflag", "github.com/mdp/qrterminal/v3", "golang.org/x/term", sys}},

		{"e2e", "black-box tests against the built binary", []string{"e2e/netlab", "e2e/netlab/keeper", "e2e/netlab/machine", "e2e/netlab/netlabtest"}, nil},
		{"e2e/bench", "black-box measurements of the built binary",
			[]string{"e2e/netlab"}, nil},
		{"e2e/netlab", "the lab of network namespaces; it does not know what is tested in it",
			nil, []string{"github.com/miekg/dns", "github.com/vishvananda/netlink", "github.com/vishvananda/netns", sys}},
		{"e2e/netlab/machine", "a Debian with systemd on the lab's access network", []string{"e2e/netlab"}, []string{"github.com/vishvananda/netlink", sys}},
		{"e2e/netlab/keeper", "a service manager that keeps sockets, for tests, a leaf", nil, nil},
		{"e2e/netlab/netlabtest", "the lab for tests", []string{"e2e/netlab"}, nil},
		{"e2e/repo", "the rules of this repository", nil, nil},
	}
}

// testTheirs are what any test may use beside what its package may.
func testTheirs() []string {
	return []string{
		"go.uber.org/goleak",
		"github.com/google/go-cmp/",
		"github.com/rogpeppe/go-internal/",
		"github.com/prometheus/",
		"github.com/miekg/dns",
		"github.com/oauth2-proxy/mockoidc",
		"github.com/letsencrypt/pebble/v2/",
		"github.com/quic-go/quic-go",
		"github.com/chromedp/chromedp",
		"github.com/santhosh-tekuri/jsonschema/v6",
		"rsc.io/qr/coding",
		"golang.org/x/",
	}
}

// blackBox are the packages whose tests know the product only as a binary.
func blackBox() []string {
	return []string{"e2e", "e2e/bench", "e2e/netlab", "e2e/netlab/keeper", "e2e/netlab/machine", "e2e/netlab/netlabtest", "e2e/repo"}
}

func TestImportsAreInThePicture(t *testing.T) {
	var complaints []string
	for _, goos := range systems() {
		for _, p := range list(t, goos) {
			if p.Error != nil {
				complaints = append(complaints, fmt.Sprintf("%s does not load on %s: %s", p.path(), goos, p.Error.Err))
				continue
			}
			complaints = append(complaints, checkImports(picture(), p)...)
		}
	}
	for _, p := range list(t, "linux", releaseTag) {
		complaints = append(complaints, checkImports(picture(), p)...)
	}
	report(t, complaints)
}

// checkImports holds one package, and its tests, to the picture.
func checkImports(rows []row, p goPackage) []string {
	r, ok := find(rows, p.path())
	if !ok {
		return []string{fmt.Sprintf("%s has no row in the import picture (e2e/repo/imports_test.go): add one that says what it owns", p.path())}
	}
	var complaints []string
	for _, imp := range p.Imports {
		if !r.allows(imp) {
			complaints = append(complaints, fmt.Sprintf("%s imports %s, which its row in the import picture does not allow: %s is %s",
				p.path(), imp, p.path(), r.owns))
		}
	}
	for _, imp := range slices.Concat(p.TestImports, p.XTestImports) {
		if !r.allows(imp) && !r.testAllows(imp) && imp != p.ImportPath {
			complaints = append(complaints, fmt.Sprintf("a test of %s imports %s: tests may use what their package may, the test helpers, "+
				"the lab, and libraries of ours; only tests in cmd know the daemon, and those in e2e know none of the product", p.path(), imp))
		}
	}
	return complaints
}

// find returns the row of a package: its own before one that ends in "/...".
func find(rows []row, path string) (row, bool) {
	for _, exact := range []bool{true, false} {
		for _, r := range rows {
			if r.pkg == path || !exact && covers(r.pkg, path) {
				return r, true
			}
		}
	}
	return row{}, false
}

// allows tells whether code of the row's package may import imp.
func (r row) allows(imp string) bool {
	path, isOurs := strings.CutPrefix(imp, modulePath+"/")
	if isOurs {
		return slices.ContainsFunc(r.ours, func(pattern string) bool { return covers(pattern, path) })
	}
	return standard(imp) || hasPrefix(r.theirs, imp)
}

// testAllows tells what tests of the row's package may import beyond that.
func (r row) testAllows(imp string) bool {
	path, isOurs := strings.CutPrefix(imp, modulePath+"/")
	switch {
	case !isOurs:
		return hasPrefix(testTheirs(), imp)
	case slices.Contains(blackBox(), path):
		return true
	case slices.Contains(blackBox(), r.pkg):
		return false
	default:
		return !strings.HasPrefix(path, "cmd/") || strings.HasPrefix(r.pkg, "cmd/")
	}
}

// covers tells whether a pattern of the picture names path.
func covers(pattern, path string) bool {
	if pattern == "*" {
		return !strings.HasPrefix(path, "cmd/") && !strings.HasPrefix(path, "e2e")
	}
	below, all := strings.CutSuffix(pattern, "/...")
	return path == pattern || all && strings.HasPrefix(path, below+"/")
}

// hasPrefix tells whether one of the prefixes, which end at a path element, begins imp.
func hasPrefix(prefixes []string, imp string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool {
		return imp == p || strings.HasPrefix(imp, strings.TrimSuffix(p, "/")+"/")
	})
}

// standard tells whether imp is of the standard library: its first element has no dot.
func standard(imp string) bool {
	first, _, _ := strings.Cut(imp, "/")
	return !strings.Contains(first, ".")
}

func TestImportPictureRefuses(t *testing.T) {
	tests := []struct {
		name string
		p    goPackage
		want int // complaints
	}{
		{"nothing where all is in the picture", goPackage{ImportPath: "penstock/router", Imports: []string{"net", "penstock/policy"}}, 0},
		{"a package that nobody drew", goPackage{ImportPath: "penstock/router/util"}, 1},
		{"a library that knows the daemon", goPackage{ImportPath: "penstock/router", Imports: []string{"penstock/cmd/internal/daemon"}}, 1},
		{"a control endpoint that knows the daemon", goPackage{ImportPath: "penstock/cmd/internal/control", Imports: []string{"penstock/cmd/internal/daemon"}}, 1},
		{"nothing when the command knows the daemon", goPackage{ImportPath: "penstock/cmd/penstock", Imports: []string{"penstock/cmd/internal/daemon"}}, 0},
		{"a router that knows a stack", goPackage{ImportPath: "penstock/router", Imports: []string{"penstock/stack"}}, 1},
		{"gVisor outside the stack", goPackage{ImportPath: "penstock/router", Imports: []string{"gvisor.dev/gvisor/pkg/tcpip"}}, 1},
		{"a module whose name only begins alike", goPackage{ImportPath: "penstock/policy", Imports: []string{"github.com/gaissmai/bartender"}}, 1},
		{"nothing when a test looks for leaks", goPackage{ImportPath: "penstock/router", TestImports: []string{"go.uber.org/goleak"}}, 0},
		{"a test helper outside tests", goPackage{ImportPath: "penstock/router", Imports: []string{"go.uber.org/goleak"}}, 1},
		{"nothing when tests join two libraries", goPackage{ImportPath: "penstock/router", XTestImports: []string{"penstock/stack"}}, 0},
		{"a black-box test that looks inside", goPackage{ImportPath: "penstock/e2e", XTestImports: []string{"penstock/stack"}}, 1},
		{"a library's test that knows the daemon", goPackage{ImportPath: "penstock/stack", XTestImports: []string{"penstock/cmd/internal/daemon"}}, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := checkImports(picture(), tt.p); len(got) != tt.want {
				t.Errorf("got %d complaints %q, want %d", len(got), got, tt.want)
			}
		})
	}
}

// TestTopLevelIsFixed keeps Go code where it is looked for.
func TestTopLevelIsFixed(t *testing.T) {
	top := []string{"stack", "router", "dnsproxy", "policy", "cmd", "e2e"}
	walk(t, func(path string, _ fs.DirEntry) {
		first, _, nested := strings.Cut(path, "/")
		if filepath.Ext(path) == ".go" && (!nested || !slices.Contains(top, first)) {
			t.Errorf("%s: Go code lives in %s only", path, strings.Join(top, ", "))
		}
	})
}

// TestEveryFileIsBuilt finds code that no supported system compiles: nothing checks it, so it rots. What is released is built with
// a tag of its own.
func TestEveryFileIsBuilt(t *testing.T) {
	ignored := map[string]int{}
	count := func(packages []goPackage) {
		for _, p := range packages {
			for _, f := range p.IgnoredGoFiles {
				ignored[p.path()+"/"+f]++
			}
		}
	}
	for _, goos := range systems() {
		count(list(t, goos))
	}
	count(list(t, "linux", releaseTag))
	for f, n := range ignored {
		if n == len(systems())+1 {
			t.Errorf("%s is built on none of %s: remove it, or mend its build constraint", f, strings.Join(systems(), ", "))
		}
	}
}
