package program

import (
	"strings"
)

// Group is what the path of a control group says. The zero Group is unknown.
type Group struct {
	// Unit is the unit of systemd that the group belongs to, without what changes at each start: firefox.service,
	// app-org.mozilla.firefox.scope. Groups below that of a unit do not count: their names are the unit's own choice.
	Unit string
	// User reports whether that is a unit of a user's own service manager. The user chooses its name, and Container too.
	User bool
	// Container is the ID or name of the container that the group belongs to: the first 12 digits of an ID, as docker ps shows it.
	Container string
}

// idShown is how many digits of a container's ID are kept.
const idShown = 12

// Parse reads the path of a control group, such as /system.slice/cups.service.
func Parse(path string) Group {
	var g Group
	manager, users := true, false // the parts are still named by a service manager; that is a user's
	above := ""
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || part == ".." {
			continue
		}
		if g.Container == "" && (manager || g.Unit == "") {
			g.Container = container(part, above)
		}
		isUnit := strings.HasSuffix(part, ".service") || strings.HasSuffix(part, ".scope")
		switch {
		case !manager:
		case !users && strings.HasPrefix(part, "user@") && strings.HasSuffix(part, ".service"):
			g.Unit, users = part, true // one of the units of this manager may follow
		case isUnit:
			g.Unit, g.User, manager = stable(part), users, false
		case !strings.HasSuffix(part, ".slice"):
			g.User, manager = users, false
		}
		above = part
	}
	return g
}

// stable removes from the name of a unit what changes at each start. Programs of a desktop are app-ID-RANDOM.scope or
// app-ID@RANDOM.service (systemd, DESKTOP_ENVIRONMENTS.md); systemd-run, logind and libvte number theirs.
func stable(unit string) string {
	dot := strings.LastIndexByte(unit, '.')
	name, kind := unit[:dot], unit[dot:]
	switch {
	case strings.HasPrefix(name, "app-"):
		if at := strings.IndexByte(name, '@'); at > 0 {
			return name[:at] + kind
		}
		if dash := strings.LastIndexByte(name, '-'); kind == ".scope" && dash > len("app") && isRandom(name[dash+1:]) {
			return name[:dash] + kind
		}
	case kind == ".scope" && strings.HasPrefix(name, "session-"):
		return "session.scope"
	case kind == ".scope" && strings.HasPrefix(name, "vte-spawn-"):
		return "vte-spawn.scope"
	case strings.HasPrefix(name, "run-"):
		for part := range strings.SplitSeq(name[len("run-"):], "-") { // u12, r0f3e..., p12-i34
			if len(part) < 2 || !isRandom(part[1:]) || !strings.ContainsRune("urpi", rune(part[0])) {
				return unit
			}
		}
		return "run" + kind
	default:
		if part := strings.LastIndexByte(name, '-'); part > 0 && isID(name[part+1:]) { // docker-ID.scope
			return name[:part] + kind
		}
	}
	return unit
}

// isRandom reports whether s is a number in decimal or hexadecimal digits.
func isRandom(s string) bool {
	digit := false
	for i := range len(s) {
		switch c := s[i]; {
		case '0' <= c && c <= '9':
			digit = true
		case 'a' <= c && c <= 'f':
		default:
			return false
		}
	}
	return digit || len(s) >= 32
}

// isID reports whether s is the ID of a container.
func isID(s string) bool { return len(s) == 64 && isRandom(s) }

// container returns what a part of a path, below another part, says about the container that it belongs to.
func container(part, above string) string {
	name := strings.TrimSuffix(part, ".scope")
	if id := name[strings.LastIndexByte(name, '-')+1:]; isID(id) && !strings.HasPrefix(name, "libpod-conmon-") {
		return id[:idShown] // of Docker, Podman, containerd or CRI-O, with or without their name in front
	}
	for _, form := range [...]struct{ prefix, suffix string }{
		{"lxc.payload.", ""}, {"machine-", ".scope"}, {"systemd-nspawn@", ".service"},
	} {
		if name, ok := strings.CutPrefix(part, form.prefix); ok && name != "" {
			if name, ok = strings.CutSuffix(name, form.suffix); ok && name != "" {
				return unescape(name)
			}
		}
	}
	if above == "lxc" || above == "lxc.payload" {
		return part
	}
	return ""
}

// unescape undoes systemd's escapes, such as \x2d for a dash.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if c, ok := escaped(s[i:]); ok {
			b.WriteByte(c)
			i += len(`\x2d`) - 1
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func escaped(s string) (byte, bool) {
	if len(s) < 4 || s[0] != '\\' || s[1] != 'x' {
		return 0, false
	}
	const digits = "0123456789abcdef"
	high, low := strings.IndexByte(digits, s[2]), strings.IndexByte(digits, s[3])
	c := byte(high<<4 | low)
	return c, high >= 0 && low >= 0 && c > ' ' && c < 0x7f
}

// fromProc returns the path of a process's control group, of what /proc/PID/cgroup says: that of version 2 or, if everything is
// at its root, the one that systemd keeps in version 1.
func fromProc(text string) string {
	path := ""
	for line := range strings.Lines(text) {
		_, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		controllers, at, ok := strings.Cut(rest, ":")
		switch {
		case !ok:
		case controllers == "" && at != "/":
			return at
		case controllers == "name=systemd", controllers == "" && path == "":
			path = at
		}
	}
	return path
}
