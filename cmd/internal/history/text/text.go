// Package text has texts in the form in which the history keeps them.
package text

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Split returns the address and the port of "address:port", which may lack the port.
func Split(s string) (addr string, port uint64) {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().WithZone("").String(), uint64(ap.Port())
	}
	return Clip(s), 0
}

// Join undoes split. A port whose address is not kept stands alone.
func Join(addr string, port uint64) string {
	switch {
	case port == 0:
		return addr
	case strings.Contains(addr, ":"):
		return "[" + addr + "]:" + strconv.FormatUint(port, 10)
	}
	return addr + ":" + strconv.FormatUint(port, 10)
}

// Clip bounds a string, whose bytes may come from strangers.
func Clip(s string) string {
	if len(s) > 255 {
		s = s[:255]
	}
	return strings.ToValidUTF8(s, "?")
}

// Cause returns a reason without addresses and names, which would tell what may not be kept and make each reason a new one. The last part
// of an error says what happened.
func Cause(reason string) string {
	if !strings.ContainsAny(reason, ".0123456789[") {
		return Clip(reason)
	}
	last := reason[strings.LastIndex(reason, ": ")+1:]
	if strings.ContainsAny(last, ".0123456789[") {
		return "error"
	}
	return Clip(strings.TrimSpace(last))
}

// Reversed is a name backwards.
func Reversed(s string) string {
	r := []rune(s)
	slices.Reverse(r)
	return string(r)
}
