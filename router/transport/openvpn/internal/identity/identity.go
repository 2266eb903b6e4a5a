// Package identity reads the certificate and the private key that a client shows a server: PEM, encrypted or not, and
// PKCS#12.
//
// It opens no file, asks nobody for a passphrase and keeps none.
package identity

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/youmark/pkcs8"
	"software.sslmate.com/src/go-pkcs12"
)

// Errors of FromPEM and FromPKCS12.
var (
	ErrEncrypted  = errors.New("is encrypted, and there is no passphrase")
	ErrPassphrase = errors.New("the passphrase does not fit")
	ErrOldMethod  = errors.New("is encrypted in a way that only old programs use")
	ErrNoPKCS12   = errors.New("is not a PKCS#12 file, nor one in base64")
)

// FromPEM joins a certificate, its issuers and its key. passphrase is for an encrypted key; empty: there is none.
func FromPEM(certificates, key, passphrase string) (*tls.Certificate, error) {
	plain, err := plainKey(key, passphrase)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	pair, err := tls.X509KeyPair([]byte(certificates), plain)
	if err != nil {
		return nil, fmt.Errorf("cert and key: %w", err)
	}
	return &pair, nil
}

// plainKey returns the PEM of a key without its encryption.
func plainKey(text, passphrase string) ([]byte, error) {
	rest := []byte(text)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return []byte(text), nil // tls.X509KeyPair says what is missing
		}
		switch {
		case block.Type == "ENCRYPTED PRIVATE KEY":
			return pkcs8Key(block.Bytes, passphrase)
		case strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"):
			return legacyKey(block, passphrase)
		case strings.HasSuffix(block.Type, "PRIVATE KEY"):
			return []byte(text), nil
		}
	}
}

// pkcs8Key decrypts PKCS#8, as openssl writes it since 1.0. The methods of before are refused by the library.
func pkcs8Key(der []byte, passphrase string) ([]byte, error) {
	if passphrase == "" {
		return nil, ErrEncrypted
	}
	key, err := pkcs8.ParsePKCS8PrivateKey(der, []byte(passphrase))
	if err != nil {
		switch text := err.Error(); {
		case strings.Contains(text, "incorrect password"):
			return nil, ErrPassphrase
		case strings.Contains(text, "only PBES2"):
			return nil, ErrOldMethod
		}
		return nil, err
	}
	plain, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: plain}), nil
}

// legacyKey decrypts the PEM encryption of RFC 1423, as openssl rsa and ec write it.
func legacyKey(block *pem.Block, passphrase string) ([]byte, error) {
	if passphrase == "" {
		return nil, ErrEncrypted
	}
	//lint:ignore SA1019 weak, but it is how the file is
	plain, err := x509.DecryptPEMBlock(block, []byte(passphrase))
	if errors.Is(err, x509.IncorrectPasswordError) {
		return nil, ErrPassphrase
	}
	if err != nil {
		return nil, err
	}
	if !isKey(plain) { // a wrong passphrase gives a right padding once in 256 times
		return nil, ErrPassphrase
	}
	return pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: plain}), nil
}

// isKey reports whether der is a private key in one of the forms that openssl writes.
func isKey(der []byte) bool {
	_, noRSA := x509.ParsePKCS1PrivateKey(der)
	_, noEC := x509.ParseECPrivateKey(der)
	_, noPKCS8 := x509.ParsePKCS8PrivateKey(der)
	return noRSA == nil || noEC == nil || noPKCS8 == nil
}

// FromPKCS12 reads a PKCS#12 file, or its base64 form: a certificate with its key, and the authorities beside it.
func FromPKCS12(file []byte, passphrase string) (*tls.Certificate, []*x509.Certificate, error) {
	if text, err := base64.StdEncoding.DecodeString(string(bytes.Join(bytes.Fields(file), nil))); err == nil {
		file = text
	}
	if len(file) == 0 || file[0] != 0x30 { // an ASN.1 sequence
		return nil, nil, ErrNoPKCS12
	}
	key, certificate, authorities, err := pkcs12.DecodeChain(file, passphrase)
	switch {
	case errors.Is(err, pkcs12.ErrIncorrectPassword) && passphrase == "":
		return nil, nil, ErrEncrypted
	case errors.Is(err, pkcs12.ErrIncorrectPassword):
		return nil, nil, ErrPassphrase
	case err != nil:
		return nil, nil, errors.New(strings.TrimPrefix(err.Error(), "pkcs12: ")) // whoever calls says so too
	}
	pair := &tls.Certificate{Certificate: [][]byte{certificate.Raw}, PrivateKey: key, Leaf: certificate}
	for _, a := range authorities {
		if !bytes.Equal(a.RawSubject, a.RawIssuer) { // the server has the root itself
			pair.Certificate = append(pair.Certificate, a.Raw)
		}
	}
	return pair, authorities, nil
}
