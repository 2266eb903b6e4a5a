package trust

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"penstock/router/transport/openvpn/internal/text"
)

// Lists are certificate revocation lists that came from one file or block.
type Lists struct {
	name string
	read func() (string, error)
	all  []*x509.RevocationList
}

// NewLists reads revocation lists. Messages call them name, the file they are in. If read is not nil, it reads the file
// again: lists expire, and whoever issues them replaces the file.
func NewLists(name, pemText string, read func() (string, error)) (*Lists, error) {
	all, err := parseLists(pemText)
	if err != nil {
		return nil, err
	}
	return &Lists{name: name, read: read, all: all}, nil
}

func parseLists(pemText string) ([]*x509.RevocationList, error) {
	var all []*x509.RevocationList
	for rest := []byte(pemText); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "X509 CRL" {
			continue
		}
		list, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return nil, err
		}
		all = append(all, list)
	}
	if len(all) == 0 {
		return nil, errors.New("no revocation list inside")
	}
	return all, nil
}

// Fresh returns the lists as their file has them now. Where the file cannot be read any more it returns l and the
// error: what l holds is still true until it expires.
func (l *Lists) Fresh() (*Lists, error) {
	if l == nil || l.read == nil {
		return l, nil
	}
	pemText, err := l.read()
	if err == nil {
		var fresh *Lists
		if fresh, err = NewLists(l.name, pemText, l.read); err == nil {
			return fresh, nil
		}
	}
	return l, fmt.Errorf("read revocation lists of %s again: %w", l.name, err)
}

// Problem says what is wrong with the lists of these authorities at now, or "" if nothing is. Lists that an
// intermediate authority issued are judged when the server shows its chain.
func (l *Lists) Problem(authorities []*x509.Certificate, now time.Time) string {
	if l == nil {
		return ""
	}
	found := false
	for _, issuer := range authorities {
		lists := l.of(issuer)
		if len(lists) == 0 {
			continue
		}
		found = true
		if err := l.current(lists, issuer, now); err != nil {
			return err.Error()
		}
	}
	if !found {
		return l.name + ": no revocation list in it is one of the ca's, so it revokes nothing that the ca signed"
	}
	return ""
}

// check refuses a chain in which a certificate is revoked, and one that cannot be judged because the list of an issuer
// is out of date or has a wrong signature. A certificate whose issuer has no list here is good, as in the reference
// client.
func (l *Lists) check(chain []*x509.Certificate, now time.Time) error {
	for i, c := range chain[:len(chain)-1] {
		issuer := chain[i+1]
		lists := l.of(issuer)
		if len(lists) == 0 {
			continue
		}
		if slices.ContainsFunc(lists, func(list *x509.RevocationList) bool { return names(list, c) }) {
			return fmt.Errorf("certificate %q is revoked", text.Printable(c.Subject.CommonName))
		}
		if err := l.current(lists, issuer, now); err != nil {
			return err
		}
	}
	return nil
}

// of returns the lists that name issuer as theirs. Of two authorities with one name, the key id tells which is meant.
func (l *Lists) of(issuer *x509.Certificate) []*x509.RevocationList {
	var out []*x509.RevocationList
	for _, list := range l.all {
		otherKey := len(list.AuthorityKeyId) > 0 && len(issuer.SubjectKeyId) > 0 && !bytes.Equal(list.AuthorityKeyId, issuer.SubjectKeyId)
		if bytes.Equal(list.RawIssuer, issuer.RawSubject) && !otherKey {
			out = append(out, list)
		}
	}
	return out
}

// current returns nil if one of the issuer's lists has a good signature and is in date, else what is wrong with the
// last.
func (l *Lists) current(lists []*x509.RevocationList, issuer *x509.Certificate, now time.Time) error {
	var err error
	for _, list := range lists {
		if err = list.CheckSignatureFrom(issuer); err != nil {
			err = fmt.Errorf("%s: the revocation list of %q has a wrong signature: %w", l.name, text.Printable(issuer.Subject.CommonName), err)
		} else {
			err = l.checkDates(list, now)
		}
		if err == nil {
			return nil
		}
	}
	return err
}

func names(list *x509.RevocationList, c *x509.Certificate) bool {
	return slices.ContainsFunc(list.RevokedCertificateEntries, func(r x509.RevocationListEntry) bool { return r.SerialNumber.Cmp(c.SerialNumber) == 0 })
}

func (l *Lists) checkDates(list *x509.RevocationList, now time.Time) error {
	issuer := text.Printable(list.Issuer.CommonName)
	switch {
	case now.Before(list.ThisUpdate):
		return fmt.Errorf("%s: the revocation list of %q is not valid before %s, and the clock reads %s: set the clock, if it is wrong, or get the current list",
			l.name, issuer, date(list.ThisUpdate), date(now))
	case !list.NextUpdate.IsZero() && now.After(list.NextUpdate):
		return fmt.Errorf("%s: the revocation list of %q expired on %s, and the clock reads %s: get the current list, or set the clock, if it is wrong",
			l.name, issuer, date(list.NextUpdate), date(now))
	}
	return nil
}

func date(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }
