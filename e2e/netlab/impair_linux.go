package netlab

import (
	"container/heap"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Priorities of the routing rules of impairments, after the local table and before main, and the number of their first table.
// The table of an interface is impairTable plus its index.
const (
	blackholePref = 50
	impairPref    = 100
	impairTable   = 5000
	impairQueue   = 10000 // packets that may wait for this process
)

// Blackhole makes the host silently drop, or forward again, every packet of both families that enters through an interface and
// is not for the host itself. Neighbours stay reachable, so the loss begins after the first hop.
func (h *Host) Blackhole(ifname string, on bool) error {
	return h.rules(ifname, on, netlink.Rule{Priority: blackholePref, IifName: ifname, Type: unix.FR_ACT_BLACKHOLE})
}

// rules installs or removes a routing rule in both families. Removing a missing rule, or installing one twice, is not an
// error.
func (h *Host) rules(ifname string, on bool, r netlink.Rule) error {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rule := netlink.NewRule()
		rule.Family, rule.Priority, rule.IifName, rule.Table, rule.Type = family, r.Priority, r.IifName, r.Table, r.Type
		change, done := h.links.RuleAdd, unix.EEXIST
		if !on {
			change, done = h.links.RuleDel, unix.ENOENT
		}
		if err := change(rule); err != nil && !errors.Is(err, done) {
			return fmt.Errorf("host %s: rule for %s on=%t: %w", h.name, ifname, on, err)
		}
	}
	return nil
}

// Impaired is an active impairment. Close ends it.
type Impaired struct {
	tun   *os.File
	later chan delayed // what run read, for deliver
	end   chan struct{}
	over  sync.WaitGroup
	undo  func() error
	once  sync.Once
}

type delayed struct {
	packet []byte
	due    time.Time
}

// Impair applies an impairment to the packets that enter a router through an interface and are not for the router itself. The
// opposite direction enters through another interface. The packets take a way through a TUN and this process, which costs
// throughput and one more hop. An interface has at most one impairment at a time.
//
// The kernel could do this with netem, but many kernels lack that module.
func (h *Host) Impair(ifname string, imp Impairment) (*Impaired, error) {
	link, err := h.links.LinkByName(ifname)
	if err != nil {
		return nil, fmt.Errorf("host %s: link %s: %w", h.name, ifname, err)
	}
	name := fmt.Sprintf("imp%d", link.Attrs().Index)
	table := impairTable + link.Attrs().Index
	i := &Impaired{later: make(chan delayed, 1024), end: make(chan struct{})}
	if err := h.Do(func() error { i.tun, err = openTUN(name); return err }); err != nil {
		return nil, fmt.Errorf("host %s: %w", h.name, err)
	}
	rule := netlink.Rule{Priority: impairPref, IifName: ifname, Table: table}
	i.undo = func() error { return h.rules(ifname, false, rule) }
	tun, err := h.links.LinkByName(name)
	if err == nil {
		err = h.links.LinkSetMTU(tun, link.Attrs().MTU)
	}
	if err == nil {
		err = h.links.LinkSetTxQLen(tun, impairQueue)
	}
	if err == nil {
		err = h.links.LinkSetUp(tun)
	}
	for _, all := range []string{"0.0.0.0/0", "::/0"} {
		if err == nil {
			err = h.links.RouteReplace(&netlink.Route{Dst: ipNet(netip.MustParsePrefix(all)), LinkIndex: tun.Attrs().Index, Table: table})
		}
	}
	if err == nil {
		err = h.rules(ifname, true, rule)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("host %s: impair %s: %w", h.name, ifname, err), i.Close())
	}
	i.over.Go(func() { i.run(imp) })
	i.over.Go(i.deliver)
	h.onClose(func() { _ = i.Close() }) // an error does not matter: the rules disappear with the namespace
	return i, nil
}

// openTUN makes a TUN in the calling thread's network namespace. It disappears when the file is closed.
func openTUN(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: open /dev/net/tun: %w", ErrUnavailable, err)
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make TUN %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// run reads packets and drops, duplicates, delays or forwards each, until the TUN is closed.
func (i *Impaired) run(imp Impairment) {
	defer close(i.later)
	buf := make([]byte, 1<<16)
	for {
		n, err := i.tun.Read(buf)
		if err != nil {
			return
		}
		if rand.Float64() < imp.Loss {
			continue
		}
		copies := 1
		if rand.Float64() < imp.Duplicate {
			copies = 2
		}
		for range copies {
			wait := imp.Delay
			if imp.Jitter > 0 {
				wait += rand.N(imp.Jitter)
			}
			if wait == 0 {
				_, _ = i.tun.Write(buf[:n]) // if the kernel refuses it, the packet is lost
				continue
			}
			select {
			case i.later <- delayed{append([]byte(nil), buf[:n]...), time.Now().Add(wait)}:
			case <-i.end:
				return
			}
		}
	}
}

// deliver writes delayed packets when they are due.
func (i *Impaired) deliver() {
	var queue byDue
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case d, ok := <-i.later:
			if !ok {
				return
			}
			heap.Push(&queue, d)
		case <-next.C:
		}
		for len(queue) > 0 && !queue[0].due.After(time.Now()) {
			_, _ = i.tun.Write(heap.Pop(&queue).(delayed).packet) // if refused, it is lost
		}
		if len(queue) > 0 {
			next.Reset(time.Until(queue[0].due))
		}
	}
}

// Close ends the impairment. Packets that are still delayed are lost.
func (i *Impaired) Close() error {
	var err error
	i.once.Do(func() {
		err = i.undo()
		close(i.end)
		i.tun.Close()
		i.over.Wait()
	})
	return err
}

// byDue is a heap of packets, ordered by when they are due.
type byDue []delayed

func (q byDue) Len() int           { return len(q) }
func (q byDue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q byDue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *byDue) Push(x any)        { *q = append(*q, x.(delayed)) }
func (q *byDue) Pop() any {
	old := *q
	last := old[len(old)-1]
	*q = old[:len(old)-1]
	return last
}
