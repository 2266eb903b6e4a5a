package fleet

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// A pulse is a datagram that asks a gateway whether it lives, or its answer: a word, a random number, and a code that only the
// gateways of the site can make. An answer is as long as its question, so nobody can use the port against others.
const (
	pulseWord   = 8
	pulseNonce  = 16
	pulseLength = pulseWord + pulseNonce + sha256.Size
)

var (
	pulseAsk    = [pulseWord]byte{'p', 'e', 'n', '-', 'a', 's', 'k', '1'}
	pulseAnswer = [pulseWord]byte{'p', 'e', 'n', '-', 'y', 'e', 's', '1'}
)

// pulse asks other gateways whether they live, and answers when it is asked.
type pulse struct {
	conn *net.UDPConn
	key  [sha256.Size]byte

	mu    sync.Mutex // guards below
	asked map[[pulseNonce]byte]question
}

// question is one that was asked and has no answer yet.
type question struct {
	name string
	at   time.Time
}

// questionLife is how long an answer is waited for.
const questionLife = 3 * time.Second

// listenPulse opens the port. The secret is one that all gateways of the site have and nobody else.
func listenPulse(ctx context.Context, listen net.ListenConfig, at netip.AddrPort, secret string) (*pulse, error) {
	conn, err := listen.ListenPacket(ctx, "udp", at.String())
	if err != nil {
		return nil, fmt.Errorf("fleet.endpoint: %w", err)
	}
	return &pulse{
		conn: conn.(*net.UDPConn), key: sha256.Sum256([]byte("penstock fleet pulse 1\x00" + secret)),
		asked: make(map[[pulseNonce]byte]question),
	}, nil
}

// run answers until ctx ends. It calls alive with the name of each gateway that has answered.
func (p *pulse) run(ctx context.Context, alive func(name string)) {
	stop := context.AfterFunc(ctx, func() { p.conn.Close() })
	defer stop()
	buffer := make([]byte, pulseLength+1)
	for {
		n, from, err := p.conn.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n != pulseLength {
			continue
		}
		var word [pulseWord]byte
		var nonce [pulseNonce]byte
		copy(word[:], buffer)
		copy(nonce[:], buffer[pulseWord:])
		if !hmac.Equal(buffer[pulseWord+pulseNonce:n], p.code(word, nonce)) {
			continue
		}
		switch word {
		case pulseAsk:
			_, _ = p.conn.WriteToUDPAddrPort(p.message(pulseAnswer, nonce), from)
		case pulseAnswer:
			p.mu.Lock()
			q, ok := p.asked[nonce]
			delete(p.asked, nonce)
			p.mu.Unlock()
			if ok {
				alive(q.name)
			}
		}
	}
}

// ask asks the gateway of a name at an address.
func (p *pulse) ask(name string, at netip.AddrPort) {
	var nonce [pulseNonce]byte
	rand.Read(nonce[:])
	now := time.Now()
	p.mu.Lock()
	for n, q := range p.asked {
		if now.Sub(q.at) > questionLife {
			delete(p.asked, n)
		}
	}
	p.asked[nonce] = question{name, now}
	p.mu.Unlock()
	_, _ = p.conn.WriteToUDPAddrPort(p.message(pulseAsk, nonce), at) // an address that cannot be reached does not answer
}

func (p *pulse) message(word [pulseWord]byte, nonce [pulseNonce]byte) []byte {
	m := append(word[:], nonce[:]...)
	return append(m, p.code(word, nonce)...)
}

func (p *pulse) code(word [pulseWord]byte, nonce [pulseNonce]byte) []byte {
	h := hmac.New(sha256.New, p.key[:])
	h.Write(word[:])
	h.Write(nonce[:])
	return h.Sum(nil)
}
