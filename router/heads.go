package router

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"penstock/policy/sniff"
)

// errCrowded ends a flow whose first bytes would exceed Config.SniffMemory.
var errCrowded = errors.New("no memory left for flows that have not shown a name yet")

// startedLimit is how long a client may take to finish a hello or head that it has started. Such a flow is never forwarded
// without its name: a client could stall on purpose to choose its own verdict.
const startedLimit = 10 * time.Second

// heads limits the memory for flows that have not shown a name yet, in all and per client. A client that starts many hellos
// and finishes none runs into its own limit.
type heads struct {
	limit int // bytes; one client gets half

	mu      sync.Mutex // guards below
	total   int
	clients map[uint64]int
}

// take reserves n bytes for a client.
func (h *heads) take(client uint64, n int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.total+n > h.limit || h.clients[client]+n > h.limit/2 {
		return false
	}
	h.total += n
	h.clients[client] += n
	return true
}

func (h *heads) give(client uint64, n int) {
	if n == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.total -= n
	if h.clients[client] -= n; h.clients[client] <= 0 {
		delete(h.clients, client)
	}
}

// head holds the first bytes of a flow in a buffer that grows as needed.
type head struct {
	heads  *heads
	client uint64
	max    int // bytes
	b      []byte
	looks  sniff.Protocol // what b looks like so far
	said   *sniff.Result  // what b says; nil while that is nothing yet
}

func (h *heads) begin(client uint64) *head {
	return &head{heads: h, client: client, max: sniff.MaxHead}
}

// readName reads the first bytes of a stream until they show a name or can show none. For what does not look like a hello or a request it
// waits until budget is over, or the end of the stream: that is no error, and the rest is still to be read. Once it looks like one, it waits
// for startedLimit; if the client has not finished by then, that is an error. For the first request behind a preface of HTTP/2 it waits for
// budget again.
func (h *head) readName(c net.Conn, budget time.Duration) error {
	if err := c.SetReadDeadline(time.Now().Add(budget)); err != nil {
		return err
	}
	defer c.SetReadDeadline(time.Time{})
	for named, prefaced := false, false; len(h.b) < h.max; {
		done, err := h.readSome(c)
		over := errors.Is(err, os.ErrDeadlineExceeded)
		switch {
		case done, over && h.isPreface(), !h.looksNamed() && (over || errors.Is(err, io.EOF)):
			return nil
		case err != nil:
			return err
		case h.isPreface() && !prefaced:
			named, prefaced = true, true
			err = c.SetReadDeadline(time.Now().Add(budget))
		case h.looksNamed() && !named:
			named = true
			err = c.SetReadDeadline(time.Now().Add(startedLimit))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readSome waits for the next bytes and looks at what there is then. done reports that more would change nothing.
func (h *head) readSome(c net.Conn) (done bool, err error) {
	if w, ok := c.(interface{ WaitReadable() error }); ok { // a stack's connection: nothing is held while it is silent
		if err := w.WaitReadable(); err != nil {
			return false, err
		}
	}
	aside(func() { done, err = h.read(c) })
	return done, err
}

func (h *head) read(c net.Conn) (done bool, err error) {
	buf := bufferPool.Get().(*[]byte)
	defer bufferPool.Put(buf)
	n, err := c.Read((*buf)[:min(h.max-len(h.b), len(*buf))])
	if n > 0 {
		if done, err := h.add((*buf)[:n]); done || err != nil {
			return done, err
		}
	}
	return false, err
}

// add holds the next bytes and looks at what there is then. done reports that more would change nothing.
func (h *head) add(b []byte) (done bool, err error) {
	if err := h.hold(b); err != nil {
		return false, err
	}
	return h.look(), nil
}

// look looks at what there is. done reports that more would change nothing.
func (h *head) look() (done bool) {
	res := sniff.TCP(h.b)
	if h.looks = res.Protocol; res.Status != sniff.NeedMore {
		said := res // on the heap only now
		h.said = &said
		return true
	}
	return false
}

// headKind is what the first bytes of a flow to any port turned out to be.
type headKind uint8

const (
	noName        headKind = iota // of a protocol without names
	hello                         // of a protocol that shows one name
	request                       // of HTTP, where more requests follow
	longFirstLine                 // a line without an end, which may still be that of a request
)

func (h *head) kind() headKind {
	res := h.result()
	switch {
	case h.isPreface():
		return request
	case h.said != nil && !h.looksNamed() && res.Status != sniff.NotThis:
		return longFirstLine
	case res.Protocol == sniff.HTTP || res.Protocol == sniff.HTTP2:
		return request
	case h.said == nil || res.Status == sniff.NotThis:
		return noName
	}
	return hello
}

// isPreface reports whether there is the preface of HTTP/2, and no request yet. Some clients send one only once the server has sent its
// settings, which it does when it has the preface.
func (h *head) isPreface() bool { return h.said == nil && h.looks == sniff.HTTP2 }

// isNamed reports whether what was read shows a name or, of a protocol with names, that there is none.
func (h *head) isNamed() bool { return h.kind() == hello || h.kind() == request && !h.isPreface() }

// result is what was read says.
func (h *head) result() sniff.Result {
	if h.said == nil {
		return sniff.Result{}
	}
	return *h.said
}

// looksNamed reports whether the stream looks like one of a protocol with names. A line of HTTP that has not ended could be one
// of many other protocols.
func (h *head) looksNamed() bool {
	switch h.looks {
	case sniff.Unknown:
		return false
	case sniff.HTTP:
		return bytes.IndexByte(h.b, '\n') >= 0
	}
	return true
}

// release returns the memory. It may be called twice.
func (h *head) release() {
	if h.b != nil {
		h.heads.give(h.client, cap(h.b))
		h.b, h.said = nil, nil
	}
}

// hold appends bytes that a filter must keep until they show a name.
func (h *head) hold(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if need := len(h.b) + len(b); need > cap(h.b) {
		grown := slices.Grow(h.b, len(b))
		if !h.heads.take(h.client, cap(grown)-cap(h.b)) {
			return errCrowded
		}
		h.b = grown
	}
	h.b = append(h.b, b...)
	return nil
}

// own holds b, which nobody else keeps, and which is the first.
func (h *head) own(b []byte) error {
	if !h.heads.take(h.client, cap(b)) {
		return errCrowded
	}
	h.b = b
	return nil
}
