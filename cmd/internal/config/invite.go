package config

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"penstock/cmd/internal/fleet/bundle"
	"penstock/cmd/internal/private"
	"penstock/policy/textfile"
)

// IsInvited reports whether the peer has an invitation that nobody has used: it cannot connect yet.
func (p Peer) IsInvited() bool { return p.Invite != nil && p.PublicKey == "" }

// Invited returns the peer that an invitation is for, also if somebody has joined with it.
func Invited(c *Config, key bundle.PublicKey) (Peer, bool) {
	i, ok := c.invited[key]
	if !ok {
		return Peer{}, false
	}
	return c.Peers.At(i), true
}

// invite checks the invitation of a peer, and notes whose it is.
func (k listenChecker) invite(i int) {
	p, path := k.Peers.At(i), fmt.Sprintf("peers[%d].invite", i)
	if k.Site == nil {
		k.fault(path, "use penstock peer invite", "peer %s has an invite, which only the bundle of a fleet can have", p.Name)
		return
	}
	key, err := bundle.ParsePublicKey(p.Invite.Key)
	if err != nil {
		k.fault(path+".key", "make the invitation with penstock fleet peer invite", "the invite of peer %s: %v", p.Name, err)
		return
	}
	if other, taken := k.invited[key]; taken {
		k.fault(path+".key", "invite one of them again", "peer %s has the invite of peer %s, at %s", p.Name, k.Peers.At(other).Name, k.Peers.At(other).Pos)
	}
	k.invited[key] = i
	if p.Invite.Endpoint != "" {
		k.endpoints(path+".endpoint", p.Invite.Endpoint)
	}
}

// JoinSuffix ends the names of the files with joins.
const JoinSuffix = ".join"

// Joins is the folder with what says who has joined by invitation.
func (f *Fleet) Joins() string { return filepath.Join(f.Folder, "joins") }

// JoinOf is the file in that folder for an invitation.
func (f *Fleet) JoinOf(key bundle.PublicKey) string {
	return filepath.Join(f.Joins(), key.Hex()+JoinSuffix)
}

// join gives invited peers the keys with which somebody has joined.
func (d bundleDecoder) join() {
	c := d.config
	for i, p := range c.Peers.whole {
		if !p.IsInvited() {
			continue
		}
		key, err := bundle.ParsePublicKey(p.Invite.Key)
		if err != nil {
			continue // the check says so
		}
		file := c.Fleet.JoinOf(key)
		text, err := private.Read(file, MaxFile)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var joined *bundle.Join
		if err == nil {
			joined, err = bundle.VerifyJoin(text, c.Fleet.Site, key)
		}
		if err != nil {
			d.faultAt(Position{File: file}, "remove the file: the store has the join", "%v", err)
			continue
		}
		p.PublicKey = joined.PublicKey
		c.Peers.whole[i] = p // the list is not shared yet
	}
}

// ChangedPeer reads the entry of a change, without a look at what it belongs to.
func ChangedPeer(change *bundle.Change) (Peer, error) {
	d := newDecoder("change of " + change.Peer)
	d.decode(d.config.Path, textfile.Decode([]byte(change.Entry)))
	switch {
	case len(d.faults) > 0:
		return Peer{}, &Error{Faults: d.inOrder()}
	case d.config.Peers.Len() != 1 || d.config.Peers.At(0).Name != change.Peer:
		return Peer{}, fmt.Errorf("a change of peer %s has another one", change.Peer)
	}
	return d.config.Peers.At(0), nil
}
