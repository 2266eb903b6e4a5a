package acme

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	protocol "golang.org/x/crypto/acme"
)

// Bounds of a question to the authority.
const (
	askLimit  = 30 * time.Second
	maxAnswer = 1 << 20 // bytes
	maxHeader = 64 << 10
	tries     = 3 // of one request, while the authority has a fault or wants another nonce
)

// Kinds of challenges.
const (
	http01 = "http-01"
	alpn01 = "tls-alpn-01"
)

// order gets a chain of certificates for a key, the leaf first. attempt counts from 0: another one may take another challenge. heard is set
// when the authority answers.
func (c *Certificates) order(ctx context.Context, name string, key crypto.Signer, attempt int, heard *atomic.Bool) (chain [][]byte, err error) {
	client, err := c.client(heard)
	if err != nil {
		return nil, err
	}
	defer client.HTTPClient.CloseIdleConnections()
	account := new(protocol.Account)
	if c.Settings.Email != "" {
		account.Contact = []string{"mailto:" + c.Settings.Email}
	}
	if _, err := client.Register(ctx, account, protocol.AcceptTOS); err != nil && !errors.Is(err, protocol.ErrAccountAlreadyExists) { // acme.agree is true
		return nil, during("makes an account", err)
	}
	template, ids := new(x509.CertificateRequest), protocol.DomainIDs(name)
	addr, err := netip.ParseAddr(name)
	if err == nil {
		ids, template.IPAddresses = protocol.IPIDs(name), []net.IP{addr.AsSlice()}
	} else {
		template.DNSNames = []string{name}
	}
	order, err := client.AuthorizeOrder(ctx, ids)
	if err != nil {
		return nil, during("takes an order", err)
	}
	for _, url := range order.AuthzURLs {
		if err := c.prove(ctx, client, url, name, addr.IsValid(), attempt); err != nil {
			return nil, during("checks the name", err)
		}
	}
	ready, err := client.WaitOrder(ctx, order.URI)
	if err != nil {
		return nil, during("takes an order", err)
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return nil, err
	}
	chain, _, err = client.CreateCertFromOrder(ctx, ready, request, true)
	return chain, during("issues", err)
}

// prove shows the authority that a name is ours.
func (c *Certificates) prove(ctx context.Context, client *protocol.Client, url, name string, isAddr bool, attempt int) error {
	a, err := client.GetAuthorization(ctx, url)
	if err != nil || a.Status == protocol.StatusValid {
		return err
	}
	ways := c.ways(a.Challenges, isAddr)
	if len(ways) == 0 {
		return errNoWay
	}
	challenge := ways[attempt%len(ways)]
	done, err := c.open.answer(client, challenge, name)
	if err != nil {
		return err
	}
	defer done()
	if _, err := client.Accept(ctx, challenge); err != nil {
		return err
	}
	_, err = client.WaitAuthorization(ctx, a.URI)
	return err
}

// errNoWay says that the authority offers no challenge that we can answer.
var errNoWay = errors.New("the authority checks the name neither at its port 80 nor at its port 443, where penstock could answer: choose another authority, or set acme.http")

// ways returns the challenges that we can answer, the one to try first at the front.
func (c *Certificates) ways(offered []*protocol.Challenge, isAddr bool) (ways []*protocol.Challenge) {
	for _, kind := range []string{http01, alpn01} {
		if kind == http01 && !c.Port80 || kind == alpn01 && (!c.Port443 || isAddr) {
			continue
		}
		if i := slices.IndexFunc(offered, func(o *protocol.Challenge) bool { return o.Type == kind }); i >= 0 {
			ways = append(ways, offered[i])
		}
	}
	return ways
}

// client returns a client whose connections leave as the configuration says, and whose answers are bounded.
func (c *Certificates) client(heard *atomic.Bool) (*protocol.Client, error) {
	key, err := c.store.account(c.Settings.Directory, c.Log)
	if err != nil {
		return nil, err
	}
	roots, err := c.Settings.Roots()
	if err != nil {
		return nil, err
	}
	return &protocol.Client{
		Key: key, DirectoryURL: c.Settings.Directory, UserAgent: "penstock",
		RetryBackoff: func(n int, _ *http.Request, res *http.Response) time.Duration {
			if n > tries || res.StatusCode == http.StatusTooManyRequests {
				return -1 // we come back much later
			}
			return time.Duration(n) * 500 * time.Millisecond
		},
		HTTPClient: &http.Client{
			Timeout: askLimit,
			Transport: bounded{heard, &http.Transport{
				DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
					return c.Dial(ctx, c.Settings.Via, network, address)
				},
				TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}, TLSHandshakeTimeout: askLimit,
				ForceAttemptHTTP2: true, MaxResponseHeaderBytes: maxHeader, MaxIdleConns: 2,
			}},
			CheckRedirect: func(req *http.Request, via []*http.Request) error {
				if len(via) > 3 || req.URL.Scheme != "https" {
					return errors.New("it redirects to somewhere else than https")
				}
				return nil
			},
		},
	}, nil
}

// bounded cuts off answers that are too large: the protocol's package reads some whole. It notes that there was one.
type bounded struct {
	heard *atomic.Bool
	*http.Transport
}

func (b bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := b.Transport.RoundTrip(req)
	if err == nil {
		b.heard.Store(true)
		res.Body = http.MaxBytesReader(nil, res.Body, maxAnswer)
	}
	return res, err
}

// certificateOf makes a certificate of a chain, if it is what was ordered.
func certificateOf(name string, chain [][]byte, key crypto.Signer, now time.Time) (*tls.Certificate, error) {
	if len(chain) == 0 {
		return nil, errors.New("the authority issued nothing")
	}
	leaf, err := x509.ParseCertificate(chain[0])
	switch {
	case err != nil:
		return nil, fmt.Errorf("the authority issued no certificate: %w", err)
	case !same(leaf.PublicKey, key.Public()):
		return nil, errors.New("the authority issued a certificate for another key")
	case !now.Before(leaf.NotAfter):
		return nil, fmt.Errorf("the authority issued a certificate that expired at %s: set the clock of this machine", leaf.NotAfter.Local().Format(time.DateTime))
	}
	if err := leaf.VerifyHostname(name); err != nil {
		return nil, fmt.Errorf("the authority issued a certificate for something else: %w", err)
	}
	return &tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf}, nil
}

// same reports whether two public keys are.
func same(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}
