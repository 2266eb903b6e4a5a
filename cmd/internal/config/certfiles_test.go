package config

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestWhenACertificateShouldHaveBeenRenewed(t *testing.T) {
	const day = 24 * time.Hour
	begun := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	for _, row := range []struct {
		says             string
		life, age        time.Duration
		expires, expired bool
	}{
		{"a new one", 90 * day, 0, false, false},
		{"eight days before its end", 90 * day, 82 * day, false, false},
		{"a week before its end", 90 * day, 83 * day, true, false},
		{"at its end", 90 * day, 90 * day, false, true},
		{"long after", 90 * day, 400 * day, false, true},
		{"one that lives for six days, when it is new", 6 * day, 0, false, false},
		{"and when only a third is left", 6 * day, 4*day + time.Hour, true, false},
	} {
		leaf := &x509.Certificate{NotBefore: begun, NotAfter: begun.Add(row.life)}
		file := CertificateFile{Use: "sign_in", Path: "page.pem"}
		expires, expired := file.Expires(leaf, begun.Add(row.age)), file.Expired(leaf, begun.Add(row.age))
		if (expires != "") != row.expires || (expired != "") != row.expired {
			t.Errorf("%s: got %q and %q", row.says, expires, expired)
		}
		for _, text := range []string{expires, expired} {
			if text != "" && (!strings.HasPrefix(text, "sign_in: the certificate in page.pem expire") || !strings.HasSuffix(text, ": renew it")) {
				t.Errorf("%s: got %q, want section, file and mend", row.says, text)
			}
		}
	}
}

func TestFilesWithoutACertificate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "page.pem")
	for text, want := range map[string]string{
		"":      "no certificate",
		"words": "no certificate",
		"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n": "no certificate",
		"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n": "malformed",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := (CertificateFile{Path: path}).Leaf(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
	if _, err := (CertificateFile{Path: path + ".none"}).Leaf(); !os.IsNotExist(err) {
		t.Errorf("no file: got %v", err)
	}
}
