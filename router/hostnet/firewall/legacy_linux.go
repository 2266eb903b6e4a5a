package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"unsafe"

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

// legacySieve is Sieve for the older filters.
func legacySieve() (string, error) {
	for _, x := range []xtables{xtables4, xtables6} {
		filters, err := x.filtersOutput()
		switch {
		case err != nil:
			return "", fmt.Errorf("read the rules of iptables-legacy: %w", err)
		case filters:
			return "chain OUTPUT of table filter (iptables-legacy)", nil
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
	infoEntry           = 36 // hook_entry, of five hooks: where the first rule of a chain is
	infoUnderflow       = 56 // underflow: where its policy is
	infoBytes           = 80 // size of all entries
	entriesHeader       = 40 // the name, and the size, aligned to 8 bytes
	targetVerdict       = 32
	verdictDrop         = -1
	hookOutput          = 3
)

// filtersOutput reports whether the table filter has a rule in OUTPUT, or its policy lets nothing pass. A table that nobody has used is
// not loaded, and stays so.
func (x xtables) filtersOutput() (bool, error) {
	names, err := os.ReadFile(x.names)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !slices.Contains(strings.Fields(string(names)), "filter") {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	fd, err := unix.Socket(x.domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	info := make([]byte, infoSize)
	copy(info, "filter")
	if err := x.ask(fd, getInfo, info); err != nil {
		return false, err
	}
	number := func(b []byte, at int) int { return int(binary.NativeEndian.Uint32(b[at:])) }
	first, policy := number(info, infoEntry+4*hookOutput), number(info, infoUnderflow+4*hookOutput)
	if first != policy {
		return true, nil
	}
	size := number(info, infoBytes)
	entries := make([]byte, entriesHeader+size)
	copy(entries, "filter")
	binary.NativeEndian.PutUint32(entries[tableName:], uint32(size))
	if err := x.ask(fd, getEntries, entries); err != nil {
		return false, err
	}
	entry := entries[min(entriesHeader+policy, len(entries)):]
	if len(entry) < x.target+2 {
		return false, errUnknownLayout
	}
	at := int(binary.NativeEndian.Uint16(entry[x.target:])) + targetVerdict
	if len(entry) < at+4 {
		return false, errUnknownLayout
	}
	return int32(number(entry, at)) == verdictDrop, nil
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
