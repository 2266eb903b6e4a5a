package sniff

import (
	"golang.org/x/net/http2/hpack"
)

// preface starts an unencrypted HTTP/2 connection (RFC 9113 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// Frames and flags that are read here (RFC 9113 6).
const (
	frameHeader       = 9 // bytes: length, type, flags, stream
	frameHeaders      = 1
	framePushPromise  = 5
	frameContinuation = 9
	flagEndHeaders    = 0x04
	flagPadded        = 0x08
	flagPriority      = 0x20
)

// maxTable limits the header compression table of a client, in bytes. The server announces the real limit, but penstock
// does not see it.
const maxTable = 64 << 10

// startsPreface reports whether b is, or could become, the start of an HTTP/2 connection.
func startsPreface(b []byte) bool { return isStart(b, preface) }

// requests2 reads the header blocks of an HTTP/2 connection after its preface.
type requests2 struct {
	decoder *hpack.Decoder
	block   []byte // the header block received so far
	open    bool   // the header block is incomplete: only CONTINUATION may follow
	skip    int    // bytes of the current frame still to skip

	hosts   hostPair
	request bool // the block has a method, so it is not a trailer
	broken  bool // the block has two :authority or two host fields
}

func newRequests2() *requests2 {
	r := &requests2{}
	r.decoder = hpack.NewDecoder(4096, r.field) // the initial table, RFC 9113 6.5.2
	r.decoder.SetAllowedMaxDynamicTableSize(maxTable)
	r.decoder.SetMaxStringLength(MaxHead)
	return r
}

// feed works like Requests.Feed.
func (r *requests2) feed(b []byte) (int, Result) {
	if r.skip > 0 {
		n := min(r.skip, len(b))
		r.skip -= n
		return n, needMore(HTTP2)
	}
	if len(b) < frameHeader {
		return 0, needMore(HTTP2)
	}
	size := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
	kind, flags := b[3], b[4]
	switch {
	case r.open != (kind == frameContinuation), kind == framePushPromise:
		return 0, ambiguous(HTTP2)
	case kind != frameHeaders && kind != frameContinuation:
		r.skip = size
		return frameHeader, needMore(HTTP2)
	case frameHeader+size > MaxHead:
		return 0, ambiguous(HTTP2)
	case len(b) < frameHeader+size:
		return 0, needMore(HTTP2)
	}
	fragment, ok := b[frameHeader:frameHeader+size], true
	if kind == frameHeaders {
		fragment, ok = unpad(fragment, flags)
	}
	if !ok || len(r.block)+len(fragment) > MaxHead {
		return 0, ambiguous(HTTP2)
	}
	r.block = append(r.block, fragment...)
	r.open = flags&flagEndHeaders == 0
	if r.open {
		return frameHeader + size, needMore(HTTP2) // a server cannot use the block before it is complete
	}
	res := r.decode()
	if res.Ambiguous {
		return 0, res
	}
	return frameHeader + size, res
}

// unpad removes padding and priority from the payload of a HEADERS frame.
func unpad(b []byte, flags byte) (fragment []byte, ok bool) {
	pad := 0
	if flags&flagPadded != 0 {
		if len(b) == 0 {
			return nil, false
		}
		pad, b = int(b[0]), b[1:]
	}
	if flags&flagPriority != 0 {
		if len(b) < 5 {
			return nil, false
		}
		b = b[5:]
	}
	if pad > len(b) {
		return nil, false
	}
	return b[:len(b)-pad], true
}

// decode parses the complete header block.
func (r *requests2) decode() Result {
	r.hosts, r.request, r.broken = hostPair{}, false, false
	_, err := r.decoder.Write(r.block)
	if err == nil {
		err = r.decoder.Close()
	}
	r.block = r.block[:0]
	switch {
	case err != nil || r.broken:
		return ambiguous(HTTP2)
	case !r.request:
		return needMore(HTTP2) // trailers
	}
	return r.hosts.result(HTTP2)
}

func (r *requests2) field(f hpack.HeaderField) {
	switch f.Name {
	case ":method":
		r.request = true
	case ":authority":
		r.broken = r.broken || r.hosts.targetKind != hostAbsent
		r.hosts.targetKind = r.hosts.target.set([]byte(f.Value))
	case "host":
		r.broken = r.broken || r.hosts.fieldKind != hostAbsent
		r.hosts.fieldKind = r.hosts.field.set([]byte(f.Value))
	}
}

// readHTTP2 reads a stream that starts with the preface, up to its first request.
func readHTTP2(b []byte) Result {
	if len(b) < len(preface) {
		return needMore(Unknown)
	}
	r := newRequests2()
	b = b[len(preface):]
	for {
		n, res := r.feed(b)
		if res.Status != NeedMore || n == 0 {
			return res
		}
		b = b[n:]
	}
}
