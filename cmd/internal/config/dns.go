package config

import (
	"net/netip"
	"slices"
	"time"
)

// DNS configures the embedded DNS server. It always answers on the TUN's and the gateway's own inner addresses.
type DNS struct {
	// Listen lists more addresses of the host on which the server answers, over UDP and TCP.
	Listen []netip.AddrPort `yaml:"listen"`
	// Serve is encrypted DNS for the phones of peers. `penstock peer dns` prints what a phone needs.
	Serve *DNSServe `yaml:"serve"`
	// Clients may use the addresses in listen. Questions from anyone else are dropped. Default: loopback and private networks.
	Clients []netip.Prefix `yaml:"clients"`
	// Upstreams answer the questions that belong to no split zone. Without any, penstock asks the servers that transports
	// name or push, each through its transport.
	Upstreams []Upstream `yaml:"upstreams"`
	// Select is which upstream is asked first: ordered, fastest, or parallel (the two fastest). If it fails or is late, the
	// next one is asked.
	Select string `yaml:"select" default:"ordered" oneof:"ordered,fastest,parallel"`
	// Split sends the questions for some domains to other upstreams. The longest suffix wins. If they fail, no other upstream
	// is asked. A peer that the rules let reach none of a name's addresses, on any port, is told that it has none.
	Split []Split `yaml:"split"`
	// Records are names that penstock answers for by itself, here and to peers; nobody else is asked for them. In short, a name has
	// its address, or a list of them: {wiki.corp.example: 10.20.0.10}. A name that begins with *. needs quotes, and stands for all
	// names below that have no records. An address gets a reverse name, too: that of the first record which has it. A peer
	// that the rules let reach none of a name's addresses, on any port, is told that there is no such name.
	Records map[string]Record `yaml:"records"`
	// Peers is a domain in which each peer of a gateway has its name, for example peers.example: ana.peers.example, with the
	// addresses in allowed_ips that stand for one host, and their reverse names. The gateway itself is gateway.peers.example. A
	// disabled or expired peer has no name. The domain must be for nothing else: no other server is asked for names in it. A
	// peer sees its own name, the gateway's, and those of peers that it may reach.
	Peers string `yaml:"peers"`
	// AllowPrivate lists domains outside of Split whose answers may be private addresses; "." is all names. Default: all names
	// if the upstreams come from transports, otherwise none.
	AllowPrivate []string `yaml:"allow_private"`
	// Block is how a blocked name is answered.
	Block BlockAnswer `yaml:"block"`
	// BlockCategory is how the names of one category are answered instead.
	BlockCategory map[string]BlockAnswer `yaml:"block_category"`
	// QueryLog writes each question to the flow log.
	QueryLog bool `yaml:"query_log"`
	// Enforce blocks other encrypted resolvers: those that the category doh knows by name or address, and port 853. It adds
	// two rules before all others, no-other-resolver and no-encrypted-dns.
	Enforce bool `yaml:"enforce"`
	// Timeout is how long a question may take, over all upstreams, before the answer is SERVFAIL.
	Timeout time.Duration `yaml:"timeout" default:"5s"`
}

// DNSServe is encrypted DNS, over HTTPS and over TLS, for devices that are not in the tunnel. Each peer has tokens of its own, made
// from the gateway's key: a path for HTTPS, and a host name for TLS. Who comes with a token is that peer, with its groups, its
// limits and its name in the logs. Needs listen.wireguard.
type DNSServe struct {
	// Name is the host name of the server. The names for TLS are one label below it, so that these need a certificate for *.NAME, and
	// a wildcard in the public DNS.
	Name string `yaml:"name" required:"true"`
	// HTTPS lists addresses of the host for DNS over HTTPS, for example 0.0.0.0:443.
	HTTPS []netip.AddrPort `yaml:"https"`
	// TLS lists addresses of the host for DNS over TLS, for example 0.0.0.0:853, the only port that Android asks.
	TLS []netip.AddrPort `yaml:"tls"`
	// Certificate is a file with the certificate and its chain, PEM. It is read again when it or the key changes.
	Certificate string `yaml:"certificate" path:"file"`
	// Key is the private key of the certificate, PEM.
	Key Secret `yaml:"key"`
	// ACME gets the certificate from the authority in acme, in the place of files. It is not for tls, which needs one for *.NAME.
	ACME bool `yaml:"acme"`
	// Anonymous also answers those of dns.clients who come without a token, but not about the names in dns.split and dns.peers.
	Anonymous bool `yaml:"anonymous"`

	Pos Position `yaml:"-"`
}

// Names returns the names that the certificate must have.
func (s *DNSServe) Names() string {
	if len(s.TLS) == 0 {
		return s.Name
	}
	return s.Name + " and *." + s.Name
}

// Upstream is a DNS server that questions are forwarded to.
type Upstream struct {
	// Name in metrics and explain. Default: the address.
	Name string `yaml:"name"`
	// Address is an IP address, with a port if it is not 53. tcp://ADDRESS uses TCP only. tls://NAME, https://NAME/PATH,
	// h3://NAME/PATH (HTTP/3) and quic://NAME are encrypted.
	Address string `yaml:"address" required:"true"`
	// Bootstrap lists the addresses of NAME. Without it penstock asks the host's own resolvers, outside of every transport.
	Bootstrap []netip.Addr `yaml:"bootstrap"`
	// Via is the transport that carries the questions, or direct.
	Via string `yaml:"via" default:"direct"`

	Pos Position `yaml:"-"`
}

// Split is the upstreams of some domains.
type Split struct {
	// Domains are the names of the zone, each with everything below it.
	Domains []string `yaml:"domains" required:"true"`
	// Upstream answers for them. Several are asked in order.
	Upstream []Upstream `yaml:"upstream" required:"true"`

	Pos Position `yaml:"-"`
}

// Record is what penstock knows about a name.
type Record struct {
	// A is the IPv4 addresses.
	A []netip.Addr `yaml:"a"`
	// AAAA is the IPv6 addresses.
	AAAA []netip.Addr `yaml:"aaaa"`
	// CNAME is the name that this one is an alias of. It may be one that others know. Nothing else may stand beside it.
	CNAME string `yaml:"cname"`
	// TXT is texts.
	TXT []string `yaml:"txt"`
	// MX is where mail goes, each a preference and a host: "10 mail.corp.example".
	MX []string `yaml:"mx"`
	// SRV is where a service is, each a priority, a weight, a port and a host: "0 5 5060 sip.corp.example".
	SRV []string `yaml:"srv"`
	// TTL is how long a client may remember the answer.
	TTL time.Duration `yaml:"ttl" default:"60s"`

	// Short is the addresses of a name that has nothing else.
	Short []netip.Addr `yaml:"-"`
	// NamePos is where the name is written, Pos what it has.
	NamePos Position `yaml:"-"`
	Pos     Position `yaml:"-"`
}

func (r *Record) short() any { return &r.Short }

// Addresses returns all addresses.
func (r *Record) Addresses() []netip.Addr { return slices.Concat(r.Short, r.A, r.AAAA) }

// BlockAnswer is how a blocked name is answered.
type BlockAnswer struct {
	// Answer is nxdomain, refused, "null" (0.0.0.0 and ::; with the quotes) or address.
	Answer string `yaml:"answer" default:"nxdomain" oneof:"nxdomain,refused,null,address"`
	// Addresses are the answer of answer: address, IPv4 to A questions and IPv6 to AAAA questions.
	Addresses []netip.Addr `yaml:"addresses"`
	// TTL is how long a client may remember the answer.
	TTL time.Duration `yaml:"ttl" default:"30s"`
}
