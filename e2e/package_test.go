package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// packager says why there is no program that makes packages; nil if there is one. It is fetched by whoever has a network.
var packager = sync.OnceValue(func() error {
	cmd := exec.Command("go", "tool", "-modfile=.ci/tools.mod", "nfpm", "--version")
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nfpm cannot be built without a network (go tool -modfile=.ci/tools.mod nfpm --version): %w\n%s", err, out)
	}
	return nil
})

// released makes the package and the image of the penstock under test, once.
var released = sync.OnceValues(func() (dir string, err error) {
	dir = filepath.Join(os.Getenv("XDG_STATE_HOME"), "released") // which TestMain removes
	cmd := exec.Command("go", "run", "./cmd/internal/release", "-out", dir, "-version", "1.1.0",
		"-arch", runtime.GOARCH, "-formats", "deb,oci", "-binary", built("penstock"))
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1764000000")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("make what is released: %w\n%s", err, out)
	}
	return dir, nil
})

// release returns the one file of what is released that has this name.
func release(t *testing.T, pattern string) string {
	t.Helper()
	if err := packager(); err != nil {
		t.Skip(err)
	}
	dir, err := released()
	if err != nil {
		t.Fatal(err)
	}
	made, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(made) != 1 {
		t.Fatalf("got %v %v, want one %s", made, err, pattern)
	}
	return made[0]
}

// older makes a package with a lower version and a file that the newer one does not have.
func older(t *testing.T, deb string) string {
	t.Helper()
	dir := t.TempDir()
	script := `set -e
		dpkg-deb -R "$1" tree
		sed -i 's/^Version: .*/Version: 1.0.0/' tree/DEBIAN/control
		echo old > tree/usr/share/doc/penstock/old
		dpkg-deb --root-owner-group -Znone -b tree old.deb`
	cmd := exec.CommandContext(t.Context(), "sh", "-c", script, "sh", deb)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make an older package: %v\n%s", err, out)
	}
	return filepath.Join(dir, "old.deb")
}

// files lists everything on the machine's disk, so that a change of any file shows. What dpkg, systemd and the accounts keep about
// themselves is left out: a user that was made stays, as Debian wants it.
func (h *hosted) files(t *testing.T) string {
	t.Helper()
	return h.do(t, `find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path /srv -o -path /var/tmp -o -path /var/lib/dpkg \
		-o -path /var/cache -o -path /var/log/journal -o -path /var/log/dpkg.log -o -path /var/lib/systemd -o -path /var/lib/dhcp \
		-o -path '/etc/passwd*' -o -path '/etc/group*' -o -path '/etc/shadow*' -o -path '/etc/gshadow*' -o -path /etc/.pwd.lock \) -prune \
		-o -type f -printf '%p %m %u %g %s %T@\n' -o -printf '%p %y %m %u %g %l\n' | sort`)
}

// machine [penstock from its package] lan0 --- br0 access === WireGuard ===> [penstock] gateway --- intranet
func machineInstallsThePackage(t *testing.T) {
	requireMachine(t)
	program(t, "dpkg-deb")
	deb := release(t, "*.deb")
	h := newHosted(t, "rules:", "always_on: {lockdown: true}\nrules:")
	h.networkd(t)
	h.copy(t, deb, "/srv/new.deb", 0o644)
	h.copy(t, older(t, deb), "/srv/old.deb", 0o644)
	h.boot(t)
	h.online(t)
	h.do(t, ": >>/var/log/dpkg.log") // dpkg makes it, and keeps it
	files, before := h.files(t), h.state(t)

	said := h.do(t, "dpkg -i /srv/old.deb")
	if !strings.Contains(said, `"penstock init" makes a configuration`) {
		t.Errorf("the installation does not say what is next:\n%s", said)
	}
	// Removed before it had a configuration, by somebody who has masked the service, and installed again.
	h.do(t, "systemctl mask penstock.service && dpkg -r penstock && systemctl unmask penstock.service && dpkg -i /srv/old.deb")
	if r := h.sh(t, "systemctl is-enabled penstock.service penstock-lockdown.service; systemctl is-active penstock.service"); strings.Contains(r.stdout, "enabled") || strings.Contains(r.stdout, "\nactive") {
		t.Errorf("without a configuration: got %s, want nothing enabled and nothing running", r)
	}
	for script, want := range map[string]string{
		"stat -c '%a %U %G' /etc/penstock":     "750 root penstock\n",
		"stat -c '%a %U %G' /usr/bin/penstock": "755 root root\n",
		"getent passwd penstock | cut -d: -f6": "/var/lib/penstock\n",
		"penstock version | cut -d' ' -f1":     "penstock\n",
	} {
		if got := h.do(t, script); got != want {
			t.Errorf("%s: got %q, want %q", script, got, want)
		}
	}

	h.do(t, `cd /srv/penstock && install -m 600 config.yaml hq.conf /etc/penstock/ && penstock check -c /etc/penstock/config.yaml &&
		systemctl enable penstock.service penstock-lockdown.service && systemctl start penstock.service`)
	h.isConnected(t)

	t.Run("an upgrade takes over", func(t *testing.T) {
		const look = "systemctl show -p MainPID --value penstock.service"
		old := h.do(t, look)
		h.do(t, "dpkg -i /srv/new.deb")
		if now := h.do(t, look); now == old {
			t.Errorf("the process is still %s, want the new program", now)
		}
		if got := h.do(t, "dpkg-query -W penstock; ls /usr/share/doc/penstock"); !strings.HasPrefix(got, "penstock\t1.1.0\n") || strings.Contains(got, "\nold\n") {
			t.Errorf("got %s, want version 1.1.0 and no file of the old one", got)
		}
		h.isConnected(t)
	})
	t.Run("removing leaves the host as it was, and the configuration", func(t *testing.T) {
		h.do(t, "dpkg -r penstock")
		if got := h.do(t, "ls /etc/penstock"); got != "config.yaml\nhq.conf\n" {
			t.Errorf("/etc/penstock has %q, want the configuration", got)
		}
		if r := h.sh(t, "systemctl is-active penstock.service; pidof penstock; nft list ruleset"); strings.HasPrefix(r.stdout, "active") || strings.Contains(r.stdout, "penstock") {
			t.Errorf("got %s, want nothing left", r)
		}
	})
	h.do(t, "dpkg -P penstock")
	h.online(t)
	for _, row := range []struct{ what, before, after string }{{"files", files, h.files(t)}, {"host", before, h.state(t)}} {
		if row.after != row.before {
			t.Errorf("after the purge the %s is not as before (- before, + now):\n%s", row.what, difference(row.before, row.after))
		}
	}
}
