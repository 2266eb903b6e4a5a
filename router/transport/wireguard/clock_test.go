package wireguard

import (
	"bytes"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestPast(t *testing.T) {
	now := time.Now()
	written := Past{now.Add(time.Hour), "hq.conf was written"}
	if got, want := written.Behind(now), "the clock reads "+stamp(now)+", but hq.conf was written at "+stamp(written.Time); got != want {
		t.Errorf("an hour before: got %q, want %q", got, want)
	}
	for _, at := range []time.Time{written.Time, written.Time.Add(time.Hour)} {
		if got := written.Behind(at); got != "" {
			t.Errorf("at %v: got %q, want nothing", at, got)
		}
	}
	if got := (Past{}).Behind(time.Unix(100, 0)); got != "" {
		t.Errorf("nothing is known: got %q, want nothing", got)
	}
}

// TestAClockThatIsBehindIsTold: what a server ignores is not told from silence, so the clock is the reason only if it is behind.
func TestAClockThatIsBehindIsTold(t *testing.T) {
	key, a := GeneratePrivateKey(), newAccount(2)
	s, _ := newTestServer(t, ServerConfig{PrivateKey: key, Peers: List{a.peer}})
	refuses := a.file(GeneratePrivateKey().Public(), s.Port()) // its key is wrong, so nobody answers
	for _, row := range []struct {
		name string
		past func() Past
		want string
	}{
		{"the clock may be right", func() Past { return Past{time.Now().Add(-time.Hour), "this file was written"} }, ""},
		{"nothing is known", nil, ""},
		{"the clock is behind", func() Past { return Past{time.Now().AddDate(10, 0, 0), "this file was written"} },
			", but this file was written at " + stamp(time.Now().AddDate(10, 0, 0))[:10]},
	} {
		t.Run(row.name, func(t *testing.T) {
			c, _ := newTestClient(t, ClientConfig{Wireguard: refuses, Past: row.past})
			err := c.Connect(within(t, 100*time.Millisecond))
			if err == nil || !strings.Contains(err.Error(), row.want) || strings.Contains(err.Error(), "the clock reads") != (row.want != "") {
				t.Errorf("got %v, want %q in it", err, row.want)
			}
			if !strings.Contains(err.Error(), "no answer from 127.0.0.1:") {
				t.Errorf("got %v, want what happened too", err)
			}
		})
	}
}

// TestAClockThatWasSetBackIsTold: the Client's own handshakes count more than what others know.
func TestAClockThatWasSetBackIsTold(t *testing.T) {
	key, a := GeneratePrivateKey(), newAccount(2)
	s, _ := newTestServer(t, ServerConfig{PrivateKey: key, Peers: List{a.peer}})
	c, _ := newTestClient(t, ClientConfig{Wireguard: a.file(key.Public(), s.Port()), Past: func() Past { return Past{time.Unix(1, 0), "nothing"} }})
	connect(t, c)
	if got := c.lateClock(); got != "" {
		t.Errorf("after a handshake: got %q, want nothing", got)
	}
	c.clock = func() time.Time { return time.Now().AddDate(-10, 0, 0) }
	if got := c.lateClock(); !strings.Contains(got, ", but the last handshake was at "+stamp(time.Now())[:10]) {
		t.Errorf("after the clock was set back: got %q, want the last handshake in it", got)
	}
}

func TestTheLastHandshakeIsTheOneThatCameLast(t *testing.T) {
	one, two := GeneratePrivateKey().Public(), GeneratePrivateKey().Public()
	right := time.Now()
	wrong := right.AddDate(10, 0, 0)
	var h handshakes
	for i, step := range []struct {
		name     string
		one, two time.Time
		at       time.Time
		with     PublicKey
	}{
		{"none yet", time.Time{}, time.Time{}, time.Time{}, PublicKey{}},
		{"with one peer while the clock is ahead", wrong, time.Time{}, wrong, one},
		{"with the other after it was set back", wrong, right, right, two},
		{"nothing new", wrong, right, right, two},
		{"with both at once", right.Add(2 * time.Second), right.Add(time.Second), right.Add(2 * time.Second), one},
	} {
		h.look([]PeerStatus{{PublicKey: two, LastHandshake: step.two}, {PublicKey: one, LastHandshake: step.one}})
		if !h.at.Equal(step.at) || h.with != step.with {
			t.Errorf("step %d, %s: got %v with %v, want %v with %v", i, step.name, h.at, h.with, step.at, step.with)
		}
	}
}

// TestAServerTellsThatItIgnoresAHandshake: for a peer whose clock was set back, that is the only sign. Here it is a real handshake
// that comes again, through
//
//	client --- relay --- server
func TestAServerTellsThatItIgnoresAHandshake(t *testing.T) {
	warned := make(lines, 16)
	key, a := GeneratePrivateKey(), newAccount(2)
	s, _ := newTestServer(t, ServerConfig{PrivateKey: key, Peers: List{a.peer}, Log: slog.New(slog.NewTextHandler(warned, nil))})
	relay, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer relay.Close()
	c, _ := newTestClient(t, ClientConfig{Wireguard: a.file(key.Public(), relay.LocalAddr().(*net.UDPAddr).AddrPort().Port())})
	server := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), s.Port())
	done := make(chan error, 1)
	go func() { done <- c.Connect(within(t, time.Minute)) }()
	buf := make([]byte, 2048)
	n, client, err := relay.ReadFromUDPAddrPort(buf)
	if err != nil {
		t.Fatal(err)
	}
	initiation := bytes.Clone(buf[:n])
	if _, err := relay.WriteToUDPAddrPort(initiation, server); err != nil {
		t.Fatal(err)
	}
	if n, _, err = relay.ReadFromUDPAddrPort(buf); err != nil {
		t.Fatal(err)
	}
	if _, err := relay.WriteToUDPAddrPort(buf[:n], client); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := relay.WriteToUDPAddrPort(initiation, server); err != nil {
		t.Fatal(err)
	}
	limit := time.After(10 * time.Second)
	for {
		select {
		case got := <-warned:
			if strings.Contains(got, "level=WARN") && strings.Contains(got, "the peer's clock was set back") {
				return
			}
		case <-limit:
			t.Fatal("a handshake came twice, and nothing was said")
		}
	}
}

// lines is a writer that passes on what it is given.
type lines chan string

func (l lines) Write(b []byte) (int, error) {
	select {
	case l <- string(b):
	default:
	}
	return len(b), nil
}
