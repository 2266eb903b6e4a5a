package datakey

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"penstock/router/transport/openvpn/internal/wire"
)

var pingMagic = []byte{0x2a, 0x18, 0x7b, 0xf3, 0x64, 0x1e, 0xb4, 0xcb, 0x07, 0xed, 0x2d, 0x0a, 0x98, 0x1f, 0xc7, 0x48}

func counting(from byte, b []byte) {
	for i := range b {
		b[i] = from + byte(i)
	}
}

func material() *wire.StaticKey {
	var k wire.StaticKey
	counting(0, k[:])
	return &k
}

func newKey(t testing.TB, p Params) Key {
	t.Helper()
	k, err := New(material(), p)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func seal(t testing.TB, k Key, plain []byte) []byte {
	t.Helper()
	buf := make([]byte, k.Head()+len(plain), k.Head()+len(plain)+Tail)
	copy(buf[k.Head():], plain)
	sealed, err := k.Seal(buf)
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

// roomy copies a packet into memory with room behind it.
func roomy(packet []byte) []byte {
	return append(make([]byte, 0, len(packet)+Tail), packet...)
}

func TestPRFVector(t *testing.T) {
	var client, server wire.Secrets
	counting(0x00, client.PreMaster[:])
	counting(0x40, client.Random1[:])
	counting(0x80, server.Random1[:])
	counting(0x60, client.Random2[:])
	counting(0xa0, server.Random2[:])
	var clientID, serverID wire.SessionID
	counting(0x01, clientID[:])
	counting(0x11, serverID[:])

	seed := append([]byte("OpenVPN master secret"), client.Random1[:]...)
	master := prf(client.PreMaster[:], append(seed, server.Random1[:]...), 48)
	if got, want := hex.EncodeToString(master), "9999e37f41b205a8183ce835da7daacfd52553e542564d04e4292100b00f5f1fe967f9d4f3888f285a5f119aff451e0d"; got != want {
		t.Errorf("master: got %s, want %s", got, want)
	}
	keys := FromPRF(&client, &server, clientID, serverID)
	for _, tt := range []struct {
		from, to int
		want     string
	}{
		{0, 32, "5f55fce5fcbf1345f7287765e26b01f71d17712425900e1adf7f5752a3f26131"},
		{64, 72, "a1f4ec72dee73239"},
		{128, 160, "72cd8a845d827854399052337a6f8cdf947255829e69473b3515b5826b0dc62f"},
		{192, 200, "9aeadb982a7a6767"},
	} {
		if got := hex.EncodeToString(keys[tt.from:tt.to]); got != tt.want {
			t.Errorf("keys[%d:%d]: got %s, want %s", tt.from, tt.to, got, tt.want)
		}
	}
}

func TestExpandLabelVectors(t *testing.T) {
	reference, err := hex.DecodeString("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5")
	if err != nil {
		t.Fatal(err)
	}
	secret := make([]byte, 32)
	counting(0, secret)
	for _, tt := range []struct {
		secret []byte
		label  string
		n      int
		want   string
	}{
		{reference, "unit test", 16, "185eaa1c7f228ab8eb29773214d92046"},
		{secret, "data_key", 32, "ebbbf838a8658beb56f2324d691351bd4c8c230fb271ada8f67de830b7ee3192"},
		{secret, "data_iv", 12, "568de14f8f744bfb0b721f66"},
		{secret, "datakey upd", 32, "e35bffa31e2723bf09e8d394fa9171ca4e534553bffa1d3482de4c9b3bc639d7"},
	} {
		got, err := expandLabel(tt.secret, tt.label, tt.n)
		if err != nil || hex.EncodeToString(got) != tt.want {
			t.Errorf("%s: got %x, %v; want %s", tt.label, got, err, tt.want)
		}
	}
}

func TestSealVectors(t *testing.T) {
	tests := []struct {
		name string
		p    Params
		want string
	}{
		{"AES-256-GCM", Params{Cipher: AES256GCM}, "4900000a 00000001 3b3c1691314f38cc24567654312a84b1 e1d3004e0fa812021253797dec29cf6b"},
		{"CHACHA20-POLY1305", Params{Cipher: ChaCha20}, "4900000a 00000001 f6d1a33f634bab375b3cc83369ee8d06 249c493797b2d7f5945bcaf9ded73aa2"},
		{"AES-256-GCM in the epoch format", Params{Cipher: AES256GCM, Epoch: true}, "4900000a 0001000000000001 c2fe07b4542687fb92a265089da510f7 e26b958935fe219e3e4c553f3590a276"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.p.KeyID, tt.p.PeerID, tt.p.V2 = 1, 10, true
			got := hex.EncodeToString(seal(t, newKey(t, tt.p), pingMagic))
			if want := strings.ReplaceAll(tt.want, " ", ""); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}

func everyFormat(run func(name string, client, server Params)) {
	for _, c := range []Cipher{AES128GCM, AES192GCM, AES256GCM, ChaCha20} {
		for _, epoch := range []bool{false, true} {
			for _, v2 := range []bool{false, true} {
				p := Params{Cipher: c, Epoch: epoch, V2: v2, KeyID: 3, PeerID: 0x010203}
				server := p
				server.Server = true
				run(fmt.Sprintf("%s epoch=%v v2=%v", c, epoch, v2), p, server)
			}
		}
	}
}

func TestOpenWhatTheOtherSideSealed(t *testing.T) {
	everyFormat(func(name string, clientParams, serverParams Params) {
		t.Run(name, func(t *testing.T) {
			client, server := newKey(t, clientParams), newKey(t, serverParams)
			for _, pair := range [][2]Key{{client, server}, {server, client}} {
				for _, size := range []int{0, 1, 16, 1400} {
					plain := bytes.Repeat([]byte{0x45}, size)
					sealed := seal(t, pair[0], plain)
					neighbour := append(bytes.Clone(sealed), bytes.Repeat([]byte{0xee}, Tail)...)
					got, err := pair[1].Open(neighbour[:len(sealed)])
					if err != nil {
						t.Fatalf("%d bytes: %v", size, err)
					}
					if !bytes.Equal(got, plain) {
						t.Errorf("%d bytes: got %x", size, got)
					}
					if !bytes.Equal(neighbour[len(sealed):], bytes.Repeat([]byte{0xee}, Tail)) {
						t.Errorf("%d bytes: the memory behind the packet changed", size)
					}
					if size > 0 && &got[0] != &neighbour[pair[1].Head()] {
						t.Errorf("%d bytes: the plaintext is not in place", size)
					}
				}
			}
		})
	})
}

func TestOpenRefuses(t *testing.T) {
	everyFormat(func(name string, clientParams, serverParams Params) {
		t.Run(name, func(t *testing.T) {
			client, server := newKey(t, clientParams), newKey(t, serverParams)
			sealed := seal(t, client, []byte("payload"))
			for i := range sealed {
				bad := roomy(sealed)
				bad[i] ^= 0x80
				// The header byte of a V1 packet is not authenticated; the session chooses the key by it.
				if _, err := server.Open(bad); err == nil && (clientParams.V2 || i > 0) {
					t.Fatalf("byte %d changed: got no error", i)
				}
			}
			for i := range sealed {
				if _, err := server.Open(roomy(sealed[:i])); err == nil {
					t.Fatalf("%d of %d bytes: got no error", i, len(sealed))
				}
			}
			if clientParams.V2 {
				if _, err := server.Open(roomy(sealed)); err != nil {
					t.Errorf("after forgeries: %v", err)
				}
				if _, err := server.Open(roomy(sealed)); !errors.Is(err, ErrReplay) {
					t.Errorf("a replay: got %v, want %v", err, ErrReplay)
				}
			}
		})
	})
}

func TestOpenAcceptsReorderedPackets(t *testing.T) {
	everyFormat(func(name string, clientParams, serverParams Params) {
		client, server := newKey(t, clientParams), newKey(t, serverParams)
		var sealed [][]byte
		for range 1000 {
			sealed = append(sealed, seal(t, client, pingMagic))
		}
		for i := range sealed {
			if _, err := server.Open(sealed[len(sealed)-1-i]); err != nil {
				t.Fatalf("%s: packet %d backwards: %v", name, i, err)
			}
		}
	})
}

func TestClassicKeyIsSpentBeforeItIsExhausted(t *testing.T) {
	k := newKey(t, Params{Cipher: ChaCha20}).(*classicKey)
	k.sealID = softCounter - 1
	seal(t, k, pingMagic)
	if !k.Spent() {
		t.Error("at the soft limit: got Spent false, want true")
	}
	k.sealID = maxCounter
	if _, err := k.Seal(make([]byte, k.Head(), 100)); !errors.Is(err, ErrExhausted) {
		t.Errorf("at the hard limit: got %v, want %v", err, ErrExhausted)
	}
	gcm := newKey(t, Params{Cipher: AES128GCM}).(*classicKey)
	gcm.sealUse.n = softGCMUse - 1
	seal(t, gcm, pingMagic)
	if !gcm.Spent() {
		t.Error("at the soft GCM limit: got Spent false, want true")
	}
	gcm.sealUse.n = maxGCMUse
	if _, err := gcm.Seal(make([]byte, gcm.Head(), 100)); !errors.Is(err, ErrExhausted) {
		t.Errorf("at the GCM limit: got %v, want %v", err, ErrExhausted)
	}
}

func TestEpochsAdvance(t *testing.T) {
	p := Params{Cipher: AES256GCM, Epoch: true, V2: true}
	client := newKey(t, p).(*epochKey)
	client.limits.counters = 3
	p.Server = true
	server := newKey(t, p).(*epochKey)

	var old [][]byte
	for i := range 300 {
		sealed := seal(t, client, pingMagic)
		if i == 290 || i == 2 {
			old = append(old, roomy(sealed))
			continue
		}
		if _, err := server.Open(sealed); err != nil {
			t.Fatalf("packet %d in epoch %d: %v", i, client.send.n, err)
		}
	}
	if client.send.n != 100 || server.current.n != 100 {
		t.Errorf("epochs: got %d sending and %d receiving, want 100", client.send.n, server.current.n)
	}
	if server.send.n != 100 {
		t.Errorf("the receiver's own sending epoch: got %d, want 100", server.send.n)
	}
	if _, err := server.Open(old[0]); !errors.Is(err, ErrAuthentication) {
		t.Errorf("a packet of a dropped epoch: got %v, want %v", err, ErrAuthentication)
	}
	if _, err := server.Open(old[1]); !errors.Is(err, ErrAuthentication) {
		t.Errorf("a packet three epochs back: got %v, want %v", err, ErrAuthentication)
	}
	if _, err := client.Open(seal(t, server, pingMagic)); err == nil {
		t.Error("an epoch beyond those kept ready: got no error")
	}
}

func TestEpochRetiringStillOpens(t *testing.T) {
	p := Params{Cipher: ChaCha20, Epoch: true, V2: true}
	client := newKey(t, p).(*epochKey)
	p.Server = true
	server := newKey(t, p).(*epochKey)
	late := seal(t, client, pingMagic)
	client.limits.counters = 1
	if _, err := server.Open(seal(t, client, pingMagic)); err != nil {
		t.Fatal(err)
	}
	if server.current.n != 2 {
		t.Fatalf("epoch: got %d, want 2", server.current.n)
	}
	if _, err := server.Open(late); err != nil {
		t.Errorf("a late packet of the retiring epoch: %v", err)
	}
	client.send.n = lastEpoch - 1
	seal(t, client, pingMagic)
	if !client.Spent() {
		t.Error("in the last epochs: got Spent false, want true")
	}
}

func FuzzOpen(f *testing.F) {
	everyFormat(func(_ string, client, _ Params) {
		f.Add(seal(f, newKey(f, client), pingMagic))
	})
	f.Fuzz(func(t *testing.T, raw []byte) {
		everyFormat(func(_ string, _, server Params) {
			_, _ = newKey(t, server).Open(roomy(raw))
		})
	})
}

func BenchmarkSealOpen(b *testing.B) {
	for _, epoch := range []bool{false, true} {
		b.Run(fmt.Sprintf("epoch=%v", epoch), func(b *testing.B) {
			p := Params{Cipher: AES256GCM, Epoch: epoch, V2: true}
			client := newKey(b, p)
			p.Server = true
			server := newKey(b, p)
			buf := make([]byte, 2048)
			b.SetBytes(1400)
			b.ReportAllocs()
			for b.Loop() {
				sealed, err := client.Seal(buf[:client.Head()+1400])
				if err != nil {
					b.Fatal(err)
				}
				if _, err := server.Open(sealed); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// The tag covers the header that came with the packet, whatever peer id we were given ourselves.
func TestOpenAuthenticatesThePacketsOwnHeader(t *testing.T) {
	for _, epoch := range []bool{false, true} {
		server := newKey(t, Params{Cipher: AES256GCM, Epoch: epoch, V2: true, KeyID: 1, PeerID: 0xffffff, Server: true})
		client := newKey(t, Params{Cipher: AES256GCM, Epoch: epoch, V2: true, KeyID: 1, PeerID: 5})
		if got, err := client.Open(seal(t, server, pingMagic)); err != nil || !bytes.Equal(got, pingMagic) {
			t.Errorf("epoch %v: got %x, %v", epoch, got, err)
		}
	}
}
