package wireguard

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

// core is what client and server have in common: a device of wireguard-go and its sockets.
type core struct {
	dev  *device.Device
	port uint16 // configured UDP port; 0: any
	wg   sync.WaitGroup

	closing atomic.Bool // Close was called
}

// What keeps a device from ever working again without the user.
var (
	errDeviceLost   = errors.New("the inner device has ended")
	errNotPermitted = errors.New("marking UDP sockets needs CAP_NET_ADMIN")
	errNoPrivateKey = errors.New("no private key")
)

// newCore makes a device with peers that owns inner, and whose sockets, once open, carry mark. On an error inner is closed.
func newCore(inner tun.Device, key PrivateKey, port uint16, mark uint32, peers string, log *slog.Logger) (*core, error) {
	c := &core{port: port}
	quiet := &quietDevice{Device: inner, events: make(chan tun.Event)}
	c.dev = device.NewDevice(quiet, conn.NewDefaultBind(), newDeviceLogger(log))
	c.wg.Go(quiet.forward)

	var s script
	s.set("private_key", key.hex())
	err := c.dev.IpcSet(s.String() + peers)
	if err == nil && mark != 0 {
		// The standard bind takes no control function, but the device marks a socket before anything is sent through it.
		err = c.dev.BindSetMark(mark)
	}
	if err != nil {
		c.close()
		return nil, fmt.Errorf("configure device: %w", err)
	}
	return c, nil
}

// up opens the sockets, anew if they are open, and starts the peers. On an error the device is down.
func (c *core) up() error {
	// Said each time: the device forgets its port when it fails to open it, and would take any the next time.
	var s script
	s.set("listen_port", c.port)
	err := c.dev.IpcSet(s.String())
	if err == nil {
		err = c.dev.Up()
	}
	if err == nil {
		return nil
	}
	c.down()
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("UDP port %d is in use: stop the program that holds it or choose another port: %w", c.port, err)
	case errors.Is(err, syscall.EPERM):
		return fmt.Errorf("open UDP sockets: %w: %w", errNotPermitted, err)
	}
	return fmt.Errorf("open UDP sockets: %w", err)
}

// rebind closes the sockets of a device that is up and opens new ones. On an error the device is down.
func (c *core) rebind() error {
	err := c.dev.BindUpdate()
	if err == nil {
		return nil
	}
	// Somebody else may have taken the port in between. The device has forgotten it, so this takes the configured one or any.
	if retry := c.up(); retry != nil {
		return errors.Join(err, retry)
	}
	return nil
}

// down closes the sockets and stops the peers, which forget their sessions and keep their counters.
func (c *core) down() { c.dev.Down() } // its error is that of closing a socket

// hasEnded reports whether the device was closed, by us or because its inner device failed.
func (c *core) hasEnded() bool {
	select {
	case <-c.dev.Wait():
		return true
	default:
		return false
	}
}

// close ends the device, its sockets and its inner device, and waits.
func (c *core) close() {
	c.dev.Close()
	c.wg.Wait()
}

// quietDevice passes on no event but a change of MTU. The device would open and close its sockets when its inner
// device says up or down; here that is decided by Connect.
type quietDevice struct {
	tun.Device
	events chan tun.Event
}

// Events returns what is left of the inner device's events.
func (d *quietDevice) Events() <-chan tun.Event { return d.events }

// forward runs until the inner device closes its events, which it does when it is closed.
func (d *quietDevice) forward() {
	defer close(d.events)
	for event := range d.Device.Events() {
		if event&tun.EventMTUUpdate != 0 {
			d.events <- tun.EventMTUUpdate
		}
	}
}
