package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// checker looks at a decoded configuration as a whole and notes what does not fit together.
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
	k.listen()
	k.peers()
	k.transports()
	k.categories()
	k.dns()
	k.rules()
	k.tests()
	k.onDemand()
	k.rest()
	return k.faults
}

// fault notes what is wrong with the value at a path.
func (k *checker) fault(path, mend, format string, args ...any) {
	k.faults = append(k.faults, k.Fault(path, fmt.Sprintf(format, args...), mend))
}

// reserved are names that mean something else where a transport is named.
var reserved = []string{"block", "direct", "dns", "drop", "via"}

func isNameRune(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-_.@", r)
}

// CheckName returns an error if a name cannot be that of a peer, rule, category or transport: it labels metrics and
// stands in commands.
func CheckName(name string) error {
	if fault := faultOfName(name); fault != "" {
		return fmt.Errorf("the name %q %s", name, fault)
	}
	return nil
}

// faultOfName says what is wrong with a name, or nothing.
func faultOfName(name string) string {
	switch {
	case name == "":
		return "is empty"
	case len(name) > 63:
		return "has more than 63 characters"
	case strings.ContainsFunc(name, func(r rune) bool { return !isNameRune(r) }):
		return "has other characters than letters, digits, and - _ . @"
	}
	return ""
}

func (k *checker) name(path, what, name string) {
	if fault := faultOfName(name); fault != "" {
		k.fault(path, "choose another name", "the %s name %q %s", what, name, fault)
	}
}

// secret checks that a secret is where it is said to be and, if it is a key, that it is one.
func (k *checker) secret(path string, s Secret, isKey bool) {
	if s.IsZero() {
		return
	}
	if s.File != "" && s.Env != "" {
		k.fault(path, "keep one of them", "%s has both file and env", path)
		return
	}
	value, err := s.Read()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		k.fault(path, "make one with: penstock genkey > "+s.File, "%s: there is no file %s", path, s.File)
	case errors.Is(err, fs.ErrPermission):
		k.fault(path, "run this as its owner or as root", "%s: no permission to read %s", path, s.File)
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

// known proposes one of the known names.
func (k *checker) known(name string, known []string, what string) string {
	if near := suggest(name, known); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	if len(known) == 0 {
		return "there are no " + what + " in this configuration"
	}
	return "there are " + strings.Join(known, ", ")
}

// hostPort checks host:port with a port that is a number.
func (k *checker) hostPort(path, value string) {
	_, port, err := net.SplitHostPort(value)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		k.fault(path, "write a host and a port, for example 127.0.0.1:9477 or [::1]:9477", "%s is %q", path, value)
	}
}

// mtu checks bytes per packet. 576 is what every IPv4 host takes (RFC 791), 1280 every IPv6 host (RFC 8200).
func (k *checker) mtu(path string, mtu int, addresses []netip.Prefix) {
	least := 576
	if slices.ContainsFunc(addresses, func(p netip.Prefix) bool { return p.Addr().Is6() }) {
		least = 1280
	}
	if mtu != 0 && (mtu < least || mtu > 65535) {
		k.fault(path, fmt.Sprintf("write a number from %d to 65535", least), "%s is %d", path, mtu)
	}
}
