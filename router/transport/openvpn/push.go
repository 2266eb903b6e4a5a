package openvpn

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"penstock/router/transport/openvpn/internal/datakey"
)

const (
	minMTU       = 576
	maxMTU       = 9000
	defaultMTU   = 1400
	announcedMTU = 1600 // the server is told to send nothing larger

	maxPush = 256 << 10 // bytes of all options together
)

// pushed is what a list of options means: Settings for the outside, the rest for the session.
type pushed struct {
	Settings
	cipher      datakey.Cipher
	peerID      uint32
	v2          bool // a peer id was pushed
	exporter    bool // keys come from the TLS exporter
	dynamicWrap bool
	controlExit bool
	epoch       bool
	ping        time.Duration
	pingRestart time.Duration
	token       secret
	tokenUser   string

	topology    string
	ifconfig    []string // address, then mask or peer
	servers     map[int]*DNSServer
	dhcpServers []netip.AddrPort
	dhcpSearch  []string
	dnsSearch   []string
	problems    []error // options left out, and why
}

// optionList keeps options as they were pushed, so that a PUSH_UPDATE can change them.
type optionList struct {
	options []string
	size    int
	update  []string // of a message that is continued
}

// add takes the options of one PUSH_REPLY and reports whether it was the last.
func (l *optionList) add(text string) (complete bool, err error) {
	complete = true
	for option := range strings.SplitSeq(text, ",") {
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

// change takes the options of one PUSH_UPDATE; the groups it names are replaced once it is complete.
func (l *optionList) change(text string) (complete bool, err error) {
	part := optionList{size: l.size}
	if complete, err = part.add(text); err != nil {
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
	l.update = nil
	return true, nil
}

// updatable are the options that a running session can change.
var updatable = map[string]bool{
	"block-ipv6": true, "block-outside-dns": true, "dhcp-option": true, "dns": true, "ifconfig": true, "ifconfig-ipv6": true,
	"redirect-gateway": true, "redirect-private": true, "route": true, "route-gateway": true, "route-ipv6": true,
	"route-metric": true, "topology": true, "tun-mtu": true,
}

// filter applies the profile's pull-filter and route-nopull lines.
func (p *Profile) filter(options []string) ([]string, error) {
	var out []string
next:
	for _, option := range options {
		for _, f := range p.filters {
			if !strings.HasPrefix(option, f.prefix) {
				continue
			}
			switch f.action {
			case pullIgnore:
				continue next
			case pullReject:
				return nil, fmt.Errorf("the profile's pull-filter rejects the pushed option %q", option)
			}
			break
		}
		name, _, _ := strings.Cut(option, " ")
		if p.noRoutes && (strings.HasPrefix(name, "route") || strings.HasPrefix(name, "redirect-") || name == "dhcp-option" || name == "dns" || strings.HasPrefix(name, "block-")) {
			continue
		}
		out = append(out, option)
	}
	return out, nil
}

// errDemandsCompression is terminal: compressing before encrypting leaks plaintext (VORACLE).
var errDemandsCompression = errors.New("the server demands compression, which is not supported because it weakens encryption")

// parsePush gives options their meaning. What is malformed or unknown is left out and listed in problems.
func parsePush(options []string) (*pushed, error) {
	p := &pushed{servers: make(map[int]*DNSServer)}
	for _, option := range options {
		words, err := splitWords(option)
		if err != nil || len(words) == 0 {
			p.problems = append(p.problems, fmt.Errorf("option of %d bytes: not words", len(option)))
			continue
		}
		parse, ok := pushOptions[words[0]]
		if !ok {
			p.problems = append(p.problems, fmt.Errorf("%s: unknown", words[0]))
			continue
		}
		if err := parse(p, words[1:]); errors.Is(err, errDemandsCompression) {
			return nil, err
		} else if err != nil {
			p.problems = append(p.problems, fmt.Errorf("%s: %w", words[0], err))
		}
	}
	p.finishAddress()
	p.finishDNS()
	return p, nil
}

func ignorePush(*pushed, []string) error { return nil }

var pushOptions = map[string]func(p *pushed, args []string) error{
	"ifconfig":      func(p *pushed, args []string) error { p.ifconfig = args; return nil },
	"ifconfig-ipv6": pushIfconfig6,
	"topology":      func(p *pushed, args []string) error { p.topology = strings.Join(args, " "); return nil },
	"route":         pushRoute,
	"route-ipv6":    pushRoute6,
	"route-gateway": func(p *pushed, args []string) (err error) {
		p.Gateway4, err = pushAddress(args)
		return err
	},
	"redirect-gateway":     pushRedirect,
	"redirect-private":     ignorePush,
	"block-ipv6":           func(p *pushed, _ []string) error { p.BlockIPv6 = true; return nil },
	"block-outside-dns":    func(p *pushed, _ []string) error { p.BlockOtherDNS = true; return nil },
	"dhcp-option":          pushDHCP,
	"dns":                  pushDNS,
	"ping":                 func(p *pushed, args []string) error { return pushSeconds(args, &p.ping) },
	"ping-restart":         func(p *pushed, args []string) error { return pushSeconds(args, &p.pingRestart) },
	"ping-exit":            func(p *pushed, args []string) error { return pushSeconds(args, &p.pingRestart) },
	"peer-id":              pushPeerID,
	"cipher":               pushCipher,
	"protocol-flags":       pushProtocolFlags,
	"key-derivation":       func(p *pushed, args []string) error { p.exporter = slices.Contains(args, "tls-ekm"); return nil },
	"tun-mtu":              pushMTU,
	"auth-token":           func(p *pushed, args []string) error { p.token = secret(strings.Join(args, " ")); return nil },
	"auth-token-user":      pushTokenUser,
	"compress":             pushCompression,
	"comp-lzo":             pushCompression,
	"tun-ipv6":             ignorePush,
	"route-metric":         ignorePush,
	"route-delay":          ignorePush,
	"inactive":             ignorePush,
	"session-timeout":      ignorePush,
	"explicit-exit-notify": ignorePush,
	"sndbuf":               ignorePush,
	"rcvbuf":               ignorePush,
	"socket-flags":         ignorePush,
	"setenv":               ignorePush,
	"setenv-safe":          ignorePush,
	"echo":                 ignorePush,
	"register-dns":         ignorePush,
	"persist-tun":          ignorePush,
	"persist-key":          ignorePush,
	"mssfix":               ignorePush,
}

func pushSeconds(args []string, to *time.Duration) error {
	if len(args) == 0 {
		return errors.New("no value")
	}
	v, err := parseSeconds(args[0])
	if err == nil {
		*to = v
	}
	return err
}

func pushPeerID(p *pushed, args []string) error {
	if len(args) == 0 {
		return errors.New("no value")
	}
	id, err := strconv.ParseUint(args[0], 10, 24)
	if err != nil {
		return fmt.Errorf("%q is not a 24 bit number", args[0])
	}
	p.peerID, p.v2 = uint32(id), true
	return nil
}

func pushCipher(p *pushed, args []string) error {
	p.cipher = datakey.Cipher(strings.ToUpper(strings.Join(args, " ")))
	return nil
}

func pushProtocolFlags(p *pushed, args []string) error {
	for _, flag := range args {
		switch flag {
		case "cc-exit":
			p.controlExit = true
		case "tls-ekm":
			p.exporter = true
		case "dyn-tls-crypt":
			p.dynamicWrap = true
		case "aead-epoch":
			p.epoch = true
		}
	}
	return nil
}

func pushMTU(p *pushed, args []string) error {
	if len(args) == 0 {
		return errors.New("no value")
	}
	n, err := strconv.Atoi(args[0])
	if err != nil || n < minMTU || n > maxMTU {
		return fmt.Errorf("%q is not a number from %d to %d", args[0], minMTU, maxMTU)
	}
	p.MTU = n
	return nil
}

func pushCompression(_ *pushed, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%w (%s)", errDemandsCompression, args[0])
	}
	return errDemandsCompression
}
