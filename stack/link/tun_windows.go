package link

import (
	"errors"
	"os"

	"golang.zx2c4.com/wireguard/tun"
)

// deviceFromFile: Wintun adapters are not file descriptors.
func deviceFromFile(*os.File, int) (tun.Device, error) { return nil, errors.ErrUnsupported }
