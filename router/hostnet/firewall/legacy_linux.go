package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"unsafe"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// xtables is the older of the kernel's packet filters for one family, which nftables does not show. iptables uses it where it says
// "legacy" behind its version.
type xtables struct {
	domain, level int
	names         string // a file with the tables that are loaded
	target        int    // where an entry says where its target begins, bytes from its start
}

var xtables4, xtables6 = xtables{unix.AF_INET, unix.SOL_IP, "/proc/net/ip_tables_names", 88},
	xtables{unix.AF_INET6, unix.SOL_IPV6, "/proc/net/ip6_tables_names", 140}

// counts reports whether rules at a hook count.
type counts func(hook nftables.ChainHook, nat bool) bool

// legacySieve is Sieve for the older filters.
func legacySieve(count counts, filters ...xtables) (string, error) {
	for _, x := range filters {
		chain, err := x.sieve(count)
		switch {
		case err != nil:
			return "", fmt.Errorf("read the rules of iptables-legacy: %w", err)
		case chain != "":
			return chain + " (iptables-legacy)", nil
		}
	}
	return "", nil
}

// Layout of what the kernel tells of a table: struct ipt_getinfo, ipt_get_entries and xt_entry_target of linux/netfilter. They are the
// same for IPv6.
const (
	getInfo, getEntries = 64, 65 // IPT_SO_GET_INFO, IPT_SO_GET_ENTRIES
	tableName           = 32
	infoSize            = 84
	infoHooks           = 32 // valid_hooks: a bit for each hook at which the table has a chain
	infoEntry           = 36 // hook_entry, of five hooks: where the first rule of a chain is
	infoUnderflow       = 56 // underflow: where its policy is
	infoBytes           = 80 // size of all entries
	entriesHeader       = 40 // the name, and the size, aligned to 8 bytes
	targetVerdict       = 32
	verdictDrop         = -1
)

// hooks are the chains of a table by the number of their hook.
var hooks = [...]string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}

// sieve returns a chain of one family that counts, and has a rule or a policy that lets nothing pass; "" if there is none. A table that
// nobody has used is not loaded, and stays so.
func (x xtables) sieve(count counts) (string, error) {
	fd, err := unix.Socket(x.domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	tables, err := x.tables(fd)
	if err != nil {
		return "", err
	}
	for _, table := range tables {
		hook, err := x.sieveOf(fd, table, count)
		if err != nil {
			return "", fmt.Errorf("table %s: %w", table, err)
		}
		if hook >= 0 {
			return "chain " + hooks[hook] + " of table " + table, nil
		}
	}
	return "", nil
}

// tables returns the tables that are loaded. Only root may read their names, with whatever capabilities: without, each of those that there
// can be is asked for with too little room for it, which loads nothing.
func (x xtables) tables(fd int) ([]string, error) {
	names, err := os.ReadFile(x.names)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err == nil:
		return strings.Fields(string(names)), nil
	case !errors.Is(err, fs.ErrPermission):
		return nil, err
	}
	var list []string
	for _, table := range []string{"filter", "nat", "mangle", "raw", "security"} {
		entries := make([]byte, entriesHeader)
		copy(entries, table)
		switch err := x.ask(fd, getEntries, entries); {
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOPROTOOPT):
		case err == nil, errors.Is(err, unix.EAGAIN):
			list = append(list, table)
		default:
			return nil, fmt.Errorf("table %s: %w", table, err)
		}
	}
	return list, nil
}

// sieveOf returns the hook of such a chain of a table; -1 if there is none.
func (x xtables) sieveOf(fd int, table string, count counts) (int, error) {
	info := make([]byte, infoSize)
	copy(info, table)
	if err := x.ask(fd, getInfo, info); err != nil {
		return 0, err
	}
	number := func(b []byte, at int) int { return int(binary.NativeEndian.Uint32(b[at:])) }
	size := number(info, infoBytes)
	entries := make([]byte, entriesHeader+size)
	copy(entries, table)
	binary.NativeEndian.PutUint32(entries[tableName:], uint32(size))
	if err := x.ask(fd, getEntries, entries); err != nil {
		return 0, err
	}
	for hook := range hooks {
		if number(info, infoHooks)&(1<<hook) == 0 || !count(nftables.ChainHook(hook), table == "nat") {
			continue
		}
		first, policy := number(info, infoEntry+4*hook), number(info, infoUnderflow+4*hook)
		if first != policy {
			return hook, nil
		}
		entry := entries[min(entriesHeader+policy, len(entries)):]
		if len(entry) < x.target+2 {
			return 0, errUnknownLayout
		}
		at := int(binary.NativeEndian.Uint16(entry[x.target:])) + targetVerdict
		if len(entry) < at+4 {
			return 0, errUnknownLayout
		}
		if int32(number(entry, at)) == verdictDrop {
			return hook, nil
		}
	}
	return -1, nil
}

var errUnknownLayout = errors.New("the kernel's answer has an unknown layout")

// ask calls getsockopt with a question that the answer replaces.
func (x xtables) ask(fd, option int, b []byte) error {
	size := uint32(len(b))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(x.level), uintptr(option),
		uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return os.NewSyscallError("getsockopt", errno)
	}
	return nil
}
