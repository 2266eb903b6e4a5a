package datagram

import (
	"net/netip"
	"sync/atomic"
	"time"
)

// pathAge is how long the MTU of a path is believed: it may be another one later (RFC 1191, 6.3).
const pathAge = 10 * time.Minute

// path is what a flow knows of the largest packet that passes beyond it: of the client's packets, or of ours if we dialled it.
type path struct {
	mtu     atomic.Uint32 // bytes, IP header included; 0 if nothing is known
	since   atomic.Int64  // as of Config.Now
	largest atomic.Uint32 // packet of the client's that must not be cut, since the mtu was set
}

func (p *path) set(mtu int, now int64) {
	p.since.Store(now)
	p.mtu.Store(uint32(mtu))
}

// now returns the MTU, or 0 if none is known any more.
func (p *path) now(now int64) int {
	if time.Duration(now-p.since.Load()) > pathAge {
		return 0
	}
	return int(p.mtu.Load())
}

// SetPathMTU bounds the packets that the client may send without allowing that they are cut. A larger one gets the answer of a
// router (RFC 1191, RFC 8201), also the last if it was lost because of this.
func (c *Conn) SetPathMTU(mtu int) {
	mtu = plausible(mtu, c.key.Remote.Addr())
	c.path.set(mtu, c.t.Now())
	if size := int(c.path.largest.Swap(0)); size > mtu {
		c.t.Sender.TooBig(c.key, size, mtu)
	}
}

// PathMTU returns how large a packet of the flow may be, in bytes, IP header included, or 0 if no ICMP error has said it. The MTU of
// the stack's own link is not told: datagrams that exceed it are cut here.
func (c *Conn) PathMTU() int { return c.path.now(c.t.Now()) }

// sendMTU is the size from which what the flow writes is cut. Towards a client that is the link's: its path MTU is the other way's.
func (t *Table) sendMTU(c *Conn) int {
	mtu := t.Sender.MTU()
	if known := c.PathMTU(); known > 0 && c.owner.Own {
		return min(mtu, known)
	}
	return mtu
}

// plausible is an MTU that a path can have. Less would come from a forged message, and would turn every datagram into many.
func plausible(mtu int, a netip.Addr) int {
	if a.Is4() {
		return max(mtu, 576)
	}
	return max(mtu, 1280)
}

// fits reports whether a client's datagram that must not be cut fits through the path. If it does not, the client is told.
// It is not asked about answers to what we dialled: the MTU that is known there is that of our own packets.
func (t *Table) fits(c *Conn, n int) bool {
	size := c.key.Size(n)
	if size <= smallest {
		return true
	}
	if mtu := c.path.now(t.Now()); mtu > 0 && size > mtu {
		t.Sender.TooBig(c.key, size, mtu)
		return false
	}
	if size > int(c.path.largest.Load()) {
		c.path.largest.Store(uint32(size))
	}
	return true
}

// smallest is a packet that fits through any path, in bytes.
const smallest = 576
