package netlab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// inside calls fn with the calling goroutine in the host's network namespace, but not in its mount namespace. fn may block,
// because it does not run on the host's thread.
func (h *Host) inside(fn func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	if err := h.enterNet(); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("host %s: %w", h.name, err)
	}
	err = fn()
	if back := setns(home); back != nil {
		// The goroutine stays locked, so the thread ends with it and no other goroutine runs on it.
		return errors.Join(err, fmt.Errorf("leave host %s: %w", h.name, back))
	}
	runtime.UnlockOSThread()
	return err
}

// enterNet moves the calling thread into the host's network namespace.
func (h *Host) enterNet() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.alive.Err() != nil {
		return ErrClosed
	}
	return setns(h.net)
}

func setns(ns *os.File) error {
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("set network namespace: %w", err)
	}
	return nil
}

// DialContext connects from inside the host, like net.Dialer. It resolves names with Lookup and tries their addresses one after
// the other, IPv4 first. Close ends a hanging dial.
func (h *Host) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return h.dial(ctx, new(net.Dialer), network, address)
}

// DialFrom is like DialContext, from one of the host's addresses.
func (h *Host) DialFrom(ctx context.Context, from netip.Addr, network, address string) (net.Conn, error) {
	local := netip.AddrPortFrom(from, 0)
	d := &net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(local)}
	if network[:3] == "udp" {
		d.LocalAddr = net.UDPAddrFromAddrPort(local)
	}
	return h.dial(ctx, d, network, address)
}

func (h *Host) dial(ctx context.Context, d *net.Dialer, network, address string) (net.Conn, error) {
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	addrs := []netip.Addr{}
	if ip, err := netip.ParseAddr(host); err == nil {
		addrs = append(addrs, ip)
	} else if addrs, err = h.Lookup(ctx, host); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(h.alive, cancel)()
	var failed error
	for _, ip := range addrs {
		if network[len(network)-1] == '4' && !ip.Is4() || network[len(network)-1] == '6' && ip.Is4() {
			continue
		}
		var conn net.Conn
		err := h.inside(func() error {
			conn, err = d.DialContext(ctx, network, net.JoinHostPort(ip.String(), service))
			return err
		})
		if err == nil {
			return conn, nil
		}
		failed = errors.Join(failed, err)
	}
	if failed == nil {
		failed = fmt.Errorf("host %s: dial %s %s: no address of that family", h.name, network, host)
	}
	return nil, failed
}

// Listen listens inside the host, as net.ListenConfig does; address must be literal.
func (h *Host) Listen(ctx context.Context, network, address string) (l net.Listener, err error) {
	err = h.inside(func() error {
		l, err = new(net.ListenConfig).Listen(ctx, network, address)
		return err
	})
	return l, err
}

// ListenPacket opens a packet socket inside the host, as net.ListenConfig does; address must be literal.
func (h *Host) ListenPacket(ctx context.Context, network, address string) (c net.PacketConn, err error) {
	err = h.inside(func() error {
		c, err = new(net.ListenConfig).ListenPacket(ctx, network, address)
		return err
	})
	return c, err
}
