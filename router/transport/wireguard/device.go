package wireguard

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

// core is the common part of client and server: a wireguard-go device and its sockets.
type core struct {
	dev  *device.Device
	port uint16 // configured UDP port; 0: any
	wg   sync.WaitGroup

	closing atomic.Bool // Close was called
}

// Errors after which the device cannot work again without the user.
var (
	errDeviceLost   = errors.New("the inner device was closed or failed")
	errNotPermitted = errors.New("marking UDP sockets needs CAP_NET_ADMIN")
	errNoPrivateKey = errors.New("no private key")
)

// newCore makes a device with peers. It owns inner and sockets, and these carry mark once they are open. On an error inner is
// closed.
func newCore(inner tun.Device, sockets conn.Bind, key PrivateKey, port uint16, mark uint32, peers string, log *device.Logger) (*core, error) {
	c := &core{port: port}
	quiet := &quietDevice{Device: inner, events: make(chan tun.Event)}
	c.dev = device.NewDevice(quiet, sockets, log)
	c.wg.Go(quiet.forward)

	var s script
	s.set("private_key", key.hex())
	err := c.dev.IpcSet(s.String() + peers)
	if err == nil && mark != 0 {
		// The standard bind takes no control function, but it marks a socket before anything is sent through it.
		err = c.dev.BindSetMark(mark)
	}
	if err != nil {
		c.close()
		return nil, fmt.Errorf("configure device: %w", err)
	}
	return c, nil
}

// up opens the sockets, or reopens them, and starts the peers. On an error the device is down.
func (c *core) up() error {
	// Set each time: the device forgets a port that it failed to open, and would take any port the next time.
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
		return fmt.Errorf("UDP port %d is in use: stop the program that uses it, or choose another port: %w", c.port, err)
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
	// Another program may have taken the port meanwhile. up tries the configured one, or any.
	if retry := c.up(); retry != nil {
		return errors.Join(err, retry)
	}
	return nil
}

// down closes the sockets and stops the peers. They forget their sessions and keep their counters.
func (c *core) down() { c.dev.Down() } // the error would only be that of closing a socket

// hasEnded reports whether the device was closed, by us or because its inner device failed.
func (c *core) hasEnded() bool {
	select {
	case <-c.dev.Wait():
		return true
	default:
		return false
	}
}

// close closes the device, its sockets and its inner device, and waits.
func (c *core) close() {
	c.dev.Close()
	c.wg.Wait()
}

// quietDevice hides all events of a device but changes of the MTU: wireguard-go opens and closes its sockets when its
// inner device goes up or down, and here Connect decides that.
type quietDevice struct {
	tun.Device
	events chan tun.Event
}

// Events returns the changes of the MTU.
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
