package hostnet

import (
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"

	"penstock/router/hostnet/firewall"
	"penstock/router/hostnet/internal/hosttest"
)

// damage replaces the state file by something else.
func damage(t *testing.T, h *hosttest.Host, content string) {
	t.Helper()
	hosttest.Must(t, os.WriteFile(h.StateFile(), []byte(content), 0o600))
}

// forget removes the damaged files, which the comparison of the host would find.
func forget(t *testing.T, h *hosttest.Host) {
	t.Helper()
	files, err := filepath.Glob(h.StateFile() + ".damaged-*")
	hosttest.Must(t, err)
	if len(files) != 1 {
		t.Errorf("got damaged files %v, want one", files)
	}
	for _, f := range files {
		hosttest.Must(t, os.Remove(f))
	}
}

func TestADamagedStateFileIsNotTheEnd(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	for name, content := range map[string]string{
		"cut short": `{"version": 1, "boot": "`, "empty": "", "another version": `{"version": 9}`, "a file of something else": "[]",
		"an unknown kind": `{"version":1,"entries":[{}]}`,
	} {
		h := hosttest.New(t)
		s := everything()
		s.DNS = nil // the original of a resolver file is lost with the state file
		k, err := newKernel()
		hosttest.Must(t, err)
		ours := func() int {
			t.Helper()
			entries, _, err := salvage(newView(k), slog.New(slog.DiscardHandler))
			hosttest.Must(t, err)
			return len(entries)
		}
		host, err := Open(config(h))
		hosttest.Must(t, err)
		hosttest.Must(t, host.Apply(t.Context(), s))
		hosttest.Must(t, host.Release())
		applied := ours()
		if applied < 20 {
			t.Errorf("%s: got %d changes, want at least 20", name, applied)
		}
		damage(t, h, content)
		again, err := Open(config(h))
		if err != nil {
			t.Fatalf("%s: got %v, want a start", name, err)
		}
		hosttest.Must(t, again.Apply(t.Context(), s))
		if n := ours(); n != applied {
			t.Errorf("%s: after a start: got %d changes, want %d", name, n, applied)
		}
		hosttest.Must(t, again.Release())
		forget(t, h)

		damage(t, h, content)
		closed, err := Cleanup(h.StateFile(), nil)
		if err != nil || closed {
			t.Errorf("%s: Cleanup: got %v, %v; want an open host", name, closed, err)
		}
		if n := ours(); n != 0 {
			t.Errorf("%s: after Cleanup: got %d changes, want none", name, n)
		}
		forget(t, h)
		k.close()
		h.Close(t)
	}
}

// The TUN has another name than when the host was closed. One table that lets packets pass does not mean that none closes the host.
func TestLockdownIsSalvagedBesideATableWithoutIt(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	tables := []firewall.Table{{TUN: "pen0", Lockdown: true}, {TUN: "pen9"}}
	for _, table := range tables {
		hosttest.Must(t, table.Apply())
	}
	k, err := newKernel()
	hosttest.Must(t, err)
	defer k.close()
	_, closed, err := salvage(newView(k), slog.New(slog.DiscardHandler))
	if err != nil || closed == nil || closed.Interface != "pen0" {
		t.Errorf("got %+v, %v; want the lockdown of pen0", closed, err)
	}
	hosttest.Must(t, firewall.Remove(firewall.Name("pen0")))
	if _, closed, err := salvage(newView(k), slog.New(slog.DiscardHandler)); err != nil || closed != nil {
		t.Errorf("without it: got %+v, %v; want no lockdown", closed, err)
	}
	hosttest.Must(t, firewall.Remove(firewall.Name("pen9")))
}

func TestADamagedStateFileOpensNothing(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	s := everything()
	s.Lockdown = true
	host, err := Open(config(h))
	hosttest.Must(t, err)
	hosttest.Must(t, host.Apply(t.Context(), s))
	hosttest.Must(t, host.Release())
	damage(t, h, "{")
	if closed, err := Cleanup(h.StateFile(), nil); err != nil || !closed {
		t.Errorf("Cleanup after lockdown: got closed %v, %v; want true", closed, err)
	}
	closes(t, h, "after Cleanup with a damaged file")
	forget(t, h)
	if _, err := Lift(h.StateFile(), nil); err != nil {
		t.Error(err)
	}
	// A boot: the kernel knows nothing.
	damage(t, h, "{")
	if closed, err := Restore(h.StateFile(), nil); err != nil || !closed {
		t.Errorf("Restore after a boot: got closed %v, %v; want true", closed, err)
	}
	closes(t, h, "after Restore with a damaged file")
	if was, err := Lift(h.StateFile(), nil); err != nil || !was {
		t.Errorf("Lift: got %v, %v; want that it was closed", was, err)
	}
	lift := everything()
	lift.DNS = nil
	host, err = Open(config(h))
	hosttest.Must(t, err)
	hosttest.Must(t, host.Apply(t.Context(), lift)) // a configuration without lockdown opens
	hosttest.Must(t, host.Close())
}

// A killed penstock has made the host forward, and its state file does not say so.
func TestForwardingIsSalvagedFromItsTable(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	boot := regexp.MustCompile(`"boot": "[^"]*"`)
	for _, row := range []struct {
		sentence string
		router   string // ip_forward
		spoil    func(t *testing.T, path string) error
	}{
		{"the file is lost", "0", func(_ *testing.T, path string) error { return os.RemoveAll(filepath.Dir(path)) }},
		{"the file is lost on a router that does not forward from there", "1", func(_ *testing.T, path string) error { return os.Remove(path) }},
		{"the file seems to be of another boot", "0", func(t *testing.T, path string) error {
			raw, err := os.ReadFile(path)
			hosttest.Must(t, err)
			return os.WriteFile(path, boot.ReplaceAll(raw, []byte(`"boot": "another"`)), 0o600)
		}},
	} {
		for _, starts := range []bool{false, true} {
			h := hosttest.New(t)
			c := config(h)
			c.Gateway, c.StateFile = true, filepath.Join(t.TempDir(), "new", "kernel.json")
			hosttest.Must(t, os.Mkdir(filepath.Dir(c.StateFile), 0o700))
			hosttest.SetSysctl(t, all4, row.router)
			hosttest.SetSysctl(t, up4, "0")
			host, err := Open(c)
			hosttest.Must(t, err)
			hosttest.Must(t, host.Apply(t.Context(), routed()))
			hosttest.Must(t, CleanupForwarding(filepath.Join(h.Dir, "none", "kernel.json"), nil)) // it runs
			if hosttest.Sysctl(up4) != "1" || exists(filepath.Join(h.Dir, "none")) {
				t.Errorf("%s: cleanup with a file that is not there changed a host whose penstock runs", row.sentence)
			}
			hosttest.Must(t, host.Release())
			hosttest.Must(t, h.TUN.Close())
			hosttest.Must(t, row.spoil(t, c.StateFile))
			if starts {
				hosttest.Must(t, os.MkdirAll(filepath.Dir(c.StateFile), 0o700))
				host, err := Open(c) // before there is a TUN, which would be that of a penstock that runs
				hosttest.Must(t, err)
				h.TUN = hosttest.NewTUN(t, "pen0")
				hosttest.Must(t, host.Apply(t.Context(), routed()))
				tables, err := firewall.ForwardingTables()
				hosttest.Must(t, err)
				if len(tables) != 1 || !slices.Equal(tables[0].Closed4, []string{"up0"}) || exists(procSys+"/"+up6) && !slices.Equal(tables[0].Closed6, []string{"up0"}) {
					t.Errorf("%s: after a start: got %+v, want up0 closed", row.sentence, tables)
				}
				hosttest.Must(t, host.Close())
			} else {
				hosttest.Must(t, CleanupForwarding(c.StateFile, nil))
			}
			tables, err := firewall.ForwardingTables()
			hosttest.Must(t, err)
			if got4, got6 := hosttest.Sysctl(up4), hosttest.Sysctl(up6); got4 != "0" || got6 == "1" || len(tables) != 0 {
				t.Errorf("%s, starts %t: at the end: got forwarding %s and %s, tables %v, want it as before", row.sentence, starts, got4, got6, tables)
			}
			if left, _ := filepath.Glob(filepath.Join(filepath.Dir(c.StateFile), "*")); len(left) != 0 {
				t.Errorf("%s: got files %v, want none", row.sentence, left)
			}
			hosttest.SetSysctl(t, all4, "0")
			if starts {
				h.Close(t)
			} else {
				hosttest.Must(t, h.Uplink.Close())
			}
		}
	}
}

// udev gives the uplink another name while penstock is dead and its state file lost.
func TestForwardingIsSalvagedFromAnInterfaceWithAnotherName(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	for _, starts := range []bool{false, true} {
		h := hosttest.New(t)
		c := config(h)
		c.Gateway = true
		host, err := Open(c)
		hosttest.Must(t, err)
		hosttest.Must(t, host.Apply(t.Context(), routed()))
		hosttest.Must(t, host.Release())
		hosttest.Must(t, h.TUN.Close())
		hosttest.Must(t, os.Remove(c.StateFile))
		up, err := netlink.LinkByName("up0")
		hosttest.Must(t, err)
		hosttest.Must(t, netlink.LinkSetDown(up))
		hosttest.Must(t, netlink.LinkSetName(up, "up1"))
		hosttest.Must(t, netlink.LinkSetUp(up))
		hosttest.NewTUN(t, "up0") // another interface, which has the name now
		hosttest.SetSysctl(t, up4, "1")
		if starts {
			host, err := Open(c)
			hosttest.Must(t, err)
			h.TUN = hosttest.NewTUN(t, "pen0")
			hosttest.Must(t, host.Apply(t.Context(), routed()))
			tables, err := firewall.ForwardingTables()
			hosttest.Must(t, err)
			if len(tables) != 1 || !slices.Equal(tables[0].Closed4, []string{"up1"}) {
				t.Errorf("after a start: got %+v, want up1 closed", tables)
			}
			hosttest.Must(t, host.Close())
		} else {
			hosttest.Must(t, CleanupForwarding(c.StateFile, nil))
		}
		if got4, got6 := hosttest.Sysctl("net/ipv4/conf/up1/forwarding"), hosttest.Sysctl("net/ipv6/conf/up1/force_forwarding"); got4 != "0" || got6 == "1" {
			t.Errorf("starts %t: got forwarding %s and %s of the interface, want it as before", starts, got4, got6)
		}
		if got := hosttest.Sysctl(up4); got != "1" {
			t.Errorf("starts %t: got forwarding %s of the one that has its name now, want it left alone", starts, got)
		}
		for _, name := range []string{"up0", "up1", "pen0"} {
			if link, err := netlink.LinkByName(name); err == nil {
				hosttest.Must(t, netlink.LinkDel(link))
			}
		}
	}
}

// With ipv6.disable=1 the kernel refuses to list the rules of IPv6, as it does for any family that it does not have. Salvage lists them at
// each start after a kill.
func TestAFamilyThatTheKernelDoesNotHaveHasNoRules(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	k, err := newKernel()
	hosttest.Must(t, err)
	defer k.close()
	list, err := newView(k).rulesOf(12) // DECnet
	if err != nil || len(list) > 0 {
		t.Errorf("got %v, %v, want no rules", list, err)
	}
}
