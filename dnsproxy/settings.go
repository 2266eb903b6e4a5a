package dnsproxy

import (
	"net/netip"
	"time"

	"penstock/dnsproxy/records"
	"penstock/dnsproxy/upstream"
)

// Upstream is one resolver and the way to it. Answers that were cached before a change of settings are used after it only if Name,
// Address and Via are the same: one address may be two servers in two networks.
type Upstream = upstream.Spec

// Zone sends the names at and below Domains to upstreams of their own (split DNS). The longest matching domain wins. A zone never
// falls back to [Settings.Upstreams], and its answers may hold internal addresses. A peer that may not reach any address of a name
// is told that there is no such name, whatever it asks for.
type Zone struct {
	Domains   []string // "corp.example" or "*.corp.example", both of which include corp.example itself
	Upstreams []Upstream
	// Within, if not empty, limits the internal addresses in answers to these networks. It is for a resolver that is trusted
	// about its own network only.
	Within []netip.Prefix
	// Only takes all addresses outside Within out of the answers, not only internal ones.
	Only bool
}

// Selection says which upstream of several is asked first.
type Selection = upstream.Selection

// Ways of selection. With each, the next upstream is asked as soon as one fails or is slower than it usually is.
const (
	Ordered  = upstream.Ordered  // as configured
	Fastest  = upstream.Fastest  // lowest average round trip first
	Parallel = upstream.Parallel // the two fastest at once; the first good answer wins
)

// BlockMode is the form of the answer to a blocked question.
type BlockMode uint8

// Forms of a block answer.
const (
	BlockNXDomain BlockMode = iota // the name does not exist
	BlockNull                      // 0.0.0.0 and ::, no data for other types
	BlockRefused                   // REFUSED
	BlockAddress                   // BlockAnswer.Addrs, no data for other types
)

// BlockAnswer is the answer to a blocked question.
type BlockAnswer struct {
	Mode  BlockMode
	TTL   time.Duration // of addresses and of the SOA of a negative answer; 0 means 30 s
	Addrs []netip.Addr  // for BlockAddress
}

// Settings are what may change while a [Server] runs. They are plain values: [Compile] makes a [Plan] of them.
type Settings struct {
	Upstreams []Upstream
	Select    Selection
	Zones     []Zone
	// Records are names that the server knows by itself. Upstreams are not asked for them. A peer is told none of their
	// addresses that it may not reach, and nothing at all about a name that has no others. May be nil.
	Records *records.Book

	// Clients limits who is answered on host sockets (ServePacketConn, ServeListener); others meet silence. Empty means everybody.
	Clients []netip.Prefix
	// Self holds the addresses that lead to this server, stub resolvers included: upstreams there are refused. An address with
	// port 0 stands for every port.
	Self []netip.AddrPort

	Block           BlockAnswer
	BlockCategories map[string]BlockAnswer // by Verdict.Category, before Block

	// StripECH removes ech from HTTPS and SVCB answers, so that the server name in a ClientHello is the site's.
	StripECH bool
	// AllowPrivate holds domains outside Zones whose answers may be private addresses; "." stands for all names. Others lose
	// such addresses (rebinding guard).
	AllowPrivate []string

	// Timeout is how long all upstreams together may take; 0 means 5 s, which is also the most.
	Timeout time.Duration

	// MaxInFlight bounds the queries that wait for upstreams, two thirds of it for one client; 0 means 1024.
	MaxInFlight int
	// ClientRate bounds the upstream queries that one client causes, in queries per second with bursts of twice as many; 0 means
	// 1000, negative no bound. Blocked and cached answers are not counted: they cost no more than a refusal.
	ClientRate int
	// MaxConns bounds the TCP connections served at once, a quarter of it for one client; 0 means 256.
	MaxConns int
}
