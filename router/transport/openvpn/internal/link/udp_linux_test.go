package link

import (
	"bytes"
	"net"
	"slices"
	"testing"
)

func TestPackRunsOfEqualPackets(t *testing.T) {
	tests := []struct {
		name  string
		sizes []int
		limit int
		want  []int // packets in each message
	}{
		{"equal packets are one message", []int{100, 100, 100}, 64, []int{3}},
		{"a shorter one ends the run", []int{100, 100, 40, 100}, 64, []int{3, 1}},
		{"a longer one starts a run", []int{40, 100, 100}, 64, []int{1, 2}},
		{"no more than the limit", []int{10, 10, 10, 10, 10}, 2, []int{2, 2, 1}},
		{"one by one", []int{10, 10, 10}, 1, []int{1, 1, 1}},
		{"no more bytes than an IP packet holds", slices.Repeat([]int{1400}, 50), 64, []int{46, 4}},
	}
	var l udpLink
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var buffers [][]byte
			for _, n := range tt.sizes {
				buffers = append(buffers, make([]byte, Head+n))
			}
			if l.packLocked(buffers, tt.limit); !slices.Equal(l.counts, tt.want) || len(l.out) != len(tt.want) {
				t.Errorf("got %v in %d messages, want %v", l.counts, len(l.out), tt.want)
			}
		})
	}
}

func TestUDPLinkSendsEveryPacketAsItIs(t *testing.T) {
	sink, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sink.Close() }()
	for _, offload := range []bool{true, false} {
		conn, err := net.DialUDP("udp4", nil, sink.LocalAddr().(*net.UDPAddr))
		if err != nil {
			t.Fatal(err)
		}
		l := newUDP(conn, sink.LocalAddr().(*net.UDPAddr).AddrPort())
		l.offload = l.offload && offload
		var want [][]byte
		for i := range 40 {
			size := 1400
			if i%7 == 6 {
				size = 50 + i
			}
			want = append(want, bytes.Repeat([]byte{byte(i)}, Head+size))
		}
		for range 3 { // the scratch memory is used again
			if err := l.Write(want); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, maxDatagram)
			for i := range want {
				n, err := sink.Read(b)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(b[:n], want[i][Head:]) {
					t.Fatalf("offload %v, packet %d: got %d bytes of %d, want %d of %d", offload, i, n, b[0], len(want[i])-Head, i)
				}
			}
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}
