package openvpn

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"penstock/router/transport/openvpn/internal/datakey"
	"penstock/router/transport/openvpn/internal/login"
	"penstock/router/transport/openvpn/internal/push"
	"penstock/router/transport/openvpn/internal/wire"
	"penstock/router/transport/openvpn/profile"
)

// nullLink keeps the last control packet and forgets the rest.
type nullLink struct{ posted []byte }

func (*nullLink) Read() ([][]byte, error) { return nil, net.ErrClosed }
func (*nullLink) Write([][]byte) error    { return nil }
func (l *nullLink) Post(b []byte) error   { l.posted = b; return nil }
func (*nullLink) Stalled() bool           { return false }
func (*nullLink) Remote() netip.AddrPort  { return netip.AddrPort{} }
func (*nullLink) Close() error            { return nil }

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
		client, err := New(Config{Name: "fuzz", Profile: mustParse(t, minimal()), Device: newFakeDevice()})
		if err != nil {
			t.Fatal(err)
		}
		l := &nullLink{}
		s, err := newSession(context.WithoutCancel(t.Context()), client, l, profile.Remote{Network: "udp"}, login.Credentials{})
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		s.control.Start(s.lifetime, now)
		defer func() {
			s.cancel()
			s.control.Close()
			s.wg.Wait()
		}()
		if err := s.control.Flush(now); err != nil {
			t.Fatal(err)
		}
		_, _, own, err := wire.ParseOuter(l.posted[2:])
		if err != nil {
			t.Fatal(err)
		}
		answer := wire.Plain{}.Seal(&wire.Packet{Op: wire.HardResetServer, Session: server, Acks: []uint32{0}, Peer: own})
		if err := s.packet(answer); err != nil || !s.control.Answered() {
			t.Fatalf("the server's reset: %v", err)
		}
		s.options = &push.Options{Cipher: datakey.AES256GCM, V2: true}
		if err := s.install(s.control.Pending(), now); err != nil {
			t.Fatal(err)
		}
		for len(input) >= 2 {
			kind, size := input[0], min(int(input[1]), len(input)-2)
			b := input[2 : 2+size]
			input = input[2+size:]
			if kind%2 == 1 {
				err = s.message(s.control.Current(), string(b))
			} else {
				s.data.Receive([][]byte{b})
				select {
				case packet := <-s.data.Control():
					err = s.packet(packet)
				default:
				}
			}
			if err == nil {
				err = s.control.Flush(now)
			}
			if err != nil {
				break
			}
			now = now.Add(time.Second)
		}
	})
}
