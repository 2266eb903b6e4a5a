package hostnet

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"golang.org/x/sys/unix"
)

// stage is the order in which changes are made. They are undone in reverse: what closes the host
// comes first and goes last.
type stage uint8

const (
	stageNft stage = iota
	stageSysctl
	stageLink
	stageAddress
	stageRoute
	stageRule
	stageResolver
)

// String is the kind that Config.Repaired is told.
func (s stage) String() string {
	switch s {
	case stageNft:
		return "nft"
	case stageSysctl:
		return "sysctl"
	case stageLink:
		return "link"
	case stageAddress:
		return "address"
	case stageRoute:
		return "route"
	case stageRule:
		return "rule"
	}
	return "resolver"
}

// change is one change to the host, which can see, make and undo itself. make and undo are
// idempotent, and undo leaves alone what is no longer as make left it.
type change interface {
	stage() stage
	key() any       // comparable: equal keys are the same change
	String() string // for people
	present(*view) (bool, error)
	make(*kernel) error
	undo(*kernel) error
	entry() entry
}

// An adopter remembers what the host was like before. It takes that from an earlier change with the
// same key, because what it sees now is what the earlier one made.
type adopter interface {
	adopt(earlier change) change
}

// A bearer can do without: a kernel that does not offer the change is put up with.
type bearer interface {
	bearable(error) bool
}

// entry is a change in the journal: exactly one field is set.
type entry struct {
	Nft        *nftTable     `json:"nft,omitempty"`
	Sysctl     *sysctl       `json:"sysctl,omitempty"`
	Link       *linkUp       `json:"link,omitempty"`
	Address    *address      `json:"address,omitempty"`
	Route      *route        `json:"route,omitempty"`
	Rule       *rule         `json:"rule,omitempty"`
	ResolvConf *resolvConf   `json:"resolv_conf,omitempty"`
	Resolved   *resolvedLink `json:"resolved,omitempty"`
}

// change returns the change of the entry, nil if no field is set.
func (e entry) change() change {
	switch {
	case e.Nft != nil:
		return e.Nft
	case e.Sysctl != nil:
		return e.Sysctl
	case e.Link != nil:
		return e.Link
	case e.Address != nil:
		return e.Address
	case e.Route != nil:
		return e.Route
	case e.Rule != nil:
		return e.Rule
	case e.ResolvConf != nil:
		return e.ResolvConf
	case e.Resolved != nil:
		return e.Resolved
	}
	return nil
}

func inEntries(entries []entry, key any) bool {
	return slices.ContainsFunc(entries, func(e entry) bool { return e.change().key() == key })
}

// undoAll undoes entries, last stage first, and returns those that could not be undone.
func undoAll(k *kernel, entries []entry, log *slog.Logger) (left []entry, err error) {
	ordered := slices.Clone(entries)
	slices.SortStableFunc(ordered, func(a, b entry) int { return cmp.Compare(b.change().stage(), a.change().stage()) })
	for _, e := range ordered {
		c := e.change()
		if k.before != nil {
			k.before("undo " + c.String())
		}
		if undoErr := c.undo(k); undoErr != nil {
			left = append(left, e)
			err = errors.Join(err, fmt.Errorf("hostnet: undo %s: %w", c, undoErr))
			continue
		}
		log.Debug("undone", "change", c.String())
	}
	return left, err
}

// gone reports an error that says that there is nothing left to undo.
func gone(err error) bool {
	for _, e := range []error{unix.ENOENT, unix.ESRCH, unix.ENODEV, unix.ENXIO, unix.EADDRNOTAVAIL, unix.EAFNOSUPPORT, unix.EOPNOTSUPP} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
