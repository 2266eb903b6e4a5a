package ingress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"penstock/dnsproxy"
	"penstock/policy"
	"penstock/router"
)

// maxAddresses is how many addresses of a name are tried, of each family.
const maxAddresses = 2

// target is where a client wants to go. Either host or addr is set.
type target struct {
	host string // canonical
	addr netip.Addr
	port uint16
}

// newTarget reads a host name or an address. Names that look like addresses in old notations are names.
func newTarget(host string, port uint16) (t target, err error) {
	t.port = port
	if port == 0 {
		return t, errors.New("port 0 is nobody's")
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		if addr.Zone() != "" {
			return t, fmt.Errorf("%s has a zone, which means nothing here", addr)
		}
		t.addr = addr.Unmap()
		return t, nil
	}
	t.host, err = policy.CanonicalName(host)
	return t, err
}

func (t target) String() string {
	if t.host != "" {
		return t.host
	}
	return t.addr.String()
}

// outcome is what became of a request. The zero outcome: it was carried.
type outcome struct {
	result result
	err    error // says why, to the client too
}

type result uint8

const (
	carriedThrough result = iota
	notAllowed
	unknownHost // it has no address, or nobody knows
	unreachable // the dial failed
	noAnswer    // the dial had no answer, or the policy wants silence
)

// open takes a client's request through the router, and returns when its flow is over or there is none. A name is resolved as for
// the client, by the policy of its questions; then each address is a flow of its own, until one is accepted.
func (s *Server) open(ctx context.Context, who Login, src netip.AddrPort, t target, network policy.Network, accept func(netip.AddrPort) (net.Conn, error)) outcome {
	if t.host == "" {
		return s.attempt(ctx, who, src, network, netip.AddrPortFrom(t.addr, t.port), accept)
	}
	worst := outcome{unknownHost, fmt.Errorf("%s has no address", t.host)}
	tried := false
	for _, family := range families() {
		addrs, out := s.resolve(ctx, who, src, t, network, family)
		if out.result != carriedThrough {
			if !tried {
				worst = out
			}
			if !withheld(out.err) {
				return worst
			}
		}
		for _, addr := range addrs[:min(len(addrs), maxAddresses)] {
			out := s.attempt(ctx, who, src, network, netip.AddrPortFrom(addr, t.port), accept)
			if out.result == carriedThrough || ctx.Err() != nil {
				return out
			}
			if !tried || worst.result == noAnswer { // the first that says something
				worst = out
			}
			tried = true
		}
	}
	return worst
}

// families are the addresses that a name may have, in the order in which they are tried: where IPv6 leads nowhere, trying it first
// would cost every connection the time of a dial.
func families() []netip.Addr { return []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} }

// resolve asks our DNS server for a name's addresses of a family, as the client would.
func (s *Server) resolve(ctx context.Context, who Login, src netip.AddrPort, t target, network policy.Network, family netip.Addr) ([]netip.Addr, outcome) {
	f := policy.Flow{Network: network, Client: who.Client, Src: src, Dst: netip.AddrPortFrom(family, t.port)}
	if !s.Clients.Describe(&f) {
		return nil, outcome{notAllowed, errors.New("you may not connect any more")}
	}
	addrs, err := s.Clients.Confirm(ctx, f, t.host)
	blocked, is := errors.AsType[*dnsproxy.BlockedError](err)
	switch {
	case is && blocked.Hidden: // like a name that nobody has
		return nil, outcome{}
	case is && blocked.Verdict.Action == policy.Drop:
		return nil, outcome{noAnswer, err}
	case is:
		return nil, outcome{notAllowed, blocked}
	case err != nil:
		return nil, outcome{unknownHost, fmt.Errorf("cannot resolve %s", t.host)}
	}
	return addrs, outcome{}
}

// withheld reports whether a name is refused only for its addresses of one family.
func withheld(err error) bool {
	blocked, is := errors.AsType[*dnsproxy.BlockedError](err)
	return is && blocked.Withheld.IsValid()
}

// attempt hands one flow to the router.
func (s *Server) attempt(ctx context.Context, who Login, src netip.AddrPort, network policy.Network, dst netip.AddrPort, accept func(netip.AddrPort) (net.Conn, error)) outcome {
	a := &answer{dst: dst, accept: accept, outcome: outcome{noAnswer, fmt.Errorf("no answer from %s", dst)}}
	s.Handle(ctx, router.Request{Network: network, Client: who.Client, Src: src, Dst: dst, Answer: a})
	return a.outcome
}

// answer takes the answer of the router for one flow. It implements router.Answerer.
type answer struct {
	dst     netip.AddrPort
	accept  func(netip.AddrPort) (net.Conn, error)
	outcome outcome
}

func (a *answer) Accept() (net.Conn, error) {
	a.outcome = outcome{}
	return a.accept(a.dst)
}

func (a *answer) Refuse() {
	a.outcome = outcome{notAllowed, fmt.Errorf("the policy refuses %s: penstock flows --denied says why", a.dst)}
}

func (a *answer) Unreachable(err error) {
	a.outcome = outcome{unreachable, fmt.Errorf("cannot reach %s: %w", a.dst, cause(err))}
}

func (a *answer) Drop() {}

// cause returns what a client is told of why a dial failed: the error of the network alone, because the rest may name what is none
// of its business.
func cause(err error) error {
	for _, known := range []error{
		syscall.ECONNREFUSED, syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ETIMEDOUT, syscall.EACCES, os.ErrDeadlineExceeded,
	} {
		if errors.Is(err, known) {
			return known
		}
	}
	return errors.New("the way there is down")
}
