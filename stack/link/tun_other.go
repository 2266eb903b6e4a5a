//go:build !linux

package link

import (
	"fmt"
	"os"

	"golang.zx2c4.com/wireguard/tun"
)

// isGone: these systems report that a device is gone by closing it.
func isGone(tun.Device) bool { return false }

// OpenTUN makes a TUN device, or takes one over from a descriptor. The error says what to do where a privilege is missing.
func OpenTUN(c TUNConfig) (*TUN, error) {
	dev, err := openDevice(c)
	if err != nil {
		return nil, err
	}
	name, err := dev.Name()
	if err != nil {
		dev.Close()
		return nil, fmt.Errorf("tun: read the interface's name: %w", err)
	}
	return &TUN{Port: FromDevice(dev), name: name}, nil
}

func openDevice(c TUNConfig) (tun.Device, error) {
	if c.HasFD {
		dev, err := deviceFromFile(os.NewFile(uintptr(c.FD), "tun"), c.mtu())
		if err != nil {
			return nil, fmt.Errorf("tun: use descriptor %d: %w", c.FD, err)
		}
		return dev, nil
	}
	dev, err := tun.CreateTUN(c.Name, c.mtu())
	if err != nil {
		return nil, fmt.Errorf("tun: create %q: %w", c.Name, err)
	}
	return dev, nil
}
