package wireguard

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"penstock/policy/spelling"
)

// fate is what happens to a line with a field. The zero fate refuses it.
type fate uint8

const (
	refused  fate = iota
	honoured      // part of the Config
	ignored       // passed over with a warning that names the line
)

// field is a field that a section may have.
type field struct {
	name   string // as wg(8) and wg-quick(8) write it
	fate   fate
	note   string // what it does here, why it is passed over, or why it is refused
	list   bool   // several lines with it add up
	secret bool   // its value is never shown
	mend   string // how to fix a value that cannot be read, or a line that is refused
	read   func(p *parser, value string) error
}

// section is the fields of one section, in the order of the documentation.
type section struct {
	name   string
	fields []field
}

// sections is every field of wg(8) and wg-quick(8), and those of other programs that write such files. docs/wireguard.md is
// made from it.
var sections = []section{
	{"Interface", slices.Concat([]field{
		{name: "PrivateKey", fate: honoured, secret: true, note: "is the key of this machine", mend: "copy the whole key, or make one with penstock genkey", read: (*parser).privateKey},
		{name: "Address", fate: honoured, list: true, note: "gives the addresses inside the tunnel", mend: "write addresses such as 10.77.0.2/32, fd77::2/128", read: (*parser).address},
		{name: "DNS", fate: honoured, list: true, note: "gives the tunnel's DNS servers and search domains; in the short form, a server outside of AllowedIPs is asked directly, " +
			"and a domain with ~ in front is a split zone", mend: "write addresses and search domains such as 10.77.0.1, corp.example, ~lab.example", read: (*parser).dns},
		{name: "MTU", fate: honoured, note: "is the largest packet inside the tunnel", mend: "write the largest inner packet in bytes, usually 1420", read: (*parser).mtu},
		{name: "ListenPort", fate: honoured, note: "is the local UDP port", mend: "write a UDP port", read: (*parser).listenPort},
		{name: "FwMark", fate: ignored, note: "penstock marks its sockets with its own mark", mend: "remove the line", read: (*parser).fwMark},
		{name: "Table", fate: ignored, note: "penstock sets the host's routes itself, and AllowedIPs and its rules decide what goes through the tunnel", mend: "remove the line", read: (*parser).table},
	},
		commands("PreUp", "PostUp", "PreDown", "PostDown"), []field{
			{name: "SaveConfig", fate: ignored, note: "penstock does not write to this file", mend: "write false, or remove the line", read: (*parser).saveConfig},
		},
		passed("choose programs in the rules of the configuration, with process or uid", "IncludedApplications", "ExcludedApplications"),
		refusals("it makes packets that a WireGuard server does not understand", "ask for a profile for WireGuard itself",
			"Jc", "Jmin", "Jmax", "S1", "S2", "S3", "S4", "H1", "H2", "H3", "H4", "I1", "I2", "I3", "I4", "I5", "J1", "J2", "J3", "Itime"),
	)},
	{"Peer", slices.Concat([]field{
		{name: "PublicKey", fate: honoured, note: "is the key of the other side", mend: "copy the whole key: wg pubkey prints it on the other side", read: (*parser).publicKey},
		{name: "PresharedKey", fate: honoured, secret: true, note: "is a second secret", mend: "copy the whole key from the other side", read: (*parser).presharedKey},
		{name: "AllowedIPs", fate: honoured, list: true, note: "says what goes through the tunnel; in the short form, an address family without a default route goes there only for the networks named",
			mend: "write prefixes such as 10.0.0.0/8, or 0.0.0.0/0, ::/0 for everything", read: (*parser).allowedIPs},
		{name: "Endpoint", fate: honoured, list: true, note: "is where to call the peer; several, on lines of their own or separated by commas, are those of servers with one key", mend: "an endpoint is HOST:PORT such as vpn.example:51820 or [2001:db8::1]:51820", read: (*parser).endpoint},
		{name: "PersistentKeepalive", fate: honoured, note: "keeps the mapping of an access router", mend: "write seconds, usually 25, or off", read: (*parser).keepalive},
	},
		refusals("it makes packets that a WireGuard server does not understand", "ask for a profile for WireGuard itself", "AdvancedSecurity"),
		refusals("changing the reserved bytes of packets is not supported", "ask for a profile for WireGuard itself", "Reserved", "ClientId"),
	)},
}

// fields are the same by section and lower-case name.
var fields = index(sections)

func index(sections []section) map[string]map[string]field {
	byName := make(map[string]map[string]field, len(sections))
	for _, s := range sections {
		byName[s.name] = make(map[string]field, len(s.fields))
		for _, f := range s.fields {
			byName[s.name][strings.ToLower(f.name)] = f
		}
	}
	return byName
}

// commands are fields that name a program for wg-quick to run. They are passed over, as the scripts of an OpenVPN profile
// are.
func commands(names ...string) []field {
	list := passed("nothing in a profile is run; penstock sets DNS and routes itself", names...)
	for i := range list {
		list[i].secret = true
	}
	return list
}

// passed are fields that are passed over with a warning, whatever their value.
func passed(note string, names ...string) []field {
	list := make([]field, len(names))
	for i, name := range names {
		list[i] = field{name: name, fate: ignored, note: note, list: true, read: func(p *parser, _ string) error {
			p.ignore()
			return nil
		}}
	}
	return list
}

// refusals are fields that are refused, whatever their value.
func refusals(note, mend string, names ...string) []field {
	list := make([]field, len(names))
	for i, name := range names {
		list[i] = field{name: name, fate: refused, note: note, mend: mend, read: func(*parser, string) error { return errors.New(note) }}
	}
	return list
}

func (p *parser) privateKey(value string) (err error) {
	p.config.PrivateKey, err = ParsePrivateKey(value)
	return err
}

func (p *parser) address(value string) error {
	all, err := parseList(value, parsePrefix)
	p.config.Addresses = append(p.config.Addresses, all...)
	return err
}

func (p *parser) dns(value string) error {
	_, err := parseList(value, func(s string) (struct{}, error) {
		addr, err := netip.ParseAddr(s)
		switch {
		case err == nil && addr.Zone() == "":
			p.config.DNS = append(p.config.DNS, addr)
		case err != nil && (isHostName(strings.TrimPrefix(s, "~")) || s == "~."):
			p.config.SearchDomains = append(p.config.SearchDomains, s)
		default:
			return struct{}{}, fmt.Errorf("%q is neither an address nor a domain", s)
		}
		return struct{}{}, nil
	})
	return err
}

func (p *parser) mtu(value string) (err error) {
	const least, most = 576, 65535 // what every IPv4 host accepts (RFC 791, 3.1), and the largest IP packet
	p.config.MTU, err = parseNumber(value, least, most)
	return err
}

func (p *parser) listenPort(value string) error {
	n, err := parseNumber(value, 0, 65535)
	p.config.ListenPort = uint16(n)
	return err
}

// fwMark accepts any mark. The default, which is none, needs no warning.
func (p *parser) fwMark(value string) error {
	n, err := parseMark(value)
	if err == nil && n != 0 {
		p.ignore()
	}
	return err
}

// table accepts any table. The default, auto, needs no warning.
func (p *parser) table(value string) error {
	if !strings.EqualFold(value, "auto") && value != "" {
		p.ignore()
	}
	return nil
}

func (p *parser) publicKey(value string) (err error) {
	p.peer().PublicKey, err = ParsePublicKey(value)
	return err
}

func (p *parser) presharedKey(value string) (err error) {
	p.peer().PresharedKey, err = ParsePresharedKey(value)
	return err
}

func (p *parser) allowedIPs(value string) error {
	all, err := parseList(value, parsePrefix)
	for _, prefix := range all {
		p.peer().AllowedIPs = append(p.peer().AllowedIPs, prefix.Masked()) // as wg does
	}
	return err
}

func (p *parser) endpoint(value string) error {
	all, err := ParseEndpoints(value)
	p.peer().Endpoints = append(p.peer().Endpoints, all...)
	return err
}

func (p *parser) keepalive(value string) (err error) {
	p.peer().PersistentKeepalive, err = parseKeepalive(value)
	return err
}

// saveConfig accepts any value: wg-quick takes true for yes and everything else for no.
func (p *parser) saveConfig(value string) error {
	if strings.EqualFold(value, "true") {
		p.ignore()
	}
	return nil
}

// nearest returns the field that a misspelt name is most likely meant to be, or "". A name that may be a key has none.
func nearest(name string, known map[string]field) string {
	if !isWord(name) {
		return ""
	}
	names := make([]string, 0, len(known))
	for _, f := range known {
		names = append(names, f.name)
	}
	return spelling.Nearest(name, names)
}
