package dnsproxy

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/miekg/dns"
)

// rounds is how often an upstream that stays silent is asked.
const rounds = 3

// group is the upstreams of a zone, or those of all other names.
type group struct {
	upstreams []*upstream
	selection Selection
	spawn     func(func())
	metrics   *Metrics
}

// reply is what an upstream had to say.
type reply struct {
	msg  *dns.Msg
	from *upstream
	err  error
}

var (
	errNone   = errors.New("no upstream is configured")
	errOutrun = errors.New("another upstream was faster")
	errLame   = errors.New("not a resolver: it refers to other servers")
)

// errRcode says that an upstream answered with a failure of its own.
type errRcode int

func (e errRcode) Error() string { return "answered " + dns.RcodeToString[int(e)] }

// ask asks the upstreams in turn until one has a good answer. The next one is asked as soon as one fails or is late. Those that
// stay silent are asked again, as ctx allows. Sent is told the id of each query before it goes out.
func (g *group) ask(ctx context.Context, query []byte, sent func(id uint16)) (*dns.Msg, *upstream, error) {
	if len(g.upstreams) == 0 {
		return nil, nil, errNone
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(errOutrun)
	order := g.order(time.Now())
	replies := make(chan reply, rounds*len(order)) // so that nobody waits to be heard
	failed := make(map[*upstream]error)
	next := time.NewTimer(0)
	defer next.Stop()

	for asked, pending := 0, 0; ; {
		select {
		case <-next.C:
			if asked == cap(replies) {
				continue
			}
			u := order[asked%len(order)]
			next.Reset(g.pause(order, asked))
			asked++
			if failed[u] != nil {
				next.Reset(0)
				continue
			}
			pending++
			g.spawn(func() { replies <- g.attempt(ctx, u, query, sent) })
		case r := <-replies:
			pending--
			if r.err == nil {
				return r.msg, r.from, nil
			}
			failed[r.from] = r.err
			if pending == 0 && len(failed) == len(order) {
				return nil, nil, joined(order, failed)
			}
			if asked < len(order) {
				next.Reset(0)
			}
		}
	}
}

// order is the upstreams in the order in which a query asks them. Those that are down come last: better late than nothing.
func (g *group) order(now time.Time) []*upstream {
	var up, down []*upstream
	for _, u := range g.upstreams {
		if u.takes(now) {
			up = append(up, u)
		} else {
			down = append(down, u)
		}
	}
	if g.selection != Ordered { // those not measured yet have an average of 0 and so come first
		slices.SortStableFunc(up, func(a, b *upstream) int { return cmp.Compare(a.average(), b.average()) })
	}
	return append(up, down...)
}

// pause is the time between the attempt i and the one after it.
func (g *group) pause(order []*upstream, i int) time.Duration {
	switch {
	case i+1 >= len(order):
		return firstTimeout << (i / len(order))
	case i == 0 && g.selection == Parallel:
		return 0
	}
	return order[i].hedge()
}

// attempt asks one upstream once and notes how it did.
func (g *group) attempt(ctx context.Context, u *upstream, query []byte, sent func(id uint16)) reply {
	query = bytes.Clone(query)
	rand.Read(query[:2])
	sent(binary.BigEndian.Uint16(query))
	begun := time.Now()
	msg, err := u.ask(ctx, query)
	after := time.Since(begun)
	switch {
	case err == nil:
		u.succeeded(after)
		g.metrics.answered(u.name, after)
	case errors.Is(context.Cause(ctx), errOutrun):
		u.outrun(after)
	default:
		u.failed()
		g.metrics.failed(u.name)
	}
	return reply{msg, u, err}
}

// ask makes one exchange and reads the answer.
func (u *upstream) ask(ctx context.Context, query []byte) (msg *dns.Msg, err error) {
	defer rescue(&err)
	answer, err := u.exchange(ctx, query)
	if err != nil {
		return nil, err
	}
	msg = new(dns.Msg)
	if err := msg.Unpack(answer); err != nil {
		return nil, fmt.Errorf("bad answer: %w", err)
	}
	if !whole(answer, msg) {
		return nil, errors.New("bad answer: records are missing")
	}
	if msg.Rcode != dns.RcodeSuccess && msg.Rcode != dns.RcodeNameError {
		return nil, errRcode(msg.Rcode)
	}
	if lame(msg) {
		return nil, errLame
	}
	return msg, nil
}

// rescue turns a panic into an error: one message of one server must not end the service.
func rescue(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
	}
}

// whole says whether msg has as many records as its header announces. Unpack takes a message that ends early for a short one.
func whole(wire []byte, msg *dns.Msg) bool {
	return len(msg.Answer) == int(binary.BigEndian.Uint16(wire[6:])) &&
		len(msg.Ns) == int(binary.BigEndian.Uint16(wire[8:])) &&
		len(msg.Extra) == int(binary.BigEndian.Uint16(wire[10:]))
}

// lame says whether msg is a referral, which a resolver never gives.
func lame(msg *dns.Msg) bool {
	isNS := func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeNS }
	return msg.Rcode == dns.RcodeSuccess && len(msg.Answer) == 0 && !msg.Authoritative && !msg.RecursionAvailable &&
		slices.ContainsFunc(msg.Ns, isNS)
}

// joined puts the errors of all upstreams into one.
func joined(order []*upstream, failed map[*upstream]error) error {
	var errs []error
	for _, u := range order {
		errs = append(errs, fmt.Errorf("upstream %s: %w", u.name, failed[u]))
	}
	return errors.Join(errs...)
}

// upstreamQuery is the message that asks upstreams for q. It carries an OPT record of our own and nothing else of the client's:
// cookies, subnets and padding are between two neighbours. AD asks to be told whether the answer was validated (RFC 6840 5.7).
func upstreamQuery(q *question) []byte {
	out := make([]byte, headerLen, headerLen+q.len+4+11)
	binary.BigEndian.PutUint16(out[2:], bitRD|bitAD|q.flags&bitCD)
	out[5], out[11] = 1, 1
	out = append(out, q.lower[:q.len]...)
	out = binary.BigEndian.AppendUint16(out, q.qtype)
	out = binary.BigEndian.AppendUint16(out, q.qclass)
	do := byte(0)
	if q.do {
		do = 0x80
	}
	return append(out, 0, 0, byte(dns.TypeOPT), maxUDP>>8, maxUDP&0xff, 0, 0, do, 0, 0, 0)
}
