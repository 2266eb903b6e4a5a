package blocklist

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
)

// Source is a list that Find can read again.
type Source struct {
	Options Options
	Open    func() (io.ReadCloser, error)
}

// Hit is a line of a list that applies to a host.
type Hit struct {
	List  string `json:"list"`
	Line  int    `json:"line"`
	Text  string `json:"text"`            // the line, without trailing blanks
	Allow bool   `json:"allow,omitempty"` // the line exempts the host
}

// Find rereads lists and returns the lines that apply to a host. The host is a canonical name or an address. If a list
// cannot be read, Find continues with the others and joins the errors.
func Find(host string, lists ...Source) ([]Hit, error) {
	var hits []Hit
	var errs []error
	addr, _ := netip.ParseAddr(host)
	for _, l := range lists {
		found, err := l.find(host, addr.Unmap())
		hits = append(hits, found...)
		if err != nil {
			errs = append(errs, err)
		}
	}
	return hits, errors.Join(errs...)
}

func (l Source) find(host string, addr netip.Addr) ([]Hit, error) {
	r, err := l.Open()
	if err != nil {
		return nil, fmt.Errorf("search list %s: %w", l.Options.List, err)
	}
	defer r.Close()
	var hits []Hit
	_, err = Scan(r, l.Options, func(e *Entry) error {
		if e.covers(host, addr) && !e.Disables {
			hits = append(hits, Hit{List: e.List, Line: e.Line, Text: string(e.Text), Allow: e.Allow})
		}
		return nil
	})
	return hits, err
}

func (e *Entry) covers(host string, addr netip.Addr) bool {
	switch {
	case e.Addr.IsValid():
		return e.Addr == addr
	case e.Expression != "":
		x, err := compileExpression(e.Expression)
		return err == nil && x.match(host)
	case len(host) == len(e.Name):
		return !e.Below && host == string(e.Name)
	}
	n := len(host) - len(e.Name)
	return !e.Exact && n > 0 && host[n-1] == '.' && host[n:] == string(e.Name)
}
