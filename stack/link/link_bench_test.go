package link

import (
	"fmt"
	"testing"
)

func BenchmarkChecksum(b *testing.B) {
	for _, size := range []int{20, 1448, 64 << 10} {
		b.Run(fmt.Sprintf("%d bytes", size), func(b *testing.B) {
			data := make([]byte, size)
			for i := range data {
				data[i] = byte(i * 7)
			}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				Checksum(data, 1)
			}
		})
	}
}

func BenchmarkSegmenter(b *testing.B) {
	for _, row := range []struct {
		name   string
		gso    GSO
		isIPv6 bool
		size   int
	}{
		{"TCP over IPv4, 64 KB", GSOTCPv4, false, 64000},
		{"TCP over IPv6, 16 KB", GSOTCPv6, true, 16000},
		{"UDP over IPv4, 64 KB", GSOUDP, false, 64000},
	} {
		b.Run(row.name, func(b *testing.B) {
			m, pkt := superPacket(row.gso, row.isIPv6, row.size, 1400)
			dst := make([]byte, 1500)
			var s Segmenter
			b.SetBytes(int64(len(pkt)))
			b.ReportAllocs()
			for b.Loop() {
				if err := s.Reset(m, pkt); err != nil {
					b.Fatal(err)
				}
				for !s.Done() {
					if _, err := s.Next(dst); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

func BenchmarkPipe(b *testing.B) {
	near, far := Pipe(1500)
	defer near.Close()
	data := make([]byte, 1400)
	pkts := []Packet{{Data: make([]byte, MaxPacket)}}
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if err := near.Write(Meta{}, [][]byte{data}); err != nil {
			b.Fatal(err)
		}
		if _, err := far.Read(pkts); err != nil {
			b.Fatal(err)
		}
	}
}
