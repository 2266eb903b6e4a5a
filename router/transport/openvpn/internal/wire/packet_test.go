package wire

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The packets are a real handshake between the C client 2.6 and server 2.6.
func TestParsePacketSeenOnTheWire(t *testing.T) {
	client, server := SessionID(unhex(t, "61374f955f19bea7")), SessionID(unhex(t, "9202ac4affb97520"))
	tests := []struct {
		name, packet string
		want         Packet
	}{
		{"the client's hard reset", "38 61374f955f19bea7 00 00000000", Packet{Op: HardResetClient, Session: client}},
		{"the server's hard reset", "40 9202ac4affb97520 01 00000000 61374f955f19bea7 00000000", Packet{Op: HardResetServer, Session: server, Acks: []uint32{0}, Peer: client}},
		{"TLS bytes", "20 61374f955f19bea7 01 00000000 9202ac4affb97520 00000001 16030101", Packet{Op: Control, Session: client, Acks: []uint32{0}, Peer: server, ID: 1, Payload: []byte{0x16, 3, 1, 1}}},
		{"an acknowledgement", "28 61374f955f19bea7 02 00000001 00000000 9202ac4affb97520", Packet{Op: Ack, Session: client, Acks: []uint32{1, 0}, Peer: server}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			raw := unhex(t, tt.packet)
			got, err := ParsePacket(raw, raw[OuterSize:])
			if err != nil {
				t.Fatal(err)
			}
			if fmt.Sprint(got) != fmt.Sprint(tt.want) {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
			if sealed := (Plain{}).Seal(&got); !bytes.Equal(sealed, raw) {
				t.Errorf("sealed again: got %x, want %x", sealed, raw)
			}
		})
	}
}

func TestParsePacketRefuses(t *testing.T) {
	tests := []struct{ name, packet string }{
		{"nothing", ""},
		{"less than a session id", "20 01020304"},
		{"a hard reset of key method 1", "08 0102030405060708 00 00000000"},
		{"an unknown opcode", "60 0102030405060708 00 00000000"},
		{"a data packet", "48 0102030405060708 00 00000000"},
		{"no body", "20 0102030405060708"},
		{"nine acknowledgements", "28 0102030405060708 09" + strings.Repeat("00000000", 12)},
		{"acknowledgements without a peer", "28 0102030405060708 01 00000000"},
		{"no packet id", "20 0102030405060708 00 0000"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			raw := unhex(t, tt.packet)
			if _, err := ParsePacket(raw, raw[min(OuterSize, len(raw)):]); !errors.Is(err, ErrMalformed) {
				t.Errorf("got %v, want %v", err, ErrMalformed)
			}
		})
	}
}

func TestAsksForWKC(t *testing.T) {
	tests := []struct {
		name, payload string
		want          bool
	}{
		{"the flag as seen", "0001 0002 0001", true},
		{"the flag after an unknown field", "0009 0003 010203 0001 0002 0001", true},
		{"other flags", "0001 0002 0002", false},
		{"no payload", "", false},
		{"cut off", "0001 0002 00", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := AsksForWKC(unhex(t, tt.payload)); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestKeyExchangeRoundTrip(t *testing.T) {
	for _, client := range []bool{true, false} {
		t.Run(fmt.Sprintf("client %v", client), func(t *testing.T) {
			sent := KeyExchange{Options: "V4,dev-type tun", User: "ana", Password: "geheim", PeerInfo: "IV_VER=x\n"}
			if client {
				sent.PreMaster[3] = 7
			}
			sent.Random1[0], sent.Random2[31] = 1, 2
			got, err := ReadKeyExchange(bufio.NewReader(bytes.NewReader(sent.Append(nil, client))), client)
			if err != nil {
				t.Fatal(err)
			}
			if *got != sent {
				t.Errorf("got %+v, want %+v", *got, sent)
			}
		})
	}
	t.Run("a server that ends after its options", func(t *testing.T) {
		raw := (&KeyExchange{Options: "V4"}).Append(nil, false)
		got, err := ReadKeyExchange(bufio.NewReader(bytes.NewReader(raw[:len(raw)-6])), false)
		if err != nil || got.Options != "V4" {
			t.Errorf("got %+v, %v; want options V4", got, err)
		}
	})
	t.Run("another key method", func(t *testing.T) {
		if _, err := ReadKeyExchange(bufio.NewReader(strings.NewReader("\x00\x00\x00\x00\x01")), false); err == nil {
			t.Error("got no error")
		}
	})
}

func TestParseStaticKey(t *testing.T) {
	var digits strings.Builder
	for i := range 256 {
		fmt.Fprintf(&digits, "%02x", i)
		if i%16 == 15 {
			digits.WriteByte('\n')
		}
	}
	good := "#\n# 2048 bit OpenVPN static key\n#\n" + staticKeyBegin + "\n" + digits.String() + staticKeyEnd + "\n"
	key, err := ParseStaticKey(good)
	if err != nil {
		t.Fatal(err)
	}
	if key != *testKey() {
		t.Errorf("got %x", key)
	}
	for name, bad := range map[string]string{
		"no begin":        digits.String(),
		"no end":          staticKeyBegin + digits.String(),
		"too short":       staticKeyBegin + "0011" + staticKeyEnd,
		"not hexadecimal": strings.Replace(good, "00010203", "zz010203", 1),
	} {
		if _, err := ParseStaticKey(bad); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}

func TestParseClientKey(t *testing.T) {
	encode := func(b []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: clientKeyType, Bytes: b}))
	}
	wkc := make([]byte, 299)
	wkc[297], wkc[298] = 299>>8, 299&0xff
	key, got, err := ParseClientKey(encode(append(testKey()[:], wkc...)))
	if err != nil {
		t.Fatal(err)
	}
	if key != *testKey() || !bytes.Equal(got, wkc) {
		t.Errorf("got key %x and %d bytes wrapped", key, len(got))
	}
	wkc[298]++
	if _, _, err := ParseClientKey(encode(append(testKey()[:], wkc...))); err == nil {
		t.Error("wrong length: got no error")
	}
	if _, _, err := ParseClientKey("nothing"); err == nil {
		t.Error("no PEM: got no error")
	}
}

func FuzzParsePacket(f *testing.F) {
	f.Add([]byte("\x38aaaaaaaa\x00\x00\x00\x00\x00"))
	f.Add([]byte("\x28aaaaaaaa\x02\x00\x00\x00\x01\x00\x00\x00\x00bbbbbbbb"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := ParsePacket(raw, raw[min(OuterSize, len(raw)):])
		if err != nil {
			return
		}
		if sealed := (Plain{}).Seal(&p); p.Op != Ack && !bytes.Equal(sealed, raw) {
			t.Errorf("got %x, want %x", sealed, raw)
		}
		AsksForWKC(p.Payload)
	})
}

func FuzzWrapOpen(f *testing.F) {
	sealed, err := NewTLSCrypt(testKey(), Normal, vectorTime)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed.Seal(helloPacket()))
	f.Fuzz(func(t *testing.T, raw []byte) {
		crypt, err := NewTLSCrypt(testKey(), Inverse, vectorTime)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range []Wrap{crypt, NewTLSAuth(testKey(), Inverse, sha1.New, vectorTime), Plain{}} {
			if body, err := w.Open(raw); err == nil {
				_, _ = ParsePacket(raw, body)
			}
		}
	})
}

func FuzzReadKeyExchange(f *testing.F) {
	f.Add((&KeyExchange{Options: "V4", PeerInfo: "IV_VER=1\n"}).Append(nil, false))
	f.Fuzz(func(t *testing.T, raw []byte) {
		_, _ = ReadKeyExchange(bufio.NewReader(bytes.NewReader(raw)), false)
	})
}
