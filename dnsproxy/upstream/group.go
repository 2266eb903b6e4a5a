package upstream

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/miekg/dns"

	"penstock/dnsproxy/wire"
)

// rounds is how often an upstream that stays silent is asked.
const rounds = 3

// Group is upstreams that stand in for one another. It does not change.
type Group struct {
	upstreams []*Upstream
	selection Selection
	spawn     func(func())
}

// NewGroup returns a group of upstreams, each of which counts once. Spawn starts goroutines as Config.Go does.
func NewGroup(upstreams []*Upstream, selection Selection, spawn func(func())) *Group {
	g := &Group{selection: selection, spawn: spawn}
	for _, u := range upstreams {
		if !slices.Contains(g.upstreams, u) {
			g.upstreams = append(g.upstreams, u)
		}
	}
	return g
}

// reply is what an upstream had to say.
type reply struct {
	msg  *dns.Msg
	from *Upstream
	err  error
}

// ErrNone says that a group has no upstream.
var ErrNone = errors.New("no upstream is configured")

// errOutrun ends the attempts that lost.
var errOutrun = errors.New("another upstream was faster")

// Failure says that an upstream answered, but did not answer the question.
type Failure struct {
	Rcode int      // what clients are to be told: FORMERR, SERVFAIL, NOTIMP or REFUSED
	EDE   wire.EDE // what the upstream said more; zero if nothing
	text  string
}

func (f *Failure) Error() string { return f.text }

// Ask asks the upstreams in turn until one has a good answer, and returns that one's name with it. The next one is asked as soon as
// one fails or is late. Those that stay silent are asked again, as ctx allows. Sent is told the id of each query before it goes
// out. An error holds those of all upstreams: the first [Failure] in it is that of the upstream that comes first.
func (g *Group) Ask(ctx context.Context, query []byte, sent func(id uint16)) (msg *dns.Msg, from string, err error) {
	if len(g.upstreams) == 0 {
		return nil, "", ErrNone
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(errOutrun)
	order := g.order(time.Now())
	replies := make(chan reply, rounds*len(order)) // so that nobody waits to be heard
	failed := make(map[*Upstream]error)
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
				return r.msg, r.from.name, nil
			}
			failed[r.from] = r.err
			if pending == 0 && len(failed) == len(order) {
				return nil, "", joined(order, failed)
			}
			if asked < len(order) {
				next.Reset(0)
			}
		}
	}
}

// order is the upstreams in the order in which a query asks them. Those that are down come last: better late than nothing.
func (g *Group) order(now time.Time) []*Upstream {
	var up, down []*Upstream
	for _, u := range g.upstreams {
		if u.takes(now) {
			up = append(up, u)
		} else {
			down = append(down, u)
		}
	}
	if g.selection != Ordered { // those not measured yet have an average of 0 and so come first
		slices.SortStableFunc(up, func(a, b *Upstream) int { return cmp.Compare(a.average(), b.average()) })
	}
	return append(up, down...)
}

// pause is the time between the attempt i and the one after it.
func (g *Group) pause(order []*Upstream, i int) time.Duration {
	switch {
	case i+1 >= len(order):
		return firstTimeout << (i / len(order))
	case i == 0 && g.selection == Parallel:
		return 0
	}
	return order[i].hedge()
}

// attempt asks one upstream once and notes how it did.
func (g *Group) attempt(ctx context.Context, u *Upstream, query []byte, sent func(id uint16)) reply {
	query = bytes.Clone(query)
	rand.Read(query[:2])
	sent(binary.BigEndian.Uint16(query))
	begun := time.Now()
	msg, err := u.ask(ctx, query)
	u.note(ctx, err, time.Since(begun))
	return reply{msg, u, err}
}

// ask asks one question and reads the answer. An old server that does not know EDNS is asked again without it (RFC 6891, 6.2.2), and
// one that wants cookies over TCP, where it needs none (RFC 7873, 5.3).
func (u *Upstream) ask(ctx context.Context, query []byte) (msg *dns.Msg, err error) {
	plain := u.isPlain(time.Now())
	if plain {
		query = wire.WithoutOPT(query)
	}
	msg, err = u.exchange(ctx, u.protocol, query)
	if err != nil {
		return nil, err
	}
	switch {
	case msg.Rcode == dns.RcodeBadCookie:
		if udp, ok := u.protocol.(*udpProtocol); ok {
			if msg, err = u.exchange(ctx, udp.stream, query); err != nil {
				return nil, err
			}
		}
	case !plain && u.unencrypted && rejectsEDNS(msg):
		again, err := u.exchange(ctx, u.protocol, wire.WithoutOPT(query))
		if err == nil && !rejectsEDNS(again) {
			u.foundPlain(time.Now())
			msg = again
		}
	}
	if err := failure(msg); err != nil {
		return nil, err
	}
	return msg, nil
}

// rejectsEDNS reports whether an answer is one of those that servers without EDNS give to a query with it.
func rejectsEDNS(msg *dns.Msg) bool {
	switch msg.Rcode {
	case dns.RcodeFormatError, dns.RcodeNotImplemented, dns.RcodeBadVers:
		return true
	}
	return false
}

// exchange sends one query and reads the answer.
func (u *Upstream) exchange(ctx context.Context, p protocol, query []byte) (msg *dns.Msg, err error) {
	defer wire.Rescue(&err)
	answer, err := p.exchange(ctx, query)
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
	return msg, nil
}

// failure returns what keeps an answer from being one to the question, or nil.
func failure(msg *dns.Msg) error {
	switch msg.Rcode {
	case dns.RcodeSuccess:
		if !lame(msg) {
			return nil
		}
		return &Failure{Rcode: dns.RcodeServerFailure, text: "is not a resolver: it refers to other servers"}
	case dns.RcodeNameError:
		return nil
	}
	f := &Failure{Rcode: msg.Rcode, EDE: extended(msg), text: "answered " + dns.RcodeToString[msg.Rcode]}
	switch msg.Rcode {
	case dns.RcodeFormatError, dns.RcodeServerFailure, dns.RcodeNotImplemented, dns.RcodeRefused:
	default: // about updates, signatures, or between us and the upstream
		f.Rcode = dns.RcodeServerFailure
	}
	return f
}

// extended returns the extended error in an answer, without what would do harm on a terminal.
func extended(msg *dns.Msg) wire.EDE {
	opt := msg.IsEdns0()
	if opt == nil {
		return wire.EDE{}
	}
	for _, option := range opt.Option {
		if e, is := option.(*dns.EDNS0_EDE); is {
			printable := func(r rune) rune {
				if unicode.IsPrint(r) {
					return r
				}
				return -1
			}
			return wire.EDE{Code: e.InfoCode, Prefix: strings.Map(printable, e.ExtraText)}
		}
	}
	return wire.EDE{}
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
func joined(order []*Upstream, failed map[*Upstream]error) error {
	var errs []error
	for _, u := range order {
		errs = append(errs, fmt.Errorf("upstream %s: %w", u.name, failed[u]))
	}
	return errors.Join(errs...)
}
