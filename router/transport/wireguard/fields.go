package wireguard

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"penstock/policy/spelling"
)

// field is a field that a section may have.
type field struct {
	name   string // as wg(8) and wg-quick(8) write it
	list   bool   // several lines with it add up
	secret bool   // its value is never shown
	mend   string // how to fix a value that cannot be read
	read   func(p *parser, value string) error
}

// fields are all known fields, by section and lower-case name. Those that are refused because they would run a command are
// among them for a better message.
var fields = index(map[string][]field{
	"Interface": {
		{name: "PrivateKey", secret: true, mend: "copy the whole key, or make one with penstock genkey", read: (*parser).privateKey},
		{name: "Address", list: true, mend: "write addresses such as 10.77.0.2/32, fd77::2/128", read: (*parser).address},
		{name: "DNS", list: true, mend: "write addresses and search domains such as 10.77.0.1, corp.example, ~lab.example", read: (*parser).dns},
		{name: "MTU", mend: "write the largest inner packet in bytes, usually 1420", read: (*parser).mtu},
		{name: "ListenPort", mend: "write a UDP port", read: (*parser).listenPort},
		{name: "FwMark", mend: "remove the line", read: (*parser).fwMark},
		{name: "Table", mend: "remove the line", read: (*parser).table},
		command("PreUp"), command("PostUp"), command("PreDown"), command("PostDown"),
		{name: "SaveConfig", mend: "write false, or remove the line: penstock does not write to this file", read: (*parser).saveConfig},
	},
	"Peer": {
		{name: "PublicKey", mend: "copy the whole key: wg pubkey prints it on the other side", read: (*parser).publicKey},
		{name: "PresharedKey", secret: true, mend: "copy the whole key from the other side", read: (*parser).presharedKey},
		{name: "AllowedIPs", list: true, mend: "write prefixes such as 10.0.0.0/8, or 0.0.0.0/0, ::/0 for everything", read: (*parser).allowedIPs},
		{name: "Endpoint", mend: "write HOST:PORT such as vpn.example:51820 or [2001:db8::1]:51820", read: (*parser).endpoint},
		{name: "PersistentKeepalive", mend: "write seconds, usually 25, or off", read: (*parser).keepalive},
	},
})

func index(sections map[string][]field) map[string]map[string]field {
	byName := make(map[string]map[string]field, len(sections))
	for section, all := range sections {
		byName[section] = make(map[string]field, len(all))
		for _, f := range all {
			byName[section][strings.ToLower(f.name)] = f
		}
	}
	return byName
}

// command is a field that names a program for wg-quick to run.
func command(name string) field {
	const mend = "remove the line: penstock runs no command; it sets routes, rules and resolvers itself"
	return field{name: name, list: true, secret: true, mend: mend, read: func(*parser, string) error {
		return errors.New("the line would run a command")
	}}
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

func (p *parser) fwMark(value string) error {
	if err := parseMark(value); err != nil {
		return err
	}
	p.warn("FwMark has no effect: penstock marks its sockets with its own mark")
	return nil
}

func (p *parser) table(string) error {
	p.warn("Table has no effect: penstock routes by its own rules")
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

func (p *parser) endpoint(value string) (err error) {
	p.peer().Endpoint, err = ParseEndpoint(value)
	return err
}

func (p *parser) keepalive(value string) (err error) {
	p.peer().PersistentKeepalive, err = parseKeepalive(value)
	return err
}

// saveConfig accepts what changes nothing. wg-quick takes true for yes and everything else for no.
func (p *parser) saveConfig(value string) error {
	switch strings.ToLower(value) {
	case "false", "":
		return nil
	case "true":
		return errors.New("the file would be overwritten when the tunnel ends")
	}
	return fmt.Errorf("%q is neither true nor false", value)
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
