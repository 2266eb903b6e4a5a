// Package privatedns serves encrypted DNS to the phones of peers: DNS over HTTPS with a path, and DNS over TLS with a host name,
// that belong to one peer alone.
//
// The path and the name are tokens. They are made from the gateway's key and what identifies the peer, so that nothing has to be
// kept for them, and are looked up by their digest. The two tokens of a peer say nothing about each other, because the name for
// TLS travels in clear: in the phone's look-up of it, and in the handshake.
//
// It does not answer questions: the DNS server does, for the client that a token belongs to.
package privatedns

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"fmt"
	"net/netip"
	"strings"

	"penstock/cmd/internal/config"
)

// Way is a protocol by which phones ask.
type Way string

// Ways.
const (
	HTTPS Way = "https"
	TLS   Way = "tls"
)

// Path is where DNS over HTTPS is served. A slash and a token follow.
const Path = "/dns-query"

// tokenBytes is the length of a token: 160 bits, which base32 writes as 32 characters without padding.
const tokenBytes = 20

// key is what tokens are made from.
type key []byte

// keyOf derives the key from that of the gateway, of which it says nothing.
func keyOf(cfg *config.Config) (key, error) {
	text, err := cfg.Listen.WireGuard.PrivateKey.Read()
	if err != nil {
		return nil, err
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("the gateway's key is not base64")
	}
	return hkdf.Key(sha256.New, raw, nil, "penstock: tokens of private DNS, 1", sha256.Size)
}

// token returns the token of a peer for one way.
func (k key) token(w Way, p config.Peer) string {
	h := hmac.New(sha256.New, k)
	fmt.Fprintf(h, "%s\x00%s\x00%d", w, p.ID(), p.DNSRenewals)
	return strings.ToLower(base32.StdEncoding.EncodeToString(h.Sum(nil)[:tokenBytes])) // host names have no case
}

// digest is what a token is looked up by: how long that takes says nothing about the tokens that there are.
type digest [sha256.Size]byte

// Plan is the tokens of a configuration. It is immutable. A nil *Plan has none.
type Plan struct {
	anonymous bool
	peers     map[Way]map[digest]string // IDs of peers
}

// NewPlan makes the tokens of all peers. It returns nil without dns.serve.
func NewPlan(cfg *config.Config) (*Plan, error) {
	if cfg.DNS.Serve == nil {
		return nil, nil
	}
	k, err := keyOf(cfg)
	if err != nil {
		return nil, fmt.Errorf("%s: listen.wireguard.private_key: %w", cfg.Position("listen.wireguard.private_key"), err)
	}
	p := &Plan{anonymous: cfg.DNS.Serve.Anonymous, peers: make(map[Way]map[digest]string)}
	for _, w := range []Way{HTTPS, TLS} {
		p.peers[w] = make(map[digest]string, cfg.Peers.Len())
		for _, peer := range cfg.Peers.All() {
			p.peers[w][sha256.Sum256([]byte(k.token(w, peer)))] = peer.ID()
		}
	}
	return p, nil
}

// Anonymous reports whether those who have no token are answered.
func (p *Plan) Anonymous() bool { return p != nil && p.anonymous }

// Peer returns the ID of the peer that a token belongs to. Whether it may ask now is not said.
func (p *Plan) Peer(w Way, token string) (id string, ok bool) {
	if p == nil {
		return "", false
	}
	id, ok = p.peers[w][sha256.Sum256([]byte(token))]
	return id, ok
}

// Access is what the phone of a peer is told. What is not served is empty.
type Access struct {
	URL  string // for DNS over HTTPS
	Host string // for DNS over TLS
}

// AccessOf returns the access of a peer. cfg must have dns.serve.
func AccessOf(cfg *config.Config, p config.Peer) (Access, error) {
	k, err := keyOf(cfg)
	if err != nil {
		return Access{}, fmt.Errorf("listen.wireguard.private_key: %w", err)
	}
	s := cfg.DNS.Serve
	var a Access
	if len(s.HTTPS) > 0 {
		a.URL = "https://" + s.Name + port(s.HTTPS[0], 443) + Path + "/" + k.token(HTTPS, p)
	}
	if len(s.TLS) > 0 {
		a.Host = k.token(TLS, p) + "." + s.Name
	}
	return a, nil
}

// port returns what a URL says about a port that is not the usual one.
func port(a netip.AddrPort, usual uint16) string {
	if a.Port() == usual {
		return ""
	}
	return fmt.Sprintf(":%d", a.Port())
}

// tokenAt returns the token in the path of a request; "" is the path without one.
func tokenAt(path string) (token string, ok bool) {
	if path == Path {
		return "", true
	}
	token, ok = strings.CutPrefix(path, Path+"/")
	return token, ok && token != ""
}

// tokenIn returns the token in the host name that a TLS client asks for; "" is the server's own name, or none.
func tokenIn(asked, name string) (token string, ok bool) {
	asked = strings.ToLower(asked)
	if asked == "" || asked == name {
		return "", true
	}
	token, ok = strings.CutSuffix(asked, "."+name)
	return token, ok && token != ""
}
