package dnsproxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"time"
)

// packetSize is the size of the read buffer, octets. A longer query is cut off and then malformed.
const packetSize = 4096

// socket reads queries from and writes answers to UDP clients.
type socket interface {
	read(buf []byte, info *packetInfo) (int, netip.AddrPort, error)
	write(msg []byte, info *packetInfo, to netip.AddrPort) error
}

// socketOf returns the fastest socket that pc allows.
func socketOf(pc net.PacketConn) socket {
	udp, ok := pc.(*net.UDPConn)
	if !ok {
		return slowSocket{pc}
	}
	if wild, ok := newWildcardSocket(udp); ok {
		return wild
	}
	return boundSocket{udp}
}

// ServePacketConn answers the queries that arrive on pc, several at once, until ctx is done, and then returns nil. It returns an
// error when reading fails. It does not close pc, but leaves a read deadline in the past.
func (s *Server) ServePacketConn(ctx context.Context, pc net.PacketConn) error {
	sock := socketOf(pc)
	defer context.AfterFunc(ctx, func() { pc.SetReadDeadline(time.Unix(1, 0)) })()
	errs := make([]error, min(runtime.GOMAXPROCS(0), 4))
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { errs[i] = s.servePackets(ctx, sock) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (s *Server) servePackets(ctx context.Context, sock socket) error {
	buf := make([]byte, packetSize)
	to := &packetAnswerer{sock}
	var info packetInfo
	for {
		n, client, err := sock.read(buf, &info)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("dnsproxy: read queries: %w", err)
		case err != nil: // for example an ICMP error caused by an earlier answer (Windows), which concerns one client only
			s.cfg.Log.LogAttrs(ctx, slog.LevelDebug, "dns query not read", slog.Any("err", err))
			select {
			case <-time.After(time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		st := s.state.Load()
		if !st.serves(client.Addr()) {
			s.cfg.Metrics.query(resultDropped)
			continue
		}
		ex := s.start(client, nil, to)
		ex.raw = client
		if ex.info.len = info.len; info.len > 0 {
			ex.info = info
		}
		s.serve(ctx, ex, buf[:n])
	}
}

// packetAnswerer sends answers from the socket on which the queries came.
type packetAnswerer struct{ socket }

func (p *packetAnswerer) answer(ex *exchange) error {
	if len(ex.out) == 0 {
		return nil
	}
	return p.write(ex.out, &ex.info, ex.raw)
}

// boundSocket is a UDP socket with an address of its own.
type boundSocket struct{ *net.UDPConn }

func (b boundSocket) read(buf []byte, _ *packetInfo) (int, netip.AddrPort, error) {
	return b.ReadFromUDPAddrPort(buf)
}

func (b boundSocket) write(msg []byte, _ *packetInfo, to netip.AddrPort) error {
	_, err := b.WriteToUDPAddrPort(msg, to)
	return err
}

// slowSocket adapts any packet connection.
type slowSocket struct{ net.PacketConn }

func (s slowSocket) read(buf []byte, _ *packetInfo) (int, netip.AddrPort, error) {
	n, from, err := s.ReadFrom(buf)
	if err != nil {
		return 0, netip.AddrPort{}, err
	}
	udp, ok := from.(*net.UDPAddr)
	if !ok {
		return 0, netip.AddrPort{}, fmt.Errorf("client %s has no UDP address", from)
	}
	return n, udp.AddrPort(), nil
}

func (s slowSocket) write(msg []byte, _ *packetInfo, to netip.AddrPort) error {
	_, err := s.WriteTo(msg, net.UDPAddrFromAddrPort(to))
	return err
}
