package enrol

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/peerbook"
	"penstock/cmd/internal/private"
)

const (
	mostInvitations = 1000                // open and over
	remembered      = 90 * 24 * time.Hour // how long one that is over is remembered, so that the log can say why it was refused
	mostBytes       = 4 << 20             // of the file: 1,000 invitations with some groups and networks each

	// clockStep is how far the clock may have been set back since an invitation was made. Beyond that nobody knows how old it is.
	clockStep = 5 * time.Minute
)

// state is what became of an invitation. Beside those in the file there is late, which the clock decides.
type state string

const (
	open    state = "open"
	used    state = "used"
	revoked state = "revoked"
)

// invitation is one as it is kept.
type invitation struct {
	Terms  peerbook.Terms `json:"terms"`
	SHA256 string         `json:"sha256"` // of the token, hexadecimal
	Made   time.Time      `json:"made"`
	Until  time.Time      `json:"until"`
	State  state          `json:"state"`
	Ended  time.Time      `json:"ended,omitzero"` // when it was used or revoked
}

// live reports whether an invitation can be used, and if not, why.
func (v invitation) live(now time.Time) (why reason, ok bool) {
	switch {
	case v.State == used:
		return isUsed, false
	case v.State == revoked:
		return isRevoked, false
	case v.State != open: // no file is read that has it
		return isUnknown, false
	case !now.Before(v.Until):
		return isLate, false
	case now.Before(v.Made.Add(-clockStep)):
		return isEarly, false
	}
	return "", true
}

// over is when an invitation ended. One that is open ends in the future.
func (v invitation) over() time.Time {
	if v.State == open {
		return v.Until
	}
	return v.Ended
}

// invitations is the invitations of a gateway, in a file. They are kept as digests: whoever reads the file can join with none.
type invitations struct {
	path string

	mu    sync.Mutex // guards below
	list  []invitation
	fault error // of the file: nothing is accepted, made or taken back
}

// openInvitations reads the file. If it is damaged, no invitation is valid until somebody has mended it.
func openInvitations(path string) *invitations {
	s := &invitations{path: path}
	text, err := private.Read(path, mostBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return s
	}
	if err == nil {
		s.list, err = parseInvitations(text)
	}
	if err != nil {
		s.list = nil
		s.fault = fmt.Errorf("the invitations in %s cannot be read, so that none is valid: mend the file, or remove it and invite again: then restart penstock: %w", path, err)
	}
	return s
}

// parseInvitations reads the file's text. Every entry is checked: a wrong one could be valid for ever.
func parseInvitations(text []byte) (list []invitation, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&list); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is something behind the list")
	}
	if len(list) > mostInvitations {
		return nil, fmt.Errorf("it has %d entries, and at most %d are kept", len(list), mostInvitations)
	}
	for i, v := range list {
		digest, err := hex.DecodeString(v.SHA256)
		switch {
		case err != nil || len(digest) != sha256.Size:
			return nil, fmt.Errorf("entry %d has no digest", i)
		case config.CheckName(v.Terms.Name) != nil:
			return nil, fmt.Errorf("entry %d has no name", i)
		case v.Made.IsZero() || !v.Until.After(v.Made):
			return nil, fmt.Errorf("entry %d has no time", i)
		case v.State != open && v.State != used && v.State != revoked:
			return nil, fmt.Errorf("entry %d has the state %q", i, v.State)
		}
	}
	return list, nil
}

// change lets f change the list and writes it. If that fails, nothing has changed.
func (s *invitations) change(f func(list []invitation) ([]invitation, error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fault != nil {
		return s.fault
	}
	next, err := f(slices.Clone(s.list))
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(next, "", " ")
	if err != nil {
		return err
	}
	if len(text) >= mostBytes {
		return fmt.Errorf("%s would be larger than %d bytes, and nobody could join after a restart: invite with fewer groups and networks", s.path, mostBytes)
	}
	if err := private.Replace(s.path, string(text)+"\n"); err != nil {
		return fmt.Errorf("write the invitations: %w", err)
	}
	s.list = next
	return nil
}

// add makes an invitation.
func (s *invitations) add(terms peerbook.Terms, made, until time.Time) (Token, error) {
	token := NewToken()
	digest := token.digest()
	return token, s.change(func(list []invitation) ([]invitation, error) {
		for _, v := range list {
			if _, ok := v.live(made); ok && v.Terms.Name == terms.Name {
				return nil, fmt.Errorf("%s is invited already, until %s: take that back first with: penstock peer uninvite %s",
					terms.Name, v.Until.Local().Format(time.DateTime), terms.Name)
			}
		}
		list = slices.DeleteFunc(list, func(v invitation) bool { return made.Sub(v.over()) > remembered })
		if len(list) >= mostInvitations {
			oldest := -1
			for i, v := range list {
				if _, ok := v.live(made); !ok && (oldest < 0 || v.over().Before(list[oldest].over())) {
					oldest = i
				}
			}
			if oldest < 0 {
				return nil, fmt.Errorf("%d invitations are open, and there are no more at once: take some back with: penstock peer uninvite NAME", len(list))
			}
			list = slices.Delete(list, oldest, oldest+1)
		}
		return append(list, invitation{Terms: terms, SHA256: hex.EncodeToString(digest[:]), Made: made, Until: until, State: open}), nil
	})
}

// claim uses an invitation up and returns its terms. It is on disk as used when claim returns: of any number of claims, also before
// and after a crash, one succeeds. Otherwise the reason says why not.
func (s *invitations) claim(token Token, now time.Time) (terms peerbook.Terms, why reason, err error) {
	err = s.change(func(list []invitation) ([]invitation, error) {
		i := find(list, token)
		if i < 0 {
			why = isUnknown
			return nil, errNotValid
		}
		terms = list[i].Terms
		var ok bool
		if why, ok = list[i].live(now); !ok {
			return nil, errNotValid
		}
		list[i].State, list[i].Ended = used, now
		return list, nil
	})
	return terms, why, err
}

// release opens an invitation again that was claimed, because nothing came of it.
func (s *invitations) release(token Token) error {
	return s.change(func(list []invitation) ([]invitation, error) {
		if i := find(list, token); i >= 0 && list[i].State == used {
			list[i].State, list[i].Ended = open, time.Time{}
		}
		return list, nil
	})
}

// find returns the index of a token's invitation, or -1. How long it takes says nothing about which digest is nearly right.
func find(list []invitation, token Token) int {
	digest := token.digest()
	text := []byte(hex.EncodeToString(digest[:]))
	found := -1
	for i, v := range list {
		if subtle.ConstantTimeCompare([]byte(v.SHA256), text) == 1 {
			found = i
		}
	}
	return found
}

// revoke takes back the open invitation of a name.
func (s *invitations) revoke(name string, now time.Time) error {
	return s.change(func(list []invitation) ([]invitation, error) {
		refusal := fmt.Errorf("there is no invitation for %s", name)
		for i, v := range list {
			why, ok := v.live(now)
			switch {
			case v.Terms.Name != name:
			case ok || why == isEarly:
				list[i].State, list[i].Ended = revoked, now
				return list, nil
			case why == isUsed:
				refusal = fmt.Errorf("the invitation for %s is used: end the access with: penstock peer disable %s", name, name)
			default:
				refusal = fmt.Errorf("the invitation for %s is %s already", name, why)
			}
		}
		return nil, refusal
	})
}

// all returns the invitations, oldest first.
func (s *invitations) all() ([]invitation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.list), s.fault
}
