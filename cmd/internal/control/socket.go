package control

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
)

// systemSocket is the socket of a penstock that root, or a service manager, started.
const systemSocket = "/run/penstock/control.sock"

// DefaultSocket is where a Server of this user listens: /run/penstock/control.sock for root; for others
// penstock/control.sock in $XDG_RUNTIME_DIR or, without that, .penstock/control.sock in the home directory. Other users can
// write to none of these folders.
func DefaultSocket() string {
	if os.Geteuid() == 0 {
		return systemSocket
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "penstock", "control.sock")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "penstock.sock" // in the working directory: without a home there is no better place
	}
	return filepath.Join(home, ".penstock", "control.sock")
}

// ErrNoGroup says that Config.Group is not there.
var ErrNoGroup = errors.New("this machine has no group")

// UnknownGroup reports whether group is a name that this machine does not know. A number needs no name.
func UnknownGroup(group string) bool {
	if _, err := strconv.Atoi(group); err == nil || group == "" {
		return false
	}
	_, err := user.LookupGroup(group)
	_, unknown := errors.AsType[user.UnknownGroupError](err)
	return unknown
}

// admitGroup lets the members of a group, by name or number, open the socket.
func admitGroup(path, group string) error {
	gid, err := strconv.Atoi(group)
	if err != nil {
		g, err := user.LookupGroup(group)
		if _, unknown := errors.AsType[user.UnknownGroupError](err); unknown {
			return fmt.Errorf("%w called %s", ErrNoGroup, group)
		}
		if err != nil {
			return fmt.Errorf("control.group: %w", err)
		}
		if gid, err = strconv.Atoi(g.Gid); err != nil {
			return fmt.Errorf("control.group: group %s has no number: %w", group, err)
		}
	}
	if err := os.Chown(path, -1, gid); err != nil {
		return err
	}
	return os.Chmod(path, 0o660)
}

// listenPrivate makes a socket that only its owner can open. Until its mode is set nobody can find it: it is made under
// a private name first.
func listenPrivate(path string) (net.Listener, error) {
	dir, err := os.MkdirTemp(filepath.Dir(path), ".") // short: the path of a socket has some 100 bytes
	if err != nil {
		return nil, err
	}
	defer os.Remove(dir)
	private := filepath.Join(dir, "s")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: private, Net: "unix"})
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false)
	if err := os.Chmod(private, 0o600); err != nil {
		listener.Close()
		return nil, err
	}
	if err := os.Rename(private, path); err != nil {
		listener.Close()
		return nil, err
	}
	return &unlinking{Listener: listener, path: path}, nil
}

// unlinking removes its socket when it is closed, once: later the path may be another process's.
type unlinking struct {
	net.Listener
	path string
	once sync.Once
}

func (l *unlinking) Close() error {
	l.once.Do(func() { os.Remove(l.path) })
	return l.Listener.Close()
}
