package transit

import (
	"bytes"
	"net/netip"
	"testing"

	"penstock/stack/link"
	"penstock/stack/packet"
)

// BenchmarkFlow rewrites one packet, again and again.
func BenchmarkFlow(b *testing.B) {
	for _, family := range []struct {
		name string
		c    Config
	}{{"IPv4", families[0]}, {"IPv6", families[1]}} {
		for _, size := range []struct {
			name string
			data int
			gso  int
		}{{"1420 bytes", 1340, 0}, {"a super-packet of 64 KiB", 65000, 1340}} {
			for _, reading := range []bool{false, true} {
				w := newTrack(b, family.c, reading).open()
				if reading {
					w.Config.Read = func([]byte) {}
				}
				name := family.name + ", " + size.name
				run := func(name string, s seg, step func(link.Meta, *packet.Packet, int64) Step) {
					b.Run(name, func(b *testing.B) {
						s.data = make([]byte, size.data)
						var m link.Meta
						raw := s.bytes()
						if size.gso > 0 {
							m, raw = s.unfinished(size.gso)
						}
						head := bytes.Clone(raw[:80])
						p := *parsed(b, m, raw)
						q := new(packet.Packet)
						b.SetBytes(int64(len(raw)))
						b.ReportAllocs()
						for b.Loop() {
							copy(raw, head)
							*q = p
							if step(m, q, 0) != Cross {
								b.Fatal("the packet did not cross")
							}
						}
					})
				}
				if reading { // what was permitted, and is repeated
					if size.gso == 0 {
						w.give(w.up(1, serverISN+1, flagACK, make([]byte, size.data)...))
						w.Permit(size.data)
						run(name+", client, read", w.up(1, serverISN+1, flagACK), w.FromClient)
					}
					continue
				}
				run(name+", client", w.up(1, serverISN+1, flagACK), w.FromClient)
				run(name+", server", w.down(serverISN+1, 1, flagACK), w.FromServer)
			}
		}
	}
}

// BenchmarkMerger joins 64 segments of one connection, and of eight.
func BenchmarkMerger(b *testing.B) {
	for _, row := range []struct {
		name  string
		flows int
	}{{"one connection", 1}, {"eight connections", 8}} {
		b.Run(row.name, func(b *testing.B) {
			sent := 0
			g := Merger[int]{Send: func(int, link.Meta, [][]byte) { sent++ }}
			var pkts []*packet.Packet
			size := 0
			for i := range 64 {
				p := seg{src: server4, dst: client4, seq: uint32(i / row.flows * 1360), flags: flagACK, data: make([]byte, 1360)}.packet(b)
				pkts = append(pkts, p)
				size += len(p.Raw)
			}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				for i, p := range pkts {
					g.Add(i%row.flows, p)
				}
				g.Flush()
			}
			b.ReportMetric(float64(sent)/float64(b.N), "packets/op")
		})
	}
}

func BenchmarkTableFind(b *testing.B) {
	const flows = 10000
	table := newTable()
	at := func(i int) (src, dst netip.AddrPort) {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), uint16(30000+i)), server4
	}
	for i := range flows {
		src, dst := at(i)
		table.Add(&placed{src: src, dst: dst})
	}
	for _, parallel := range []bool{false, true} {
		name := "by one"
		if parallel {
			name = "by all cores"
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			if !parallel {
				i := 0
				for b.Loop() {
					i = (i + 7919) % flows
					src, dst := at(i)
					if _, ok := table.Find(src, dst); !ok {
						b.Fatal("a flow is missing")
					}
				}
				return
			}
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); {
					i = (i + 7919) % flows
					src, dst := at(i)
					if _, ok := table.Find(src, dst); !ok {
						b.Error("a flow is missing")
					}
				}
			})
		})
	}
}
