package openvpn

import (
	"log/slog"
	"strings"
	"testing"

	"penstock/router/transport/openvpn/internal/framing"
	"penstock/router/transport/openvpn/internal/push"
	"penstock/router/transport/openvpn/internal/wire"
	"penstock/router/transport/openvpn/profile"
)

func TestChooseFraming(t *testing.T) {
	const with, without = "V4,dev-type tun,comp-lzo,cipher x", "V4,dev-type tun,cipher x"
	tests := []struct {
		name          string
		profile       framing.Kind
		pushed        push.Options
		server        string
		want          framing.Kind
		refused, warn bool
	}{
		{"nobody frames", framing.None, push.Options{}, without, framing.None, false, false},
		{"what is pushed counts", framing.Byte, push.Options{Framed: true, Framing: framing.V2}, without, framing.V2, false, false},
		{"no framing can be pushed", framing.Byte, push.Options{Framed: true}, with, framing.None, false, false},
		{"else what the profile says", framing.Swap, push.Options{}, with, framing.Swap, false, false},
		{"a server that keeps its options to itself", framing.Byte, push.Options{}, "", framing.Byte, false, false},
		{"a server that was told to keep them", framing.Byte, push.Options{}, "V0 UNDEF", framing.Byte, false, false},
		{"a server that does not frame is followed", framing.Byte, push.Options{}, without, framing.None, false, true},
		{"a server that frames in an unknown way", framing.None, push.Options{}, with, framing.None, true, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var log strings.Builder
			err := chooseFraming(&profile.Profile{Framing: tt.profile}, &tt.pushed, tt.server, slog.New(slog.NewTextHandler(&log, nil)))
			if tt.pushed.Framing != tt.want || (err != nil) != tt.refused || (log.Len() > 0) != tt.warn {
				t.Errorf("got %d, %v, log %q; want %d, refused %v, a warning %v", tt.pushed.Framing, err, log.String(), tt.want, tt.refused, tt.warn)
			}
		})
	}
}

func TestOptionsString(t *testing.T) {
	tests := []struct {
		name    string
		profile profile.Profile
		network string
		want    string // after the fixed start
	}{
		{"UDP", profile.Profile{}, "udp4", "proto UDPv4,auth SHA1"},
		{"TCP", profile.Profile{}, "tcp", "proto TCPv4_CLIENT,auth SHA1"},
		{"a fallback cipher", profile.Profile{Fallback: "AES-256-GCM"}, "udp", "proto UDPv4,cipher AES-256-GCM,auth SHA1"},
		{"framing", profile.Profile{Framing: framing.Byte}, "udp", "proto UDPv4,comp-lzo,auth SHA1"},
		{"tls-auth", profile.Profile{Protection: wire.Protection{Kind: wire.TLSAuthKey, Direction: wire.Inverse}}, "udp", "proto UDPv4,keydir 1,tls-auth,auth SHA1"},
	}
	for _, tt := range tests {
		want := "V4,dev-type tun,link-mtu 1541,tun-mtu 1500," + tt.want + ",keysize 128,key-method 2,tls-client"
		if got := optionsString(&tt.profile, profile.Remote{Network: tt.network}); got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", tt.name, got, want)
		}
	}
}

func TestPlatform(t *testing.T) {
	for goos, want := range map[string]string{"linux": "linux", "darwin": "mac", "windows": "win", "freebsd": "freebsd"} {
		if got := platform(goos); got != want {
			t.Errorf("%s: got %s, want %s", goos, got, want)
		}
	}
}
