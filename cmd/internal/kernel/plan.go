package kernel

import (
	"strconv"

	"penstock/cmd/internal/config"
)

// plan is what a configuration wants of the way.
type plan struct {
	off    string // why there is none; "": there is
	laptop bool   // it carries what the package's documentation says of a laptop
	name   string // of the TUN, if it is free
	mtu    int    // of the TUN, in bytes
}

// ethernet is the MTU of the usual uplink, in bytes.
const ethernet = 1500

// planOf returns the plan of a configuration with listen.tun or listen.wireguard.
func planOf(c *config.Config) plan {
	var p plan
	key, direct := "", ""
	if t := c.Listen.TUN; t != nil {
		p = plan{laptop: true, name: "penk0", mtu: max(t.MTU, ethernet)}
		key, direct = "listen.tun", t.Direct
		switch {
		case t.FD != nil:
			p.off = "listen.tun.fd is set"
		case t.Routes != "auto":
			p.off = "listen.tun.routes is " + t.Routes
		}
	} else {
		w := c.Listen.WireGuard
		p = plan{name: "penk" + strconv.Itoa(w.ListenPort), mtu: w.MTU}
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
