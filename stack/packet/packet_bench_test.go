package packet

import (
	"testing"

	"penstock/stack/link"
)

func BenchmarkParse(b *testing.B) {
	for _, row := range []struct {
		name string
		src  string
		dst  string
		size int
	}{
		{"64 bytes over IPv4", "10.0.0.2", "203.0.113.9", 64},
		{"1400 bytes over IPv4", "10.0.0.2", "203.0.113.9", 1400},
		{"1400 bytes over IPv6", "fd00::2", "2001:db8::9", 1400},
	} {
		b.Run(row.name, func(b *testing.B) {
			pkt := udp(row.src, row.dst, row.size)
			b.SetBytes(int64(len(pkt)))
			b.ReportAllocs()
			for b.Loop() {
				if _, reason := Parse(link.Meta{}, pkt); reason != "" {
					b.Fatal(reason)
				}
			}
		})
	}
}
