package netlab

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestReportErr(t *testing.T) {
	sample := Sample{
		Time:   time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC),
		Packet: Packet{Network: "udp", Src: netip.MustParseAddrPort("192.168.50.10:40000"), Dst: netip.MustParseAddrPort("203.0.113.53:53"), Length: 71},
	}
	for _, row := range []struct {
		sentence string
		report   Report
		want     string // part of the error; empty for none
	}{
		{"tunnel packets and a control are a proof", Report{Tunnel: 9, Housekeeping: 2, Controls: 1}, ""},
		{"without a control there is no proof", Report{Tunnel: 9}, "no control"},
		{"with a lost frame there is no proof", Report{Controls: 1, Dropped: 3}, "dropped 3 frames"},
		{"a packet in clear is told with its time and way", Report{Controls: 1, Clear: 1, Samples: []Sample{sample}}, "1 packets in clear:\n\t03:04:05.000006 received udp 192.168.50.10:40000 > 203.0.113.53:53, 71 bytes"},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			err := row.report.Err()
			if row.want == "" && err != nil || row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)) {
				t.Errorf("got %v, want %q", err, row.want)
			}
		})
	}
}
