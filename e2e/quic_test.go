package e2e

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"testing"
)

// quicInitialSize is the size of a client's first datagram in bytes, the least that is allowed (RFC 9000, 14.1).
const quicInitialSize = 1200

// quicInitial is the first datagram of a QUIC version 1 client that asks for a server by name (RFC 9001, 5 and
// appendix A).
func quicInitial(t *testing.T, name string) []byte {
	t.Helper()
	client := tls.QUICClient(&tls.QUICConfig{TLSConfig: &tls.Config{ServerName: name, NextProtos: []string{"h3"}, MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.X25519}}})
	client.SetTransportParameters(nil)
	if err := client.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	hello := client.NextEvent()
	if hello.Kind != tls.QUICWriteData || hello.Level != tls.QUICEncryptionLevelInitial {
		t.Fatalf("got event %v at level %v, want a ClientHello", hello.Kind, hello.Level)
	}
	id := []byte{8, 7, 6, 5, 4, 3, 2, 1}
	salt, err := hex.DecodeString("38762cf7f55934b34d179ae6a4c80cadccbb7f0a")
	if err != nil {
		t.Fatal(err)
	}
	secret, err := hkdf.Extract(sha256.New, id, salt)
	if err != nil {
		t.Fatal(err)
	}
	secret = expand(t, secret, "client in", 32)
	key, iv, mask := expand(t, secret, "quic key", 16), expand(t, secret, "quic iv", 12), expand(t, secret, "quic hp", 16)

	const overhead = 4 + 16 // packet number and tag
	head := []byte{0xc3, 0, 0, 0, 1, byte(len(id))}
	head = append(head, id...)
	head = append(head, 0, 0) // no source id, no token
	rest := quicInitialSize - len(head) - 2
	head = binary.BigEndian.AppendUint16(head, 0x4000|uint16(rest))
	head = append(head, 0, 0, 0, 0) // packet number 0
	frames := []byte{6, 0}          // CRYPTO at offset 0
	frames = binary.BigEndian.AppendUint16(frames, 0x4000|uint16(len(hello.Data)))
	frames = append(frames, hello.Data...)
	frames = append(frames, make([]byte, rest-overhead-len(frames))...) // PADDING

	sealed := seal(t, key, iv, frames, head)
	datagram := append(head, sealed...)
	block, err := aes.NewCipher(mask)
	if err != nil {
		t.Fatal(err)
	}
	hide := make([]byte, 16)
	block.Encrypt(hide, sealed[:16]) // the sample begins 4 bytes after the packet number does
	datagram[0] ^= hide[0] & 0x0f
	for i := range 4 {
		datagram[len(head)-4+i] ^= hide[1+i]
	}
	return datagram
}

// seal encrypts packet 0, whose nonce is the vector itself.
func seal(t *testing.T, key, iv, text, head []byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	return aead.Seal(nil, iv, text, head)
}

// expand is HKDF-Expand-Label of TLS 1.3 without a context (RFC 8446, 7.1).
func expand(t *testing.T, secret []byte, label string, size int) []byte {
	t.Helper()
	label = "tls13 " + label
	info := append(binary.BigEndian.AppendUint16(nil, uint16(size)), byte(len(label)))
	info = append(append(info, label...), 0)
	out, err := hkdf.Expand(sha256.New, secret, string(info), size)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
