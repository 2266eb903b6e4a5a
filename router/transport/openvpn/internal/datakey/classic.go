package datakey

import (
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"sync/atomic"

	"penstock/router/transport/openvpn/internal/replay"
	"penstock/router/transport/openvpn/internal/wire"
)

// classicKey is the classic format: header, packet id(4), tag(16), ciphertext.
type classicKey struct {
	head  []byte
	spent atomic.Bool

	seal      cipher.AEAD
	sealNonce [nonceSize]byte // packet id, then the implicit part
	sealID    uint32
	sealUse   use

	open       cipher.AEAD
	openNonce  [nonceSize]byte
	openUse    use
	openErrors uint64
	seen       replay.Window
}

const packetIDSize = 4

func newClassicKey(material *wire.StaticKey, d wire.Direction, p Params) (*classicKey, error) {
	send, receive := 0, 1
	if d == wire.Inverse {
		send, receive = 1, 0
	}
	k := &classicKey{head: p.head()}
	k.sealUse.gcm = p.Cipher != ChaCha20
	k.openUse.gcm = k.sealUse.gcm
	var err error
	if k.seal, err = p.Cipher.aead(material.Cipher(send)[:p.Cipher.keySize()]); err != nil {
		return nil, fmt.Errorf("data key: %w", err)
	}
	if k.open, err = p.Cipher.aead(material.Cipher(receive)[:p.Cipher.keySize()]); err != nil {
		return nil, fmt.Errorf("data key: %w", err)
	}
	copy(k.sealNonce[packetIDSize:], material.HMAC(send))
	copy(k.openNonce[packetIDSize:], material.HMAC(receive))
	return k, nil
}

func (k *classicKey) Head() int { return len(k.head) + packetIDSize + tagSize }

func (k *classicKey) Spent() bool { return k.spent.Load() }

// authenticated is the part of packet that the tag covers beside the ciphertext. It leaves out the header byte of V1.
func (k *classicKey) authenticated(packet []byte) []byte {
	ad := packet[:len(k.head)+packetIDSize]
	if len(k.head) == 1 {
		return ad[1:]
	}
	return ad
}

func (k *classicKey) Seal(packet []byte) ([]byte, error) {
	if k.sealID >= maxCounter || k.sealUse.n >= maxGCMUse {
		return nil, ErrExhausted
	}
	head, text := k.Head(), len(packet)-k.Head()
	k.sealID++
	k.sealUse.add(text)
	if k.sealID >= softCounter || k.sealUse.n >= softGCMUse {
		k.spent.Store(true)
	}
	copy(packet, k.head)
	binary.BigEndian.PutUint32(packet[len(k.head):], k.sealID)
	binary.BigEndian.PutUint32(k.sealNonce[:], k.sealID)
	sealed := k.seal.Seal(packet[head:head], k.sealNonce[:], packet[head:], k.authenticated(packet))
	copy(packet[head-tagSize:head], sealed[text:]) // on the wire the tag comes first
	return packet, nil
}

func (k *classicKey) Open(packet []byte) ([]byte, error) {
	head := k.Head()
	if len(packet) < head || cap(packet) < len(packet)+Tail {
		return nil, ErrShort
	}
	if k.openErrors >= maxOpenErrors {
		return nil, ErrExhausted
	}
	id := binary.BigEndian.Uint32(packet[len(k.head):])
	if !k.seen.Fresh(uint64(id)) {
		return nil, ErrReplay
	}
	end := len(packet)
	tail := packet[end : end+Tail]
	kept := [Tail]byte(tail)
	copy(tail, packet[head-tagSize:head]) // the tag belongs behind the ciphertext
	binary.BigEndian.PutUint32(k.openNonce[:], id)
	plain, err := k.open.Open(packet[head:head], k.openNonce[:], packet[head:end+Tail], k.authenticated(packet))
	copy(tail, kept[:])
	if err != nil {
		k.openErrors++
		return nil, ErrAuthentication
	}
	k.seen.Mark(uint64(id))
	k.openUse.add(len(plain))
	if id >= softCounter || k.openUse.n >= softGCMUse {
		k.spent.Store(true)
	}
	return plain, nil
}
