package upstream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"penstock/dnsproxy/wire"
)

// protocol asks one server over one protocol. The query is a whole message with an id; the answer is a message with the same
// id and question, so that an attacker has to guess the port as well.
type protocol interface {
	exchange(ctx context.Context, query []byte) ([]byte, error)
	// tidy closes connections that have been idle for long.
	tidy()
	// reset makes the next query open a new connection. Existing ones close as soon as nobody waits on them.
	reset()
	// retire closes connections as soon as nobody waits on them, now and in future.
	retire()
}

// maxMismatches is how many wrong answers a UDP query ignores before it turns to TCP, where nobody can spoof them.
const maxMismatches = 5

// udpProtocol asks over UDP with a new socket, and so a new port, for each query. It turns to TCP for an answer that does not
// fit and when it meets a flood of wrong ones.
type udpProtocol struct {
	*reach
	stream *streamProtocol
	late   lingering
}

func (u *udpProtocol) tidy() { u.stream.tidy() }

func (u *udpProtocol) reset() {
	u.stream.reset()
	u.late.closeAll(false)
}

func (u *udpProtocol) retire() {
	u.stream.retire()
	u.late.closeAll(true)
}

func (u *udpProtocol) exchange(ctx context.Context, query []byte) ([]byte, error) {
	conn, err := u.dial(ctx, "udp")
	if err != nil {
		return nil, err
	}
	answer, err := u.ask(ctx, conn, query)
	if errors.Is(err, errNoAnswer) {
		u.late.keep(conn)
		return nil, err
	}
	conn.Close()
	if err == nil && answer == nil {
		return u.stream.exchange(ctx, query)
	}
	return answer, err
}

// ask asks over one socket. The answer is nil if it must be fetched over TCP.
func (u *udpProtocol) ask(ctx context.Context, conn net.Conn, query []byte) ([]byte, error) {
	defer interrupt(ctx, conn)()
	if _, err := conn.Write(query); err != nil {
		return nil, cause(ctx, err)
	}
	buf := make([]byte, 4096)
	for range maxMismatches {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, cause(ctx, err)
		}
		if !wire.Matches(query, buf[:n]) {
			u.cfg.Metrics.mismatched()
			continue
		}
		if n == len(buf) || binary.BigEndian.Uint16(buf[2:])&wire.FlagTC != 0 {
			return nil, nil // the server truncated it, or it is longer than we allowed
		}
		return buf[:n], nil
	}
	return nil, nil
}

// interrupt makes reads and writes on conn fail when ctx is done, until stop is called.
func interrupt(ctx context.Context, conn net.Conn) (stop func()) {
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	end := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	return func() { end() }
}

// errNoAnswer says that an upstream was silent.
var errNoAnswer = errors.New("no answer in time")

// cause marks an I/O error that ctx or a deadline caused as errNoAnswer.
func cause(ctx context.Context, err error) error {
	var timeout net.Error
	if ctx.Err() != nil || errors.As(err, &timeout) && timeout.Timeout() {
		return fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	return err
}

// share returns a context with an equal part of the time that is left.
func share(ctx context.Context, parts int) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok || parts <= 1 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(deadline)/time.Duration(parts))
}
