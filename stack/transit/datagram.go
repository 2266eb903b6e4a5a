package transit

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"penstock/stack/link"
	"penstock/stack/packet"
)

// Where fields stand in a UDP header, and in an echo message.
const (
	atUDPChecksum  = 6
	atICMPChecksum = 2
	atIdent        = 4
)

// Datagrams rewrites the packets of one direction of a UDP or echo flow in place. The identifier of an echo is the port of whoever
// asks.
type Datagrams struct{ t translation }

// ToServer makes the Datagrams of what a client sends. keepHops is as in Config.
func ToServer(client, mapped netip.AddrPort, keepHops bool) Datagrams {
	t := translate(client, mapped, false)
	t.keep = keepHops
	return Datagrams{t}
}

// ToClient makes the Datagrams of what a server sends.
func ToClient(mapped, client netip.AddrPort, keepHops bool) Datagrams {
	t := translate(mapped, client, true)
	t.keep = keepHops
	return Datagrams{t}
}

// UDP rewrites a datagram, or a super-packet of them. It reports false for one that has to be taken apart instead, and leaves it
// as it is. The packet must have a hop count above 1, unless that stays.
func (d *Datagrams) UDP(m link.Meta, p *packet.Packet) bool {
	if len(p.Body) < 8 || hasOptions(p) || !fits(m, p, link.GSOUDP, atUDPChecksum) {
		return false
	}
	if !d.t.keep {
		hop(p)
	}
	readdress(p.Raw, len(p.Raw)-len(p.Body), d.t.to, d.t.isDst)
	field := p.Body[atUDPChecksum:]
	sum := binary.BigEndian.Uint16(field)
	switch {
	case m.Partial:
		sum = add(sum, d.t.pseudo)
	case sum != 0: // 0: none was computed (RFC 768)
		sum = amend(sum, d.t.checked)
	}
	binary.BigEndian.PutUint16(field, sum)
	return true
}

// Echo rewrites an echo request or reply, as UDP does a datagram.
func (d *Datagrams) Echo(m link.Meta, p *packet.Packet) bool {
	if len(p.Body) < 8 || hasOptions(p) || m != (link.Meta{}) {
		return false
	}
	if !d.t.keep {
		hop(p)
	}
	rehost(p.Raw, len(p.Raw)-len(p.Body), d.t.to.Addr(), d.t.isDst)
	ident := p.Body[atIdent:]
	change := add(^binary.BigEndian.Uint16(ident), d.t.to.Port())
	if p.Src.Is6() {
		change = add(change, d.t.pseudo) // RFC 4443, 2.3
	}
	binary.BigEndian.PutUint16(ident, d.t.to.Port())
	field := p.Body[atICMPChecksum:]
	binary.BigEndian.PutUint16(field, amend(binary.BigEndian.Uint16(field), change))
	return true
}

// amend returns a checksum after what it covers has gained something. It is never 0, which would say that there is none, and which is
// wrong for an echo reply of zeros.
func amend(sum, gained uint16) uint16 {
	if sum = ^add(^sum, gained); sum == 0 {
		return 0xffff
	}
	return sum
}

// Quote copies the head of a packet of the flow that an ICMP error quotes, and gives it to the other side with the addresses that
// it knows. The packet went the other way: d are the Datagrams of the error.
func (d *Datagrams) Quote(quoted []byte) []byte {
	q, ok := packet.Quoted(quoted)
	if !ok {
		return nil
	}
	if q.Proto == packet.ProtoUDP {
		return quote(quoted, d.t.to, !d.t.isDst)
	}
	b := bytes.Clone(quoted)
	hdr := len(q.Raw) - len(q.Body)
	rehost(b, hdr, d.t.to.Addr(), !d.t.isDst)
	binary.BigEndian.PutUint16(b[hdr+atIdent:], d.t.to.Port())
	return b
}
