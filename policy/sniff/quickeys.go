package sniff

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// Salts of the Initial secrets: RFC 9001 5.2, RFC 9369 3.3.1, and draft-ietf-quic-tls 5.2 of the versions 29 and 23.
const (
	saltV1 = "\x38\x76\x2c\xf7\xf5\x59\x34\xb3\x4d\x17\x9a\xe6\xa4\xc8\x0c\xad\xcc\xbb\x7f\x0a"
	saltV2 = "\x0d\xed\xe3\xde\xf7\x00\xa6\xdb\x81\x93\x81\xbe\x6e\x26\x9d\xcb\xf9\xbd\x2e\xd9"
	salt29 = "\xaf\xbf\xec\x28\x99\x93\xd2\x4c\x9e\x97\x86\xf1\x9c\x61\x11\xe0\x43\x90\xa8\x99"
	salt23 = "\xc3\xee\xf7\x12\xc7\x2e\xbb\x5a\x11\xa7\xd2\x43\x2b\xb4\x63\x65\xbe\xf9\xf5\x02"
)

// saltOf returns the salt of a version that is read. Of the drafts, HAProxy takes 29, LiteSpeed 27 too, and MsQuic a version of its own.
func saltOf(version uint32) (salt string, ok bool) {
	switch draft := version - versionDraft; {
	case version == version1, draft == 33, draft == 34:
		return saltV1, true
	case version == version2:
		return saltV2, true
	case 29 <= draft && draft <= 32, version == versionMS1:
		return salt29, true
	case 23 <= draft && draft <= 28:
		return salt23, true
	}
	return "", false
}

// initialKeys decrypts a client's Initial packets. Everybody on the path can derive these keys.
type initialKeys struct {
	version uint32
	aead    cipher.AEAD
	iv      [12]byte
	header  cipher.Block
	next    uint64 // one more than the largest packet number opened
}

// newInitialKeys derives the keys from the first destination connection ID of a connection. It fails only if the
// platform refuses the algorithms, as in FIPS mode.
func newInitialKeys(version uint32, dcid []byte) (initialKeys, error) {
	salt, _ := saltOf(version)
	label := "quic "
	if version == version2 {
		label = "quicv2 "
	}
	initial, err := hkdf.Extract(sha256.New, dcid, []byte(salt))
	if err != nil {
		return initialKeys{}, fmt.Errorf("sniff: extract initial secret: %w", err)
	}
	var secret [32]byte
	var key, header [16]byte
	keys := initialKeys{version: version}
	for _, step := range []struct {
		from  []byte
		label string
		to    []byte
	}{
		{initial, "client in", secret[:]},
		{secret[:], label + "key", key[:]},
		{secret[:], label + "iv", keys.iv[:]},
		{secret[:], label + "hp", header[:]},
	} {
		if err := expandLabel(step.to, step.from, step.label); err != nil {
			return initialKeys{}, err
		}
	}
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return initialKeys{}, fmt.Errorf("sniff: initial key: %w", err)
	}
	if keys.aead, err = cipher.NewGCM(block); err != nil {
		return initialKeys{}, fmt.Errorf("sniff: initial key: %w", err)
	}
	if keys.header, err = aes.NewCipher(header[:]); err != nil {
		return initialKeys{}, fmt.Errorf("sniff: header protection key: %w", err)
	}
	return keys, nil
}

// expandLabel fills to with HKDF-Expand-Label and an empty context (RFC 8446 7.1).
func expandLabel(to, secret []byte, label string) error {
	label = "tls13 " + label
	info := make([]byte, 0, 2+1+len(label)+1)
	info = binary.BigEndian.AppendUint16(info, uint16(len(to)))
	info = append(info, byte(len(label)))
	info = append(info, label...)
	info = append(info, 0)
	out, err := hkdf.Expand(sha256.New, secret, string(info), len(to))
	if err != nil {
		return fmt.Errorf("sniff: expand %q: %w", label, err)
	}
	copy(to, out)
	return nil
}

// open removes the header protection (RFC 9001 5.4) and decrypts a copy of the packet.
func (k *initialKeys) open(p packet) (payload []byte, ok bool) {
	const sampleAt = 4 // bytes after the start of the packet number, whatever its size
	if len(p.raw) < p.number+sampleAt+aes.BlockSize {
		return nil, false
	}
	raw := append([]byte(nil), p.raw...)
	var mask [aes.BlockSize]byte
	k.header.Encrypt(mask[:], raw[p.number+sampleAt:][:aes.BlockSize])
	raw[0] ^= mask[0] & 0x0f
	size := int(raw[0]&3) + 1
	var sent uint64
	for i := range size {
		raw[p.number+i] ^= mask[1+i]
		sent = sent<<8 | uint64(raw[p.number+i])
	}
	number := fullNumber(sent, 8*size, k.next)
	nonce := k.nonce(number)
	sealed := raw[p.number+size:]
	payload, err := k.aead.Open(sealed[:0], nonce[:], sealed, raw[:p.number+size])
	if err != nil {
		return nil, false
	}
	k.next = max(k.next, number+1)
	return payload, true
}

func (k *initialKeys) nonce(number uint64) [12]byte {
	nonce := k.iv
	tail := nonce[len(nonce)-8:]
	binary.BigEndian.PutUint64(tail, binary.BigEndian.Uint64(tail)^number)
	return nonce
}

// fullNumber restores a packet number from its lowest bits, which are sent. It is the number nearest to due, the one expected
// next (RFC 9000 A.3).
func fullNumber(sent uint64, bits int, due uint64) uint64 {
	window := uint64(1) << bits
	number := due&^(window-1) | sent
	switch {
	case number+window/2 <= due:
		return number + window
	case number > due+window/2 && number >= window:
		return number - window
	}
	return number
}
