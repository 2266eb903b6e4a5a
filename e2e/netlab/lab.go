package netlab

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
)

// Lab is a running world. Close closes all its parts.
type Lab struct {
	Laptop, Access, Access2, Internet, Gateway, Intranet *Host

	CA           *CA
	PublicDNS    *DNS // on Internet, at ResolverIPv4 and ResolverIPv6
	AccessDNS    *DNS // on Access and Access2: the questions that the access network sees
	IntranetDNS  *DNS // on Intranet: corp.example, and all that PublicDNS knows
	PublicSink   *Sink
	IntranetSink *Sink
	Uplinks      [2]Uplink // of the laptop; the first is connected at the start

	more     []*Host // see AddGateway
	closed   sync.Once
	cancel   context.CancelFunc
	services services
}

// New builds the world and starts its services. They run until Close, even if ctx ends. If this process cannot make namespaces,
// New returns ErrUnavailable, wrapped with the reason.
func New(ctx context.Context, o Options) (*Lab, error) {
	if err := entered(); err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	ca, err := newCA()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	l := &Lab{
		CA:           ca,
		PublicDNS:    newDNS(nil),
		PublicSink:   new(Sink),
		IntranetSink: new(Sink),
		Uplinks:      uplinks(),
		cancel:       cancel,
		services:     services{ctx: ctx, log: o.Log},
	}
	l.AccessDNS = newDNS(l.PublicDNS)
	l.IntranetDNS = newDNS(l.PublicDNS)
	for _, step := range []func() error{func() error { return l.makeHosts(ctx) }, l.makeNetwork, l.makeNames, l.makeServices} {
		if err := step(); err != nil {
			return nil, errors.Join(fmt.Errorf("build lab: %w", err), l.Close())
		}
	}
	return l, nil
}

// Close stops the services, kills every program in the lab and releases its namespaces. It may be called more than once.
func (l *Lab) Close() error {
	var err error
	l.closed.Do(func() {
		l.cancel()
		l.services.over.Wait()
		for _, h := range l.Hosts() {
			err = errors.Join(err, h.Close())
		}
	})
	return err
}

// Hosts returns all hosts of the lab.
func (l *Lab) Hosts() []*Host {
	var hosts []*Host
	for _, h := range []*Host{l.Laptop, l.Access, l.Access2, l.Internet, l.Gateway, l.Intranet} {
		if h != nil {
			hosts = append(hosts, h)
		}
	}
	return append(hosts, l.more...)
}

// Client returns an HTTP client that dials and resolves inside a host and trusts the lab's CA. It speaks HTTP/1.1 and 2, does
// not reuse connections, and does not follow redirects.
func (l *Lab) Client(h *Host) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext:       h.DialContext,
			TLSClientConfig:   &tls.Config{RootCAs: l.CA.Pool()},
			ForceAttemptHTTP2: true,
			DisableKeepAlives: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
