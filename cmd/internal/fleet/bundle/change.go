package bundle

import (
	"fmt"
	"unicode"
	"unicode/utf8"
)

const (
	maxChange = 256 << 10 // bytes of a signed change
	maxEntry  = 64 << 10  // bytes of a peer's entry
	maxPeer   = 255       // bytes of a peer's name
)

// Change is a peer that was added, changed or removed since a bundle was made.
type Change struct {
	Site       string `json:"site"`
	Generation uint64 `json:"generation"` // of the bundle that it follows
	Number     uint64 `json:"number"`     // from 1; of the changes of one peer, the largest counts
	Peer       string `json:"peer"`       // its name
	Removed    bool   `json:"removed,omitempty"`
	Entry      string `json:"entry,omitempty"` // YAML of one peer, as in a file of peers; empty if it was removed
}

// check returns what is wrong with a change.
func (c *Change) check() error {
	if err := checkWord("site", c.Site); err != nil {
		return fmt.Errorf("a change of a peer: %w", err)
	}
	wrong := ""
	switch {
	case c.Generation == 0:
		wrong = "it names no bundle that it follows"
	case c.Number == 0:
		wrong = "it has no number"
	case c.Peer == "" || len(c.Peer) > maxPeer || !printable(c.Peer):
		wrong = fmt.Sprintf("a peer cannot be called %q", shortened(c.Peer))
	case len(c.Entry) > maxEntry:
		wrong = fmt.Sprintf("the entry of %s has %d bytes, and may have %d", c.Peer, len(c.Entry), maxEntry)
	case c.Removed && c.Entry != "":
		wrong = "the peer is removed, and has an entry"
	case !c.Removed && c.Entry == "":
		wrong = "the peer is not removed, and has no entry"
	case !utf8.ValidString(c.Entry):
		wrong = "its entry is not text"
	default:
		return nil
	}
	return fmt.Errorf("a change of a peer: %s", wrong)
}

// printable reports whether a name has no signs that change how a line looks.
func printable(name string) bool {
	for _, r := range name {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

// SignChange checks a change and signs it. A signed change is never taken for a bundle.
func SignChange(c Change, key PrivateKey) (Signed, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	return sign(changeDomain, c, key, maxChange)
}

// Change returns the change, whoever has signed it: it is for changes that were verified before.
func (s Signed) Change() (*Change, error) {
	e, err := s.open(maxChange)
	if err != nil {
		return nil, err
	}
	return parseChange(e.Signed)
}

// VerifyChange returns a change if one of the trusted keys has signed it. Whether it is for this site, and follows the bundle in force,
// is for the caller to see.
func VerifyChange(s Signed, trusted []PublicKey) (*Change, error) {
	text, err := s.verify(changeDomain, trusted, maxChange)
	if err != nil {
		return nil, fmt.Errorf("a change of a peer: %w", err)
	}
	return parseChange(text)
}

func parseChange(text []byte) (*Change, error) {
	var c Change
	if err := strict(text, &c); err != nil {
		return nil, fmt.Errorf("a change of a peer: %w: %w", ErrDamaged, err)
	}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return &c, nil
}
