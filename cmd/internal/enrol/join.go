package enrol

import (
	"bytes"
	"context"
	"crypto/subtle"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"penstock/router/transport/wireguard"
)

const (
	joinLimit  = 30 * time.Second
	mostAnswer = 256 << 10 // bytes
)

var (
	// ErrRefused says that the gateway refuses an invitation.
	ErrRefused = errors.New("the gateway refuses")
	// ErrNotTheGateway says that somebody else answers, who could be in between.
	ErrNotTheGateway = errors.New("the certificate is not the one that the link names: somebody may be in between, and nothing was sent; " +
		"check the link with whoever invited you, or try from another network")
)

// Joined is what a gateway gives to somebody who joins.
type Joined struct {
	Name   string // of the peer, as the gateway calls it
	Config *wireguard.Config
}

// Join uses an invitation: it sends the public half of a key to the gateway, and returns the configuration with the private half in.
// The key has to be new. The error says what to do; if it is none of the above, the invitation may still be valid.
func Join(ctx context.Context, l Link, key wireguard.PrivateKey) (Joined, error) {
	ctx, cancel := context.WithTimeout(ctx, joinLimit)
	defer cancel()
	body, err := json.Marshal(request{Token: l.Token.text(), PublicKey: key.Public().String()})
	if err != nil {
		return Joined{}, err
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, l.Base+joinPath, bytes.NewReader(body))
	if err != nil {
		return Joined{}, errNotALink
	}
	q.Header.Set("Content-Type", "application/json")
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: trust(l.Pin), DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	r, err := client.Do(q)
	if err != nil {
		return Joined{}, explain(l, err)
	}
	defer r.Body.Close()
	var a answer
	text, err := io.ReadAll(io.LimitReader(r.Body, mostAnswer))
	if err == nil {
		err = json.Unmarshal(text, &a)
	}
	switch {
	case err == nil && r.StatusCode != http.StatusOK && a.Error != "":
		return Joined{}, fmt.Errorf("%w: %s", ErrRefused, a.Error)
	case err != nil || r.StatusCode != http.StatusOK:
		return Joined{}, fmt.Errorf("%s does not answer as a gateway does (status %d): if the link is right, ask for a new invitation: this one may be used up", l.Base, r.StatusCode)
	}
	file, err := complete(a, key)
	if err != nil {
		return Joined{}, fmt.Errorf("the gateway's answer is no configuration: ask for a new invitation: this one is used up: %w", err)
	}
	return Joined{Name: a.Name, Config: file}, nil
}

// complete puts the private key and the other endpoints into a file that lacks them. What a gateway may say there is what is read:
// nothing else is passed on.
func complete(a answer, key wireguard.PrivateKey) (*wireguard.Config, error) {
	const section = "[Interface]\n"
	rest, ok := strings.CutPrefix(a.Config, section)
	if !ok {
		return nil, errors.New("it does not begin with [Interface]")
	}
	file, err := wireguard.ParseConfig(strings.NewReader(section+"PrivateKey = "+key.Reveal()+"\n"+rest), "configuration")
	if err != nil {
		return nil, err
	}
	if len(file.Peers) != 1 || len(file.Peers[0].Endpoints) == 0 || file.PrivateKey != key {
		return nil, errors.New("it does not name one gateway")
	}
	if a.Others != "" {
		others, err := wireguard.ParseEndpoints(a.Others)
		if err != nil {
			return nil, err
		}
		file.Peers[0].Endpoints = append(file.Peers[0].Endpoints, others...)
	}
	return file, nil
}

// trust returns whom a client trusts: the key in the link, or else whom the system trusts.
func trust(pin Pin) *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS13}
	if pin.IsZero() {
		return c
	}
	c.InsecureSkipVerify = true // VerifyConnection compares the key, which is stronger than a name
	c.VerifyConnection = func(s tls.ConnectionState) error {
		got := pinOf(s.PeerCertificates[0])
		if subtle.ConstantTimeCompare(got[:], pin[:]) != 1 {
			return ErrNotTheGateway
		}
		return nil
	}
	return c
}

// explain says what to do about an error of the connection. It leaves out the method and the path, which say nothing here.
func explain(l Link, err error) error {
	if outer, ok := errors.AsType[*url.Error](err); ok {
		err = outer.Err
	}
	if errors.Is(err, ErrNotTheGateway) {
		return ErrNotTheGateway
	}
	if bad, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Errorf("%w (%w)", ErrNotTheGateway, bad.Err)
	}
	if dial, ok := errors.AsType[*net.OpError](err); ok && dial.Op == "dial" {
		return fmt.Errorf("cannot reach %s: check that this machine is online and that the gateway runs, and try again: the invitation is not used up: %w", l.Base, err)
	}
	return fmt.Errorf("no answer from %s: try again; if the invitation is refused then, it was used up: ask for a new one: %w", l.Base, err)
}
