package transit

import (
	"bytes"
	"encoding/binary"

	"penstock/stack/link"
	"penstock/stack/packet"
)

const (
	maxRuns   = 8  // flows whose segments are merged at the same time
	maxPieces = 48 // segments in a super-packet
)

// Merger joins segments of a connection that follow each other into super-packets, as a network card does (GRO). The bytes that it
// is given must stay as they are until Flush. K tells connections apart.
type Merger[K comparable] struct {
	// Send gets each packet or super-packet, in pieces that it must not keep.
	Send func(k K, m link.Meta, pieces [][]byte)
	runs []run[K]
}

// run is a super-packet that grows.
type run[K comparable] struct {
	k      K
	hdr    int // bytes of IP and TCP header
	ip     int // of them the IP header
	size   int // payload of each segment
	next   uint32
	total  int // bytes in all pieces
	done   bool
	pieces [][]byte
}

// Add takes a finished TCP packet of connection k.
func (g *Merger[K]) Add(k K, p *packet.Packet) {
	s, ok := parse(p)
	i := g.find(k)
	if i >= 0 && ok && g.runs[i].append(p, &s) {
		return
	}
	if i < 0 {
		if len(g.runs) == maxRuns {
			g.Flush()
		}
		i = len(g.runs)
		if i < cap(g.runs) {
			g.runs = g.runs[:i+1] // with the pieces that it had
		} else {
			g.runs = append(g.runs, run[K]{})
		}
	} else {
		g.flush(&g.runs[i])
	}
	g.runs[i].begin(k, p, &s, ok)
}

func (g *Merger[K]) find(k K) int {
	for i := range g.runs {
		if g.runs[i].k == k {
			return i
		}
	}
	return -1
}

func (r *run[K]) begin(k K, p *packet.Packet, s *segment, ok bool) {
	*r = run[K]{
		k: k, ip: len(p.Raw) - len(p.Body), hdr: len(p.Raw) - len(s.payload), size: len(s.payload), next: s.end(), total: len(p.Raw),
		done:   !ok || hasOptions(p) || len(s.payload) == 0 || s.flags&^flagPSH != flagACK || s.has(flagPSH),
		pieces: append(r.pieces[:0], p.Raw),
	}
}

// append adds a segment if it continues the run.
func (r *run[K]) append(p *packet.Packet, s *segment) bool {
	n := len(s.payload)
	head := r.pieces[0]
	if r.done || n == 0 || n > r.size || s.seq != r.next || s.flags&^flagPSH != flagACK || len(r.pieces) == maxPieces ||
		r.total+n > link.MaxPacket || len(p.Raw)-n != r.hdr || len(p.Raw)-len(p.Body) != r.ip || !sameHeader(head, p.Raw, r.ip, r.hdr) {
		return false
	}
	if s.has(flagPSH) {
		head[r.ip+atFlags] |= flagPSH
	}
	r.done = n < r.size || s.has(flagPSH)
	r.pieces = append(r.pieces, s.payload)
	r.next += uint32(n)
	r.total += n
	return true
}

// sameHeader reports whether two headers differ in nothing but lengths, IP identification, sequence number, PSH and checksums.
func sameHeader(a, b []byte, ip, hdr int) bool {
	if ip == 20 { // service, flags and fragment offset, hop count and protocol; the addresses are the connection's
		if a[1] != b[1] || !bytes.Equal(a[6:10], b[6:10]) {
			return false
		}
	} else if !bytes.Equal(a[:4], b[:4]) || !bytes.Equal(a[6:8], b[6:8]) {
		return false
	}
	ta, tb := a[ip:hdr], b[ip:hdr]
	return bytes.Equal(ta[atAck:atFlags], tb[atAck:atFlags]) && bytes.Equal(ta[atFlags+1:atChecksum], tb[atFlags+1:atChecksum]) &&
		bytes.Equal(ta[atChecksum+2:], tb[atChecksum+2:])
}

// Flush sends all that was merged.
func (g *Merger[K]) Flush() {
	for i := range g.runs {
		g.flush(&g.runs[i])
		var none K
		g.runs[i].k = none
	}
	g.runs = g.runs[:0]
}

func (g *Merger[K]) flush(r *run[K]) {
	defer clear(r.pieces)
	if len(r.pieces) == 1 {
		g.Send(r.k, link.Meta{}, r.pieces)
		return
	}
	head := r.pieces[0]
	m := link.Meta{
		GSO: link.GSOTCPv6, SegSize: uint16(r.size), HdrLen: uint16(r.hdr),
		Partial: true, CsumStart: uint16(r.ip), CsumOffset: atChecksum,
	}
	var pseudo uint16
	if r.ip == 20 {
		m.GSO = link.GSOTCPv4
		binary.BigEndian.PutUint16(head[2:], uint16(r.total))
		head[10], head[11] = 0, 0
		binary.BigEndian.PutUint16(head[10:], link.Checksum(head[:20], 0))
		pseudo = link.PseudoHeader(packet.ProtoTCP, head[12:16], head[16:20], r.total-r.ip)
	} else {
		binary.BigEndian.PutUint16(head[4:], uint16(r.total-r.ip))
		pseudo = link.PseudoHeader(packet.ProtoTCP, head[8:24], head[24:40], r.total-r.ip)
	}
	binary.BigEndian.PutUint16(head[r.ip+atChecksum:], pseudo)
	g.Send(r.k, m, r.pieces)
}
