package packet

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"

	"penstock/stack/link"
)

// Fragment cuts the IP body that stands in b behind room for its header into packets of at most mtu bytes, and gives each
// to send, which must not keep it. It ends with the first error of send.
func Fragment(b []byte, proto uint8, src, dst netip.Addr, mtu int, send func([]byte) error) error {
	hdr := HeaderLen(src)
	body, id := b[hdr:], rand.Uint32()
	frag := make([]byte, mtu)
	extra := 0
	if src.Is6() {
		extra = 8
	}
	step := (mtu - hdr - extra) &^ 7
	for off := 0; off < len(body); off += step {
		n := min(step, len(body)-off)
		more := off+n < len(body)
		head := PutIP(frag, proto, src, dst, extra+n)
		if src.Is4() {
			PutFragment4(frag, uint16(id), off, more)
		} else {
			frag[6] = ProtoFragment6
			PutFragment6(frag[head:], proto, id, off, more)
		}
		copy(frag[head+extra:], body[off:off+n])
		if err := send(frag[:head+extra+n]); err != nil {
			return err
		}
	}
	return nil
}

// PutFragment4 makes a packet with an IPv4 header the fragment that begins off bytes into the body.
func PutFragment4(b []byte, id uint16, off int, more bool) {
	field := uint16(off / 8)
	if more {
		field |= 0x2000
	}
	binary.BigEndian.PutUint16(b[4:], id)
	binary.BigEndian.PutUint16(b[6:], field)
	b[10], b[11] = 0, 0
	binary.BigEndian.PutUint16(b[10:], link.Checksum(b[:20], 0))
}

// PutFragment6 writes the header of the fragment that begins off bytes into the body.
func PutFragment6(b []byte, proto uint8, id uint32, off int, more bool) {
	field := uint16(off)
	if more {
		field |= 1
	}
	b[0], b[1] = proto, 0
	binary.BigEndian.PutUint16(b[2:], field)
	binary.BigEndian.PutUint32(b[4:], id)
}
