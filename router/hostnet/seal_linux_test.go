package hostnet

import (
	"bytes"
	"os"
	"testing"

	"penstock/router/hostnet/firewall"
	"penstock/router/hostnet/internal/hosttest"
)

// A disk that is full or read-only when the host boots must not leave it open.
func TestTheHostIsClosedWithoutAStateFileThatCanBeWritten(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	s := everything()
	s.Lockdown, s.LAN = true, false
	host, err := Open(config(h))
	hosttest.Must(t, err)
	hosttest.Must(t, host.Apply(t.Context(), s))
	hosttest.Must(t, host.Close())
	lock := h.StateFile() + ".lock"
	boot := func() {
		hosttest.Must(t, firewall.Remove(firewall.Name("pen0")))
		hosttest.Must(t, os.RemoveAll(lock))
		hosttest.Must(t, os.Mkdir(lock, 0o700)) // it cannot be opened for writing
	}

	boot()
	if recorded, table, err := IsClosed(h.StateFile()); err != nil || !recorded || table != "" {
		t.Errorf("IsClosed of an open host: got %v, %q, %v; want what is recorded, and no table", recorded, table, err)
	}
	for range 2 {
		if closed, err := Restore(h.StateFile(), nil); err != nil || !closed {
			t.Errorf("Restore: got %v, %v, want lockdown", closed, err)
		}
		closes(t, h, "after Restore")
	}
	if recorded, table, err := IsClosed(h.StateFile()); err != nil || !recorded || table != "penstock_pen0" {
		t.Errorf("IsClosed of a closed host: got %v, %q, %v; want both", recorded, table, err)
	}

	boot()
	text, err := os.ReadFile(h.StateFile())
	hosttest.Must(t, err)
	hosttest.Must(t, os.WriteFile(h.StateFile(), bytes.TrimSpace(text)[:40], 0o600))
	if closed, err := Restore(h.StateFile(), nil); err != nil || !closed {
		t.Errorf("Restore with a file cut short: got %v, %v, want lockdown", closed, err)
	}
	closes(t, h, "after Restore with a file cut short")

	boot()
	hosttest.Must(t, os.Remove(h.StateFile()))
	if closed, err := Restore(h.StateFile(), nil); err == nil || closed {
		t.Errorf("Restore without a state file: got %v, %v, want an error and no lockdown", closed, err)
	}
	c := config(h)
	open := s
	open.Lockdown = false
	hosttest.Must(t, Seal(c, open))
	if _, table, err := IsClosed(h.StateFile()); err != nil || table != "" {
		t.Errorf("Seal without lockdown: got table %q, %v; want none", table, err)
	}
	hosttest.Must(t, Seal(c, s))
	closes(t, h, "after Seal")

	// The disk is mended.
	hosttest.Must(t, os.Remove(lock))
	host, err = Open(c)
	hosttest.Must(t, err)
	hosttest.Must(t, host.Apply(t.Context(), s))
	hosttest.Must(t, host.Close())
	lift(t, h, true)
	if recorded, table, err := IsClosed(h.StateFile()); err != nil || recorded || table != "" {
		t.Errorf("IsClosed after Lift: got %v, %q, %v; want neither", recorded, table, err)
	}
}
