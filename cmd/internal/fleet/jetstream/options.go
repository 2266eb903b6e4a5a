package jetstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/url"
	"os"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"penstock/cmd/internal/config"
)

// inboxes is where answers are sent: below the public key of who asks, if there is one, so that others can be kept from reading them.
const inboxes = "_INBOX"

// options returns what nats.go is told, with certificates and credentials as the files have them now. ctx ends a dial.
func (s *Store) options(ctx context.Context) ([]nats.Option, error) {
	c := s.config.NATS
	options := []nats.Option{
		nats.Name(s.config.Name),
		nats.NoReconnect(), // run does that
		nats.NoEcho(),
		nats.Timeout(handshakeTime),
		nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(mostPings),
		nats.SetCustomDialer(dialer{ctx, s.config.Dial}),
	}
	for _, add := range []func(config.NATS) ([]nats.Option, error){identity, trust} {
		more, err := add(c)
		if err != nil {
			return nil, fmt.Errorf("nats: %w", err)
		}
		options = append(options, more...)
	}
	return options, nil
}

// identity returns what proves who we are by an NKey, alone or with a JWT.
func identity(c config.NATS) ([]nats.Option, error) {
	switch {
	case !c.Credentials.IsZero():
		text, err := c.Credentials.Read()
		if err != nil {
			return nil, err
		}
		pair, err := nkeys.ParseDecoratedUserNKey([]byte(text))
		if err != nil {
			return nil, fmt.Errorf("credentials: there is no seed of a user's NKey in them: %w", err)
		}
		defer pair.Wipe()
		public, err := pair.PublicKey()
		if err != nil {
			return nil, err
		}
		return []nats.Option{nats.UserCredentialBytes([]byte(text)), nats.CustomInboxPrefix(inboxes + "." + public)}, nil
	case !c.NKey.IsZero():
		seed, err := c.NKey.Read()
		if err != nil {
			return nil, err
		}
		pair, err := nkeys.FromSeed([]byte(seed))
		if err != nil {
			return nil, fmt.Errorf("nkey: it is no seed of an NKey, SU...: %w", err)
		}
		public, err := pair.PublicKey()
		if err != nil {
			return nil, err
		}
		return []nats.Option{nats.Nkey(public, pair.Sign), nats.CustomInboxPrefix(inboxes + "." + public)}, nil
	}
	return nil, nil
}

// trust returns which certificates are believed, and which one is shown.
func trust(c config.NATS) ([]nats.Option, error) {
	var (
		options []nats.Option
		certs   nats.TLSCertHandler
		roots   nats.RootCAsHandler
	)
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has no certificate", c.CA)
		}
		roots = func() (*x509.CertPool, error) { return pool, nil }
	}
	if c.Certificate != "" {
		pem, err := os.ReadFile(c.Certificate)
		if err != nil {
			return nil, err
		}
		key, err := c.PrivateKey.Read()
		if err != nil {
			return nil, err
		}
		cert, err := tls.X509KeyPair(pem, []byte(key))
		if err != nil {
			return nil, fmt.Errorf("%s and its private key: %w", c.Certificate, err)
		}
		certs = func() (tls.Certificate, error) { return cert, nil }
	}
	if certs != nil || roots != nil {
		options = append(options, nats.ClientTLSConfig(certs, roots))
	}
	return options, nil
}

// dialer is Config.Dial as nats.go wants it. The connection is closed when the store is, so that a handshake ends then, too.
type dialer struct {
	ctx  context.Context
	dial func(ctx context.Context, network, address string) (net.Conn, error)
}

func (d dialer) Dial(network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(d.ctx, handshakeTime)
	defer cancel()
	conn, err := d.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &endedConn{conn, context.AfterFunc(d.ctx, func() { conn.Close() })}, nil
}

// endedConn is a connection that a context ends.
type endedConn struct {
	net.Conn
	stop func() bool
}

func (c *endedConn) Close() error {
	c.stop()
	return c.Conn.Close()
}

// redacted returns URLs without passwords.
func redacted(servers []string) []string {
	var urls []string
	for _, s := range servers {
		if u, err := url.Parse(s); err == nil {
			s = u.Redacted()
		}
		urls = append(urls, s)
	}
	return urls
}
