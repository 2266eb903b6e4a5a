package program

import (
	"strings"
	"testing"
)

const id = "3f2a9c0d1e5b7f8a3f2a9c0d1e5b7f8a3f2a9c0d1e5b7f8a3f2a9c0d1e5b7f8a"

func TestParse(t *testing.T) {
	const user = "/user.slice/user-1000.slice/user@1000.service/app.slice/"
	rows := []struct {
		name, path string
		want       Group
	}{
		{"a service", "/system.slice/cups.service", Group{Unit: "cups.service"}},
		{"a service in a slice of its own", "/system.slice/system-getty.slice/getty@tty1.service", Group{Unit: "getty@tty1.service"}},
		{"a group that a service has made", "/system.slice/ci.service/backup.service", Group{Unit: "ci.service"}},
		{"a program that a desktop has started", user + "app-org.mozilla.firefox-1234.scope", Group{Unit: "app-org.mozilla.firefox.scope", User: true}},
		{"one of GNOME's", user + `app-gnome-google\x2dchrome-99.scope`, Group{Unit: `app-gnome-google\x2dchrome.scope`, User: true}},
		{"one of KDE's", user + "app-org.kde.kate@0f3e5a7c8b9d4e1f8a7b6c5d4e3f2a1b.service", Group{Unit: "app-org.kde.kate.service", User: true}},
		{"one of Flatpak's", user + "app-flatpak-org.gimp.GIMP-3021.scope", Group{Unit: "app-flatpak-org.gimp.GIMP.scope", User: true}},
		{"one without a number", user + "app-org.mozilla.firefox.scope", Group{Unit: "app-org.mozilla.firefox.scope", User: true}},
		{"a user's service", "/user.slice/user-1000.slice/user@1000.service/sync.service", Group{Unit: "sync.service", User: true}},
		{"a user's service manager", "/user.slice/user-1000.slice/user@1000.service", Group{Unit: "user@1000.service"}},
		{"a user who names a unit like the system's", user + "cups.service", Group{Unit: "cups.service", User: true}},
		{"a service named like a manager below one", user + "user@0.service", Group{Unit: "user@0.service", User: true}},
		{"a group that a user has made by hand", "/user.slice/user-1000.slice/user@1000.service/x/cups.service", Group{Unit: "user@1000.service", User: true}},
		{"a login", "/user.slice/user-1000.slice/session-3.scope", Group{Unit: "session.scope"}},
		{"a terminal", user + "vte-spawn-9d0f3e5a-0000-4e1f-8a7b-6c5d4e3f2a1b.scope", Group{Unit: "vte-spawn.scope", User: true}},
		{"systemd-run", "/system.slice/run-u12.service", Group{Unit: "run.service"}},
		{"systemd-run of version 257", "/system.slice/run-p12-i34.scope", Group{Unit: "run.scope"}},
		{"systemd-run with a name", "/system.slice/run-backup.service", Group{Unit: "run-backup.service"}},
		{"Docker", "/system.slice/docker-" + id + ".scope", Group{Unit: "docker.scope", Container: id[:12]}},
		{"Docker without systemd", "/docker/" + id, Group{Container: id[:12]}},
		{"Podman", "/machine.slice/libpod-" + id + ".scope/container", Group{Unit: "libpod.scope", Container: id[:12]}},
		{"Podman's monitor", "/machine.slice/libpod-conmon-" + id + ".scope", Group{Unit: "libpod-conmon.scope"}},
		{"Podman of a user", "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + id + ".scope",
			Group{Unit: "libpod.scope", User: true, Container: id[:12]}},
		{"containerd", "/kubepods.slice/kubepods-pod9.slice/cri-containerd-" + id + ".scope", Group{Unit: "cri-containerd.scope", Container: id[:12]}},
		{"Kubernetes without systemd", "/kubepods/burstable/pod9/" + id, Group{Container: id[:12]}},
		{"LXC", "/lxc.payload.web/system.slice/nginx.service", Group{Container: "web"}},
		{"old LXC", "/lxc/web/init.scope", Group{Container: "web"}},
		{"a machine", `/machine.slice/machine-old\x2dbox.scope/payload`, Group{Unit: `machine-old\x2dbox.scope`, Container: "old-box"}},
		{"a unit inside of a container", "/machine.slice/systemd-nspawn@web.service/payload/system.slice/cups.service",
			Group{Unit: "systemd-nspawn@web.service", Container: "web"}},
		{"a group that a service has named like a container", "/system.slice/ci.service/machine-web.scope", Group{Unit: "ci.service"}},
		{"a group that a user has named like one", "/user.slice/user-1000.slice/user@1000.service/x/machine-web.scope", Group{Unit: "user@1000.service", User: true}},
		{"a user's unit that is named like one", user + "machine-web.scope", Group{Unit: "machine-web.scope", User: true, Container: "web"}},
		{"a group outside of our namespace", "/../cups.service", Group{Unit: "cups.service"}},
		{"the root", "/", Group{}},
		{"a group that nobody's manager made", "/mine/cups.service", Group{}},
	}
	for _, row := range rows {
		if got := Parse(row.path); got != row.want {
			t.Errorf("%s: got %+v, want %+v", row.name, got, row.want)
		}
	}
}

func TestGroupOfProcess(t *testing.T) {
	rows := []struct{ name, text, want string }{
		{"version 2", "0::/system.slice/cups.service\n", "/system.slice/cups.service"},
		{"version 1", "9:name=systemd:/system.slice/cups.service\n8:pids:/x\n", "/system.slice/cups.service"},
		{"both, with everything in version 1", "9:name=systemd:/a.service\n8:pids:/x\n0::/\n", "/a.service"},
		{"both, kept alike", "9:name=systemd:/a.service\n0::/a.service\n", "/a.service"},
		{"at the root", "0::/\n", "/"},
		{"a colon in a name", "0::/system.slice/a:b.service\n", "/system.slice/a:b.service"},
		{"nothing", "", ""},
		{"something else", "x\n::\n", ""},
	}
	for _, row := range rows {
		if got := fromProc(row.text); got != row.want {
			t.Errorf("%s: got %q, want %q", row.name, got, row.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("/user.slice/user-1000.slice/user@1000.service/app.slice/app-org.mozilla.firefox-1234.scope")
	f.Add("/system.slice/docker-" + id + ".scope")
	f.Add(`/machine.slice/machine-a\x2db.scope`)
	f.Fuzz(func(t *testing.T, path string) {
		g := Parse(path)
		if strings.Contains(g.Unit, "/") || len(g.Unit) > len(path) || len(g.Container) > len(path) {
			t.Errorf("got %+v of %q", g, path)
		}
		if again := Parse("/" + g.Unit); g.Unit != "" && !g.User && again.Unit != g.Unit {
			t.Errorf("%q is not stable: it becomes %q", g.Unit, again.Unit)
		}
	})
}
