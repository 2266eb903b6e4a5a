package transit

import (
	"bytes"
	"encoding/binary"
	"testing"

	"penstock/stack/link"
	"penstock/stack/packet"
)

// reckon makes the checksums of a TCP packet right, as far as it has a header: a fuzzer does not find them.
func reckon(b []byte) {
	if len(b) < 40 {
		return
	}
	hdr := 40
	if b[0]>>4 == 4 {
		if hdr = int(b[0]&0xf) * 4; hdr < 20 || hdr > len(b) {
			return
		}
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], link.Checksum(b[:hdr], 0))
	}
	p, fault := packet.Parse(link.Meta{GSO: link.GSOTCPv4}, b)
	if fault != "" || p.Proto != packet.ProtoTCP || len(p.Body) < 20 {
		return
	}
	p.Body[atChecksum], p.Body[atChecksum+1] = 0, 0
	sum := link.Checksum(p.Body, packet.PseudoHeader(packet.ProtoTCP, p.Src, p.Dst, len(p.Body)))
	binary.BigEndian.PutUint16(p.Body[atChecksum:], sum)
}

// checkFinished cuts a packet that crossed. What comes out goes from the right end to the right end.
func checkFinished(t *testing.T, c Config, up bool, m link.Meta, b []byte) (segments []segment) {
	var s link.Segmenter
	if err := s.Reset(m, b); err != nil {
		return nil // who sends it loses it
	}
	for !s.Done() {
		dst := make([]byte, len(b))
		n, err := s.Next(dst)
		if err != nil {
			t.Fatal(err)
		}
		checkCrossed(t, c, up, dst[:n])
		p := parsed(t, link.Meta{}, dst[:n])
		h, ok := parse(p)
		if !ok {
			t.Fatalf("a packet without TCP header left: %x", dst[:n])
		}
		segments = append(segments, h)
	}
	return segments
}

// FuzzFlow gives flows of every phase packets of any bytes with any metadata.
func FuzzFlow(f *testing.F) {
	w := &track{}
	for _, c := range families {
		w.Flow = New(c, 0)
		for i, s := range []seg{
			w.up(0, 0, flagSYN), w.down(serverISN, 1, flagSYN|flagACK), w.up(1, serverISN+1, flagACK|flagPSH, []byte("hello")...),
			w.up(1, serverISN+1, flagACK|flagFIN), w.up(1, 0, flagRST, 'x'), w.down(serverISN+1, 1, flagRST|flagACK, 'y'),
		} {
			s.opts = []byte{1, 2, 4, 0xff, 0xff, 1, 1, 0}[:i%3*4]
			m, b := s.unfinished(i % 2 * 100)
			f.Add(s.bytes(), byte(0), uint16(0), uint16(0), uint16(0), byte(i), uint32(0))
			f.Add(b, byte(m.GSO)|0x80, m.SegSize, m.CsumStart, m.CsumOffset, byte(i), uint32(0))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, kind byte, segSize, start, offset uint16, phase byte, isn uint32) {
		if len(b) > link.MaxPacket {
			return
		}
		m := link.Meta{GSO: link.GSO(kind & 3), SegSize: segSize}
		if m.Partial = kind&0x80 > 0; m.Partial {
			m.CsumStart, m.CsumOffset = start, offset
		}
		reckon(b)
		p, fault := packet.Parse(m, b)
		if fault != "" || p.Fragment || p.Proto != packet.ProtoTCP || len(p.Body) < 20 {
			return
		}
		c := families[0]
		if p.Src.Is6() {
			c = families[1]
		}
		c.ISN = isn
		for _, up := range []bool{true, false} {
			w := newTrack(t, c, true)
			if phase&3 > 0 {
				w.open()
			}
			if phase&3 > 1 {
				w.give(w.up(isn+1, serverISN+1, flagACK, []byte("hel")...))
			}
			if phase&3 > 2 {
				w.give(w.up(isn+1, serverISN+1, flagRST))
			}
			ends := [2]Config{{Client: c.Client, Server: c.Server}, {Client: c.Server, Server: c.Mapped}}
			e := ends[0]
			if !up {
				e = ends[1]
			}
			raw := bytes.Clone(p.Raw)
			forge(raw, e.Client.Addr().AsSlice(), e.Server.Addr().AsSlice(), len(p.Raw)-len(p.Body), e)
			if !m.Partial && m.GSO == link.GSONone {
				reckon(raw)
			}
			q, fault := packet.Parse(m, raw)
			if fault != "" {
				continue
			}
			if m.Partial && len(q.Body) >= 20 {
				binary.BigEndian.PutUint16(q.Body[atChecksum:], packet.PseudoHeader(packet.ProtoTCP, q.Src, q.Dst, len(q.Body)))
			}
			again := bytes.Clone(q.Raw)
			step := w.FromServer
			if up {
				step = w.FromClient
			}
			if step(m, &q, 0) == Cross {
				for _, s := range checkFinished(t, c, up, m, q.Raw) {
					if end := s.seq + uint32(len(s.payload)); up && len(s.payload) > 0 && after(end, isn+1) {
						t.Errorf("%d bytes at %d left, none are permitted", len(s.payload), s.seq-isn-1)
					}
				}
			}
			w.Reset()
			sent := len(w.toServer) + len(w.toClient)
			w.Permit(10)
			w.Open()
			if q, fault := packet.Parse(m, again); fault == "" {
				if got := step(m, &q, 0); got == Cross || len(w.toServer)+len(w.toClient) != sent {
					t.Errorf("after Reset: got step %d", got)
				}
			}
			if w.ended.Load() != 1 {
				t.Errorf("Ended was called %d times", w.ended.Load())
			}
			w.QuoteToClient(b, segSize&1 > 0)
			w.QuoteToServer(b)
		}
	})
}

// forge makes a packet one of a flow, and its IPv4 header's checksum right.
func forge(b, src, dst []byte, hdr int, e Config) {
	at := 8
	if len(src) == 4 {
		at = 12
	}
	copy(b[at:], src)
	copy(b[at+len(src):], dst)
	packet.PutPorts(b[hdr:], e.Client, e.Server)
	if len(src) == 4 {
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], link.Checksum(b[:hdr], 0))
	}
}
