package ondemand

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSSID(t *testing.T) {
	attr := func(kind uint16, value string) []byte {
		b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
		b = append(binary.NativeEndian.AppendUint16(b, kind), value...)
		for len(b)%4 != 0 {
			b = append(b, 0)
		}
		return b
	}
	head := []byte{7, 1, 0, 0}
	whole := append(append(append([]byte{}, head...), attr(unix.NL80211_ATTR_IFNAME, "wlan0\x00")...), attr(unix.NL80211_ATTR_SSID, "office")...)
	tests := []struct {
		name    string
		message []byte
		want    string
	}{
		{"the name is found among other things", whole, "office"},
		{"an interface in no network has none", whole[:len(whole)-12], ""},
		{"a message that is cut has none", whole[:len(whole)-3], ""},
		{"an empty message has none", nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := ssidOf(tt.message); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	if got := SSID("lo"); got != "" {
		t.Errorf("got %q for the loopback interface, want none", got)
	}
}
