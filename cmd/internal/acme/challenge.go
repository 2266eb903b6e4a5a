package acme

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	protocol "golang.org/x/crypto/acme"

	"penstock/cmd/internal/door"
)

// Bounds of the port at which the authority asks. Others find nothing there.
const (
	mostConns          = 64
	mostConnsPerSource = 8
	grace              = time.Second
)

// challenges are those that are open. The zero value has none.
type challenges struct {
	mu    sync.Mutex // guards below
	paths map[string]string
	certs map[string]*tls.Certificate // by server name
}

// answer answers a challenge until done is called.
func (o *challenges) answer(client *protocol.Client, c *protocol.Challenge, name string) (done func(), err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if c.Type == alpn01 {
		cert, err := client.TLSALPN01ChallengeCert(c.Token, name)
		if err != nil {
			return nil, err
		}
		if o.certs == nil {
			o.certs = make(map[string]*tls.Certificate)
		}
		o.certs[name] = &cert
		return func() { o.mu.Lock(); defer o.mu.Unlock(); delete(o.certs, name) }, nil
	}
	text, err := client.HTTP01ChallengeResponse(c.Token)
	if err != nil {
		return nil, err
	}
	path := client.HTTP01ChallengePath(c.Token)
	if o.paths == nil {
		o.paths = make(map[string]string)
	}
	o.paths[path] = text
	return func() { o.mu.Lock(); defer o.mu.Unlock(); delete(o.paths, path) }, nil
}

// at returns the answer at a path.
func (o *challenges) at(path string) (text string, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	text, ok = o.paths[path]
	return text, ok
}

// certificate returns the answer for a server name.
func (o *challenges) certificate(name string) (*tls.Certificate, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if cert := o.certs[strings.ToLower(name)]; cert != nil {
		return cert, nil
	}
	return nil, errors.New("no authority was told to ask for this name")
}

// Answering returns a configuration that also answers the authority where it asks at port 443. base must have GetCertificate, and
// NextProtos with what its clients speak. Nil Certificates return base.
func (c *Certificates) Answering(base *tls.Config) *tls.Config {
	if c == nil || !c.Port443 {
		return base
	}
	both := base.Clone()
	both.NextProtos = append(slices.Clone(base.NextProtos), protocol.ALPNProto)
	both.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if slices.Equal(hello.SupportedProtos, []string{protocol.ALPNProto}) {
			return c.open.certificate(hello.ServerName)
		}
		return base.GetCertificate(hello)
	}
	return both
}

// Serve answers the authority on a listener that it reaches at port 80, until ctx ends. It closes the listener.
func (c *Certificates) Serve(ctx context.Context, l net.Listener) error {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	server := &http.Server{
		Handler: http.HandlerFunc(c.serveHTTP), Protocols: protocols, MaxHeaderBytes: 4 << 10,
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: 5 * time.Second,
		ErrorLog: slog.NewLogLogger(c.Log.Handler(), slog.LevelDebug),
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		if server.Shutdown(wait) != nil {
			server.Close()
		}
	})
	err := server.Serve((&door.Door{Most: mostConns, MostPerSource: mostConnsPerSource}).Guard(l))
	if !stop() {
		<-stopped
		return nil
	}
	return fmt.Errorf("acme.http: %w", err)
}

// serveHTTP knows the answers to open challenges, and nothing else.
func (c *Certificates) serveHTTP(w http.ResponseWriter, r *http.Request) {
	text, ok := c.open.at(r.URL.Path)
	if !ok || r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	_, _ = w.Write([]byte(text)) // the authority may have left
}
