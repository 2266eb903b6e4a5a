package dnsproxy

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"penstock/policy"
)

// Dialer makes connections to upstreams. *net.Dialer, a stack and a transport all fit. Network is "udp" or "tcp", address is
// always an IP address and a port. A dialer whose way is down returns an error at once and the query is answered SERVFAIL.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Upstream is one resolver and the way to it.
type Upstream struct {
	// Name is used in metrics, logs and [Answer]; empty means Address.
	Name string
	// Address is "10.0.0.53", "10.0.0.53:5353", "udp://10.0.0.53", "tcp://10.0.0.53", "tls://dns.example" (port 853),
	// "https://dns.example/dns-query", "h3://dns.example/dns-query" (HTTP/3) or "quic://dns.example" (port 853, RFC 9250). Plain addresses are asked over UDP, and over TCP when an answer does not fit.
	Address string
	// Via names the way to the upstream. Answers that were cached before a change of configuration are used after it only if Name,
	// Address and Via are the same: one address may be two servers in two networks.
	Via string
	// Dialer makes every socket to the upstream; nil means a plain [net.Dialer].
	Dialer Dialer
	// Bootstrap holds the addresses of a host named in Address, in order of preference. If empty, [Config.Resolve] is asked.
	Bootstrap []netip.Addr
	// TLS is cloned for encrypted upstreams; nil means the roots of the system. ServerName defaults to the host in Address.
	TLS *tls.Config
}

// Zone sends the names at and below Domains to upstreams of their own (split DNS). The longest matching domain wins. A zone never
// falls back to [Config.Upstreams], and its answers may hold private addresses.
type Zone struct {
	Domains   []string // "corp.example" or "*.corp.example", both of which include corp.example itself
	Upstreams []Upstream
}

// Selection says which upstream of several is asked first.
type Selection uint8

// Ways of selection. With each, the next upstream is asked as soon as one fails or is slower than it usually is.
const (
	Ordered  Selection = iota // as configured
	Fastest                   // lowest average round trip first
	Parallel                  // the two fastest at once; the first good answer wins
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

// Config configures a [Server].
type Config struct {
	// Decide judges a name: Flow.Names[0] is the name from the question or from the answer's chain, with FromQuestion. Src, Peer,
	// Groups and Time are set; Dst is set only while an address hint of an HTTPS or SVCB answer is judged. It must be fast, must
	// not block, and must not retain Names or the strings in it, which are reused after it returns. Nil forwards everything.
	Decide func(policy.Flow) policy.Verdict
	// NamesHosts says whether a rule, by its name, is about names. A question that such a rule forwards is answered whatever the
	// names behind it: an allowed site may stand on a blocked delivery network. Nil means no rule is.
	NamesHosts func(rule string) bool
	// Describe returns what is known about a client: Peer, Groups and the like. Nil means nothing is.
	Describe func(client netip.AddrPort) policy.Flow
	// Clients limits who is answered on host sockets (ServePacketConn, ServeListener); others meet silence. Empty means everybody.
	Clients []netip.Prefix

	Upstreams []Upstream
	Select    Selection
	Zones     []Zone
	// Resolve finds the addresses of an upstream named by host without Bootstrap; it must not ask this server. Nil means that such
	// an upstream is an error.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	// Self holds the addresses that lead to this server, stub resolvers included: upstreams there are refused. An address with
	// port 0 stands for every port.
	Self []netip.AddrPort

	// Blocked is told the verdict of each query that met a block or silence for it, once. It must be fast. May be nil.
	Blocked func(policy.Verdict)

	Block           BlockAnswer
	BlockCategories map[string]BlockAnswer // by Verdict.Category, before Block

	// StripECH removes ech from HTTPS and SVCB answers, so that the server name in a ClientHello is the site's.
	StripECH bool
	// NoIPv6 says that an egress carries no IPv6: AAAA questions that would be forwarded there get no data. Nil means all do.
	NoIPv6 func(egress string) bool
	// AllowPrivate holds domains outside Zones whose answers may be private addresses; "." stands for all names. Others lose
	// such addresses (rebinding guard).
	AllowPrivate []string

	// Timeout is how long all upstreams together may take; 0 means 5 s, which is also the most.
	Timeout time.Duration

	// CacheBytes and CacheEntries bound the cache; 0 means 16 MiB and 65536, negative means no cache.
	CacheBytes   int
	CacheEntries int
	// MaxInFlight bounds the queries that wait for upstreams, two thirds of it for one client; 0 means 1024.
	MaxInFlight int
	// ClientRate bounds the upstream queries that one client causes, in queries per second with bursts of twice as many; 0 means
	// 1000, negative no bound. Blocked and cached answers are not counted: they cost no more than a refusal.
	ClientRate int
	// MaxConns bounds the TCP connections served at once, a quarter of it for one client; 0 means 256.
	MaxConns int
	// MaxNames bounds the (client, address) pairs with names; 0 means 65536.
	MaxNames int

	Log      *slog.Logger     // nil discards
	QueryLog *slog.Logger     // one record per query, with the keys of a flow log; nil means none
	Metrics  *Metrics         // nil counts nothing
	Clock    func() time.Time // nil means time.Now
}
