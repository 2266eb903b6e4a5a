// Package push gives a meaning to the options that an OpenVPN server pushes, after the profile has had its say.
//
// It applies nothing: what concerns the inner network is returned as Settings, the rest as Options for the session.
package push

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"penstock/router/transport/openvpn/internal/datakey"
	"penstock/router/transport/openvpn/internal/framing"
	"penstock/router/transport/openvpn/internal/route"
	"penstock/router/transport/openvpn/internal/text"
	"penstock/router/transport/openvpn/profile"
)

const (
	defaultMTU = 1400

	// MaxMTU is what the server is told to stay below, in bytes.
	MaxMTU = 1600

	maxPush = 256 << 10 // bytes of all options together
)

// Options are what a list of options means: Settings for the outside, the rest for the session.
type Options struct {
	Settings
	Cipher      datakey.Cipher // empty: the server does not negotiate
	PeerID      uint32
	V2          bool // a peer id was pushed
	Exporter    bool // keys come from the TLS exporter
	DynamicWrap bool // later negotiations are protected by a key of this session
	ControlExit bool // the server understands EXIT on the control channel
	Epoch       bool // the epoch data format
	Framing     framing.Kind
	Framed      bool // Framing was pushed
	Ping        time.Duration
	PingRestart time.Duration
	Token       text.Secret // stands in for the password from now on
	TokenUser   string
	Problems    []error // options that were ignored, and why

	topology    string
	ifconfig    []string // address, then mask or peer
	servers     map[int]*DNSServer
	dhcpServers []netip.AddrPort
	dhcpSearch  []string
	dhcpRoutes  []string // DOMAIN-ROUTE
	dnsSearch   []string
}

// List keeps options as they were pushed, so that a PUSH_UPDATE can change them.
type List struct {
	options []string
	size    int
	update  []string // of a message that is continued
}

// Add takes the options of one PUSH_REPLY and reports whether it was the last.
func (l *List) Add(message string) (complete bool, err error) {
	complete = true
	for option := range strings.SplitSeq(message, ",") {
		switch option = strings.TrimSpace(option); option {
		case "":
		case "push-continuation 2":
			complete = false
		case "push-continuation 1":
		default:
			if l.size += len(option); l.size > maxPush {
				return false, fmt.Errorf("the server pushed more than %d bytes", maxPush)
			}
			l.options = append(l.options, option)
		}
	}
	return complete, nil
}

// Change takes the options of one PUSH_UPDATE and reports whether it was the last. The groups that an update names are
// replaced once it is complete.
func (l *List) Change(message string) (complete bool, err error) {
	part := List{size: l.size}
	if complete, err = part.Add(message); err != nil {
		return false, err
	}
	l.size = part.size
	l.update = append(l.update, part.options...)
	if !complete {
		return false, nil
	}
	replaced := make(map[string]bool)
	for _, option := range l.update {
		remove := strings.HasPrefix(strings.TrimPrefix(option, "?"), "-")
		option = strings.TrimLeft(option, "?-")
		name, _, _ := strings.Cut(option, " ")
		if !updatable[name] {
			continue
		}
		if !replaced[name] || remove {
			l.options = slices.DeleteFunc(l.options, func(o string) bool { return o == name || strings.HasPrefix(o, name+" ") })
			replaced[name] = true
		}
		if !remove {
			l.options = append(l.options, option)
		}
	}
	l.update, l.size = nil, 0
	for _, option := range l.options { // what an update replaced does not count any more
		l.size += len(option)
	}
	return true, nil
}

// updatable are the options that a running session can change.
var updatable = map[string]bool{
	"block-ipv6": true, "block-outside-dns": true, "dhcp-option": true, "dns": true, "ifconfig": true, "ifconfig-ipv6": true,
	"redirect-gateway": true, "redirect-private": true, "route": true, "route-gateway": true, "route-ipv6": true,
	"route-metric": true, "topology": true, "tun-mtu": true,
}

// filter applies the profile's pull-filter and route-nopull lines.
func filter(p *profile.Profile, options []string) ([]string, error) {
	var out []string
next:
	for _, option := range options {
		for _, f := range p.Filters {
			if !strings.HasPrefix(option, f.Prefix) {
				continue
			}
			switch f.Action {
			case profile.Ignore:
				continue next
			case profile.Reject:
				return nil, fmt.Errorf("the profile's pull-filter rejects the pushed option %q", option)
			}
			break
		}
		name, _, _ := strings.Cut(option, " ")
		if p.NoRoutes && (strings.HasPrefix(name, "route") || strings.HasPrefix(name, "redirect-") || name == "dhcp-option" || name == "dns" || strings.HasPrefix(name, "block-")) {
			continue
		}
		out = append(out, option)
	}
	return out, nil
}

var errNoValue = errors.New("no value")

// ErrCompression says that a server wants packets compressed.
var ErrCompression = errors.New("the server demands compression")

// Parse reads the options of a profile and then those of the server that the profile lets through. What is malformed
// or unknown is ignored and listed in Problems.
func (l *List) Parse(p *profile.Profile) (*Options, error) {
	options, err := filter(p, l.options)
	if err != nil {
		return nil, err
	}
	return parse(append(slices.Clone(p.Options), options...))
}

// ParseLater reads a message that came after the session was established, as servers send with a new token.
func ParseLater(message string) (*Options, error) {
	var l List
	if _, err := l.Add(message); err != nil {
		return nil, err
	}
	return parse(l.options)
}

func parse(options []string) (*Options, error) {
	o := &Options{servers: make(map[int]*DNSServer)}
	for _, option := range options {
		words, err := text.Split(option)
		if err != nil || len(words) == 0 {
			o.Problems = append(o.Problems, fmt.Errorf("an option of %d bytes does not split into words", len(option)))
			continue
		}
		read, ok := readers[words[0]]
		if !ok {
			o.Problems = append(o.Problems, fmt.Errorf("%s: unknown", text.Printable(words[0])))
			continue
		}
		if err := read(o, words[1:]); errors.Is(err, ErrCompression) {
			return nil, err
		} else if err != nil {
			o.Problems = append(o.Problems, fmt.Errorf("%s: %w", words[0], err))
		}
	}
	o.finishAddress()
	o.finishDNS()
	return o, nil
}

func ignore(*Options, []string) error { return nil }

// readers know the options that have a meaning, and those that are known to have none here.
var readers = map[string]func(o *Options, args []string) error{
	"ifconfig":      func(o *Options, args []string) error { o.ifconfig = args; return nil },
	"ifconfig-ipv6": readIfconfig6,
	"topology":      func(o *Options, args []string) error { o.topology = strings.Join(args, " "); return nil },
	"route":         func(o *Options, args []string) error { return o.addRoute(route.Parse(args)) },
	"route-ipv6":    func(o *Options, args []string) error { return o.addRoute(route.Parse6(args)) },
	"route-gateway": func(o *Options, args []string) (err error) {
		o.Gateway4, err = readAddress(args)
		return err
	},
	"redirect-gateway":     readRedirect,
	"redirect-private":     ignore,
	"block-ipv6":           func(o *Options, _ []string) error { o.BlockIPv6 = true; return nil },
	"block-outside-dns":    func(o *Options, _ []string) error { o.BlockOtherDNS = true; return nil },
	"dhcp-option":          readDHCP,
	"dns":                  readDNS,
	"ping":                 func(o *Options, args []string) error { return readSeconds(args, &o.Ping) },
	"ping-restart":         func(o *Options, args []string) error { return readSeconds(args, &o.PingRestart) },
	"ping-exit":            func(o *Options, args []string) error { return readSeconds(args, &o.PingRestart) },
	"peer-id":              readPeerID,
	"cipher":               readCipher,
	"protocol-flags":       readProtocolFlags,
	"key-derivation":       func(o *Options, args []string) error { o.Exporter = slices.Contains(args, "tls-ekm"); return nil },
	"tun-mtu":              readMTU,
	"auth-token":           func(o *Options, args []string) error { o.Token = text.Secret(strings.Join(args, " ")); return nil },
	"auth-token-user":      readTokenUser,
	"compress":             func(o *Options, args []string) error { return readFraming(o, "compress", args) },
	"comp-lzo":             func(o *Options, args []string) error { return readFraming(o, "comp-lzo", args) },
	"tun-ipv6":             ignore,
	"route-metric":         ignore,
	"route-delay":          ignore,
	"inactive":             ignore,
	"session-timeout":      ignore,
	"explicit-exit-notify": ignore,
	"sndbuf":               ignore,
	"rcvbuf":               ignore,
	"socket-flags":         ignore,
	"setenv":               ignore,
	"setenv-safe":          ignore,
	"echo":                 ignore,
	"register-dns":         ignore,
	"persist-tun":          ignore,
	"persist-key":          ignore,
	"mssfix":               ignore,
}

func readSeconds(args []string, to *time.Duration) error {
	if len(args) == 0 {
		return errNoValue
	}
	v, err := text.Seconds(args[0])
	if err == nil {
		*to = v
	}
	return err
}

func readPeerID(o *Options, args []string) error {
	if len(args) == 0 {
		return errNoValue
	}
	id, err := strconv.ParseUint(args[0], 10, 24)
	if err != nil {
		return fmt.Errorf("%q is not a 24 bit number", args[0])
	}
	o.PeerID, o.V2 = uint32(id), true
	return nil
}

func readCipher(o *Options, args []string) error {
	o.Cipher = datakey.Cipher(strings.ToUpper(strings.Join(args, " ")))
	return nil
}

func readProtocolFlags(o *Options, args []string) error {
	for _, flag := range args {
		switch flag {
		case "cc-exit":
			o.ControlExit = true
		case "tls-ekm":
			o.Exporter = true
		case "dyn-tls-crypt":
			o.DynamicWrap = true
		case "aead-epoch":
			o.Epoch = true
		}
	}
	return nil
}

func readMTU(o *Options, args []string) error {
	if len(args) == 0 {
		return errNoValue
	}
	n, err := text.MTU(args[0])
	if err == nil {
		o.MTU = n
	}
	return err
}

func readFraming(o *Options, name string, args []string) error {
	kind, err := framing.Parse(name, args)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCompression, err)
	}
	o.Framing, o.Framed = kind, true
	return nil
}

// pathMTU is what most access lines carry, in bytes: Ethernet less PPPoE.
const pathMTU = 1492

// Finish adds what the server does not know: its outer address, and the MTU that fits into a packet of the path.
func (o *Options) Finish(overTCP bool, server netip.AddrPort, fromProfile int) {
	o.Server = server
	if o.MTU == 0 {
		o.MTU = fromProfile
	}
	if o.MTU == 0 {
		o.MTU = defaultMTU
	}
	o.MTU = min(o.MTU, MaxMTU)
	if !overTCP {
		o.MTU = min(o.MTU, pathMTU-udpOverhead(server.Addr().Is6(), o.Epoch, o.Framing != framing.None))
	}
}

// udpOverhead is what stands around an inner packet on the path, in bytes.
func udpOverhead(ipv6, epoch, framed bool) int {
	n := 20 + 8 + datakey.MaxHead
	if ipv6 {
		n += 20
	}
	if epoch {
		n += 4
	}
	if framed {
		n++
	}
	return n
}
