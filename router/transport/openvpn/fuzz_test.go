package openvpn

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"penstock/router/transport/openvpn/internal/datakey"
	"penstock/router/transport/openvpn/internal/wire"
)

// nullLink swallows what is sent.
type nullLink struct{}

func (nullLink) read() ([][]byte, error) { return nil, net.ErrClosed }
func (nullLink) write([][]byte) error    { return nil }
func (nullLink) control([]byte) error    { return nil }
func (nullLink) remote() netip.AddrPort  { return netip.AddrPort{} }
func (nullLink) close() error            { return nil }

// FuzzSession gives an established session packets and messages of a hostile server. The first byte of each record
// says what it is, the second how long.
func FuzzSession(f *testing.F) {
	server := wire.SessionID{8, 7, 6, 5, 4, 3, 2, 1}
	record := func(kind byte, b []byte) []byte { return append([]byte{kind, byte(len(b))}, b...) }
	reset := wire.Plain{}.Seal(&wire.Packet{Op: wire.SoftReset, KeyID: 1, Session: server})
	hello := wire.Plain{}.Seal(&wire.Packet{Op: wire.Control, KeyID: 1, Session: server, ID: 1, Payload: []byte("\x16\x03\x03\x00\x01\x02")})
	f.Add(append(record(0, reset), record(0, hello)...))
	f.Add(record(1, []byte("PUSH_UPDATE,route 1.2.3.4,-dns")))
	f.Add(record(1, []byte("AUTH_FAILED,CRV1:R,E:x:YQ==:t")))
	f.Add(record(1, []byte("INFO_PRE,CR_TEXT:E:x")))
	f.Add(record(1, []byte("RESTART,[P]x")))
	f.Add(record(0, []byte("\x48\x00\x00\x05aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")))
	f.Fuzz(func(t *testing.T, input []byte) {
		client, err := New(Config{Name: "fuzz", Profile: mustParse(t, minimal(t)), Device: newFakeDevice()})
		if err != nil {
			t.Fatal(err)
		}
		s, err := newSession(client, nullLink{}, "udp", credentials{})
		if err != nil {
			t.Fatal(err)
		}
		var cancel context.CancelFunc
		s.lifetime, cancel = context.WithCancel(t.Context())
		now := time.Now()
		s.begin(0, wire.HardResetClient, now)
		s.peer = server
		s.answered.Store(true)
		s.push = &pushed{cipher: datakey.AES256GCM, v2: true}
		if err := s.install(s.pending, now); err != nil {
			t.Fatal(err)
		}
		for len(input) >= 2 {
			kind, size := input[0], min(int(input[1]), len(input)-2)
			b := input[2 : 2+size]
			input = input[2+size:]
			if kind%2 == 1 {
				err = s.message(s.current, string(b))
			} else {
				s.receive([][]byte{b})
				select {
				case packet := <-s.inbox:
					err = s.control(packet)
				default:
				}
			}
			if err != nil {
				break
			}
			if err = s.flush(now); err != nil {
				break
			}
			now = now.Add(time.Second)
		}
		cancel()
		for _, n := range s.negotiations {
			if n != nil {
				n.pipe.Fail(net.ErrClosed)
			}
		}
		close(s.done)
		s.wg.Wait()
	})
}
