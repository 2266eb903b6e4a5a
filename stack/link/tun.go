package link

// TUNConfig says which TUN device OpenTUN makes or takes over.
type TUNConfig struct {
	Name string // interface name; empty lets the system choose where it can. Ignored with FD
	MTU  int    // bytes, IP header included; 0 means 1500
	// FD is an open TUN descriptor to use instead of making a device, if HasFD. It is owned by the Port from then on.
	FD    int
	HasFD bool
	// NoOffload keeps to one ordinary packet per read and write, for kernels whose offloads are broken.
	NoOffload bool
}

// TUN is a Port on an operating system's TUN device.
type TUN struct {
	Port
	name string
}

// Name is the interface's name as the system gave it.
func (t *TUN) Name() string { return t.name }

func (c TUNConfig) mtu() int {
	if c.MTU == 0 {
		return 1500
	}
	return c.MTU
}
