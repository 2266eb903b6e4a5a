package rtnl

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestPrefixIsTheInverseOfIPNet(t *testing.T) {
	for _, text := range []string{"0.0.0.0/0", "10.77.0.1/24", "192.0.2.1/32", "::/0", "fd77::1/64", "2001:db8::1/128"} {
		p := netip.MustParsePrefix(text)
		if got := Prefix(IPNet(p), Family(p.Addr())); got != p {
			t.Errorf("%s: got %s", p, got)
		}
	}
	if got := Prefix(nil, unix.AF_INET); got.String() != "0.0.0.0/0" {
		t.Errorf("no destination of IPv4: got %s, want the default route", got)
	}
	if got := Prefix(nil, unix.AF_INET6); got.String() != "::/0" {
		t.Errorf("no destination of IPv6: got %s, want the default route", got)
	}
}

func TestDumpIsRepeatedButNotForEver(t *testing.T) {
	calls := 0
	got, err := Dump(func() ([]int, error) {
		if calls++; calls < 3 {
			return []int{1}, netlink.ErrDumpInterrupted
		}
		return []int{1, 2}, nil
	})
	if err != nil || len(got) != 2 || calls != 3 {
		t.Errorf("got %v, %v after %d calls; want the third answer", got, err, calls)
	}
	calls = 0
	if _, err := Dump(func() ([]int, error) { calls++; return nil, netlink.ErrDumpInterrupted }); err == nil || calls > 10 {
		t.Errorf("got %v after %d calls of a list that always changes, want an error after a few", err, calls)
	}
}

func TestIsNotFound(t *testing.T) {
	if !IsNotFound(fmt.Errorf("wrapped: %w", unix.ENODEV)) || IsNotFound(errors.New("other")) || IsNotFound(nil) {
		t.Error("got another answer than true for ENODEV and false for other errors and none")
	}
}
