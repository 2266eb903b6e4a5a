package sniff

// maxHost is the longest host kept, bytes: 253 for a name, some more for one in UTF-8 that its A-labels shorten.
const maxHost = 255

// Host is a host name as the client wrote it, without port, brackets and trailing dot, its ASCII letters in lower
// case. It may hold UTF-8: turning that into A-labels is the caller's. The zero Host is none. It is a value without
// pointers, so that reading one costs no allocation.
type Host struct {
	n uint8
	b [maxHost]byte
}

// String returns the name, or "" for the zero Host.
func (h Host) String() string { return string(h.b[:h.n]) }

// IsZero reports whether there is no name.
func (h Host) IsZero() bool { return h.n == 0 }
