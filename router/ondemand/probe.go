package ondemand

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// askTime is how long one request may take.
const askTime = 3 * time.Second

// Prober sends requests to the network that the host is in, outside every tunnel.
type Prober struct {
	// Dial connects to an address and port. It must keep the connection out of our own TUN.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Resolve finds the addresses of a name with the resolvers of the network.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
}

var _ Asker = Prober{}

// Answers reports whether a GET of the URL returns status 200. It does not follow redirects, because captive portals answer
// with them.
func (p Prober) Answers(ctx context.Context, url string) bool {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	transport := &http.Transport{DialContext: p.dialName, DisableKeepAlives: true, Proxy: nil}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 4096)
	return resp.StatusCode == http.StatusOK
}

// Proves reports whether the server at the beacon's address has the certificate and its key. Without the key the handshake
// fails.
func (p Prober) Proves(ctx context.Context, b Beacon) bool {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	conn, err := p.Dial(ctx, "tcp", b.Addr.String())
	if err != nil {
		return false
	}
	defer conn.Close()
	client := tls.Client(conn, &tls.Config{
		InsecureSkipVerify: true, // the digest identifies the server
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 || sha256.Sum256(s.PeerCertificates[0].Raw) != b.SHA256 {
				return errors.New("another certificate")
			}
			return nil
		},
	})
	return client.HandshakeContext(ctx) == nil
}

// dialName tries the addresses of a name in turn.
func (p Prober) dialName(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	addrs, err := p.Resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	errs := []error{fmt.Errorf("connect to %s", address)}
	for _, a := range addrs {
		conn, err := p.Dial(ctx, network, net.JoinHostPort(a.String(), port))
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}
