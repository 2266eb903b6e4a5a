package hostnet

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"penstock/router/hostnet/internal/rtnl"
)

// linkUp brings the TUN up with its MTU and its queue.
type linkUp struct {
	Name     string `json:"name"`
	Index    int    `json:"index"`
	MTU      int    `json:"mtu,omitempty"` // 0: as it is
	WasMTU   int    `json:"was_mtu"`
	WasQueue int    `json:"was_queue,omitempty"` // in packets; 0: it stays
	WasUp    bool   `json:"was_up"`
}

// tunQueue is how many packets wait in the TUN at most. With the kernel's 500, programs that send 100,000 datagrams a second lost some
// whenever penstock had not run for 5 ms.
const tunQueue = 2000

func (l *linkUp) stage() stage { return stageLink }
func (l *linkUp) key() any     { return linkUp{Name: l.Name, Index: l.Index} }

func (l *linkUp) String() string { return fmt.Sprintf("link %s #%d", l.Name, l.Index) }

func (l *linkUp) adopt(earlier change) change {
	adopted, was := *l, earlier.(*linkUp)
	adopted.WasMTU, adopted.WasQueue, adopted.WasUp = was.WasMTU, was.WasQueue, was.WasUp
	return &adopted
}

func (l *linkUp) present(v *view) (bool, error) {
	link, err := v.nl.LinkByIndex(l.Index)
	if err != nil {
		return false, err
	}
	up := link.Attrs().Flags&unix.IFF_UP != 0
	return up && (l.MTU == 0 || link.Attrs().MTU == l.MTU), nil
}

func (l *linkUp) make(k *kernel) error {
	link, err := k.nl.LinkByIndex(l.Index)
	if err != nil {
		return err
	}
	if l.MTU != 0 {
		if err := k.nl.LinkSetMTU(link, l.MTU); err != nil {
			return fmt.Errorf("set MTU %d: %w", l.MTU, err)
		}
	}
	if l.WasQueue < tunQueue && l.WasQueue > 0 {
		if err := k.nl.LinkSetTxQLen(link, tunQueue); err != nil {
			return fmt.Errorf("set queue of %d packets: %w", tunQueue, err)
		}
	}
	return k.nl.LinkSetUp(link)
}

func (l *linkUp) undo(k *kernel) error {
	link, err := k.nl.LinkByIndex(l.Index)
	if rtnl.IsNotFound(err) || (err == nil && link.Attrs().Name != l.Name) {
		return nil // it went with its process
	}
	if err != nil {
		return err
	}
	if l.MTU != 0 && link.Attrs().MTU == l.MTU && l.WasMTU != l.MTU {
		if err := k.nl.LinkSetMTU(link, l.WasMTU); err != nil {
			return fmt.Errorf("set MTU %d: %w", l.WasMTU, err)
		}
	}
	if l.WasQueue > 0 && link.Attrs().TxQLen == tunQueue {
		if err := k.nl.LinkSetTxQLen(link, l.WasQueue); err != nil {
			return fmt.Errorf("set queue of %d packets: %w", l.WasQueue, err)
		}
	}
	if !l.WasUp {
		return k.nl.LinkSetDown(link)
	}
	return nil
}

// address is one address on the TUN.
type address struct {
	Name          string       `json:"name"`
	Index         int          `json:"index"`
	Prefix        netip.Prefix `json:"prefix"`
	NoPrefixRoute bool         `json:"no_prefix_route,omitempty"` // only our table routes captured prefixes
}

func (a *address) stage() stage { return stageAddress }
func (a *address) key() any {
	return address{Name: a.Name, Index: a.Index, Prefix: a.Prefix}
}
func (a *address) String() string {
	return fmt.Sprintf("address %s dev %s #%d", a.Prefix, a.Name, a.Index)
}

func (a *address) present(v *view) (bool, error) {
	list, err := v.addrsOf(a.Index)
	if err != nil {
		return false, err
	}
	for _, n := range list {
		if n.IPNet != nil && rtnl.Prefix(n.IPNet, rtnl.Family(a.Prefix.Addr())) == a.Prefix {
			return true, nil
		}
	}
	return false, nil
}

func (a *address) make(k *kernel) error {
	link, err := k.nl.LinkByIndex(a.Index)
	if err != nil {
		return err
	}
	if err := k.nl.AddrAdd(link, a.netlink()); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

func (a *address) undo(k *kernel) error {
	link, err := k.nl.LinkByIndex(a.Index)
	if rtnl.IsNotFound(err) || (err == nil && link.Attrs().Name != a.Name) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := k.nl.AddrDel(link, a.netlink()); err != nil && !gone(err) {
		return err
	}
	return nil
}

func (a *address) netlink() *netlink.Addr {
	n := &netlink.Addr{IPNet: rtnl.IPNet(a.Prefix)}
	if a.Prefix.Addr().Is6() {
		n.Flags |= unix.IFA_F_NODAD // a TUN has no other hosts
	}
	if a.NoPrefixRoute {
		n.Flags |= unix.IFA_F_NOPREFIXROUTE
	}
	return n
}
