package openvpn

import "runtime"

// platform is this system's name in the words of IV_PLAT.
func platform() string {
	switch runtime.GOOS {
	case "darwin":
		return "mac"
	case "windows":
		return "win"
	}
	return runtime.GOOS
}
