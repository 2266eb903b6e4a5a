package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"penstock/cmd/internal/config/fault"
	"penstock/policy/spelling"
)

// checker collects what does not fit together in a decoded configuration.
type checker struct {
	*Config
	faults []Fault
}

// check finds every fault that can be found without touching the host.
func (c *Config) check() []Fault {
	k := &checker{Config: c}
	if c.Version != 1 {
		k.fault("version", "write version: 1", "version is %d, and this penstock reads version 1", c.Version)
	}
	listenChecker{k}.listen()
	listenChecker{k}.peers()
	k.peerLimits()
	transportChecker{k}.transports()
	ruleChecker{k}.categories()
	dnsChecker{k}.dns()
	ruleChecker{k}.rules()
	ruleChecker{k}.tests()
	k.signIn()
	acmeChecker{k}.acme()
	k.onDemand()
	k.rest()
	k.fleet()
	k.site()
	return k.faults
}

// fault notes what is wrong with the value at a path.
func (k *checker) fault(path, mend, format string, args ...any) {
	k.faults = append(k.faults, k.Fault(path, fmt.Sprintf(format, args...), mend))
}

// reserved are the names that mean something else in the place of a transport's name.
var reserved = []string{"block", "direct", "dns", "drop", "peers", "sign_in", "via"}

func isNameRune(r rune) bool { return r < utf8.RuneSelf && classOf(byte(r))&(letter|digit|wordy) != 0 }

// CheckName returns an error if a peer, rule, category or transport cannot have the name: names become labels of metrics
// and arguments of commands.
func CheckName(name string) error {
	if fault := faultOfName(name); fault != "" {
		return fmt.Errorf("the name %q %s", name, fault)
	}
	return nil
}

// CheckNewPeer returns an error if a new peer should not have the name. It becomes a label of DNS, the name of a file and an argument
// of commands, so each of its parts between dots begins and ends with a letter or a digit. A peer that has another name
// keeps it: a gateway must start with the peers that it has.
func CheckNewPeer(name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	for part := range strings.SplitSeq(name, ".") {
		switch {
		case part == "" && strings.Trim(name, ".") == "":
			return fmt.Errorf("the name %q has no letter or digit", name)
		case part == "":
			return fmt.Errorf("the name %q has a dot at its start, at its end or beside another", name)
		case !consistsOf(part[:1]+part[len(part)-1:], letter|digit):
			return fmt.Errorf("the name %q has a part that does not begin and end with a letter or digit", name)
		}
	}
	return nil
}

// faultOfName returns what is wrong with a name, or "".
func faultOfName(name string) string {
	switch {
	case name == "":
		return "is empty"
	case len(name) > 63:
		return "has more than 63 characters"
	case !consistsOf(name, letter|digit|wordy):
		return "has characters other than letters, digits and - _ . @"
	}
	return ""
}

func (k *checker) name(path, what, name string) {
	if fault := faultOfName(name); fault != "" {
		k.fault(path, "choose another name", "the %s name %q %s", what, name, fault)
	}
}

// variableName is what a shell can assign to (POSIX.1-2017, 3.235).
var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// secretPlace checks that a secret is said to be in one place.
func (k *checker) secretPlace(path string, s Secret) bool {
	const mend = "keep it in a file of its own, and write {file: PATH}"
	switch {
	case s.File != "" && s.Env != "":
		k.fault(path, "keep one of them", "%s has both file and env", path)
	case s.Env != "" && !variableName.MatchString(s.Env): // not repeated: it could be the secret itself
		k.fault(path, mend, "%s.env is not the name of an environment variable", path)
	case fault.HideKeys(s.File) != s.File:
		k.fault(path, mend, "%s.file is a key, not a path", path)
	default:
		return true
	}
	return false
}

// secret checks that a secret can be read and, if it must be a WireGuard key, that it is one.
func (k *checker) secret(path string, s Secret, isKey bool) {
	if s.IsZero() || !k.secretPlace(path, s) {
		return
	}
	value, err := s.Read()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		mend := "correct the path"
		if isKey {
			mend = "make one with: (umask 077; penstock genkey > " + s.File + ")"
		}
		k.fault(path, mend, "%s: %v", path, err)
	case err != nil:
		k.fault(path, "", "%s: %v", path, err)
	case isKey && !isWireGuardKey(value):
		k.fault(path, "make one with: penstock genkey", "%s does not hold a WireGuard key, which is 32 bytes in base64", path)
	}
}

// via checks the name of a transport, or direct.
func (k *checker) via(path, name string) {
	if _, ok := k.Transports[name]; ok || name == "direct" {
		return
	}
	known := append(slices.Sorted(maps.Keys(k.Transports)), "direct")
	k.fault(path, k.known(name, known, "transports"), "there is no transport %q", name)
}

// oneOf checks a name that must be known.
func (k *checker) oneOf(at, name, what, several string, known []string) {
	if !slices.Contains(known, name) {
		slices.Sort(known)
		k.fault(at, k.known(name, slices.Compact(known), several), "there is no %s %q", what, name)
	}
}

// known is the mend for an unknown name: the nearest known one, or all of them.
func (k *checker) known(name string, known []string, what string) string {
	if near := spelling.Nearest(name, known); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	switch len(known) {
	case 0:
		return "there are no " + what + " in this configuration"
	case 1:
		return "there is only " + known[0]
	}
	return "there are " + strings.Join(known, ", ")
}

// hostPort checks host:port, whose port must be a number.
func (k *checker) hostPort(path, value string) {
	_, port, err := net.SplitHostPort(value)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		k.fault(path, "write a host and a port, for example 127.0.0.1:9477 or [::1]:9477", "%s is %q", path, value)
	}
}

// isWebURL reports whether s is a URL that HTTP can fetch.
func isWebURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != ""
}

// mtu checks bytes per packet. Every IPv4 host takes 576 (RFC 791), every IPv6 host 1280 (RFC 8200).
func (k *checker) mtu(path string, mtu int, addresses []netip.Prefix) {
	least := 576
	if slices.ContainsFunc(addresses, func(p netip.Prefix) bool { return p.Addr().Is6() }) {
		least = 1280
	}
	if mtu != 0 && (mtu < least || mtu > 65535) {
		k.fault(path, fmt.Sprintf("write a number from %d to 65535", least), "%s is %d", path, mtu)
	}
}
