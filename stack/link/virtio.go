package link

import "encoding/binary"

// The header that stands before each packet of a TUN opened with IFF_VNET_HDR: struct virtio_net_hdr in
// linux/virtio_net.h, host byte order (every Linux that Go runs a TUN on is little-endian but s390x and ppc64).
const (
	virtioHdrLen = 10

	virtioNeedsCsum = 1

	virtioGSONone  = 0
	virtioGSOTCPv4 = 1
	virtioGSOTCPv6 = 4
	virtioGSOUDPL4 = 5
	virtioGSOECN   = 0x80
)

// decodeVirtio reads a header. ok is false for a kind of super-packet that was not asked for.
func decodeVirtio(h []byte) (m Meta, ok bool) {
	ne := binary.NativeEndian
	m = Meta{
		HdrLen:     ne.Uint16(h[2:]),
		SegSize:    ne.Uint16(h[4:]),
		Partial:    h[0]&virtioNeedsCsum != 0,
		CsumStart:  ne.Uint16(h[6:]),
		CsumOffset: ne.Uint16(h[8:]),
	}
	switch h[1] &^ virtioGSOECN {
	case virtioGSONone:
		m.SegSize, m.HdrLen = 0, 0
	case virtioGSOTCPv4:
		m.GSO = GSOTCPv4
	case virtioGSOTCPv6:
		m.GSO = GSOTCPv6
	case virtioGSOUDPL4:
		m.GSO = GSOUDP
	default:
		return Meta{}, false
	}
	return m, true
}

// encodeVirtio writes the header for m.
func encodeVirtio(h *[virtioHdrLen]byte, m Meta) {
	*h = [virtioHdrLen]byte{}
	ne := binary.NativeEndian
	if m.Partial {
		h[0] = virtioNeedsCsum
		ne.PutUint16(h[6:], m.CsumStart)
		ne.PutUint16(h[8:], m.CsumOffset)
	}
	switch m.GSO {
	case GSONone:
		return
	case GSOTCPv4:
		h[1] = virtioGSOTCPv4
	case GSOTCPv6:
		h[1] = virtioGSOTCPv6
	case GSOUDP:
		h[1] = virtioGSOUDPL4
	}
	ne.PutUint16(h[2:], m.HdrLen)
	ne.PutUint16(h[4:], m.SegSize)
}
