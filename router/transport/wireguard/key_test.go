package wireguard

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestKeys(t *testing.T) {
	t.Run("a generated key is read back from its text", func(t *testing.T) {
		private, preshared := GeneratePrivateKey(), GeneratePresharedKey()
		if got := must(ParsePrivateKey(private.Reveal())); got != private {
			t.Error("private key: got another")
		}
		if got := must(ParsePresharedKey(preshared.Reveal())); got != preshared {
			t.Error("preshared key: got another")
		}
		if got := must(ParsePublicKey(private.Public().String())); got != private.Public() {
			t.Errorf("public key: got %v, want %v", got, private.Public())
		}
	})
	t.Run("the public key is that of RFC 7748, 6.1", func(t *testing.T) {
		alice := must(ParsePrivateKey("dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo="))
		if got, want := alice.Public().String(), "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
	t.Run("generated keys differ", func(t *testing.T) {
		a, b := GeneratePrivateKey(), GeneratePrivateKey()
		c, d := GeneratePresharedKey(), GeneratePresharedKey()
		if a == b || c == d {
			t.Error("got the same key twice")
		}
	})
}

func TestParseKeyRefuses(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"nothing", "", "0 characters, want 44"},
		{"a key cut short", testPrivateKey[:43], "43 characters, want 44"},
		{"a key in hexadecimal", strings.Repeat("00", 32), "64 characters, want 44"},
		{"what is not base64", strings.Repeat("*", 44), "not base64"},
		{"33 bytes", strings.Repeat("AAAA", 10) + "AAAB", "not base64 of 32 bytes"},
		{"31 bytes", strings.Repeat("AAAA", 10) + "AA==", "not base64 of 32 bytes"},
		{"bits that no byte has", strings.Replace(testPrivateKey, "mk=", "ml=", 1), "not base64"},
		{"zero", strings.Repeat("A", 43) + "=", "all zero"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for kind, parse := range map[string]func(string) error{
				"private":   func(s string) error { _, err := ParsePrivateKey(s); return err },
				"preshared": func(s string) error { _, err := ParsePresharedKey(s); return err },
				"public":    func(s string) error { return new(PublicKey).UnmarshalText([]byte(s)) },
			} {
				err := parse(tt.text)
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%s: got %v, want %q in it", kind, err, tt.want)
				}
				if err != nil && len(tt.text) > 8 && strings.Contains(err.Error(), tt.text[:8]) {
					t.Errorf("%s: got %q, with the key in it", kind, err)
				}
			}
		})
	}
}

func TestSecretsStayHidden(t *testing.T) {
	private := must(ParsePrivateKey(testPrivateKey))
	config := &Config{PrivateKey: private, Peers: []Peer{{PresharedKey: must(ParsePresharedKey(testPrivateKey))}}}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", private, "config", config)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", private, "config", config)
	values := []any{config, *config, config.Peers, private, config.Peers[0].PresharedKey}
	var formatted strings.Builder
	for _, verb := range []string{"%v ", "%+v ", "%#v ", "%s ", "%q ", "%d ", "%x ", "%X ", "%b ", "%o "} {
		fmt.Fprintf(&formatted, strings.Repeat(verb, len(values)), values...)
	}
	shown := []string{
		private.String(), private.GoString(), string(must(json.Marshal(config))), log.String(),
		formatted.String(),
	}
	hidden := []string{testPrivateKey[:10], private.hex()[:10], strings.ToUpper(private.hex()[:10]), "200 9 243", "11001000 1001"}
	for _, s := range shown {
		for _, h := range hidden {
			if strings.Contains(s, h) {
				t.Errorf("got %q, with the key in it as %q", s, h)
			}
		}
	}
	if got := (PrivateKey{}).String(); got != "(none)" {
		t.Errorf("no key: got %q, want (none)", got)
	}
	if got := string(must(json.Marshal(private.Public()))); got != `"`+private.Public().String()+`"` {
		t.Errorf("public key in JSON: got %s, want it shown", got)
	}
}
