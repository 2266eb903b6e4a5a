// Package door holds handshake initiations of WireGuard back until it is known whose they are, so that strangers cost a device nothing,
// and it need not have the peers that are away.
//
// It answers no initiation, and does not know who the peers are: it is handed what does.
package door

import (
	"context"
	"encoding/binary"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/ratelimiter"
)

// A Door stands between the sockets and a device. It holds each handshake initiation back, finds out whose it is, makes sure that the
// device has that peer, and hands the initiation on. Answers pass if the device waits for them, and data always.
//
//	sockets --> receive --> waiting --> look --> passed --> device
//	            |     |                   |
//	       no mac1   no proof      no peer, or replayed
//	                 of address
//	                     |
//	                   asked --> answer --> a cookie
//
// It bears floods as the device does (WireGuard whitepaper, 5.3 and 5.4.7): what has no mac1 costs one hash, and while more wait than
// are looked at, the sender has to prove its address with a cookie first, and has a rate. In addition, no more than LookRate are
// looked at and no more than CookieRate sent a cookie, so that strangers cannot take a core. What comes beyond that without a proof is
// dropped before anything is computed. Addresses where a handshake was answered are proved: who is there already gets in.
//
// The device gets initiations of peers only, and no more at a time than it can have without load: a peer that has to come again with a
// cookie does so after 5 s. If it is under load nevertheless, it demands a cookie of its own, which the door cannot check; so whoever has
// proved an address to the door needs no more than that address for a while.
type Door struct {
	conn.Bind
	read  *reader
	admit func(device.NoisePublicKey, func() (Moment, error)) Refusal

	macs   device.CookieChecker
	rates  [2]ratelimiter.Ratelimiter // of addresses proved now, and earlier
	proved *proved
	looks  *rate.Limiter
	crowd  *rate.Limiter // what is more than it allows keeps the door under load
	asks   *asks
	made   time.Time
	loaded atomic.Int64 // until when the door is under load, nanoseconds after made

	given *given
	calls *calls

	asked, waiting, passed chan call
	refused                [refusals]atomic.Uint64

	mu     sync.Mutex    // guards below
	closed chan struct{} // once the sockets are; nil: there are none
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
	Busy                    // too many wait, or too many ask for a cookie
	Unproved                // the sender has not proved its address yet; it is sent a cookie
	TooMany                 // too many from one address
	Stranger                // no peer has this key
	Replayed                // or not made by whom it names
	NoRoom                  // the device takes no more peers
	Unasked                 // it answers nothing
	refusals
)

// String returns the refusal as a label.
func (r Refusal) String() string {
	return [...]string{"admitted", "forged", "busy", "unproved", "too_many", "stranger", "replayed", "no_room", "unasked"}[r]
}

const (
	queueSize = 1024      // as the device's own
	loadSize  = LookBurst // waiting: under load. It is a twentieth of a second's work
	loadLasts = time.Second

	// LookRate bounds how many initiations are read in a second. One takes about 0.1 ms, so it is a fifth of a core at most.
	LookRate = 2000
	// LookBurst is how many may be read at once.
	LookBurst = 500
)

// New returns a door before the sockets of a device with a private key. Run must be called.
//
// admit is called with the key of a peer that has perhaps sent an initiation, and what reads the time in it, which only the peer can
// have written; that takes about 0.1 ms. It makes sure that the device has the peer, or says why not.
func New(sockets conn.Bind, private device.NoisePrivateKey, public device.NoisePublicKey, admit func(device.NoisePublicKey, func() (Moment, error)) Refusal) *Door {
	d := &Door{
		Bind: sockets, read: newReader(private, public), admit: admit, looks: rate.NewLimiter(LookRate, LookBurst), made: time.Now(),
		asked: make(chan call, queueSize), waiting: make(chan call, queueSize), passed: make(chan call, queueSize),
		crowd: rate.NewLimiter(LookRate/2, LookBurst), asks: newAsks(), proved: newProved(), given: newGiven(), calls: newCalls(),
	}
	d.macs.Init(public)
	for i := range d.rates {
		d.rates[i].Init()
	}
	return d
}

// Refused returns how many initiations, and answers to none, were refused, by reason.
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

// hold takes the initiations out of what a socket has received, and the answers for which nobody waits. A size of 0 tells the device that
// there is nothing.
func (d *Door) hold(packets [][]byte, sizes []int, from []conn.Endpoint) {
	var now time.Time
	for i, size := range sizes {
		switch packet := packets[i][:size]; {
		case isInitiation(packet):
			if now.IsZero() {
				now = time.Now()
			}
			sizes[i] = 0
			if r := d.receive(packet, from[i], now); r != Admitted {
				d.refuse(r)
			}
		case isAnswer(packet) && !d.calls.wait(receiver(packet)):
			sizes[i] = 0
			d.refuse(Unasked)
		}
	}
}

// receive lets an initiation wait for a look, or says why not. Under load its sender must have proved its address. It must be fast: it is
// called between two packets of others.
func (d *Door) receive(packet []byte, from conn.Endpoint, now time.Time) Refusal {
	loaded := d.isLoaded(now)
	if addr := from.DstIP(); loaded && !hasMAC2(packet) && !d.proved.has(addr, now) && !d.asks.open(addr, now) {
		return Busy
	}
	if !d.macs.CheckMAC1(packet) {
		return Forged
	}
	if loaded {
		if r := d.proof(packet, from, now); r != Admitted {
			return r
		}
	}
	return put(d.waiting, packet, from)
}

// isLoaded reports whether addresses have to be proved. While it lasts it must be called for each initiation.
func (d *Door) isLoaded(now time.Time) bool {
	loaded := int64(now.Sub(d.made)) < d.loaded.Load()
	if len(d.waiting) >= loadSize || loaded && !d.crowd.AllowN(now, 1) {
		d.loadedUntil(now.Add(loadLasts))
		return true
	}
	return loaded
}

func (d *Door) loadedUntil(at time.Time) { d.loaded.Store(int64(at.Sub(d.made))) }

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
	if len(packets) == 1 { // the device sends messages of a handshake alone
		d.remember(packets[0], to)
	}
	return d.Bind.Send(packets, to)
}

// remember notes what the device sends to make a session.
func (d *Door) remember(packet []byte, to conn.Endpoint) {
	switch {
	case isInitiation(packet):
		d.calls.sent(sender(packet), time.Now())
	case isResponse(packet):
		now := time.Now()
		d.proved.session(to.DstIP(), now)
		d.calls.sent(sender(packet), now)
		d.given.answered()
	case isAnswer(packet):
		d.given.answered()
	}
}

// put puts an initiation into a queue, or drops it: its sender repeats it after 5 s.
func put(queue chan<- call, packet []byte, from conn.Endpoint) Refusal {
	c := call{from: from}
	copy(c.packet[:], packet)
	select {
	case queue <- c:
		return Admitted
	default:
		return Busy
	}
}

func (d *Door) refuse(r Refusal) { d.refused[r].Add(1) }

// Run looks and answers until ctx ends.
func (d *Door) Run(ctx context.Context) {
	for i := range d.rates {
		defer d.rates[i].Close()
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { d.look(ctx) })
	for {
		select {
		case <-ctx.Done():
			return
		case c := <-d.asked:
			d.sendCookie(&c)
		}
	}
}

// proof checks that the sender of an initiation has its address, or has it sent a cookie with which it can prove that.
func (d *Door) proof(packet []byte, from conn.Endpoint, now time.Time) Refusal {
	addr := from.DstIP()
	if hasMAC2(packet) && d.macs.CheckMAC2(packet, from.DstToBytes()) {
		d.proved.cookie(addr, now)
		if d.rates[0].Allow(addr) {
			return Admitted
		}
		return TooMany
	}
	known := d.proved.has(addr, now)
	if known && d.rates[1].Allow(addr) {
		return Admitted
	}
	// Others may send from a known address, or say that they do. With a cookie a peer that is there gets in.
	switch ask := d.asks.take(addr, now); {
	case ask && put(d.asked, packet, from) == Admitted:
		return Unproved
	case known:
		return TooMany
	}
	return Busy
}

func (d *Door) sendCookie(c *call) {
	reply, err := d.macs.CreateReply(c.packet[:], sender(c.packet[:]), c.from.DstToBytes())
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
			if r := put(d.passed, c.packet[:], c.from); r != Admitted {
				d.refuse(r)
			}
		}
	}
}
