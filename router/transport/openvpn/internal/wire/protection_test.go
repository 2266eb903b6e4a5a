package wire

import (
	"crypto/sha256"
	"testing"
	"time"
)

func TestProtectionMakesItsWrap(t *testing.T) {
	var key StaticKey
	for i := range key {
		key[i] = byte(i)
	}
	tests := []struct {
		name       string
		protection Protection
		overhead   int
	}{
		{"none", Protection{}, 0},
		{"tls-auth", Protection{Kind: TLSAuthKey, Key: &key, Direction: Inverse, Digest: sha256.New}, sha256.Size + 8},
		{"tls-crypt", Protection{Kind: TLSCryptKey, Key: &key}, 40},
		{"tls-crypt-v2", Protection{Kind: TLSCryptV2Key, Key: &key}, 40},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			first, err := tt.protection.New(time.Now)
			if err != nil {
				t.Fatal(err)
			}
			second, err := tt.protection.New(time.Now)
			if err != nil {
				t.Fatal(err)
			}
			if first.Overhead() != tt.overhead {
				t.Errorf("overhead: got %d, want %d", first.Overhead(), tt.overhead)
			}
			packet := Packet{Op: Ack, Acks: []uint32{1}}
			if a, b := first.Seal(&packet), second.Seal(&packet); len(a) != len(b) {
				t.Errorf("two sessions: got %d and %d bytes", len(a), len(b))
			}
		})
	}
}
