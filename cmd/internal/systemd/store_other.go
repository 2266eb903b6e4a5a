//go:build !linux

package systemd

// Keep does nothing: no service manager here keeps sockets.
func (n *Notifier) Keep(string, uintptr) error { return nil }

// Drop does nothing.
func (n *Notifier) Drop(string) error { return nil }
