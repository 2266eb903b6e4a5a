package hostnet

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"penstock/router/hostnet/firewall"
	"penstock/router/hostnet/internal/hosttest"
)

// A killed penstock has changed all that it can, and its state file does not say so.
func TestAKilledLaptopIsSalvagedWithoutItsStateFile(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	remove := func(t *testing.T, paths ...string) {
		for _, path := range paths {
			hosttest.Must(t, os.Remove(path))
		}
	}
	for _, row := range []struct {
		sentence string
		link     bool // resolv.conf is one
		spoil    func(t *testing.T, h *hosttest.Host)
	}{
		{"the file is lost", false, func(t *testing.T, h *hosttest.Host) { remove(t, h.StateFile(), h.StateFile()+".lock") }},
		{"the file is lost, and resolv.conf was a link", true, func(t *testing.T, h *hosttest.Host) { remove(t, h.StateFile(), h.StateFile()+".lock") }},
		{"its lock is left", false, func(t *testing.T, h *hosttest.Host) { remove(t, h.StateFile()) }},
		{"the file is damaged", false, func(t *testing.T, h *hosttest.Host) { damage(t, h, "{") }},
		{"the file lacks all but the table", false, func(t *testing.T, h *hosttest.Host) {
			raw, err := os.ReadFile(h.StateFile())
			hosttest.Must(t, err)
			var f journalFile
			hosttest.Must(t, json.Unmarshal(raw, &f))
			f.Entries = f.Entries[:1]
			raw, err = json.Marshal(f)
			hosttest.Must(t, err)
			damage(t, h, string(raw))
		}},
	} {
		for _, starts := range []bool{false, true} {
			h := hosttest.New(t)
			hosttest.SetSysctl(t, "net/ipv4/conf/up0/rp_filter", "1")
			hosttest.SetSysctl(t, arpIgnore, "1")
			if row.link {
				hosttest.Must(t, os.Rename(h.ResolvConf(), h.ResolvConf()+".d"))
				hosttest.Must(t, os.Symlink("resolv.conf.d", h.ResolvConf()))
			}
			hosttest.Must(t, h.TUN.Close())
			before := h.State(t)
			h.TUN = hosttest.NewTUN(t, "pen0")
			host, err := Open(config(h))
			hosttest.Must(t, err)
			hosttest.Must(t, host.Apply(t.Context(), everything()))
			hosttest.Must(t, host.repair(t.Context()))
			hosttest.Must(t, host.Apply(t.Context(), everything())) // what it finds now is its own work
			if hosttest.Sysctl(arpIgnore) != "2" || hosttest.Sysctl(srcValidMark) != "1" {
				t.Fatalf("%s: Apply has not set the parameters", row.sentence)
			}
			applied := h.State(t)
			_, err = Cleanup(filepath.Join(h.Dir, "none.json"), nil) // it runs, and has another state file
			hosttest.Must(t, err)
			hosttest.WantSame(t, row.sentence+": cleanup while a penstock runs", h.State(t), applied)
			hosttest.Must(t, host.Release())
			hosttest.Must(t, h.TUN.Close())
			killed := h.State(t)
			_, err = Cleanup(filepath.Join(h.Dir, "none.json"), nil)
			hosttest.Must(t, err)
			hosttest.WantSame(t, row.sentence+": cleanup of another penstock", h.State(t), killed)

			row.spoil(t, h)
			if starts {
				host, err := Open(config(h))
				hosttest.Must(t, err)
				h.TUN = hosttest.NewTUN(t, "pen0")
				s := everything()
				s.LAN, s.Exclude = false, nil
				hosttest.Must(t, host.Apply(t.Context(), s))
				hosttest.Must(t, host.Close())
				hosttest.Must(t, h.TUN.Close())
			} else {
				clean(t, h)
			}
			if strings.Contains(row.sentence, "damaged") {
				forget(t, h)
			}
			hosttest.WantSame(t, row.sentence, h.State(t), before)
			hosttest.Must(t, h.Uplink.Close())
		}
	}
}

func TestALostStateFileDoesNotLiftLockdown(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	s := everything()
	s.Lockdown, s.LAN = true, false
	host, err := Open(config(h))
	hosttest.Must(t, err)
	hosttest.Must(t, host.Apply(t.Context(), s))
	hosttest.Must(t, host.Release())
	hosttest.Must(t, h.TUN.Close())
	hosttest.Must(t, os.Remove(h.StateFile()))
	if closed, err := Cleanup(h.StateFile(), nil); err != nil || !closed {
		t.Errorf("Cleanup: got closed %v, %v; want true", closed, err)
	}
	closes(t, h, "after Cleanup")
	if closed, err := Restore(h.StateFile(), nil); err != nil || !closed {
		t.Errorf("Restore: got closed %v, %v; want true", closed, err)
	}
	lift(t, h, true)
}

func TestWhatCannotBeSalvagedIsSaid(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	host, err := Open(config(h))
	hosttest.Must(t, err)
	hosttest.Must(t, host.Apply(t.Context(), everything()))
	hosttest.Must(t, host.Release())
	hosttest.Must(t, h.TUN.Close())
	ours, err := os.ReadFile(h.ResolvConf())
	hosttest.Must(t, err)
	hosttest.Must(t, os.WriteFile(h.ResolvConf(), ours[:len(ours)-20], 0o644))
	var said bytes.Buffer
	log := slog.New(slog.NewTextHandler(&said, nil))
	damage(t, h, "{")
	_, err = Cleanup(h.StateFile(), log)
	hosttest.Must(t, err)
	if want := "the original in it is lost"; !strings.Contains(said.String(), want) || !strings.Contains(said.String(), h.ResolvConf()) {
		t.Errorf("got %s\nwant %q and the file", said.String(), want)
	}
	said.Reset()
	hosttest.SetSysctl(t, arpIgnore, "2")
	damage(t, h, "{")
	hosttest.Must(t, (&nftTable{Name: firewall.Name("pen0"), table: firewall.Table{TUN: "pen0"}}).make(nil)) // as an earlier version made it
	_, err = Cleanup(h.StateFile(), log)
	hosttest.Must(t, err)
	if want := "parameter=net/ipv4/conf/all/arp_ignore value=2"; !strings.Contains(said.String(), want) {
		t.Errorf("got %s\nwant %q", said.String(), want)
	}
}
