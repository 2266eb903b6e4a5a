package bundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// laptopKey is a public key of WireGuard.
const laptopKey = "YmVuIGhhcyBhIGtleSBvZiAzMiBieXRlcywgYW5kIHU="

func TestOnlyWhoHasTheTokenCanJoin(t *testing.T) {
	mine, other := InvitationKey([16]byte{1}), InvitationKey([16]byte{2})
	if mine.Public() == other.Public() || mine.Public() != InvitationKey([16]byte{1}).Public() {
		t.Fatal("a token stands for one key, and another token for another")
	}
	good, err := SignJoin("berlin", laptopKey, mine)
	if err != nil {
		t.Fatal(err)
	}
	signedBy := func(j Join, domain string, key PrivateKey) Signed {
		s, err := sign(domain, j, key, MaxSigned)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	j := Join{"berlin", mine.Public(), laptopKey}
	with := func(change func(*Join)) Join { j := j; change(&j); return j }
	tests := []struct {
		name   string
		signed Signed
		want   error // nil: it is accepted
	}{
		{"one with the token", good, nil},
		{"one with another token", signedBy(j, joinDomain, other), ErrUnsigned},
		{"one to another invitation, with its token", signedBy(with(func(j *Join) { j.Invitation = other.Public() }), joinDomain, other), ErrUnsigned},
		{"one that names another invitation", signedBy(with(func(j *Join) { j.Invitation = other.Public() }), joinDomain, mine), ErrUnsigned},
		{"one of another site", signedBy(with(func(j *Join) { j.Site = "paris" }), joinDomain, mine), ErrUnsigned},
		{"what was signed as something else", signedBy(j, changeDomain, mine), ErrUnsigned},
		{"no key", signedBy(with(func(j *Join) { j.PublicKey = "" }), joinDomain, mine), ErrDamaged},
		{"a key that is too short", signedBy(with(func(j *Join) { j.PublicKey = laptopKey[4:] }), joinDomain, mine), ErrDamaged},
		{"a key that is written in another way", signedBy(with(func(j *Join) { j.PublicKey = laptopKey[:43] + "\n=" }), joinDomain, mine), ErrDamaged},
		{"no site", signedBy(with(func(j *Join) { j.Site = "" }), joinDomain, mine), ErrDamaged},
		{"one that was changed", Signed(strings.Replace(string(good), `"signature":"`, `"signature":"AA`, 1)), ErrDamaged},
		{"garbage", Signed("garbage"), ErrDamaged},
		{"nothing", nil, ErrDamaged},
		{"one that is huge", append(good, make([]byte, maxJoin)...), ErrTooLarge},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := VerifyJoin(tt.signed, "berlin", mine.Public())
			if !errors.Is(err, tt.want) || (got == nil) != (err != nil) || got != nil && *got != j {
				t.Errorf("got %+v, %v; want %v", got, err, tt.want)
			}
		})
	}
	if _, err := SignJoin("berlin", "no key", mine); err == nil {
		t.Error("no key was signed")
	}
	if _, err := VerifyChange(good, []PublicKey{mine.Public()}); !errors.Is(err, ErrUnsigned) {
		t.Errorf("a join as a change: got %v, want ErrUnsigned", err)
	}
	if _, err := good.Verify([]PublicKey{mine.Public()}); !errors.Is(err, ErrUnsigned) {
		t.Errorf("a join as a bundle: got %v, want ErrUnsigned", err)
	}
}

func TestKeysInHexadecimal(t *testing.T) {
	key := InvitationKey([16]byte{1}).Public()
	if got, ok := ParseHex(key.Hex()); !ok || got != key {
		t.Errorf("got %v, %v; want %v", got, ok, key)
	}
	for _, text := range []string{"", "00", strings.ToUpper(key.Hex()), key.Hex() + "00", strings.Repeat("0", 64), strings.Repeat("x", 64)} {
		if got, ok := ParseHex(text); ok {
			t.Errorf("%q: got %v, want none", text, got)
		}
	}
}

// FuzzJoin lets anything come for a join, as a store or a gateway in bad hands may bring it.
func FuzzJoin(f *testing.F) {
	key := InvitationKey([16]byte{1})
	good, err := SignJoin("berlin", laptopKey, key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(good))
	f.Add([]byte(`{"signed":"e30=","signatures":[]}`))
	f.Add([]byte("null"))
	f.Add([]byte(fmt.Sprintf(`{"site":"berlin","invitation":%q,"public_key":%q}`, key.Public(), laptopKey)))
	f.Fuzz(func(t *testing.T, text []byte) {
		j, err := VerifyJoin(text, "berlin", key.Public())
		if err == nil && *j != (Join{"berlin", key.Public(), laptopKey}) {
			t.Fatalf("got %+v, which nobody has signed", j)
		}
		// What its key has signed may still be anything.
		signed, err := sign(joinDomain, json.RawMessage(text), key, MaxSigned)
		if err != nil {
			return
		}
		if j, err := VerifyJoin(signed, "berlin", key.Public()); err == nil && (j.check() != nil || j.Site != "berlin" || j.Invitation != key.Public()) {
			t.Fatalf("got %+v", j)
		}
	})
}
