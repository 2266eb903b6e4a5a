package wire

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"testing"
	"time"
)

func testKey() *StaticKey {
	var k StaticKey
	for i := range k {
		k[i] = byte(i)
	}
	return &k
}

func vectorTime() time.Time { return time.Unix(0x65000000, 0) }

func helloPacket() *Packet {
	return &Packet{Op: Control, Session: SessionID{1, 2, 3, 4, 5, 6, 7, 8}, ID: 1, Payload: []byte("hello")}
}

func tlsCrypt(t *testing.T, d Direction) *TLSCrypt {
	t.Helper()
	w, err := NewTLSCrypt(testKey(), d, vectorTime)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestWrapSealsTheVectors(t *testing.T) {
	tests := []struct {
		name string
		wrap Wrap
		want string
	}{
		{"tls-crypt from client to server", tlsCrypt(t, Inverse), "200102030405060708000000016500000019cf3d1abccf713f6ef82b4df95ece0aac1b7ea09e223903427f8cb101a2642c20960bc5ca9ed15ace62"},
		{"tls-auth with SHA256 and key-direction 1", NewTLSAuth(testKey(), Inverse, sha256.New, vectorTime), "200102030405060708a438cb9e9a7600914dbd7dc6bac0504ac1026704c4cf5a4055944f12c020fbcc0000000165000000000000000168656c6c6f"},
		{"tls-auth with SHA256 and no direction", NewTLSAuth(testKey(), Bidirectional, sha256.New, vectorTime), "2001020304050607085cae7851bc2af9cb06ca81f04800980818c68d575ced6c8f330585ea3f09e8ed0000000165000000000000000168656c6c6f"},
		{"no wrap", Plain{}, "200102030405060708000000000168656c6c6f"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := tt.wrap.Seal(helloPacket())
			if hex.EncodeToString(got) != tt.want {
				t.Errorf("Seal: got %x, want %s", got, tt.want)
			}
			if got, want := len(got), OuterSize+tt.wrap.Overhead()+10; got != want {
				t.Errorf("Overhead: sealed is %d bytes, want %d", got, want)
			}
		})
	}
}

func TestWrapOpensWhatTheOtherSideSeals(t *testing.T) {
	tests := []struct {
		name         string
		send, accept Wrap
	}{
		{"no wrap", Plain{}, Plain{}},
		{"tls-crypt", tlsCrypt(t, Inverse), tlsCrypt(t, Normal)},
		{"tls-auth with a direction", NewTLSAuth(testKey(), Inverse, sha1.New, time.Now), NewTLSAuth(testKey(), Normal, sha1.New, time.Now)},
		{"tls-auth without", NewTLSAuth(testKey(), Bidirectional, sha1.New, time.Now), NewTLSAuth(testKey(), Bidirectional, sha1.New, time.Now)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			sent := helloPacket()
			sent.Acks, sent.Peer = []uint32{4, 9}, SessionID{9}
			sealed := tt.send.Seal(sent)
			body, err := tt.accept.Open(sealed)
			if err != nil {
				t.Fatalf("Open: %v", err)
			}
			got, err := ParsePacket(sealed, body)
			if err != nil {
				t.Fatalf("ParsePacket: %v", err)
			}
			if !bytes.Equal(got.Payload, sent.Payload) || got.ID != 1 || len(got.Acks) != 2 || got.Acks[1] != 9 || got.Peer != sent.Peer || got.Session != sent.Session {
				t.Errorf("got %+v, want %+v", got, *sent)
			}
		})
	}
}

func TestWrapRefuses(t *testing.T) {
	wraps := map[string]func() (Wrap, Wrap){
		"tls-crypt": func() (Wrap, Wrap) { return tlsCrypt(t, Inverse), tlsCrypt(t, Normal) },
		"tls-auth": func() (Wrap, Wrap) {
			return NewTLSAuth(testKey(), Inverse, sha256.New, time.Now), NewTLSAuth(testKey(), Normal, sha256.New, time.Now)
		},
	}
	for name, pair := range wraps {
		t.Run("a replayed packet of "+name, func(t *testing.T) {
			send, accept := pair()
			sealed := send.Seal(helloPacket())
			if _, err := accept.Open(sealed); err != nil {
				t.Fatalf("first Open: %v", err)
			}
			if _, err := accept.Open(sealed); !errors.Is(err, ErrReplay) {
				t.Errorf("second Open: got %v, want %v", err, ErrReplay)
			}
			if _, err := accept.Open(send.Seal(helloPacket())); err != nil {
				t.Errorf("Open of a retransmission, sealed again: %v", err)
			}
		})
		t.Run("a change of any byte of "+name, func(t *testing.T) {
			send, accept := pair()
			sealed := send.Seal(helloPacket())
			for i := range sealed {
				bad := bytes.Clone(sealed)
				bad[i] ^= 0x40
				if _, err := accept.Open(bad); !errors.Is(err, ErrAuthentication) {
					t.Errorf("byte %d changed: got %v, want %v", i, err, ErrAuthentication)
				}
			}
			if _, err := accept.Open(sealed); err != nil {
				t.Errorf("forged packets moved the replay window: %v", err)
			}
		})
		t.Run("a cut off packet of "+name, func(t *testing.T) {
			send, accept := pair()
			sealed := send.Seal(helloPacket())
			for i := range sealed {
				if _, err := accept.Open(sealed[:i]); err == nil {
					t.Errorf("%d of %d bytes: got no error", i, len(sealed))
				}
			}
		})
	}
}

func TestTLSCryptV2StartsWithEarlyNegotiation(t *testing.T) {
	w, err := NewTLSCryptV2(testKey(), vectorTime)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := hex.EncodeToString(w.Seal(helloPacket())[OuterSize:][:8]), "0f00000165000000"; got != want {
		t.Errorf("replay id: got %s, want %s", got, want)
	}
}

func TestTLSAuthDigestSizes(t *testing.T) {
	for _, digest := range []func() hash.Hash{sha1.New, sha256.New} {
		w := NewTLSAuth(testKey(), Bidirectional, digest, time.Now)
		if got, want := w.Overhead(), digest().Size()+8; got != want {
			t.Errorf("Overhead: got %d, want %d", got, want)
		}
	}
}
