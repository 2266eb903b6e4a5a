package hostnet

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"penstock/router/hostnet/direct"
	"penstock/router/hostnet/firewall"
)

// Look reads what a state file says of the host. It changes nothing, and takes no lock.
func Look(stateFile string) (Left, error) {
	j := &journal{path: stateFile}
	if err := j.load(); err != nil {
		return Left{}, err
	}
	left := Left{Lockdown: j.closed != nil, Held: isLocked(stateFile + ".lock")}
	for _, e := range j.entries {
		left.Changes = append(left.Changes, e.change().String())
	}
	return left, nil
}

// isLocked reports whether a process has locked a file, as the kernel lists locks: to try the lock could keep a penstock from
// starting in that moment. The device is not compared, because that of a file on overlayfs or btrfs is not the one in the list.
func isLocked(path string) bool {
	info, err := os.Stat(path)
	if err != nil {
		return false
	}
	file, ok := info.Sys().(*syscall.Stat_t)
	locks, err := os.Open("/proc/locks")
	if !ok || err != nil {
		return false
	}
	defer locks.Close()
	inode := ":" + strconv.FormatUint(file.Ino, 10)
	for lines := bufio.NewScanner(locks); lines.Scan(); {
		words := strings.Fields(lines.Text()) // 1: FLOCK ADVISORY WRITE 831 fd:00:2643 0 EOF
		if len(words) > 5 && words[1] == "FLOCK" && strings.HasSuffix(words[5], inode) {
			return true
		}
	}
	return false
}

// LookForOthers finds the networks that other programs lead into interfaces of their own. tun is our own interface.
func LookForOthers(tun string) ([]direct.Other, error) {
	k, err := newKernel()
	if err != nil {
		return nil, err
	}
	defer k.close()
	v := newView(k)
	names, err := v.names()
	if err != nil {
		return nil, fmt.Errorf("hostnet: %w", err)
	}
	return new(others).look(v, Config{Interface: tun, Table: DefaultTable}, names)
}

// Nftables returns why this process cannot use nftables here; nil if it can. It changes nothing.
func Nftables() error {
	_, err := firewall.Tables()
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("hostnet: list nftables: %w", fs.ErrPermission)
	case err != nil:
		return fmt.Errorf("hostnet: list nftables: %w", err)
	}
	return nil
}
