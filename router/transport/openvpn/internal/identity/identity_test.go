package identity

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/youmark/pkcs8"
	"software.sslmate.com/src/go-pkcs12"

	"penstock/router/transport/openvpn/internal/certtest"
)

const passphrase = "correct horse"

func TestKeysInAllForms(t *testing.T) {
	client := certtest.NewAuthority(t, "ca").Client(t)
	block, _ := pem.Decode([]byte(client.Key))
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	modern, err := pkcs8.MarshalPrivateKey(key, []byte(passphrase), nil)
	if err != nil {
		t.Fatal(err)
	}
	//lint:ignore SA1019 weak, but files have it
	legacy, err := x509.EncryptPEMBlock(rand.Reader, "PRIVATE KEY", block.Bytes, []byte(passphrase), x509.PEMCipherAES256)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"PKCS#8": string(pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: modern})),
		"PEM":    string(pem.EncodeToMemory(legacy)),
	} {
		if pair, err := FromPEM(client.Cert, text, passphrase); err != nil || pair == nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := FromPEM(client.Cert, text, ""); !errors.Is(err, ErrEncrypted) {
			t.Errorf("%s without a passphrase: got %v, want ErrEncrypted", name, err)
		}
		if _, err := FromPEM(client.Cert, text, "wrong"); err == nil {
			t.Errorf("%s with a wrong passphrase: got no error", name)
		}
	}
	if _, err := FromPEM(client.Cert, client.Key, ""); err != nil {
		t.Errorf("a plain key: %v", err)
	}
	for _, bad := range []string{"", "no key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"} {
		if _, err := FromPEM(client.Cert, bad, passphrase); err == nil {
			t.Errorf("%q: got no error", bad)
		}
	}
}

// One wrong passphrase of 256 leads to a padding that looks right.
func TestAWrongPassphraseIsAlwaysTold(t *testing.T) {
	client := certtest.NewAuthority(t, "ca").Client(t)
	block, _ := pem.Decode([]byte(client.Key))
	for range 3000 {
		//lint:ignore SA1019 weak, but files have it
		sealed, err := x509.EncryptPEMBlock(rand.Reader, "PRIVATE KEY", block.Bytes, []byte(passphrase), x509.PEMCipherAES256)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := FromPEM(client.Cert, string(pem.EncodeToMemory(sealed)), "wrong"); !errors.Is(err, ErrPassphrase) {
			t.Fatalf("got %v, want %v", err, ErrPassphrase)
		}
	}
}

func TestPKCS12(t *testing.T) {
	authority := certtest.NewAuthority(t, "ca")
	client := authority.Client(t)
	block, _ := pem.Decode([]byte(client.Key))
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	root := certtest.Pair{Cert: authority.PEM}.Parse(t)
	for name, encoder := range map[string]*pkcs12.Encoder{"modern": pkcs12.Modern, "of old": pkcs12.LegacyDES} {
		file, err := encoder.Encode(key, client.Parse(t), []*x509.Certificate{root}, passphrase)
		if err != nil {
			t.Fatal(err)
		}
		for _, form := range [][]byte{file, []byte(base64.StdEncoding.EncodeToString(file) + "\n")} {
			pair, authorities, err := FromPKCS12(form, passphrase)
			if err != nil || len(authorities) != 1 || len(pair.Certificate) != 1 {
				t.Errorf("%s: got %v, %d authorities, %v", name, pair, len(authorities), err)
			}
		}
		if _, _, err := FromPKCS12(file, ""); !errors.Is(err, ErrEncrypted) {
			t.Errorf("%s without a passphrase: got %v, want ErrEncrypted", name, err)
		}
		if _, _, err := FromPKCS12(file, "wrong"); !errors.Is(err, ErrPassphrase) {
			t.Errorf("%s with a wrong passphrase: got %v, want ErrPassphrase", name, err)
		}
	}
	for _, garbage := range []string{"", "no such thing", "AAAA"} {
		if _, _, err := FromPKCS12([]byte(garbage), passphrase); !errors.Is(err, ErrNoPKCS12) {
			t.Errorf("%q: got %v, want ErrNoPKCS12", garbage, err)
		}
	}
	if _, _, err := FromPKCS12([]byte("\x30\x82"), passphrase); err == nil || errors.Is(err, ErrNoPKCS12) {
		t.Errorf("a file that is cut off: got %v, want an error that says so", err)
	}
}

// What openssl writes, whatever its version.
func TestWhatOpenSSLWrites(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("needs openssl")
	}
	client := certtest.NewAuthority(t, "ca").Client(t)
	dir := t.TempDir()
	plain, cert := filepath.Join(dir, "plain.pem"), filepath.Join(dir, "cert.pem")
	for file, text := range map[string]string{plain: client.Key, cert: client.Cert} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) []byte {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), openssl, args...).Output()
		if err != nil {
			t.Fatalf("openssl %v: %v", args, err)
		}
		return out
	}
	for _, args := range [][]string{
		{"pkey", "-in", plain, "-aes256", "-passout", "pass:" + passphrase},
		{"ec", "-in", plain, "-aes128", "-passout", "pass:" + passphrase},
		{"pkcs8", "-topk8", "-in", plain, "-v2", "aes-128-cbc", "-passout", "pass:" + passphrase},
	} {
		if _, err := FromPEM(client.Cert, string(run(args...)), passphrase); err != nil {
			t.Errorf("openssl %v: %v", args, err)
		}
	}
	old := run("pkcs8", "-topk8", "-in", plain, "-v1", "PBE-SHA1-3DES", "-passout", "pass:"+passphrase)
	if _, err := FromPEM(client.Cert, string(old), passphrase); !errors.Is(err, ErrOldMethod) {
		t.Errorf("a key encrypted as in PKCS#12: got %v, want ErrOldMethod", err)
	}
	packed := run("pkcs12", "-export", "-inkey", plain, "-in", cert, "-passout", "pass:"+passphrase)
	if _, _, err := FromPKCS12(packed, passphrase); err != nil {
		t.Errorf("openssl pkcs12: %v", err)
	}
}
