package trust

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"penstock/router/transport/openvpn/internal/certtest"
)

func lists(t *testing.T, pemText string) *Lists {
	t.Helper()
	l, err := NewLists("crl.pem", pemText, nil)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// check compares an error with a part of its text; "" wants none.
func check(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Errorf("got %v, want %q", err, want)
	}
}

func TestVerify(t *testing.T) {
	ca, other := certtest.NewAuthority(t, "ca"), certtest.NewAuthority(t, "other")
	server, client := ca.Server(t).Parse(t), ca.Client(t).Parse(t)
	expired := ca.Issue(t, "server.example", x509.ExtKeyUsageServerAuth, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	}).Parse(t)
	plain := ca.Issue(t, "laptop", 0, func(c *x509.Certificate) { c.ExtKeyUsage = nil }).Parse(t)
	print := sha256.Sum256(server.Raw)
	cas := []*x509.Certificate{ca.Cert}
	tests := []struct {
		name  string
		rules Rules
		leaf  *x509.Certificate
		want  string // "": good
	}{
		{"the authority's server", Rules{Authorities: cas, Purpose: ServerStated}, server, ""},
		{"another authority's", Rules{Authorities: []*x509.Certificate{other.Cert}}, server, "unknown authority"},
		{"a client in the role of the server", Rules{Authorities: cas, Purpose: ServerStated}, client, "incompatible key usage"},
		{"a certificate for no stated purpose in the role of the server", Rules{Authorities: cas, Purpose: ServerStated}, plain, "lacks the extended key usage serverAuth"},
		{"a certificate for no stated purpose, where that will do", Rules{Authorities: cas, Purpose: ServerUsual}, plain, ""},
		{"a client where that will do", Rules{Authorities: cas, Purpose: ServerUsual}, client, "incompatible key usage"},
		{"one of the key usages", Rules{Authorities: cas, KeyUsages: []byte{0x88, 0x80}}, server, ""},
		{"none of the key usages", Rules{Authorities: cas, KeyUsages: []byte{0x88, 0xa0}}, server, "its key usage is 80, remote-cert-ku wants one of 88 a0"},
		{"a client where the profile does not mind", Rules{Authorities: cas}, client, ""},
		{"an expired certificate", Rules{Authorities: cas}, expired, "expired"},
		{"the fingerprint", Rules{Fingerprints: [][32]byte{print}}, server, ""},
		{"another fingerprint", Rules{Fingerprints: [][32]byte{{1}}}, server, "fingerprints"},
		{"the fingerprint of an untrusted one", Rules{Fingerprints: [][32]byte{print}, Authorities: []*x509.Certificate{other.Cert}}, server, "unknown authority"},
		{"the name", Rules{Authorities: cas, Name: "server.example", NameKind: CommonName}, server, ""},
		{"the start of the name", Rules{Authorities: cas, Name: "server.", NameKind: CommonPrefix}, server, ""},
		{"another start", Rules{Authorities: cas, Name: "vpn.", NameKind: CommonPrefix}, server, "wants"},
		{"the subject", Rules{Authorities: cas, Name: "O=Example, CN=server.example"}, server, ""},
		{"another subject", Rules{Authorities: cas, Name: "CN=server.example"}, server, "wants"},
		{"no rules at all", Rules{}, server, "neither a ca nor a fingerprint"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			check(t, tt.rules.Verify(tls.ConnectionState{PeerCertificates: []*x509.Certificate{tt.leaf}}, time.Now()), tt.want)
		})
	}
	check(t, (&Rules{Authorities: cas}).Verify(tls.ConnectionState{}, time.Now()), "sent no certificate")
}

// TestVerifyNamesTheClock: a clock that is ten years off is told, whatever it makes of the server's certificate.
func TestVerifyNamesTheClock(t *testing.T) {
	ca := certtest.NewAuthority(t, "ca")
	server := ca.Server(t).Parse(t)
	year := 365 * 24 * time.Hour
	future := ca.Issue(t, "server.example", x509.ExtKeyUsageServerAuth, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(2*time.Hour), time.Now().Add(3*time.Hour)
	}).Parse(t)
	for _, tt := range []struct {
		name string
		leaf *x509.Certificate
		now  time.Time
		want string
	}{
		{"the clock is behind", server, time.Now().Add(-10 * year), "is not valid before "},
		{"the clock is ahead", server, time.Now().Add(10 * year), "expired on "},
		{"only the server's own is too new", future, time.Now(), `certificate "server.example" is not valid before ` + date(future.NotBefore)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := (&Rules{Authorities: []*x509.Certificate{ca.Cert}}).Verify(tls.ConnectionState{PeerCertificates: []*x509.Certificate{tt.leaf}}, tt.now)
			check(t, err, tt.want)
			check(t, err, "and the clock reads "+date(tt.now)+": set the clock, if it is wrong")
		})
	}
}

func TestRevocation(t *testing.T) {
	ca, other, namesake := certtest.NewAuthority(t, "ca"), certtest.NewAuthority(t, "other"), certtest.NewAuthority(t, "ca")
	namesake.Cert.SubjectKeyId = ca.Cert.SubjectKeyId // the list will say that it is the ca's
	server := ca.Server(t).Parse(t)
	now := time.Date(2030, 5, 6, 12, 0, 0, 0, time.UTC)
	hour := func(n int) time.Time { return now.Add(time.Duration(n) * time.Hour) }
	tests := []struct {
		name, lists, want string
	}{
		{"a list without the certificate", ca.Revoke(t, hour(-1), hour(1)), ""},
		{"a revoked certificate", ca.Revoke(t, hour(-1), hour(1), server), `certificate "server.example" is revoked`},
		{"a revoked certificate on a list that has expired", ca.Revoke(t, hour(-2), hour(-1), server), "is revoked"},
		{"an expired list", ca.Revoke(t, hour(-2), hour(-1)), `crl.pem: the revocation list of "ca" expired on 2030-05-06 11:00 UTC`},
		{"a list of tomorrow", ca.Revoke(t, hour(1), hour(2)), `crl.pem: the revocation list of "ca" is not valid before 2030-05-06 13:00 UTC`},
		{"an expired list beside the current one", ca.Revoke(t, hour(-2), hour(-1)) + ca.Revoke(t, hour(-1), hour(1)), ""},
		{"a list of another authority", other.Revoke(t, hour(-1), hour(1), server), ""},
		{"an expired list of another authority", other.Revoke(t, hour(-2), hour(-1)), ""},
		{"a list in the ca's name that it did not sign", namesake.Revoke(t, hour(-1), hour(1)), `crl.pem: the revocation list of "ca" has a wrong signature`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			check(t, lists(t, tt.lists).check([]*x509.Certificate{server, ca.Cert}, now), tt.want)
		})
	}
}

func TestVerifyLooksAtRevocation(t *testing.T) {
	ca := certtest.NewAuthority(t, "ca")
	server, now := ca.Server(t).Parse(t), time.Now()
	rules := Rules{Authorities: []*x509.Certificate{ca.Cert}, Revoked: lists(t, ca.Revoke(t, now.Add(-2*time.Hour), now.Add(-time.Hour)))}
	state := tls.ConnectionState{PeerCertificates: []*x509.Certificate{server}}
	check(t, rules.Verify(state, now), "expired on")
	check(t, rules.Verify(state, now.Add(-90*time.Minute)), "is not valid before") // the certificate: one hour old
}

func TestProblemOfLists(t *testing.T) {
	ca, other := certtest.NewAuthority(t, "ca"), certtest.NewAuthority(t, "other")
	now := time.Now()
	tests := []struct{ name, lists, want string }{
		{"a current list of the ca's", ca.Revoke(t, now.Add(-time.Hour), now.Add(time.Hour)), ""},
		{"an expired list", ca.Revoke(t, now.Add(-2*time.Hour), now.Add(-time.Hour)), "expired on"},
		{"a list of somebody else's", other.Revoke(t, now.Add(-time.Hour), now.Add(time.Hour)), "no revocation list in it is one of the ca's"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := lists(t, tt.lists).Problem([]*x509.Certificate{ca.Cert}, now)
			if got != tt.want && (tt.want == "" || !strings.Contains(got, tt.want)) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	if got := (*Lists)(nil).Problem(nil, now); got != "" {
		t.Errorf("no lists: got %q, want none", got)
	}
}

func TestListsAreReadAgain(t *testing.T) {
	ca := certtest.NewAuthority(t, "ca")
	now := time.Now()
	file, failure := ca.Revoke(t, now.Add(-2*time.Hour), now.Add(-time.Hour)), error(nil)
	l, err := NewLists("crl.pem", file, func() (string, error) { return file, failure })
	if err != nil {
		t.Fatal(err)
	}
	chain := []*x509.Certificate{ca.Server(t).Parse(t), ca.Cert}
	check(t, l.check(chain, now), "expired on")
	file = ca.Revoke(t, now.Add(-time.Hour), now.Add(time.Hour))
	fresh, err := l.Fresh()
	check(t, err, "")
	check(t, fresh.check(chain, now), "")

	failure = errors.New("disk on fire")
	kept, err := fresh.Fresh()
	check(t, err, "disk on fire")
	check(t, kept.check(chain, now), "")
	failure, file = nil, "rubbish"
	kept, err = fresh.Fresh()
	check(t, err, "no revocation list inside")
	check(t, kept.check(chain, now), "")
}

func TestNewListsRefusesWhatIsNone(t *testing.T) {
	for _, bad := range []string{"", "hello", certtest.PEM("CERTIFICATE", []byte("x")), certtest.PEM("X509 CRL", []byte("x"))} {
		if _, err := NewLists("crl.pem", bad, nil); err == nil {
			t.Errorf("%.20q: got no error", bad)
		}
	}
}

func TestTellsServers(t *testing.T) {
	tests := []struct {
		name  string
		rules Rules
		want  bool
	}{
		{"an authority alone does not", Rules{Authorities: []*x509.Certificate{{}}}, false},
		{"the purpose does", Rules{Purpose: ServerStated}, true},
		{"a name does", Rules{Name: "x"}, true},
		{"a weak purpose does", Rules{Purpose: ServerUsual}, true},
		{"a key usage does not", Rules{KeyUsages: []byte{0x80}}, false},
		{"a fingerprint does", Rules{Fingerprints: [][32]byte{{}}}, true},
	}
	for _, tt := range tests {
		if got := tt.rules.TellsServers(); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}
