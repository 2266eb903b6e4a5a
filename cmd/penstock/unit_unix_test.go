//go:build unix

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Folders that ProtectHome hides.
const home, root = "/home", "/root"

func TestWhatTheUnitCannotReadIsTold(t *testing.T) {
	for file, want := range map[string]string{
		home + "/ana/hq.conf": "ProtectHome=yes hides /home: move the file to /etc/penstock", root + "/hq.conf": "ProtectHome=yes hides /root",
		"/run/user/1000/key": "ProtectHome=yes hides /run/user", "/var/tmp/list.txt": "PrivateTmp=yes hides /var/tmp",
		"/homes/ana/hq.conf": "", "/etc/penstock/../.." + root + "/key": "ProtectHome=yes hides /root", "/etc/penstock/absent": "", "/etc/hosts": "",
	} {
		got := strings.Join(unitWarnings("config.yaml", []string{file, file}, true), "\n")
		if want == "" && got != "" || !strings.Contains(got, want) || strings.Contains(got, "\n") {
			t.Errorf("%s: got %q, want %q once", file, got, want)
		}
	}
	if got := unitWarnings("/etc/penstock.d/config.yaml", []string{root + "/hq.conf"}, false); len(got) > 0 {
		t.Errorf("a configuration that is not the system's: got %q", got)
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away, and check runs as root for the system's configuration")
	}
	if got := unitWarnings("/etc/penstock/config.yaml", []string{root + "/hq.conf"}, false); len(got) != 1 {
		t.Errorf("the system's configuration: got %q, want one warning", got)
	}
	dir, err := os.MkdirTemp("/var/lib", "penstock-test-") // not below a folder that the unit hides
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(dir, "lists")
	list, link := filepath.Join(folder, "list.txt"), filepath.Join(dir, "link")
	for _, err := range []error{os.Mkdir(folder, 0o755), os.WriteFile(list, nil, 0o600), os.Symlink(root+"/key", link), os.Chown(list, 65534, 65534)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	why := func(want string) {
		t.Helper()
		if got := unitCannotRead(list); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	why(list + " belongs to user 65534 and has mode 0600")
	if err := os.Chmod(list, 0o644); err != nil {
		t.Fatal(err)
	}
	why("")
	for _, err := range []error{os.Chown(list, 65534, 0), os.Chmod(list, 0o604)} { // the kernel asks the group alone
		if err != nil {
			t.Fatal(err)
		}
	}
	why(list + " belongs to user 65534 and has mode 0604")
	if err := os.Chmod(list, 0o640); err != nil {
		t.Fatal(err)
	}
	why("")
	for _, err := range []error{os.Chown(folder, 65534, 65534), os.Chmod(folder, 0o700)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	why(folder + " belongs to user 65534 and has mode 0700")
}
