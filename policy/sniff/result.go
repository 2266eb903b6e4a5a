package sniff

import "fmt"

// MaxBytes is how much is read for one name: bytes of a TCP stream, or of a hello in QUIC.
const MaxBytes = 16 << 10

// MaxHead is how much is read of the head of an HTTP request, in bytes. Browsers send heads of 18 KiB where a site has set many
// cookies, and some servers accept 64 KiB. The Host field may be the last.
const MaxHead = 128 << 10

// Status says what the bytes seen so far have shown.
type Status uint8

// Values of Status. The zero Status asks for more bytes.
const (
	NeedMore Status = iota // undecided: more bytes are needed
	Found                  // Result.Host is the name
	NoName                 // the protocol is known, but there is no name, or none that can be trusted (Result.Ambiguous)
	NotThis                // not a protocol that this package reads
)

// String returns the status as logs write it.
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
	HTTP             // HTTP/1.0 and HTTP/1.1, unencrypted
	HTTP2            // unencrypted, with prior knowledge (RFC 9113 3.3)
	QUIC             // versions 1 and 2, and the drafts of 1 that servers still take
)

// String returns the protocol as logs and labels write it.
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

// Result is what a sniffer found. It keeps no reference to the bytes and can be compared with ==.
type Result struct {
	Status   Status
	Protocol Protocol
	Host     Host // with Found
	// Other is the Host field of an HTTP request if it differs from the target or authority, which is Host. Servers differ
	// in which of the two they use, so both must be allowed. In QUIC it is the name in another hello that came interleaved.
	Other Host
	// ECH reports whether the hello offers Encrypted Client Hello. Host is then the outer name and perhaps not the site.
	// GREASE, which browsers send to every site, looks the same.
	ECH bool
	// Early reports whether the hello offers early data, which follows it before the server answers.
	Early bool
	// Ambiguous is set only with NoName. The bytes contain a name that servers may read differently, or that no host can
	// have, or come from more interleaved hellos than are told apart. A caller that enforces names must close the flow.
	Ambiguous bool
}

func noName(p Protocol) Result    { return Result{Status: NoName, Protocol: p} }
func ambiguous(p Protocol) Result { return Result{Status: NoName, Protocol: p, Ambiguous: true} }
func needMore(p Protocol) Result  { return Result{Protocol: p} }
