package gateway

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"penstock/router/transport/wireguard"
)

// TestPeersAreCalledAfterARestart has sockets in the place of peers, and wants the first message of a handshake from the gateway.
func TestPeersAreCalledAfterARestart(t *testing.T) {
	ana := newPerson("ana", "10.99.0.2")
	w, key := newWorld(t, ana.Peer), ana.key.Public()
	at := func(name string, age time.Duration, key wireguard.PublicKey) (*net.UDPConn, session) {
		c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
		if err != nil {
			t.Fatal(name, err)
		}
		t.Cleanup(func() { c.Close() })
		return c, session{key, c.LocalAddr().(*net.UDPAddr).AddrPort(), time.Now().Add(-age)}
	}
	recent, a := at("recent", time.Minute, key)
	stranger, b := at("stranger", time.Minute, wireguard.GeneratePrivateKey().Public())
	for _, row := range []struct {
		name   string
		file   func() []byte
		called bool
		warns  string
	}{
		{"half a file", func() []byte { return []byte("[{") }, false, "not known"},
		{"a session that is too old", func() []byte {
			old := a
			old.Handshake = time.Now().Add(-sessionLife)
			text, _ := json.Marshal([]session{old})
			return text
		}, false, ""},
		{"addresses where nobody can be, one of them many times", func() []byte {
			list := make([]session, 1000, 1004)
			for i := range list {
				list[i] = a
				list[i].Endpoint = netip.MustParseAddrPort("192.0.2.1:0")
			}
			for _, endpoint := range []string{"0.0.0.0:9", "[::]:9", "224.0.0.1:9", "[ff02::1]:9"} {
				p := a
				p.Endpoint = netip.MustParseAddrPort(endpoint)
				list = append(list, p)
			}
			text, _ := json.Marshal(append(list, session{Peer: key, Handshake: a.Handshake}))
			return text
		}, false, ""},
		{"a recent session, and one of nobody's", func() []byte { text, _ := json.Marshal([]session{b, a}); return text }, true, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			var log strings.Builder
			file := filepath.Join(t.TempDir(), "state", "sessions.json")
			if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, row.file(), 0o600); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // Run writes nothing then: nobody has a session
			nowhere := func() func(wireguard.PublicKey) bool { return func(wireguard.PublicKey) bool { return false } }
			s := Sessions{Gateway: w.Gateway, File: file, Elsewhere: nowhere, Log: slog.New(slog.NewTextHandler(&log, nil))}
			s.call(t.Context())
			if err := s.Run(ctx); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(log.String(), row.warns) || row.warns == "" && log.Len() > 0 {
				t.Errorf("logged %q, want %q", log.String(), row.warns)
			}
			wait := 100 * time.Millisecond
			if row.called {
				wait = 10 * time.Second
			}
			b := make([]byte, 2048)
			recent.SetReadDeadline(time.Now().Add(wait))
			n, _, err := recent.ReadFrom(b)
			if called := err == nil && n == 148 && b[0] == 1; called != row.called {
				t.Errorf("got %d bytes, %v; want a handshake initiation: %v", n, err, row.called)
			}
		})
	}
	stranger.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if n, _, err := stranger.ReadFrom(make([]byte, 2048)); err == nil {
		t.Errorf("who is no peer was sent %d bytes", n)
	}
}

func TestNotEveryHandshakeIsWrittenAtOnce(t *testing.T) {
	was := []session{{wireguard.GeneratePrivateKey().Public(), netip.MustParseAddrPort("192.0.2.1:9"), time.Unix(100, 0)}}
	later, moved := slices.Clone(was), slices.Clone(was)
	later[0].Handshake, moved[0].Endpoint = time.Unix(220, 0), netip.MustParseAddrPort("192.0.2.2:9")
	for _, row := range []struct {
		sentence string
		now      []session
		age      time.Duration
		want     bool
	}{
		{"a handshake soon after", later, sessionLook, false},
		{"a handshake later", later, sessionKeep, true},
		{"another place", moved, sessionLook, true},
		{"nobody any more", nil, sessionLook, true},
	} {
		if got := due(row.now, was, row.age); got != row.want {
			t.Errorf("%s: got %v, want written: %v", row.sentence, got, row.want)
		}
	}
}
