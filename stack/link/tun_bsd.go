//go:build darwin || freebsd || openbsd

package link

import (
	"os"

	"golang.zx2c4.com/wireguard/tun"
)

func deviceFromFile(f *os.File, mtu int) (tun.Device, error) { return tun.CreateTUNFromFile(f, mtu) }
