package hostnet

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"penstock/router/hostnet/firewall"
	"penstock/router/hostnet/internal/hosttest"
)

func TestAStateFileOfAnotherNamespaceChangesNothingThatIsNotOurs(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	// A sysctl that another host had at 1, and an address that this host has by itself.
	state := `{"version": 1, "boot": "` + bootID() + `", "namespace": "net:[1]", "entries": [
		{"sysctl": {"path": "net/ipv4/conf/all/arp_ignore", "old": "1", "new": "2"}},
		{"address": {"name": "up0", "index": 2, "prefix": "192.168.1.10/24"}}]}`
	hosttest.SetSysctl(t, "net/ipv4/conf/all/arp_ignore", "2")
	before := h.State(t)
	hosttest.Must(t, os.WriteFile(h.StateFile(), []byte(state), 0o600))
	_, err := Cleanup(h.StateFile(), nil)
	hosttest.Must(t, err)
	hosttest.WantSame(t, "after Cleanup", h.State(t), before)
	if _, err := os.Stat(h.StateFile()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the state file: got %v, want it gone", err)
	}
	// The same file of this namespace is honoured.
	hosttest.Must(t, os.WriteFile(h.StateFile(), []byte(strings.Replace(state, "net:[1]", namespace(), 1)), 0o600))
	_, err = Cleanup(h.StateFile(), nil)
	hosttest.Must(t, err)
	if got := hosttest.Sysctl("net/ipv4/conf/all/arp_ignore"); got != "1" {
		t.Errorf("arp_ignore: got %s, want 1 as the file says", got)
	}
}

func TestAFullDiskDoesNotOpenTheHost(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	c := config(h)
	c.StateFile = filepath.Join(smallDisk(t), "state.json")
	filler := fill(t, filepath.Dir(c.StateFile))
	closed := everything()
	closed.Lockdown = true
	host, err := Open(c)
	hosttest.Must(t, err)
	if err := host.Block(t.Context(), closed); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "state file") {
		t.Errorf("Block: got %v, want the full disk and the state file named", err)
	}
	isClosed := func() bool {
		tables, err := firewall.Tables()
		hosttest.Must(t, err)
		return len(tables) == 1 && tables[0].Lockdown
	}
	if !isClosed() {
		t.Error("the host is open")
	}
	_ = host.Release()
	if !isClosed() {
		t.Error("the host is open after the failed start")
	}
	hosttest.Must(t, os.Remove(filler))
	host, err = Open(c)
	hosttest.Must(t, err)
	hosttest.Must(t, host.Block(t.Context(), closed))
	hosttest.Must(t, host.Apply(t.Context(), closed))
	hosttest.Must(t, host.Close())
	if !isClosed() {
		t.Error("the host is open after a stop under lockdown")
	}
	_, err = Lift(c.StateFile, nil)
	hosttest.Must(t, err)
	if tables, _ := firewall.Tables(); len(tables) != 0 {
		t.Errorf("after Lift: got %v, want no table", tables)
	}
}

// smallDisk returns the directory of a disk that is soon full.
func smallDisk(t *testing.T) string {
	t.Helper()
	disk := t.TempDir()
	hosttest.Must(t, unix.Mount("tmpfs", disk, "tmpfs", 0, "size=64k"))
	t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
	return disk
}

// fill makes a disk full. It returns the file to remove.
func fill(t *testing.T, disk string) string {
	t.Helper()
	filler := filepath.Join(disk, "filler")
	if err := os.WriteFile(filler, make([]byte, 128<<10), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("got %v, want a full disk", err)
	}
	return filler
}

// The disk is full when an interface comes, and another program removes what closes the host.
func TestAFullDiskDoesNotKeepWhatOthersRemoveAway(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	c := config(h)
	c.StateFile = filepath.Join(smallDisk(t), "state.json")
	before := h.State(t)
	host, err := Open(c)
	hosttest.Must(t, err)
	hosttest.Must(t, host.Apply(t.Context(), everything()))
	filler := fill(t, filepath.Dir(c.StateFile))
	link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
	hosttest.Must(t, netlink.LinkAdd(link))
	theirs := "nameserver 192.0.2.53\n"
	hosttest.Must(t, os.WriteFile(h.ResolvConf(), []byte(theirs), 0o644))
	hosttest.SetSysctl(t, "net/ipv4/conf/all/arp_ignore", "0")
	for range 2 {
		hosttest.Must(t, firewall.Remove(firewall.Name("pen0")))
		if err := host.repair(t.Context()); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("got %v, want the full disk", err)
		}
		if tables, err := firewall.Tables(); err != nil || len(tables) != 1 {
			t.Errorf("got tables %v, %v, want the one that closes the host", tables, err)
		}
		closes(t, h, "with a full disk")
	}
	if !slices.ContainsFunc(host.applied, func(c change) bool { r, ok := c.(*rule); return ok && r.Out == "br0" }) {
		t.Error("there is no rule for the interface that has come, which salvage would find")
	}
	if got := hosttest.Sysctl("net/ipv4/conf/all/arp_ignore"); got != "2" {
		t.Errorf("arp_ignore, of which the state file knows: got %s, want 2", got)
	}
	if raw, err := os.ReadFile(h.ResolvConf()); err != nil || string(raw) != theirs {
		t.Errorf("the resolver file, of which the state file has no copy: got %s, %v", raw, err)
	}
	hosttest.Must(t, os.Remove(filler))
	hosttest.Must(t, host.repair(t.Context()))
	if raw, err := os.ReadFile(h.ResolvConf()); err != nil || !strings.Contains(string(raw), "nameserver 10.77.0.1") {
		t.Errorf("the resolver file, once there is room: got %s, %v", raw, err)
	}
	hosttest.Must(t, host.Close())
	hosttest.Must(t, netlink.LinkDel(link))
	if raw, err := os.ReadFile(h.ResolvConf()); err != nil || string(raw) != theirs {
		t.Errorf("the resolver file at the end: got %s, %v", raw, err)
	}
	hosttest.Must(t, os.WriteFile(h.ResolvConf(), []byte("# from DHCP\nnameserver 192.168.1.1\noptions edns0\n"), 0o640))
	hosttest.WantSame(t, "at the end", h.State(t), before)
}

func TestAFullDiskDoesNotKeepALostStateFromBeingSalvaged(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	c := config(h)
	c.StateFile = filepath.Join(smallDisk(t), "state.json")
	hosttest.Must(t, h.TUN.Close())
	before := h.State(t)
	h.TUN = hosttest.NewTUN(t, "pen0")
	host, err := Open(c)
	hosttest.Must(t, err)
	hosttest.Must(t, host.Apply(t.Context(), everything()))
	hosttest.Must(t, host.Release())
	hosttest.Must(t, h.TUN.Close())
	hosttest.Must(t, os.Remove(c.StateFile))
	fill(t, filepath.Dir(c.StateFile))
	if _, err := Cleanup(c.StateFile, nil); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v, want the full disk", err)
	}
	hosttest.WantSame(t, "after Cleanup", h.State(t), before)
}
