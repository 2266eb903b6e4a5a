package report

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"penstock/cmd/internal/config"
)

// certificate is one that was made 90 days before its end, in PEM.
func certificate(t *testing.T, end time.Time) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"vpn.example"}, NotBefore: end.AddDate(0, 0, -90), NotAfter: end}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// TestSomebodyIsToldBeforeACertificateExpires: in the status, first as a warning and then as what degrades the gateway, by the metric,
// and by check and doctor.
func TestSomebodyIsToldBeforeACertificateExpires(t *testing.T) {
	w := newWorld(t, text)
	const signIn = "sign_in: {oidc: {issuer: 'https://login.example', client_id: x}, required: all, url: 'https://vpn.example/', certificate: page.pem, certificate_key: {file: page.key}}\n"
	page := filepath.Join(w.dir, "page.pem")
	w.write(t, "page.key", "of no use here")
	for _, row := range []struct {
		says              string
		left              time.Duration // 0: there is no file
		warning, degraded string
	}{
		{"a new one", 80 * 24 * time.Hour, "", ""},
		{"six days before its end", 6 * 24 * time.Hour, "sign_in: the certificate in " + page + " expires at ", ""},
		{"an hour after its end", -time.Hour, "", "sign_in: the certificate in " + page + " expired at "},
		{"without a file", 0, "", "sign_in: the certificate in " + page + " cannot be read: "},
	} {
		begins, expires := 0.0, 0.0
		if os.Remove(page); row.left != 0 {
			end := time.Now().Add(row.left).Truncate(time.Second)
			w.write(t, "page.pem", certificate(t, end))
			begins, expires = float64(end.AddDate(0, 0, -90).Unix()), float64(end.Unix())
		}
		w.use(t, text+signIn)
		st, err := w.status.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		has := func(list []string, text string) bool {
			return slices.ContainsFunc(list, func(s string) bool { return strings.Contains(s, text) })
		}
		if (row.warning != "" || has(st.Warnings, "certificate")) && !has(st.Warnings, cmp.Or(row.warning, "\x00")) {
			t.Errorf("%s: got the warnings %q, want %q", row.says, st.Warnings, row.warning)
		}
		if strings.Contains(st.Verdict, "certificate") != (row.degraded != "") || !strings.Contains(st.Verdict, row.degraded) || row.degraded != "" && !st.Degraded {
			t.Errorf("%s: got the verdict %q, degraded %v, want %q", row.says, st.Verdict, st.Degraded, row.degraded)
		}
		if told := cmp.Or(row.warning, row.degraded); row.left != 0 && told != "" && !has(w.live.Now().Warnings(), told) {
			t.Errorf("%s: check warns of %q, want %q", row.says, w.live.Now().Warnings(), told)
		}
		reg := prometheus.NewPedanticRegistry()
		reg.MustRegister(NewCollector(func() *Process { return w.status }, config.Metrics{}))
		series := fmt.Sprintf("# HELP penstock_certificate_expiry_timestamp_seconds When a certificate in a file expires, in Unix time, by the section of the configuration that names it; 0 if the file cannot be read.\n"+
			"# TYPE penstock_certificate_expiry_timestamp_seconds gauge\npenstock_certificate_expiry_timestamp_seconds{use=\"sign_in\"} %g\n"+
			"# HELP penstock_certificate_not_before_timestamp_seconds From when a certificate in a file is valid, in Unix time, by the section of the configuration that names it; 0 if the file cannot be read.\n"+
			"# TYPE penstock_certificate_not_before_timestamp_seconds gauge\npenstock_certificate_not_before_timestamp_seconds{use=\"sign_in\"} %g\n", expires, begins)
		if err := testutil.GatherAndCompare(reg, strings.NewReader(series), "penstock_certificate_expiry_timestamp_seconds", "penstock_certificate_not_before_timestamp_seconds"); err != nil {
			t.Errorf("%s: %v", row.says, err)
		}
	}
}
