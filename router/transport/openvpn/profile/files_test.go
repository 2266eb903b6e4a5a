package profile

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"

	"penstock/router/transport/openvpn/internal/certtest"
)

// locked is a profile whose key is encrypted, with this line.
func locked(t *testing.T, passphrase, line string) string {
	t.Helper()
	ca := certtest.NewAuthority(t, "ca")
	client := ca.Client(t)
	block, _ := pem.Decode([]byte(client.Key))
	//lint:ignore SA1019 weak, but files have it
	sealed, err := x509.EncryptPEMBlock(rand.Reader, "PRIVATE KEY", block.Bytes, []byte(passphrase), x509.PEMCipherAES256)
	if err != nil {
		t.Fatal(err)
	}
	return "client\nremote h\nremote-cert-tls server\n" + line + "\n" + certtest.Inline("ca", ca.PEM) + certtest.Inline("cert", client.Cert) +
		certtest.Inline("key", string(pem.EncodeToMemory(sealed)))
}

func TestAnEncryptedKeyIsDecrypted(t *testing.T) {
	ask := func(answer string, err error) Files {
		return Files{
			Secret:     func(string) ([]byte, error) { return []byte("geheim\n"), nil },
			Passphrase: func() (string, error) { return answer, err },
		}
	}
	for _, row := range []struct {
		name, line string
		files      Files
		want       string // in the error; empty: none
	}{
		{"by the file that askpass names", "askpass pass.txt", ask("", nil), ""},
		{"by an inline askpass", "<askpass>\ngeheim\n</askpass>", ask("", nil), "unknown inline block"},
		{"by whoever reads the profile", "askpass", ask("geheim", nil), ""},
		{"even if the profile does not ask", "", ask("geheim", nil), ""},
		{"not without a passphrase", "", ask("", nil), "set key_passphrase of the transport"},
		{"not with a wrong one", "", ask("falsch", nil), "correct key_passphrase of the transport"},
		{"not if reading it fails", "", ask("", errors.New("no permission")), "the passphrase of the key: no permission"},
	} {
		t.Run(row.name, func(t *testing.T) {
			p, _, err := Parse(strings.NewReader(locked(t, "geheim", row.line)), "x.ovpn", row.files)
			switch {
			case row.want == "" && (err != nil || p.Certificate == nil):
				t.Errorf("got %v, want a certificate", err)
			case row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)):
				t.Errorf("got %v, want %q", err, row.want)
			}
		})
	}
}

func TestEachRemoteHasItsOwnKey(t *testing.T) {
	one, two := certtest.StaticKey(t), certtest.StaticKey(t)
	text := minimal(t) + certtest.Inline("tls-crypt", one) +
		"<connection>\nremote a 1 udp\n</connection>\n<connection>\nremote b 2 udp\n" + certtest.Inline("tls-auth", two) + "key-direction 1\n</connection>\n"
	p, _, err := Parse(strings.NewReader(text), "x.ovpn", Files{})
	if err != nil {
		t.Fatal(err)
	}
	shared := p.ProtectionFor(Remote{})
	for _, r := range p.Remotes {
		if own := p.ProtectionFor(r); (r.Host == "b") != (own != shared) {
			t.Errorf("remote %s: got its own protection %v, want only b to have one", r.Host, own != shared)
		}
	}
}

func TestProfilesAsEditorsWriteThem(t *testing.T) {
	plain := "# a comment\nclient\nremote \"h\" 1194 # behind a value\n\tproto udp ; tabs too\n" + minimal(t)
	units := utf16.Encode([]rune("\ufeff" + strings.ReplaceAll(plain, "\n", "\r\n")))
	var wide []byte
	for _, u := range units {
		wide = append(wide, byte(u), byte(u>>8))
	}
	for name, text := range map[string]string{
		"a byte order mark": "\ufeff" + plain, "CRLF": strings.ReplaceAll(plain, "\n", "\r\n"), "UTF-16 with a mark": string(wide), "UTF-16 without one": string(wide[2:]),
		"a comment behind a tag": strings.ReplaceAll(plain, "<peer-fingerprint>", "<peer-fingerprint> # of the company"),
	} {
		if p, _, err := Parse(strings.NewReader(text), "x.ovpn", Files{}); err != nil || p.Remotes[0].Host != "h" {
			t.Errorf("%s: %v", name, err)
		}
	}
	dir := t.TempDir()
	ca := certtest.NewAuthority(t, "ca")
	if err := os.WriteFile(filepath.Join(dir, "ca.crt"), []byte("\ufeff"+strings.ReplaceAll(ca.PEM, "\n", "\r\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Parse(strings.NewReader("client\nremote h\nremote-cert-tls server\nca ca.crt\n"), filepath.Join(dir, "x.ovpn"), Files{Public: ReadPublic}); err != nil {
		t.Errorf("a certificate as an editor wrote it: %v", err)
	}
}
