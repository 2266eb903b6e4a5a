package kernel

import (
	"path/filepath"
	"strconv"

	"penstock/cmd/internal/config"
)

// plan is what a configuration wants of the way.
type plan struct {
	off    string // why there is none; "": there is
	laptop bool   // it carries what the package's documentation says of a laptop
	name   string // of the TUN, if it is free
	state  string // the file that records the changes to the host
	beside string // the TUN that a laptop's programs send into
	mtu    int    // of the TUN, in bytes
}

// StateFile returns the file of a gateway that records the changes to the host, below the folder for its state.
func StateFile(dir string) string { return filepath.Join(dir, "kernel.json") }

// LaptopStateFile returns that of a laptop, beside listen.tun.state_file. A gateway may keep its own in the same folder.
func LaptopStateFile(stateFile string) string {
	return filepath.Join(filepath.Dir(stateFile), "kernel-laptop.json")
}

// ethernet is the MTU of the usual uplink, in bytes.
const ethernet = 1500

// planOf returns the plan of a configuration with listen.tun or listen.wireguard.
func planOf(c *config.Config) plan {
	var p plan
	key, direct := "", ""
	if t := c.Listen.TUN; t != nil {
		p = plan{laptop: true, name: "penk0", mtu: max(t.MTU, ethernet), state: LaptopStateFile(t.StateFile), beside: t.Name}
		if t.Name == p.name {
			p.name = "penk1"
		}
		key, direct = "listen.tun", t.Direct
		switch {
		case t.FD != nil:
			p.off = "listen.tun.fd is set"
		case t.Routes != "auto":
			p.off = "listen.tun.routes is " + t.Routes
		}
	} else {
		w := c.Listen.WireGuard
		p = plan{name: "penk" + strconv.Itoa(w.ListenPort), mtu: w.MTU, state: StateFile(c.StateDir)}
		key, direct = "listen.wireguard", w.Direct
	}
	switch {
	case c.Datapath == "terminate":
		p.off = "datapath is terminate"
	case direct != "kernel":
		p.off = key + ".direct is sockets"
	}
	return p
}
