package direct

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// routeAnswer is what the kernel sends: a message of a kind for a question, with a body.
func routeAnswer(kind uint16, seq uint32, body []byte) []byte {
	ne := binary.NativeEndian
	b := make([]byte, unix.SizeofNlMsghdr, unix.SizeofNlMsghdr+len(body))
	ne.PutUint32(b, uint32(unix.SizeofNlMsghdr+len(body)))
	ne.PutUint16(b[4:], kind)
	ne.PutUint32(b[8:], seq)
	return append(b, body...)
}

func TestParseRoute(t *testing.T) {
	ne := binary.NativeEndian
	local := make([]byte, unix.SizeofRtMsg)
	local[7] = unix.RTN_LOCAL
	attribute := func(kind uint16, value uint32) []byte {
		return ne.AppendUint32(ne.AppendUint16(ne.AppendUint16(nil, 8), kind), value)
	}
	withLink := append(append(append([]byte(nil), local...), attribute(unix.RTA_TABLE, 255)...), attribute(unix.RTA_OIF, 7)...)
	noRoute := int32(-int(unix.ENETUNREACH))
	for _, row := range []struct {
		sentence string
		answer   []byte
		want     foundRoute
		mine     bool
		err      error
	}{
		{"a route has its kind and its interface", routeAnswer(unix.RTM_NEWROUTE, 5, withLink), foundRoute{kind: unix.RTN_LOCAL, index: 7}, true, nil},
		{"a route may have a source", routeAnswer(unix.RTM_NEWROUTE, 5, append(append([]byte(nil), local...), attribute(unix.RTA_PREFSRC, ne.Uint32([]byte{10, 77, 0, 1}))...)),
			foundRoute{kind: unix.RTN_LOCAL, source: netip.MustParseAddr("10.77.0.1")}, true, nil},
		{"a route may have no interface", routeAnswer(unix.RTM_NEWROUTE, 5, local), foundRoute{kind: unix.RTN_LOCAL}, true, nil},
		{"an error is the kernel's", routeAnswer(unix.NLMSG_ERROR, 5, ne.AppendUint32(nil, uint32(noRoute))), foundRoute{}, true, unix.ENETUNREACH},
		{"an answer to an earlier question is passed over", routeAnswer(unix.RTM_NEWROUTE, 4, withLink), foundRoute{}, false, nil},
		{"a short route is an error", routeAnswer(unix.RTM_NEWROUTE, 5, local[:4]), foundRoute{}, true, unix.EPROTO},
		{"a short error is an error", routeAnswer(unix.NLMSG_ERROR, 5, nil), foundRoute{}, true, unix.EPROTO},
		{"another kind of message is an error", routeAnswer(unix.RTM_NEWLINK, 5, local), foundRoute{}, true, unix.EPROTO},
		{"less than a header is passed over", make([]byte, 3), foundRoute{}, false, nil},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			got, mine, err := parseRoute(row.answer, 5)
			if got != row.want || mine != row.mine || !errors.Is(err, row.err) {
				t.Errorf("got %+v, %t, %v, want %+v, %t, %v", got, mine, err, row.want, row.mine, row.err)
			}
		})
	}
}

func FuzzParseRoute(f *testing.F) {
	body := make([]byte, unix.SizeofRtMsg)
	f.Add(routeAnswer(unix.RTM_NEWROUTE, 1, binary.NativeEndian.AppendUint32(body, 8|unix.RTA_OIF<<16)))
	f.Add(routeAnswer(unix.NLMSG_ERROR, 1, []byte{0x9b, 0xff, 0xff, 0xff}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, mine, _ := parseRoute(b, 1); mine && len(b) < unix.SizeofNlMsghdr {
			t.Error("less than a header was taken for an answer")
		}
	})
}
