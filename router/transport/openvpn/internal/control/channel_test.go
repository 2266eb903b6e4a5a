package control

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"penstock/router/transport/openvpn/internal/datakey"
	"penstock/router/transport/openvpn/internal/link"
	"penstock/router/transport/openvpn/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// peer is the server's side, played by the test: it sees what is sent and answers without TLS.
type peer struct {
	*Channel
	t    *testing.T
	id   wire.SessionID
	sent []wire.Packet
	fail error // of the next packets
	now  time.Time
	next [8]uint32 // packet ids
}

func newPeer(t *testing.T, protection wire.Protection) *peer {
	t.Helper()
	p := &peer{t: t, id: wire.SessionID{8, 7, 6, 5, 4, 3, 2, 1}, now: time.Now()}
	var err error
	p.Channel, err = New(Config{
		Protection: &protection, TLS: &tls.Config{InsecureSkipVerify: true}, Window: time.Minute, // there is no server
		Hello: func() wire.KeyExchange { return wire.KeyExchange{User: "ana"} },
		Send:  p.take,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() { cancel(); p.Close() })
	p.Start(ctx, p.now)
	p.flush()
	return p
}

func (p *peer) take(buffer []byte, _ bool) error {
	if p.fail != nil {
		return p.fail
	}
	packet := buffer[link.Head:]
	if p.cfg.Protection.Kind == wire.NoProtection {
		parsed, err := wire.ParsePacket(packet, packet[wire.OuterSize:])
		if err != nil {
			p.t.Errorf("sent a packet that does not parse: %v", err)
		}
		p.sent = append(p.sent, parsed)
	}
	return nil
}

func (p *peer) flush() {
	p.t.Helper()
	if err := p.Flush(p.now); err != nil {
		p.t.Fatal(err)
	}
}

// packet makes the server's next packet of a key id, which acknowledges ours of these ids.
func (p *peer) packet(op wire.Opcode, keyID uint8, acks ...uint32) wire.Packet {
	out := wire.Packet{Op: op, KeyID: keyID, Session: p.id, Acks: acks, Peer: p.Channel.id, ID: p.next[keyID]}
	p.next[keyID]++
	return out
}

func (p *peer) give(packet wire.Packet) (fresh bool, err error) {
	return p.Receive(wire.Plain{}.Seal(&packet), p.now)
}

// answered is a channel that has the server's first packet and, as if TLS had run, its first key.
func answered(t *testing.T) *peer {
	t.Helper()
	p := newPeer(t, wire.Protection{})
	if _, err := p.give(p.packet(wire.HardResetServer, 0, 0)); err != nil {
		t.Fatal(err)
	}
	p.Finish(p.Pending(), p.now)
	return p
}

func TestTheFirstPacketIsAReset(t *testing.T) {
	p := newPeer(t, wire.Protection{})
	if len(p.sent) != 1 || p.sent[0].Op != wire.HardResetClient || p.sent[0].ID != 0 || p.sent[0].Session == (wire.SessionID{}) {
		t.Errorf("got %+v, want one reset with a session id", p.sent)
	}
	if p.Answered() || p.Pending() == nil || p.Current() != nil || !p.Flushed() {
		t.Error("before an answer: want a pending negotiation and no current one")
	}
	if due := p.Due(p.now); due.Before(p.now) || due.After(p.now.Add(5*time.Second)) {
		t.Errorf("Due: got %v, want the retransmission of the reset", due.Sub(p.now))
	}
}

func TestOnlyTheServersAnswerCounts(t *testing.T) {
	stranger := wire.SessionID{9}
	tests := []struct {
		name   string
		packet func(p *peer) wire.Packet
		want   error
	}{
		{"a reset that acknowledges nothing", func(p *peer) wire.Packet { return p.packet(wire.HardResetServer, 0) }, ErrForeign},
		{"a reset for another client", func(p *peer) wire.Packet {
			out := p.packet(wire.HardResetServer, 0, 0)
			out.Peer = stranger
			return out
		}, ErrForeign},
		{"a reset in the middle", func(p *peer) wire.Packet {
			out := p.packet(wire.HardResetServer, 0, 0)
			out.ID = 4
			return out
		}, ErrForeign},
		{"TLS without a reset", func(p *peer) wire.Packet { return p.packet(wire.Control, 0, 0) }, ErrForeign},
		{"the answer", func(p *peer) wire.Packet { return p.packet(wire.HardResetServer, 0, 0) }, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPeer(t, wire.Protection{})
			if _, err := p.give(tt.packet(p)); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if p.Answered() != (tt.want == nil) {
				t.Errorf("Answered: got %v", p.Answered())
			}
		})
	}
}

func TestPacketsThatAreLeftAside(t *testing.T) {
	stranger := wire.SessionID{9}
	p := answered(t)
	tests := []struct {
		name   string
		packet wire.Packet
		want   error
	}{
		{"of an old session of the server", wire.Packet{Op: wire.Control, Session: stranger}, ErrForeign},
		{"for an old session of ours", wire.Packet{Op: wire.Control, Session: p.id, Acks: []uint32{0}, Peer: stranger}, ErrForeign},
		{"of a key id that is not the next", wire.Packet{Op: wire.SoftReset, KeyID: 3, Session: p.id}, ErrKeyID},
		{"of the next key id, without a reset", wire.Packet{Op: wire.Control, KeyID: 1, Session: p.id}, ErrKeyID},
		{"a new session of the server's, for ours", wire.Packet{Op: wire.HardResetServer, Session: stranger, Acks: []uint32{0}, Peer: p.Channel.id}, ErrForgotten},
	}
	for _, tt := range tests {
		if _, err := p.give(tt.packet); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
	}
	for _, raw := range []string{"", "\x20", "\x20\x08\x07\x06\x05\x04\x03\x02\x01", "\x30aaaaaaaaaaaaaaaaaaaaaa", "\x20\x08\x07\x06\x05\x04\x03\x02\x01\xff"} {
		if _, err := p.Receive([]byte(raw), p.now); !errors.Is(err, ErrMalformed) {
			t.Errorf("% x: got %v, want %v", raw, err, ErrMalformed)
		}
	}
	if p.Pending() != nil {
		t.Error("a stray packet began a negotiation")
	}
}

func TestPacketsWithoutProtectionAreForeignWhereThereIsSome(t *testing.T) {
	p := newPeer(t, wire.Protection{Kind: wire.TLSCryptKey, Key: &wire.StaticKey{1}})
	packet := p.packet(wire.HardResetServer, 0, 0)
	if _, err := p.give(packet); !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrForeign) || p.Answered() {
		t.Errorf("got %v, answered %v", err, p.Answered())
	}
}

func TestRenegotiations(t *testing.T) {
	p := answered(t)
	for round := range 9 {
		want := uint8(round%7 + 1)
		if round%2 == 0 { // the server begins
			fresh, err := p.give(wire.Packet{Op: wire.SoftReset, KeyID: want, Session: p.id})
			if err != nil || !fresh {
				t.Fatalf("the server's reset: got %v, %v", fresh, err)
			}
		} else {
			p.Renegotiate(p.now)
			p.sent = nil
			p.flush()
			if !slices.ContainsFunc(p.sent, func(s wire.Packet) bool { return s.Op == wire.SoftReset && s.KeyID == want && s.ID == 0 }) {
				t.Errorf("sent %+v, want a reset of key id %d", p.sent, want)
			}
			fresh, err := p.give(wire.Packet{Op: wire.SoftReset, KeyID: want, Session: p.id}) // its answer, or its own at the same time
			if err != nil || !fresh {
				t.Fatalf("the server's answer: got %v, %v", fresh, err)
			}
		}
		n := p.Pending()
		if n == nil || n.KeyID() != want || n.Deadline != p.now.Add(time.Minute) {
			t.Fatalf("round %d: got %+v, want key id %d", round, n, want)
		}
		retired, ok := p.Finish(n, p.now)
		// The one before the current is retired: none at first, then 0, 1, ... 7, 1.
		if wantRetired := uint8(max(0, (round-2)%7+1)); ok != (round > 0) || round > 1 && retired != wantRetired || round == 1 && retired != 0 {
			t.Errorf("round %d: retired %d, %v; want %d", round, retired, ok, wantRetired)
		}
		if p.Current() != n || p.Pending() != nil {
			t.Error("Finish: the negotiation is not the current one")
		}
	}
	if _, ok := p.Retire(); !ok {
		t.Error("Retire: nothing to retire")
	}
	if _, ok := p.Retire(); ok {
		t.Error("Retire: got a second one")
	}
}

func TestFlushEndsWithTheSendersError(t *testing.T) {
	p := answered(t)
	p.Renegotiate(p.now)
	p.fail = link.ErrStalled
	if err := p.Flush(p.now); !errors.Is(err, link.ErrStalled) {
		t.Errorf("got %v, want %v", err, link.ErrStalled)
	}
}

func TestProbeRepeatsWhatWasAcknowledged(t *testing.T) {
	p := answered(t)
	p.sent = nil
	if err := p.Probe(); err != nil {
		t.Fatal(err)
	}
	if len(p.sent) != 1 || p.sent[0].Op != wire.HardResetClient || p.sent[0].ID != 0 {
		t.Errorf("sent %+v, want our first packet again", p.sent)
	}
}

func TestTLSIsTheClients(t *testing.T) {
	p := answered(t)
	deadline := time.After(10 * time.Second)
	select {
	case <-p.Wake():
	case <-deadline:
		t.Fatal("TLS has written nothing")
	}
	p.sent = nil
	p.flush()
	i := slices.IndexFunc(p.sent, func(s wire.Packet) bool { return s.Op == wire.Control })
	if i < 0 || !bytes.HasPrefix(p.sent[i].Payload, []byte{0x16, 3}) {
		t.Fatalf("sent %+v, want a ClientHello", p.sent)
	}
	alert := p.packet(wire.Control, 0)
	alert.Payload = []byte{0x15, 3, 3, 0, 2, 2, 40}
	if _, err := p.give(alert); err != nil {
		t.Fatal(err)
	}
	select {
	case e := <-p.Events():
		if p.Note(e) != p.Current() || e.Err == nil {
			t.Errorf("got %+v, want the alert", e)
		}
	case <-deadline:
		t.Fatal("the server's alert shows in no event")
	}
}

func TestEventsOfARetiredNegotiationAreNothing(t *testing.T) {
	p := answered(t)
	first := p.Current()
	for id := range uint8(2) {
		p.Renegotiate(p.now)
		if got := p.Note(Event{Err: errors.New("closed"), of: first}); id == 1 && got != nil {
			t.Error("the end of the negotiation before the current one ends the session")
		}
		p.Finish(p.Pending(), p.now)
	}
	for _, e := range []Event{{Message: "RESTART", of: first}, {Err: errors.New("closed"), of: first}} {
		if p.Note(e) != nil {
			t.Errorf("%+v: want nil", e)
		}
	}
}

func TestKeysFromThePRF(t *testing.T) {
	p := answered(t)
	k, err := p.Key(p.Current(), false, datakey.Params{Cipher: datakey.AES256GCM, V2: true, PeerID: 7})
	if err != nil {
		t.Fatal(err)
	}
	buf := append(make([]byte, k.Head(), k.Head()+4+datakey.Tail), "ping"...)
	packet, err := k.Seal(buf)
	if err != nil || packet[0] != wire.Header(wire.DataV2, 0) || packet[3] != 7 {
		t.Errorf("got % x, %v; want a packet of key id 0 and peer id 7", packet[:4], err)
	}
	if _, err := p.Key(p.Current(), false, datakey.Params{Cipher: "none"}); err == nil {
		t.Error("an unknown cipher: got no error")
	}
	if err := p.Current().Write("PUSH_REQUEST"); err != nil {
		t.Errorf("Write before TLS is up: got %v, want nothing", err)
	}
}
