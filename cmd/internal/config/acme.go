package config

import (
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"
)

// ACME is the authority that issues certificates for the pages of this gateway, by the protocol of Let's Encrypt (RFC 8555). What has
// acme: true gets its certificate there, and a new one before it expires.
type ACME struct {
	// Directory is the URL of the authority.
	Directory string `yaml:"directory" default:"https://acme-v02.api.letsencrypt.org/directory"`
	// Agree must be true: it says that you have read the terms of the authority, and agree to them.
	Agree bool `yaml:"agree"`
	// Email is where the authority may write to.
	Email string `yaml:"email"`
	// CA is a file with the certificates that the one of the authority's own server must lead to, for the authority of a company.
	// Default: those of the system.
	CA string `yaml:"ca" path:"file"`
	// HTTP is the TCP address at which the authority finds out that a name is this machine's. It always asks at port 80 of the name. Default: :80,
	// or none if it can ask at port 443, because listen.enrol or dns.serve is there. Nothing else is served at it.
	HTTP string `yaml:"http"`
	// Via is the transport through which penstock reaches the authority, or direct.
	Via string `yaml:"via" default:"direct"`

	Pos Position `yaml:"-"`
	// Folder keeps the key of the account, the certificates with their keys, and the last attempts. It is in state_dir.
	Folder string `yaml:"-"`
}

// Roots reads ca. It returns nil without it.
func (a *ACME) Roots() (*x509.CertPool, error) {
	if a.CA == "" {
		return nil, nil
	}
	text, err := os.ReadFile(a.CA)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s has no certificate in PEM", a.CA)
	}
	return pool, nil
}

// ACMESite is a page that gets its certificate by ACME.
type ACMESite struct {
	Key  string // of its section: listen.enrol, dns.serve or sign_in
	Host string // that the certificate is for: a name in lower case, or an address
}

// ACMESites returns what gets a certificate by ACME.
func ACMESites(c *Config) (list []ACMESite) {
	if c.ACME == nil {
		return nil
	}
	add := func(key, host string) { list = append(list, ACMESite{key, strings.ToLower(host)}) }
	if e := c.Listen.Enrol; e != nil && e.ACME {
		add("listen.enrol", e.Host())
	}
	if s := c.DNS.Serve; s != nil && s.ACME {
		add("dns.serve", s.Name)
	}
	if s := c.SignIn; s != nil && s.ACME {
		if u, err := url.Parse(s.URL); err == nil {
			add("sign_in", u.Hostname())
		}
	}
	return list
}

// ACMEAtPort443 reports whether the authority can ask at port 443, of which a page is in charge.
func ACMEAtPort443(c *Config) bool {
	if e := c.Listen.Enrol; e != nil && e.ACME {
		if u, err := url.Parse(e.URL); err == nil && (u.Port() == "" || u.Port() == "443") {
			return true
		}
	}
	if s := c.DNS.Serve; s != nil && s.ACME {
		for _, a := range s.HTTPS {
			if a.Port() == 443 {
				return true
			}
		}
	}
	return false
}

// ACMEHTTP returns where the authority can ask at port 80; "" is nowhere.
func ACMEHTTP(c *Config) string {
	switch {
	case len(ACMESites(c)) == 0:
		return ""
	case c.ACME.HTTP == "" && !ACMEAtPort443(c):
		return ":80"
	}
	return c.ACME.HTTP
}

// acmeChecker checks the authority, and those who want something of it.
type acmeChecker struct{ *checker }

// acme checks them.
func (k acmeChecker) acme() {
	for _, s := range []struct {
		key  string
		asks bool
		own  bool
	}{
		{"listen.enrol", k.Listen.Enrol != nil && k.Listen.Enrol.ACME, k.Listen.Enrol != nil && (k.Listen.Enrol.Certificate != "" || !k.Listen.Enrol.PrivateKey.IsZero())},
		{"dns.serve", k.DNS.Serve != nil && k.DNS.Serve.ACME, k.DNS.Serve != nil && (k.DNS.Serve.Certificate != "" || !k.DNS.Serve.Key.IsZero())},
		{"sign_in", k.SignIn != nil && k.SignIn.ACME, k.SignIn != nil && (k.SignIn.Certificate != "" || !k.SignIn.CertificateKey.IsZero())},
	} {
		switch {
		case !s.asks:
		case k.ACME == nil:
			k.fault(s.key+".acme", "read the terms of the authority, and add acme: {agree: true} at the top of the configuration", "%s wants a certificate by ACME, and there is no acme", s.key)
		case s.own:
			k.fault(s.key+".acme", "keep one of them", "%s has both acme and a certificate in files", s.key)
		}
	}
	a := k.ACME
	if a == nil {
		return
	}
	if k.Site != nil || k.Fleet != nil {
		k.fault("acme", "remove it, and give the pages certificates in files", "the gateways of a fleet have the same names, so that an authority cannot tell which of them asks by ACME")
	}
	u, err := url.Parse(a.Directory)
	switch {
	case err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Fragment != "":
		k.fault("acme.directory", "write https://HOST/PATH, as the authority says", "acme.directory is %q", a.Directory)
	case !a.Agree:
		k.fault("acme.agree", "read them, and write agree: true", "nobody has agreed to the terms of the authority at %s", u.Host)
	}
	if local, domain, ok := strings.Cut(a.Email, "@"); a.Email != "" && (!ok || local == "" || !isDomain(domain) || strings.ContainsAny(local, " ,?<>\"")) {
		k.fault("acme.email", "write an address, for example ops@corp.example, or remove it", "acme.email is %q", a.Email)
	}
	if a.HTTP != "" {
		host, port, err := net.SplitHostPort(a.HTTP)
		if _, notIP := netip.ParseAddr(host); err != nil || host != "" && notIP != nil || !isPort(port) {
			k.fault("acme.http", "write an address of this machine and a port, or only a port, for example :80", "acme.http is %q", a.HTTP)
		}
	}
	k.via("acme.via", a.Via)
	if s := k.DNS.Serve; s != nil && s.ACME && len(s.TLS) > 0 {
		k.fault("dns.serve.tls", "remove tls, or remove acme and name a certificate for "+s.Names()+" in files",
			"dns.serve.tls needs a certificate for *.%s, and by ACME only a proof in the public DNS gets one, which penstock cannot give", s.Name)
	}
	if sites := ACMESites(k.Config); len(sites) == 0 {
		k.fault("acme", "add acme: true to listen.enrol, dns.serve or sign_in, or remove it", "acme gets a certificate for nobody")
	}
}
