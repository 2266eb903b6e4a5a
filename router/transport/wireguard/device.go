package wireguard

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"syscall"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"penstock/router/transport"
)

// core is what client and server have in common: a device of wireguard-go and its sockets.
type core struct {
	dev  *device.Device
	port uint16 // configured UDP port; 0: any
	wg   sync.WaitGroup
}

// newCore makes a device that owns inner and whose sockets, once open, carry mark.
func newCore(inner tun.Device, key PrivateKey, port uint16, mark uint32, log *slog.Logger) (*core, error) {
	c := &core{port: port}
	quiet := &quietDevice{Device: inner, events: make(chan tun.Event)}
	c.dev = device.NewDevice(quiet, conn.NewDefaultBind(), newDeviceLogger(log))
	c.wg.Go(quiet.forward)

	var s script
	s.set("private_key", key.hex())
	err := c.dev.IpcSet(s.String())
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

// up opens the sockets and starts the peers. It does nothing to a device that is up.
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
	c.dev.Down() // what failed is already reported
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("UDP port %d is in use: stop the program that holds it or choose another port: %w", c.port, err)
	case errors.Is(err, syscall.EPERM):
		return &transport.BlockedError{Reason: transport.ReasonError, Err: fmt.Errorf("open UDP sockets: the mark needs CAP_NET_ADMIN: %w", err)}
	}
	return fmt.Errorf("open UDP sockets: %w", err)
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
