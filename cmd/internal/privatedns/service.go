package privatedns

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/door"
	"penstock/cmd/internal/handover"
	"penstock/dnsproxy"
	"penstock/policy"
)

// How long a client may take over HTTPS. The DNS server takes 5 s at most.
const (
	headTime  = 5 * time.Second
	readTime  = 10 * time.Second
	writeTime = 20 * time.Second
	idleTime  = time.Minute
	stopTime  = 2 * time.Second
)

// Authority issues certificates for the service.
type Authority interface {
	// Certificate returns the one for a host, or nil if there is none that is valid now.
	Certificate(host string) *tls.Certificate
	// Answering returns a configuration that also answers the authority's own question.
	Answering(base *tls.Config) *tls.Config
}

// Config is what Open needs. All of it must be set, but Sockets, ACME, Metrics and Log.
type Config struct {
	Server *dnsproxy.Server
	// Serve returns what the configuration in force says; nil: nothing any more.
	Serve func() *config.DNSServe
	// Whose returns who has a token for a way: Client, Peer and Groups. No token stands for a stranger. False: nobody, or a
	// stranger where nobody may be one.
	Whose   func(w Way, token string, src netip.AddrPort) (policy.Flow, bool)
	Listen  net.ListenConfig
	Sockets *handover.Sockets // may be nil
	ACME    Authority         // with acme: true
	Metrics *dnsproxy.Metrics
	Log     *slog.Logger
}

const (
	maxConns       = 1024 // of all listeners
	maxConnsOneSrc = 128  // of one address, behind which there may be many phones
)

// Service is encrypted DNS on addresses of the host.
type Service struct {
	c       Config
	server  *dnsproxy.Private
	log     *slog.Logger
	metrics *dnsproxy.Metrics
	cert    certificate
	guesses guesses
	door    door.Door // for strangers, whoever they turn out to be
	https   []net.Listener
	tls     []net.Listener
}

// Open reads the certificate and opens the addresses of a configuration. It returns nil without dns.serve. The caller must call
// Run, or Close. The error is a *config.Error if the configuration is to be changed.
func Open(ctx context.Context, cfg *config.Config, c Config) (*Service, error) {
	if cfg.DNS.Serve == nil {
		return nil, nil
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{c: c, server: dnsproxy.NewPrivate(c.Server), log: c.Log, metrics: c.Metrics, cert: certificate{serve: c.Serve, acme: c.ACME}}
	s.door.Most, s.door.MostPerSource = maxConns, maxConnsOneSrc
	s.door.Turned = func() { s.metrics.PrivateRefused(dnsproxy.RefusedConnections) }
	if _, err := s.cert.follow(); err != nil {
		return nil, &config.Error{Faults: []config.Fault{CertificateFault(cfg, err)}}
	}
	s.inForce()
	for _, l := range []struct {
		key   string
		addrs []netip.AddrPort
		to    *[]net.Listener
	}{{"https", cfg.DNS.Serve.HTTPS, &s.https}, {"tls", cfg.DNS.Serve.TLS, &s.tls}} {
		for i, a := range l.addrs {
			ln, err := c.Sockets.Listen(ctx, c.Listen, "tcp", a.String())
			if err != nil {
				at := fmt.Sprintf("dns.serve.%s[%d]", l.key, i)
				return nil, errors.Join(config.Refused(cfg, at, "stop the program that uses it or choose another address", err), s.Close())
			}
			*l.to = append(*l.to, s.door.Guard(ln))
		}
	}
	return s, nil
}

// CertificateFault places an error of LoadCertificate in the configuration.
func CertificateFault(cfg *config.Config, err error) config.Fault {
	return cfg.Fault("dns.serve.certificate", "dns.serve: "+err.Error(), "")
}

// Close closes the addresses of a service that does not run.
func (s *Service) Close() error {
	if s == nil {
		return nil
	}
	var errs []error
	for _, ln := range append(s.https, s.tls...) {
		if err := ln.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Run serves until ctx ends, and returns when all is over. It returns an error when an address can be served no longer.
func (s *Service) Run(ctx context.Context) error {
	if s == nil {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	serve := func(run func() error) {
		wg.Go(func() {
			if err := run(); err != nil {
				cancel(err)
			}
		})
	}
	secure := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: s.cert.get}
	asked := secure
	if s.c.ACME != nil {
		asked = s.c.ACME.Answering(&tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: s.cert.get, NextProtos: []string{"h2", "http/1.1"}})
	}
	for _, ln := range s.tls {
		serve(func() error { return s.server.ServeTLS(ctx, ln, secure, s.named) })
	}
	for _, ln := range s.https {
		serve(func() error { return s.serveHTTPS(ctx, ln, asked) })
	}
	wg.Go(func() { s.followCertificate(ctx) })
	wg.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// serveHTTPS serves one address until ctx ends.
func (s *Service) serveHTTPS(ctx context.Context, ln net.Listener, secure *tls.Config) error {
	server := &http.Server{
		Handler:           http.HandlerFunc(s.serveHTTP),
		TLSConfig:         secure.Clone(),
		ReadHeaderTimeout: headTime, ReadTimeout: readTime, WriteTimeout: writeTime, IdleTimeout: idleTime,
		MaxHeaderBytes: 8 << 10,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 32, MaxReceiveBufferPerConnection: 128 << 10, MaxReceiveBufferPerStream: 64 << 10,
			SendPingTimeout: idleTime, PingTimeout: headTime, WriteByteTimeout: headTime,
		},
		ErrorLog:    log.New(s, "", 0),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		short, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
		defer cancel()
		if server.Shutdown(short) != nil {
			server.Close()
		}
	})
	err := server.ServeTLS(ln, "", "")
	if !stop() {
		<-stopped
		return nil
	}
	return errors.Join(fmt.Errorf("dns.serve: https: %w", err), server.Close())
}

// Write takes a line of the HTTP server's log. It is what tells of failed handshakes.
func (s *Service) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	if strings.HasPrefix(text, "http: TLS handshake error") {
		s.metrics.PrivateRefused(dnsproxy.RefusedHandshake)
	}
	s.log.Debug("dns over https", "err", text)
	return len(line), nil
}

// serveHTTP finds out who asks, and has the question answered.
func (s *Service) serveHTTP(w http.ResponseWriter, req *http.Request) {
	src := source(req.RemoteAddr)
	var f policy.Flow
	token, ok := tokenAt(req.URL.Path)
	if ok {
		f, ok = s.c.Whose(HTTPS, token, src)
	}
	if !ok {
		code := http.StatusNotFound
		if s.unknown(src) {
			code = http.StatusTooManyRequests
		}
		w.Header().Set("Connection", "close")
		http.Error(w, http.StatusText(code), code)
		return
	}
	f.Src = src
	s.server.AnswerHTTP(w, req, f)
}

// named is a dnsproxy.Who.
func (s *Service) named(asked string, src netip.AddrPort) (policy.Flow, bool) {
	if serve := s.c.Serve(); serve != nil {
		if token, ok := tokenIn(asked, serve.Name); ok {
			if f, ok := s.c.Whose(TLS, token, src); ok {
				return f, true
			}
		}
	}
	s.unknown(src)
	return policy.Flow{}, false
}

// unknown counts a client that is not known, and reports whether its address has sent too many tokens.
func (s *Service) unknown(src netip.AddrPort) (tooMany bool) {
	if s.guesses.tooMany(src.Addr(), time.Now()) {
		s.metrics.PrivateRefused(dnsproxy.RefusedGuessing)
		return true
	}
	s.metrics.PrivateRefused(dnsproxy.RefusedToken)
	return false
}

// source reads the address of a client.
func source(text string) netip.AddrPort {
	a, err := netip.ParseAddrPort(text)
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
