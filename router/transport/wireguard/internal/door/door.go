// Package door holds handshake initiations of WireGuard back until it is known whose they are, so that a device need not have the
// peers that are away.
//
// It answers no initiation, and does not know who the peers are: it is handed what does.
package door

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/ratelimiter"
)

// A Door stands between the sockets and a device that does not have all peers. It holds each handshake initiation back, finds out
// whose it is, has that peer added to the device, and hands the initiation on. All other packets pass at once.
//
//	sockets --> receive --> arrived --> sort --> waiting --> look --> passed --> device
//	               |                      |                   |
//	            no mac1           no proof of address     no peer, or replayed
//
// It bears floods as the device does (WireGuard whitepaper, 5.3 and 5.4.7): what has no mac1 costs one hash, and while more wait than
// are looked at, the sender has to prove its address with a cookie first, and has a rate. In addition, no more than LookRate are
// looked at, so that strangers cannot take a core. The device gets initiations of peers only, and no more at a time than it can have
// without load: a peer that has to come again with a cookie does so after 5 s. If it is under load nevertheless, it demands a cookie of
// its own, which the door cannot check; so whoever has proved an address to the door needs no more than that address for a while.
type Door struct {
	conn.Bind
	read  *reader
	admit func(device.NoisePublicKey, func() (Moment, error)) Refusal

	macs   device.CookieChecker
	rates  [2]ratelimiter.Ratelimiter // of addresses proved now, and earlier
	looks  *rate.Limiter
	loaded atomic.Int64 // until when the door is under load, Unix nanoseconds

	given *given

	arrived, waiting, passed chan call
	refused                  [refusals]atomic.Uint64

	mu     sync.Mutex    // guards below
	closed chan struct{} // once the sockets are; nil: there are none
	proved map[netip.Addr]time.Time
}

// call is an initiation.
type call struct {
	packet [device.MessageInitiationSize]byte
	from   conn.Endpoint
}

// Refusal is why a handshake was refused.
type Refusal uint8

const (
	Admitted Refusal = iota // it was not
	Forged                  // the sender does not know our public key
	Busy                    // too many wait
	Unproved                // the sender has not proved its address yet; it was sent a cookie
	TooMany                 // too many from one address
	Stranger                // no peer has this key
	Replayed                // or not made by whom it names
	NoRoom                  // the device takes no more peers
	refusals
)

// String returns the refusal as a label.
func (r Refusal) String() string {
	return [...]string{"admitted", "forged", "busy", "unproved", "too_many", "stranger", "replayed", "no_room"}[r]
}

const (
	queueSize = 1024      // as the device's own
	loadSize  = LookBurst // waiting: under load. It is a twentieth of a second's work
	loadLasts = time.Second

	// LookRate bounds how many initiations are read in a second. One takes about 0.1 ms, so it is a fifth of a core at most.
	LookRate = 2000
	// LookBurst is how many may be read at once.
	LookBurst = 500

	// provedLasts is how long a cookie is good for.
	provedLasts = 120 * time.Second
	mostProved  = 4096
)

// New returns a door before the sockets of a device with a private key. Run must be called.
//
// admit is called with the key of a peer that has perhaps sent an initiation, and what reads the time in it, which only the peer can
// have written; that takes about 0.1 ms. It makes sure that the device has the peer, or says why not.
func New(sockets conn.Bind, private device.NoisePrivateKey, public device.NoisePublicKey, admit func(device.NoisePublicKey, func() (Moment, error)) Refusal) *Door {
	d := &Door{
		Bind: sockets, read: newReader(private, public), admit: admit, looks: rate.NewLimiter(LookRate, LookBurst),
		arrived: make(chan call, queueSize), waiting: make(chan call, queueSize), passed: make(chan call, queueSize),
		proved: make(map[netip.Addr]time.Time), given: newGiven(),
	}
	d.macs.Init(public)
	return d
}

// Refused returns how many initiations were refused, by reason.
func (d *Door) Refused() map[Refusal]uint64 {
	n := make(map[Refusal]uint64, int(refusals)-1)
	for r := Forged; r < refusals; r++ {
		n[r] = d.refused[r].Load()
	}
	return n
}

// Open opens the sockets, and a way for what the door has let pass.
func (d *Door) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	sockets, port, err := d.Bind.Open(port)
	if err != nil {
		return nil, 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	closed := make(chan struct{})
	d.closed = closed
	var ways []conn.ReceiveFunc
	for _, receive := range sockets {
		ways = append(ways, func(packets [][]byte, sizes []int, from []conn.Endpoint) (int, error) {
			n, err := receive(packets, sizes, from)
			if err == nil {
				d.hold(packets[:n], sizes[:n], from[:n])
			}
			return n, err
		})
	}
	return append(ways, func(packets [][]byte, sizes []int, from []conn.Endpoint) (int, error) {
		return d.pass(closed, packets, sizes, from)
	}), port, nil
}

// Close closes the sockets, and the way of what passes.
func (d *Door) Close() error {
	d.mu.Lock()
	if d.closed != nil {
		close(d.closed)
		d.closed = nil
	}
	d.mu.Unlock()
	return d.Bind.Close()
}

// hold takes the initiations out of what a socket has received. A size of 0 tells the device that there is nothing.
func (d *Door) hold(packets [][]byte, sizes []int, from []conn.Endpoint) {
	for i, size := range sizes {
		if size != device.MessageInitiationSize || !isInitiation(packets[i][:size]) {
			continue
		}
		sizes[i] = 0
		if !d.macs.CheckMAC1(packets[i][:size]) {
			d.refuse(Forged)
			continue
		}
		c := call{from: from[i]}
		copy(c.packet[:], packets[i])
		d.put(d.arrived, c)
	}
}

// pass gives the device what the door has let pass.
func (d *Door) pass(closed <-chan struct{}, packets [][]byte, sizes []int, from []conn.Endpoint) (n int, err error) {
	var c call
	select {
	case <-closed:
		return 0, net.ErrClosed
	case c = <-d.passed:
	}
	room, wait := d.given.take(min(len(packets), 1+len(d.passed)), time.Now())
	for room == 0 {
		timer := time.NewTimer(wait)
		select {
		case <-closed:
			timer.Stop()
			return 0, net.ErrClosed
		case <-d.given.freed:
			timer.Stop()
		case <-timer.C:
		}
		room, wait = d.given.take(1, time.Now())
	}
	for {
		sizes[n], from[n] = copy(packets[n], c.packet[:]), c.from
		if n++; n == room {
			return n, nil
		}
		c = <-d.passed // nobody else takes them
	}
}

// Send sends what the device sends.
func (d *Door) Send(packets [][]byte, to conn.Endpoint) error {
	if len(packets) == 1 && isAnswer(packets[0]) { // the device sends each alone
		d.given.answered()
	}
	return d.Bind.Send(packets, to)
}

// put puts an initiation into a queue, or drops it: its sender repeats it after 5 s.
func (d *Door) put(queue chan<- call, c call) {
	select {
	case queue <- c:
	default:
		d.refuse(Busy)
	}
}

func (d *Door) refuse(r Refusal) { d.refused[r].Add(1) }

// Run sorts and looks until ctx ends.
func (d *Door) Run(ctx context.Context) {
	for i := range d.rates {
		d.rates[i].Init()
		defer d.rates[i].Close()
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { d.look(ctx) })
	for {
		select {
		case <-ctx.Done():
			return
		case c := <-d.arrived:
			d.sort(c, time.Now())
		}
	}
}

// sort lets an initiation wait for a look. Under load its sender must have proved its address.
func (d *Door) sort(c call, now time.Time) {
	if len(d.waiting) >= loadSize {
		d.loaded.Store(now.Add(loadLasts).UnixNano())
	}
	if now.UnixNano() < d.loaded.Load() {
		if r := d.proof(&c, now); r != Admitted {
			d.refuse(r)
			return
		}
	}
	d.put(d.waiting, c)
}

// proof checks that the sender of an initiation has its address, or sends it a cookie with which it can prove that.
func (d *Door) proof(c *call, now time.Time) Refusal {
	addr, bytes := c.from.DstIP(), c.from.DstToBytes()
	which := 0
	d.mu.Lock()
	if d.macs.CheckMAC2(c.packet[:], bytes) {
		d.remember(addr, now)
	} else if until, ok := d.proved[addr]; ok && now.Before(until) {
		which = 1
	} else {
		d.mu.Unlock()
		d.sendCookie(c, bytes)
		return Unproved
	}
	d.mu.Unlock()
	if !d.rates[which].Allow(addr) {
		return TooMany
	}
	return Admitted
}

// remember needs mu.
func (d *Door) remember(addr netip.Addr, now time.Time) {
	if _, known := d.proved[addr]; !known && len(d.proved) >= mostProved {
		for other, until := range d.proved {
			if now.After(until) {
				delete(d.proved, other)
			}
		}
		if len(d.proved) >= mostProved {
			return // it can prove its address each time
		}
	}
	d.proved[addr] = now.Add(provedLasts)
}

func (d *Door) sendCookie(c *call, addr []byte) {
	reply, err := d.macs.CreateReply(c.packet[:], binary.LittleEndian.Uint32(c.packet[4:]), addr)
	if err != nil {
		return // no randomness
	}
	packet := make([]byte, 0, device.MessageCookieReplySize)
	packet = binary.LittleEndian.AppendUint32(packet, reply.Type)
	packet = binary.LittleEndian.AppendUint32(packet, reply.Receiver)
	packet = append(append(packet, reply.Nonce[:]...), reply.Cookie[:]...)
	_ = d.Bind.Send([][]byte{packet}, c.from) // it will ask again
}

// look reads who has sent what waits, and lets peers pass.
func (d *Door) look(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case c := <-d.waiting:
			if d.looks.Wait(ctx) != nil {
				return
			}
			o, err := d.read.open(c.packet[:])
			if err != nil {
				d.refuse(Stranger)
				continue
			}
			if r := d.admit(o.caller, func() (Moment, error) { return d.read.moment(o, c.packet[:]) }); r != Admitted {
				d.refuse(r)
				continue
			}
			d.put(d.passed, c)
		}
	}
}
