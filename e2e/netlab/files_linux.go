package netlab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Where a host sees the machine's own /etc, and the host's own files over it.
const (
	realEtc = "/run/netlab/etc.machine"
	ownEtc  = "/run/netlab/etc"
)

// privateFiles mounts an empty /run, a private /etc and the /sys of the network namespace. The calling thread must be in a new
// mount namespace.
func privateFiles(nameservers []string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("netlab", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=64m"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	// A container with a masked /sys forbids it. The host then sees the machine's /sys/class/net, which no service needs.
	if err := unix.Mount("netlab", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mount /sys: %w", err)
	}
	return privateEtc(map[string]string{
		"resolv.conf":   resolvConf(nameservers),
		"hosts":         "127.0.0.1 localhost\n::1 localhost\n",
		"nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
	})
}

// privateEtc mounts a writable directory over /etc, so that files can be replaced by rename as on a real machine. With a bind
// mount over a single file they could not. own holds the files that differ; all others are the machine's.
func privateEtc(own map[string]string) error {
	for _, dir := range []string{realEtc, ownEtc} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("/etc", realEtc, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind /etc: %w", err)
	}
	entries, err := os.ReadDir(realEtc)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if _, differs := own[e.Name()]; differs {
			continue
		}
		if err := mirror(filepath.Join(realEtc, e.Name()), filepath.Join(ownEtc, e.Name()), e.Type()); err != nil {
			return fmt.Errorf("mirror /etc/%s: %w", e.Name(), err)
		}
	}
	for name, content := range own {
		if err := os.WriteFile(filepath.Join(ownEtc, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	if err := unix.Mount(ownEtc, "/etc", "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind over /etc: %w", err)
	}
	return nil
}

// mirror makes dst show src. It bind-mounts directories instead of linking them, so that relative links inside still work.
func mirror(src, dst string, kind fs.FileMode) error {
	switch {
	case kind.IsDir():
		if err := os.Mkdir(dst, 0o755); err != nil {
			return err
		}
		return unix.Mount(src, dst, "", unix.MS_BIND|unix.MS_REC, "")
	case kind&fs.ModeSymlink != 0:
		target, err := os.Readlink(src)
		if err != nil {
			return err
		}
		return os.Symlink(target, dst)
	}
	return os.Symlink(src, dst)
}

func resolvConf(nameservers []string) string {
	var b strings.Builder
	for _, ns := range nameservers {
		fmt.Fprintf(&b, "nameserver %s\n", ns)
	}
	return b.String()
}

var errNotNet = errors.New("not a parameter of the network namespace")

// sysctl sets a parameter of the calling thread's network namespace. key may use dots or slashes.
func sysctl(key, value string) error {
	if !strings.Contains(key, "/") {
		key = strings.ReplaceAll(key, ".", "/")
	}
	if !strings.HasPrefix(key, "net/") {
		return fmt.Errorf("sysctl %s: %w", key, errNotNet)
	}
	if err := os.WriteFile("/proc/sys/"+key, []byte(value), 0o644); err != nil {
		return fmt.Errorf("sysctl %s: %w", key, err)
	}
	return nil
}
