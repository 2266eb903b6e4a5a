package hostnet

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"golang.org/x/sys/unix"

	"penstock/router/hostnet/resolver"
)

// stage orders changes. They are made in this order and undone in reverse, so that what closes the host comes first and
// goes last.
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

// String is the kind that Config.Repaired gets.
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

// change is one change to the host. It can look whether it is in place, make itself and undo itself. make and undo are
// idempotent, and undo leaves alone what is no longer as make left it.
type change interface {
	stage() stage
	key() any       // comparable: equal keys are the same change
	String() string // for people
	present(*view) (bool, error)
	make(*kernel) error
	undo(*kernel) error
}

// An adopter remembers what the host was like before. It takes that from an earlier change with the same key, because
// what it finds now is the work of the earlier one.
type adopter interface {
	adopt(earlier change) change
}

// A dispenser is a change that the host can do without. dispensable reports whether an error of make means that this host
// does not offer it.
type dispenser interface {
	dispensable(error) bool
}

// A reviser is a change whose content may differ under the same key. revises reports whether it differs from an earlier one.
type reviser interface {
	revises(earlier change) bool
}

// entry is a change in the journal: exactly one field is set.
type entry struct {
	Nft        *nftTable      `json:"nft,omitempty"`
	Sysctl     *sysctl        `json:"sysctl,omitempty"`
	Link       *linkUp        `json:"link,omitempty"`
	Address    *address       `json:"address,omitempty"`
	Route      *route         `json:"route,omitempty"`
	Rule       *rule          `json:"rule,omitempty"`
	ResolvConf *resolver.File `json:"resolv_conf,omitempty"`
	Resolved   *resolver.Link `json:"resolved,omitempty"`
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
		return &resolvConf{e.ResolvConf}
	case e.Resolved != nil:
		return &resolvedLink{e.Resolved}
	}
	return nil
}

// entryOf is the inverse of change.
func entryOf(c change) entry {
	switch c := c.(type) {
	case *nftTable:
		return entry{Nft: c}
	case *sysctl:
		return entry{Sysctl: c}
	case *linkUp:
		return entry{Link: c}
	case *address:
		return entry{Address: c}
	case *route:
		return entry{Route: c}
	case *rule:
		return entry{Rule: c}
	case *resolvConf:
		return entry{ResolvConf: c.File}
	case *resolvedLink:
		return entry{Resolved: c.Link}
	}
	return entry{}
}

func inEntries(entries []entry, key any) bool {
	return slices.ContainsFunc(entries, func(e entry) bool { return e.change().key() == key })
}

// indexOf returns where in entries each key is. A host may have a hundred changes, and boxing a key costs an allocation.
func indexOf(entries []entry) map[any]int {
	index := make(map[any]int, len(entries))
	for i, e := range entries {
		index[e.change().key()] = i
	}
	return index
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

// gone reports whether an error says that there is nothing left to undo.
func gone(err error) bool {
	for _, e := range []error{unix.ENOENT, unix.ESRCH, unix.ENODEV, unix.ENXIO, unix.EADDRNOTAVAIL, unix.EAFNOSUPPORT, unix.EOPNOTSUPP} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
