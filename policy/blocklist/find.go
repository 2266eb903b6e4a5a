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

// Hit is a line of a list that speaks of a host.
type Hit struct {
	List  string `json:"list"`
	Line  int    `json:"line"`
	Text  string `json:"text"`            // the line, without blanks at its end
	Allow bool   `json:"allow,omitempty"` // it exempts the host
}

// Find reads lists again for the lines that are about a host, given as a canonical name or an address. A list that cannot
// be read does not keep Find from the others: the errors are joined.
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
		return nil, fmt.Errorf("look through list %s: %w", l.Options.List, err)
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
		return host == string(e.Name)
	}
	n := len(host) - len(e.Name)
	return !e.Exact && n > 0 && host[n-1] == '.' && host[n:] == string(e.Name)
}
