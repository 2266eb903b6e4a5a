package direct

import (
	"encoding/binary"
	"testing"
)

func FuzzEchoReply(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 7, 0, 1, 'x'}, false, byte(0))
	f.Add([]byte{0x45, 0, 0, 29, 0, 0, 0, 0, 64, 1, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 7, 0, 1, 'x'}, true, byte(0))
	f.Add([]byte{129, 0, 0, 0, 0, 7, 0, 1}, true, byte(129))
	f.Add([]byte{0x4f}, true, byte(0))
	f.Fuzz(func(t *testing.T, packet []byte, raw bool, reply byte) {
		c := &pingConn{raw: raw, reply: reply, id: 7}
		c.sent[1] = sentEcho{seq: 1, id: 0xabcd, ok: true}
		body, ok := c.accept(packet)
		if ok && (len(body) < 4 || binary.BigEndian.Uint16(body) != 0xabcd || binary.BigEndian.Uint16(body[2:]) != 1) {
			t.Errorf("accepted %x, which answers nothing that was sent", body)
		}
	})
}
