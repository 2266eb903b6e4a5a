package wire

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// StaticKey is 2048 bits of key material: cipher and HMAC keys for two directions, 64 bytes each.
type StaticKey [256]byte

// Cipher returns the cipher key of direction 0 or 1.
func (k *StaticKey) Cipher(direction int) []byte { return k[128*direction : 128*direction+64] }

// HMAC returns the HMAC key of direction 0 or 1.
func (k *StaticKey) HMAC(direction int) []byte { return k[128*direction+64 : 128*direction+128] }

// Direction says which half of a static key a side sends with.
type Direction uint8

// Directions.
const (
	Bidirectional Direction = iota // the first half, both ways
	Normal                         // sends with the first half, receives with the second
	Inverse                        // sends with the second half, receives with the first
)

func (d Direction) halves() (send, receive int) {
	switch d {
	case Normal:
		return 0, 1
	case Inverse:
		return 1, 0
	}
	return 0, 0
}

// Reverse is the direction of the other side.
func (d Direction) Reverse() Direction {
	switch d {
	case Normal:
		return Inverse
	case Inverse:
		return Normal
	}
	return d
}

const (
	staticKeyBegin = "-----BEGIN OpenVPN Static key V1-----"
	staticKeyEnd   = "-----END OpenVPN Static key V1-----"
	clientKeyType  = "OpenVPN tls-crypt-v2 client key"

	maxWKC = 1024
)

// ParseStaticKey reads the key file of tls-auth and tls-crypt.
func ParseStaticKey(text string) (StaticKey, error) {
	var key StaticKey
	_, rest, ok := strings.Cut(text, staticKeyBegin)
	if !ok {
		return key, errors.New("static key: no BEGIN line")
	}
	body, _, ok := strings.Cut(rest, staticKeyEnd)
	if !ok {
		return key, errors.New("static key: no END line")
	}
	digits := strings.Join(strings.Fields(body), "")
	if len(digits) != 2*len(key) {
		return key, fmt.Errorf("static key: %d hexadecimal digits, want %d", len(digits), 2*len(key))
	}
	if _, err := hex.Decode(key[:], []byte(digits)); err != nil {
		return key, errors.New("static key: not hexadecimal")
	}
	return key, nil
}

// ParseClientKey reads a tls-crypt-v2 client key: the key itself, and its form sealed for the server.
func ParseClientKey(text string) (key StaticKey, wkc []byte, err error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != clientKeyType {
		return key, nil, fmt.Errorf("tls-crypt-v2 key: no %q block", clientKeyType)
	}
	if len(block.Bytes) < len(key)+34 {
		return key, nil, fmt.Errorf("tls-crypt-v2 key: %d bytes are too few", len(block.Bytes))
	}
	wkc = block.Bytes[copy(key[:], block.Bytes):]
	if len(wkc) > maxWKC || int(binary.BigEndian.Uint16(wkc[len(wkc)-2:])) != len(wkc) {
		return key, nil, errors.New("tls-crypt-v2 key: the length of the wrapped key is wrong")
	}
	return key, wkc, nil
}
