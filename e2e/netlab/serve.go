package netlab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"

	"github.com/miekg/dns"
)

// services runs the servers of one lab, until its context ends.
type services struct {
	ctx  context.Context
	log  *slog.Logger
	over sync.WaitGroup
}

// tcp serves a port on all addresses of a host. It passes each connection to handle, and closes it when handle returns or the lab
// ends.
func (s *services) tcp(h *Host, number int, handle func(*net.TCPConn)) error {
	l, err := h.Listen(s.ctx, "tcp", fmt.Sprintf(":%d", number))
	if err != nil {
		return err
	}
	s.over.Go(func() { // the listener's end
		<-s.ctx.Done()
		l.Close()
	})
	s.over.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				s.failed(h, "accept", err)
				return
			}
			s.over.Go(func() {
				defer conn.Close()
				stop := context.AfterFunc(s.ctx, func() { conn.Close() })
				defer stop()
				handle(conn.(*net.TCPConn))
			})
		}
	})
	return nil
}

// echo serves EchoPort: over TCP on all addresses, and over UDP on the given ones, because an answer must come from the address
// that was asked.
func (s *services) echo(h *Host, addrs ...string) error {
	err := s.tcp(h, EchoPort, func(c *net.TCPConn) {
		_, _ = io.Copy(c, c) // ends when either side does
		_ = c.CloseWrite()
	})
	if err != nil {
		return err
	}
	for _, a := range addrs {
		conn, err := h.ListenPacket(s.ctx, "udp", net.JoinHostPort(a, strconv.Itoa(EchoPort)))
		if err != nil {
			return err
		}
		s.over.Go(func() {
			<-s.ctx.Done()
			conn.Close()
		})
		s.over.Go(func() {
			buf := make([]byte, 1<<16)
			for {
				n, from, err := conn.ReadFrom(buf)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err == nil {
					_, _ = conn.WriteTo(buf[:n], from) // a datagram may be lost
				}
			}
		})
	}
	return nil
}

// sink serves SinkPort. It closes the connection after the client has.
func (s *services) sink(h *Host, sink *Sink) error {
	return s.tcp(h, SinkPort, func(c *net.TCPConn) {
		_, _ = io.Copy(sink, c) // received bytes count, even after an error
	})
}

// web serves HTTP on port 80 and HTTPS (HTTP/1.1 and 2) on port 443 of all addresses of a host.
func (s *services) web(h *Host, ca *CA, sink *Sink) error {
	plain, err := h.Listen(s.ctx, "tcp", ":80")
	if err != nil {
		return err
	}
	secure, err := h.Listen(s.ctx, "tcp", ":443")
	if err != nil {
		plain.Close()
		return err
	}
	pages := site(sink)
	// One server for each: a server that has called Serve does not set up HTTP/2 in ServeTLS (Go 1.26).
	for _, serve := range []func(*http.Server) error{
		func(srv *http.Server) error { return srv.Serve(plain) },
		func(srv *http.Server) error { return srv.ServeTLS(secure, "", "") },
	} {
		var handlers sync.WaitGroup
		srv := &http.Server{
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				handlers.Add(1)
				defer handlers.Done()
				pages.ServeHTTP(w, r)
			}),
			TLSConfig: ca.serverConfig(),
			ErrorLog:  slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		}
		s.over.Go(func() { s.failed(h, "web", serve(srv)) })
		s.over.Go(func() {
			<-s.ctx.Done()
			srv.Close()
			handlers.Wait()
		})
	}
	return nil
}

// dns serves a resolver on port 53 of all addresses of a host.
func (s *services) dns(h *Host, d *DNS) error {
	l, err := h.Listen(s.ctx, "tcp", ":53")
	if err != nil {
		return err
	}
	p, err := h.ListenPacket(s.ctx, "udp", ":53")
	if err != nil {
		l.Close()
		return err
	}
	for _, srv := range []*dns.Server{{Listener: l, Handler: d}, {PacketConn: p, Handler: d}} {
		started := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		s.over.Go(func() { s.failed(h, "dns", srv.ActivateAndServe()) })
		s.over.Go(func() {
			<-s.ctx.Done()
			<-started
			_ = srv.Shutdown() // fails only if it is not running
		})
	}
	return nil
}

// failed logs why a server ended, unless the lab stopped it.
func (s *services) failed(h *Host, what string, err error) {
	if err != nil && s.ctx.Err() == nil {
		s.log.Error("service ended", "host", h.name, "service", what, "err", fmt.Errorf("%s: %w", what, err))
	}
}
