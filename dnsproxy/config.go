package dnsproxy

import (
	"context"
	"crypto/x509"
	"encoding/binary"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/miekg/dns"

	"penstock/dnsproxy/upstream"
	"penstock/policy"
)

// Policy judges questions. Its methods must be fast, must not block, and must not keep Flow.Names or the strings in it, which are
// reused after they return. A *policy.Policy is one.
type Policy interface {
	// Decide judges a flow to an address that an HTTPS or SVCB answer hints at. Dst is that address with port 443, Network is
	// TCP, Sniffed is set, and Names holds the name that was asked for, with FromDNS.
	Decide(policy.Flow) policy.Verdict
	// DecideName judges a name: that of the question, or one behind it. Names holds it, with FromQuestion. Dst is invalid, or an
	// address in the answer, without a port.
	DecideName(policy.Flow) policy.Verdict
}

// Clients knows who asks on a host socket.
type Clients interface {
	// Describe returns Client, Peer and Groups of whoever sends from src. It must be fast and must not block. A stranger gets a
	// key of its own address: [AddressKey] makes one, and stands in for a Client of 0.
	Describe(src netip.AddrPort) policy.Flow
}

// AddressKey returns the client key of an address that belongs to no client known by name. All addresses of an IPv6 /64 have the
// same key: one host may use any of them.
func AddressKey(addr netip.Addr) uint64 {
	addr = addr.Unmap()
	if addr.Is4() {
		v4 := addr.As4()
		return 1<<32 | uint64(binary.BigEndian.Uint32(v4[:])) // in 0::/16, where no IPv6 host is
	}
	v6 := addr.As16()
	return max(binary.BigEndian.Uint64(v6[:8]), 1)
}

// Dialer makes connections to upstreams. *net.Dialer, a stack and a transport all fit. One whose way is down returns an error at
// once, and the query is answered SERVFAIL.
type Dialer = upstream.Dialer

// Refused is a query that the policy did not let pass.
type Refused struct {
	Src     netip.AddrPort
	Peer    string
	Host    string     // the name that was asked for
	Decided string     // the name that decided: Host, or a target behind it. Neither may be kept: they are views
	Addr    netip.Addr // an address of Decided, if no flow of the client may go to any; otherwise invalid
	Verdict policy.Verdict
	Time    time.Time
	Sender  *policy.Sender // the program on this machine that asks, if it is known
}

// Config is what stays the same for the life of a [Server]. What may change while it runs is in [Settings].
type Config struct {
	Policy  Policy  // nil forwards everything
	Clients Clients // nil means that every address is a stranger

	// Dialer returns the way to upstreams that [Upstream.Via] names. It is asked at each dial, so that a way which changes is
	// followed; false means that there is no such way, and is a failure of the upstream. Nil dials as the host does.
	Dialer func(via string) (Dialer, bool)
	// Resolve finds the addresses of an upstream named by host without Bootstrap; it must not ask this server. Nil means that such
	// an upstream cannot be reached.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	// NoIPv6 says that an egress carries no IPv6: AAAA questions that would be forwarded there get no data. Nil means all do.
	NoIPv6 func(egress string) bool
	// Blocked is called once with each query that met a block or silence. It must be fast. May be nil.
	Blocked func(Refused)

	// RootCAs verify upstreams over TLS and QUIC; nil means the roots of the system.
	RootCAs *x509.CertPool

	// CacheBytes and CacheEntries bound the cache; 0 means 16 MiB and 65536, negative means no cache.
	CacheBytes   int
	CacheEntries int
	// MaxNames bounds the (client, address) pairs with names; 0 means 65536.
	MaxNames int

	Log     *slog.Logger // nil discards
	Asked   Asked        // is told of each query that has been answered; nil means nobody is
	Metrics *Metrics     // nil counts nothing
}

// Asked is told of queries.
type Asked interface {
	// Answered is called once with each query, before its answer is sent. It must be fast and must not block.
	Answered(Query)
}

// Query is a query that has been answered.
type Query struct {
	Src      netip.AddrPort
	Peer     string
	Host     string
	Type     string // A, AAAA, ...
	Action   policy.Action
	Rule     string
	Category string
	Decided  string // the name that decided: Host, or one behind it
	Result   string // as in the metric penstock_dns_queries_total
	Rcode    string // empty: there was no answer
	Upstream string
	Cache    string // hit, miss, stale, or empty if the cache was not asked
	Start    time.Time
	Sender   *policy.Sender // the program on this machine that asks, if it is known

	answer []byte // valid during the call
}

// Addresses returns the addresses in the answer, at most as many as asked for. It works during the call of [Asked] only.
func (q Query) Addresses(most int) []netip.Addr {
	var msg dns.Msg
	if len(q.answer) == 0 || msg.Unpack(q.answer) != nil {
		return nil
	}
	var list []netip.Addr
	for _, rr := range msg.Answer {
		var ip net.IP
		switch rr := rr.(type) {
		case *dns.A:
			ip = rr.A
		case *dns.AAAA:
			ip = rr.AAAA
		}
		if addr, ok := netip.AddrFromSlice(ip); ok && len(list) < most {
			list = append(list, addr.Unmap())
		}
	}
	return list
}
