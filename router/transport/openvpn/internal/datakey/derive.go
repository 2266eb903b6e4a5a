// Package datakey protects data packets: it derives keys, and seals and opens packets in the classic and the epoch
// format. A Key belongs to one key id.
//
// It does not choose between keys, and knows no sockets and no clock.
package datakey

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"hash"

	"crypto/hkdf"

	"penstock/router/transport/openvpn/internal/wire"
)

// ExporterLabel is the TLS exporter label of data keys (tls-ekm).
const ExporterLabel = "EXPORTER-OpenVPN-datakeys"

// FromPRF derives key material from the secrets of both key exchange messages, for peers without tls-ekm.
func FromPRF(client, server *wire.Secrets, clientID, serverID wire.SessionID) wire.StaticKey {
	seed := append([]byte("OpenVPN master secret"), client.Random1[:]...)
	seed = append(seed, server.Random1[:]...)
	master := prf(client.PreMaster[:], seed, 48)

	seed = append([]byte("OpenVPN key expansion"), client.Random2[:]...)
	seed = append(seed, server.Random2[:]...)
	seed = append(seed, clientID[:]...)
	seed = append(seed, serverID[:]...)
	return wire.StaticKey(prf(master, seed, len(wire.StaticKey{})))
}

// prf is the pseudo-random function of TLS 1.0 (RFC 2246, section 5). OpenVPN prescribes its MD5 and SHA-1.
func prf(secret, seed []byte, n int) []byte {
	half := (len(secret) + 1) / 2
	out := expand(md5.New, secret[:half], seed, n)
	for i, b := range expand(sha1.New, secret[len(secret)-half:], seed, n) {
		out[i] ^= b
	}
	return out
}

func expand(digest func() hash.Hash, secret, seed []byte, n int) []byte {
	mac := hmac.New(digest, secret)
	sum := func(parts ...[]byte) []byte {
		mac.Reset()
		for _, p := range parts {
			mac.Write(p)
		}
		return mac.Sum(nil)
	}
	var out []byte
	for a := sum(seed); len(out) < n; a = sum(a) {
		out = append(out, sum(a, seed)...)
	}
	return out[:n]
}

// expandLabel derives n bytes from an epoch secret: HKDF-Expand with the label in TLS 1.3's form.
func expandLabel(secret []byte, label string, n int) ([]byte, error) {
	label = "ovpn " + label
	info := binary.BigEndian.AppendUint16(nil, uint16(n))
	info = append(info, byte(len(label)))
	info = append(append(info, label...), 0)
	return hkdf.Expand(sha256.New, secret, string(info), n)
}
