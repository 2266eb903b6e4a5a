package acme

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"penstock/cmd/internal/private"
)

// maxFile bounds a file of ours, bytes.
const maxFile = 1 << 20

// store is a folder with the keys of accounts, certificates with their keys, and the last attempts to get some. Each file is written whole or not at all.
type store struct{ dir string }

// most is more than what is kept of a certificate takes, bytes.
const most = 16 << 10

// prepare makes the folder, and finds out whether something can be kept in it.
func (s store) prepare() error {
	err := os.MkdirAll(s.dir, 0o700)
	if err == nil {
		var temp string
		if temp, err = private.WriteTemp(s.dir, strings.Repeat("\n", most)); err == nil {
			err = os.Remove(temp)
		}
	}
	if err != nil {
		return &unkept{err}
	}
	return nil
}

// unkept says that a certificate cannot be kept.
type unkept struct{ err error }

func (e *unkept) Error() string {
	return "it cannot be kept: let penstock's user, and its service, write state_dir: " + e.err.Error()
}
func (e *unkept) Unwrap() error { return e.err }

// account returns the key of our account with an authority. It is made if there is none, and in the place of one that is damaged.
func (s store) account(directory string, log *slog.Logger) (crypto.Signer, error) {
	sum := sha256.Sum256([]byte(directory))
	path := filepath.Join(s.dir, "account-"+hex.EncodeToString(sum[:6])+".key")
	text, err := private.Read(path, maxFile)
	if err == nil {
		key, rest := keyIn(text)
		if key != nil && len(bytes.TrimSpace(rest)) == 0 {
			return key, nil
		}
		log.Error("the key of the account with the authority is damaged: there will be a new account", "file", path)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	block, err := keyBlock(key)
	if err != nil {
		return nil, err
	}
	if err := private.Replace(path, string(block)); err != nil {
		return nil, &unkept{err}
	}
	return key, nil
}

// path is the file with the certificate of a host.
func (s store) path(host string) string { return s.file("certificate-", host, ".pem") }

// file is a file of a host. What could not be in a file's name is replaced: whoever reads it looks whether it is for the host.
func (s store) file(kind, host, suffix string) string {
	clean := strings.Map(func(r rune) rune {
		if strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789-.", r) {
			return r
		}
		return '_'
	}, host)
	return filepath.Join(s.dir, kind+clean+suffix)
}

// save keeps a certificate and its key.
func (s store) save(host string, cert *tls.Certificate) error {
	text, err := keyBlock(cert.PrivateKey)
	if err != nil {
		return err
	}
	for _, der := range cert.Certificate {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	if err := private.Replace(s.path(host), string(text)); err != nil {
		return &unkept{err}
	}
	return nil
}

// load returns the certificate of a host, or nil if there is none.
func (s store) load(host string) (*tls.Certificate, error) {
	path := s.path(host)
	text, err := private.Read(path, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(text, text)
	if err == nil {
		err = cert.Leaf.VerifyHostname(host)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &cert, nil
}

func newKey() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

func keyBlock(key crypto.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// keyIn reads the key at the beginning of a text.
func keyIn(text []byte) (key crypto.Signer, rest []byte) {
	block, rest := pem.Decode(text)
	if block == nil {
		return nil, text
	}
	any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, rest
	}
	key, _ = any.(crypto.Signer)
	return key, rest
}
