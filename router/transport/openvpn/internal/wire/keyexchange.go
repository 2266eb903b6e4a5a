package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

// Secrets are one side's contribution to PRF keys.
type Secrets struct {
	PreMaster [48]byte // the client's only
	Random1   [32]byte
	Random2   [32]byte
}

// KeyExchange is the message that each side sends first inside TLS (key method 2).
type KeyExchange struct {
	Secrets
	Options  string
	User     string
	Password string
	PeerInfo string // lines of NAME=value
}

const keyMethod = 2

// Append adds the message's wire form to b. Only a client's message has a pre-master secret.
func (k *KeyExchange) Append(b []byte, client bool) []byte {
	b = append(b, 0, 0, 0, 0, keyMethod)
	if client {
		b = append(b, k.PreMaster[:]...)
	}
	b = append(b, k.Random1[:]...)
	b = append(b, k.Random2[:]...)
	for _, s := range []string{k.Options, k.User, k.Password, k.PeerInfo} {
		b = appendString(b, s)
	}
	return b
}

func appendString(b []byte, s string) []byte {
	if s == "" {
		return append(b, 0, 0)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)+1))
	return append(append(b, s...), 0)
}

// ReadKeyExchange reads the message of a client or of a server. A server may leave out the last strings. Strings are read
// only as long as r has them buffered, so that a message which comes later is not taken for one of them.
func ReadKeyExchange(r interface {
	io.Reader
	Buffered() int
}, client bool) (*KeyExchange, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, fmt.Errorf("read key exchange: %w", err)
	}
	if !bytes.Equal(head[:], []byte{0, 0, 0, 0, keyMethod}) {
		return nil, fmt.Errorf("read key exchange: unknown key method in % x", head)
	}
	var k KeyExchange
	fields := [][]byte{k.Random1[:], k.Random2[:]}
	if client {
		fields = [][]byte{k.PreMaster[:], k.Random1[:], k.Random2[:]}
	}
	for _, f := range fields {
		if _, err := io.ReadFull(r, f); err != nil {
			return nil, fmt.Errorf("read key exchange: %w", err)
		}
	}
	for i, s := range []*string{&k.Options, &k.User, &k.Password, &k.PeerInfo} {
		if i > 0 && r.Buffered() < 2 {
			break
		}
		var err error
		if *s, err = readString(r); err != nil {
			return nil, fmt.Errorf("read key exchange: %w", err)
		}
	}
	return &k, nil
}

func readString(r io.Reader) (string, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return "", err
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(r, b); err != nil {
		return "", err
	}
	return string(bytes.TrimSuffix(b, []byte{0})), nil
}
