package rtnl

import (
	"errors"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Dump calls list, and calls it again a few times if the list changed while it was read.
func Dump[T any](list func() ([]T, error)) (got []T, err error) {
	for range 5 {
		if got, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return got, err
		}
	}
	return nil, err
}

// Family returns the address family of a: AF_INET or AF_INET6.
func Family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// IPNet converts a prefix for the netlink library.
func IPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Prefix is the inverse of IPNet. nil stands for the default route of the family.
func Prefix(n *net.IPNet, family int) netip.Prefix {
	if n == nil {
		if family == unix.AF_INET {
			return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		}
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	ip, _ := netip.AddrFromSlice(n.IP)
	if family == unix.AF_INET {
		ip = ip.Unmap()
	}
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(ip, ones)
}

// IsNotFound reports whether err says that there is no such interface.
func IsNotFound(err error) bool {
	var missing netlink.LinkNotFoundError
	return errors.As(err, &missing) || errors.Is(err, unix.ENODEV)
}
