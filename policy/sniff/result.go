package sniff

import "fmt"

// MaxBytes bounds what is read for one name: bytes of a TCP stream, of an HTTP head, of a hello in QUIC.
const MaxBytes = 16 << 10

// Status says how far a sniffer is with the bytes it has seen.
type Status uint8

// The zero Status asks for more bytes.
const (
	NeedMore Status = iota // nothing can be said yet
	Found                  // Result.Host is the name
	NoName                 // the protocol is known and names no host, or none that can be trusted (Result.Ambiguous)
	NotThis                // no protocol that is read here
)

// String gives the status as a word for logs.
func (s Status) String() string {
	switch s {
	case NeedMore:
		return "need-more"
	case Found:
		return "found"
	case NoName:
		return "no-name"
	case NotThis:
		return "not-this"
	}
	return fmt.Sprintf("status(%d)", uint8(s))
}

// Protocol is what the client speaks.
type Protocol uint8

// The protocols that carry a name.
const (
	Unknown Protocol = iota
	TLS              // over TCP
	HTTP             // HTTP/1.0 and HTTP/1.1 in clear
	HTTP2            // in clear with prior knowledge (RFC 9113 3.3)
	QUIC             // versions 1 and 2
)

// String gives the protocol as a word for logs and labels.
func (p Protocol) String() string {
	switch p {
	case Unknown:
		return "unknown"
	case TLS:
		return "tls"
	case HTTP:
		return "http"
	case HTTP2:
		return "http2"
	case QUIC:
		return "quic"
	}
	return fmt.Sprintf("protocol(%d)", uint8(p))
}

// Result is what was read. It holds no reference to the bytes it came from and can be compared with ==.
type Result struct {
	Status   Status
	Protocol Protocol
	Host     Host // with Found
	// Other is a second name in the same HTTP request that differs from Host: the target or authority is Host, the
	// Host field is Other. Servers differ in which of them they serve, so both have to be allowed.
	Other Host
	// ECH says that the hello offers Encrypted Client Hello: Host is then an outer name, perhaps not the site. A GREASE
	// offer, made by browsers to every site, looks the same.
	ECH bool
	// Ambiguous comes with NoName: the bytes carry a name that servers may read differently, or that no host can have.
	// A caller that enforces names closes the flow.
	Ambiguous bool
}

func noName(p Protocol) Result    { return Result{Status: NoName, Protocol: p} }
func ambiguous(p Protocol) Result { return Result{Status: NoName, Protocol: p, Ambiguous: true} }
func needMore(p Protocol) Result  { return Result{Protocol: p} }
