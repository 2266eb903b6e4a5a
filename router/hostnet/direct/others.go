package direct

import (
	"net/netip"
	"slices"
	"strconv"
	"sync/atomic"
)

// Other is a network that another program, such as a mesh VPN, leads into an interface of its own, by a routing table of
// its own.
type Other struct {
	Network   netip.Prefix
	Interface string // "": the table leaves this part of a larger network to the tables after it
	Table     int
}

// String says it as people write it: "100.64.0.0/10 by mesh0 (table 52)".
func (o Other) String() string {
	return o.Network.String() + " by " + o.Interface + " (table " + strconv.Itoa(o.Table) + ")"
}

// Others are the networks of other programs at the moment. The zero value knows none. It is safe for concurrent use, and
// shared by who finds them out and who dials.
type Others struct{ now atomic.Pointer[[]Other] }

// Set replaces the networks. Of two that contain an address, the first counts.
func (o *Others) Set(list []Other) {
	list = slices.Clone(list)
	o.now.Store(&list)
}

// List returns what was set. o may be nil.
func (o *Others) List() []Other {
	if o == nil {
		return nil
	}
	if list := o.now.Load(); list != nil {
		return slices.Clone(*list)
	}
	return nil
}

// Of returns the network that an address is in, and whether there is one. o may be nil.
func (o *Others) Of(addr netip.Addr) (Other, bool) {
	if o == nil {
		return Other{}, false
	}
	list := o.now.Load()
	if list == nil {
		return Other{}, false
	}
	i := slices.IndexFunc(*list, func(n Other) bool { return n.Network.Contains(addr) })
	if i < 0 || (*list)[i].Interface == "" {
		return Other{}, false
	}
	return (*list)[i], true
}
