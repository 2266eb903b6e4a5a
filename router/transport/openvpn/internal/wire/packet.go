// Package wire holds the formats of OpenVPN's control channel: packets, their protection, the key exchange message and
// static keys.
//
// It keeps no connection state beyond replay counters, and knows no sockets and no TLS.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Opcode is the kind of a packet.
type Opcode uint8

// Opcodes of a modern peer. 1 and 2 belong to key method 1 and are refused.
const (
	SoftReset         Opcode = 3
	Control           Opcode = 4
	Ack               Opcode = 5
	DataV1            Opcode = 6
	HardResetClient   Opcode = 7
	HardResetServer   Opcode = 8
	DataV2            Opcode = 9
	HardResetClientV3 Opcode = 10
	ControlWKC        Opcode = 11
)

const (
	// MaxAcks is how many acknowledgements one packet can carry.
	MaxAcks = 8
	// OuterSize is the header byte and the session id, which stand in front of every control packet in clear.
	OuterSize = 1 + 8
)

// ErrMalformed says that a packet does not have the form of its kind.
var ErrMalformed = errors.New("malformed control packet")

// Header makes the first byte of a packet.
func Header(op Opcode, keyID uint8) byte { return byte(op)<<3 | keyID&7 }

// ParseHeader splits the first byte of a packet.
func ParseHeader(b byte) (op Opcode, keyID uint8) { return Opcode(b >> 3), b & 7 }

// IsData reports whether packets of this kind belong to the data channel.
func (op Opcode) IsData() bool { return op == DataV1 || op == DataV2 }

// IsControl reports whether packets of this kind belong to the control channel.
func (op Opcode) IsControl() bool { return op >= SoftReset && op <= ControlWKC && !op.IsData() }

// SessionID names one side of a connection.
type SessionID [8]byte

// Packet is a control packet without its protection.
type Packet struct {
	Op      Opcode
	KeyID   uint8
	Session SessionID // the sender's
	Acks    []uint32  // at most MaxAcks
	Peer    SessionID // the receiver's, only with Acks
	ID      uint32    // not in an Ack
	Payload []byte
}

// Body is the part that control-channel protection covers and may encrypt.
func (p *Packet) Body() []byte {
	b := make([]byte, 0, 1+4*len(p.Acks)+8+4+len(p.Payload))
	b = append(b, byte(len(p.Acks)))
	for _, id := range p.Acks {
		b = binary.BigEndian.AppendUint32(b, id)
	}
	if len(p.Acks) > 0 {
		b = append(b, p.Peer[:]...)
	}
	if p.Op == Ack {
		return b
	}
	b = binary.BigEndian.AppendUint32(b, p.ID)
	return append(b, p.Payload...)
}

// ParseOuter reads what stands in clear in front of a control packet.
func ParseOuter(packet []byte) (op Opcode, keyID uint8, session SessionID, err error) {
	if len(packet) < OuterSize {
		return 0, 0, session, fmt.Errorf("%w: %d bytes", ErrMalformed, len(packet))
	}
	op, keyID = ParseHeader(packet[0])
	if !op.IsControl() {
		return 0, 0, session, fmt.Errorf("%w: opcode %d", ErrMalformed, op)
	}
	copy(session[:], packet[1:])
	return op, keyID, session, nil
}

// ParsePacket joins the clear part of packet with its opened body. The payload shares body's memory.
func ParsePacket(packet, body []byte) (Packet, error) {
	op, keyID, session, err := ParseOuter(packet)
	if err != nil {
		return Packet{}, err
	}
	p := Packet{Op: op, KeyID: keyID, Session: session}
	if len(body) < 1 {
		return Packet{}, fmt.Errorf("%w: empty body", ErrMalformed)
	}
	count := int(body[0])
	body = body[1:]
	if count > MaxAcks {
		return Packet{}, fmt.Errorf("%w: %d acknowledgements", ErrMalformed, count)
	}
	if count > 0 {
		if len(body) < 4*count+8 {
			return Packet{}, fmt.Errorf("%w: cut off in the acknowledgements", ErrMalformed)
		}
		p.Acks = make([]uint32, count)
		for i := range p.Acks {
			p.Acks[i] = binary.BigEndian.Uint32(body[4*i:])
		}
		copy(p.Peer[:], body[4*count:])
		body = body[4*count+8:]
	}
	if op == Ack {
		return p, nil
	}
	if len(body) < 4 {
		return Packet{}, fmt.Errorf("%w: no packet id", ErrMalformed)
	}
	p.ID = binary.BigEndian.Uint32(body)
	p.Payload = body[4:]
	return p, nil
}

// AsksForWKC reports whether the payload of a server's hard reset wants the client's wrapped key once more
// (early negotiation, doc/tls-crypt-v2.txt: a type 1 flags field with bit 0 set).
func AsksForWKC(payload []byte) bool {
	for len(payload) >= 4 {
		kind, size := binary.BigEndian.Uint16(payload), int(binary.BigEndian.Uint16(payload[2:]))
		payload = payload[4:]
		if size > len(payload) {
			return false
		}
		if kind == 1 && size == 2 {
			return binary.BigEndian.Uint16(payload)&1 != 0
		}
		payload = payload[size:]
	}
	return false
}
