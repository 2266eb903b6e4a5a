package direct

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func TestParseTarget(t *testing.T) {
	tests := []struct{ name, network, address, want, err string }{
		{"an address and a port", "tcp", "192.0.2.1:80", "192.0.2.1:80", ""},
		{"IPv6", "udp6", "[2001:db8::1]:53", "[2001:db8::1]:53", ""},
		{"IPv4 in IPv6 form is IPv4", "tcp4", "[::ffff:192.0.2.1]:80", "192.0.2.1:80", ""},
		{"a zone is kept", "udp", "[fe80::1%eth0]:53", "[fe80::1%eth0]:53", ""},
		{"a ping has no port", "ping4", "192.0.2.1:0", "192.0.2.1:0", ""},
		{"a name", "tcp", "example.com:80", "", "want an IP address and a port"},
		{"no port", "tcp", "192.0.2.1", "", "want an IP address and a port"},
		{"another network", "sctp", "192.0.2.1:80", "", "unknown network"},
		{"IPv6 where IPv4 is wanted", "tcp4", "[2001:db8::1]:80", "", "other family"},
		{"IPv4 where IPv6 is wanted", "ping6", "192.0.2.1:0", "", "other family"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseTarget(tt.network, tt.address)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, want an error with %q", err, tt.err)
				}
				return
			}
			if err != nil || got.String() != tt.want {
				t.Errorf("got %s, %v; want %s", got, err, tt.want)
			}
		})
	}
}

func TestOnlyALoopIsErrLoop(t *testing.T) {
	loop := &RefusedError{Destination: netip.MustParseAddr("10.77.0.9"), Reason: "loop", Interface: "pen0"}
	if err := fmt.Errorf("wrapped: %w", loop); !errors.Is(err, ErrLoop) {
		t.Errorf("%v is not ErrLoop", err)
	}
	if other := (&RefusedError{Reason: "other"}); errors.Is(other, ErrLoop) {
		t.Errorf("%v is ErrLoop", other)
	}
	if want := "direct: dial 10.77.0.9 refused, reason loop: it leads into our own pen0"; loop.Error() != want {
		t.Errorf("got %q, want %q", loop.Error(), want)
	}
}
