package doctor

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"
)

// readResolvConf returns the servers in a resolv.conf, and the program that says in it that it wrote it.
func readResolvConf(text string) (servers []netip.Addr, writer string) {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if comment, ok := strings.CutPrefix(line, "#"); ok {
			for _, program := range []string{"NetworkManager", "systemd-resolved", "resolvconf", "dhcpcd", "dhclient", "connman", "netconfig", "WSL", "penstock"} {
				if writer == "" && strings.Contains(strings.ToLower(comment), strings.ToLower(program)) {
					writer = program
				}
			}
			continue
		}
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		if addr, err := netip.ParseAddr(words[1]); err == nil {
			servers = append(servers, addr.WithZone(""))
		}
	}
	return servers, writer
}

// readUnit reads what systemctl show prints.
func readUnit(text string) Unit {
	values := make(map[string]string)
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			values[key] = value
		}
	}
	number := func(key string) int {
		n, _ := strconv.Atoi(values[key]) // 0 where systemd is older than the property
		return n
	}
	return Unit{
		Installed: values["LoadState"] != "" && values["LoadState"] != "not-found", State: values["ActiveState"], Enabled: values["UnitFileState"],
		Restarts: number("NRestarts"), Result: values["Result"], Exit: number("ExecMainStatus"),
	}
}

func nativeWord(w uint32) []byte { return binary.NativeEndian.AppendUint32(nil, w) }
