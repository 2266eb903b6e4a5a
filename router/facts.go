package router

import (
	"net/netip"
	"time"
	"unique"

	"penstock/policy"
)

// facts are a policy.Flow, but for its time, as the table of flows keeps them. What thousands of flows have in common, the table has once.
type facts struct {
	src, dst netip.AddrPort
	sender   *policy.Sender
	labels   *labels // nil if there are none
	shared   unique.Handle[shared]
}

// labels are the facts that are lists.
type labels struct {
	names  []policy.Name
	groups []string
}

// shared are the facts that flows have in common.
type shared struct {
	network         policy.Network
	place           policy.Place
	client          uint64
	peer, user      string
	uid             uint32
	hasUID          bool
	process         string
	unit, container string
	userUnit        bool
	sniffed         bool
	now             *policy.Conditions
	down            string
}

// keep returns the facts of a flow.
func keep(f *policy.Flow) facts {
	kept := facts{src: f.Src, dst: f.Dst, sender: f.Sender, shared: unique.Make(shared{
		network: f.Network, place: f.Place, client: f.Client, peer: f.Peer, user: f.User, uid: f.UID, hasUID: f.HasUID, process: f.Process,
		unit: f.Unit, container: f.Container, userUnit: f.UserUnit, sniffed: f.Sniffed, now: f.Now, down: f.Down,
	})}
	if f.Names != nil || f.Groups != nil {
		kept.labels = &labels{f.Names, f.Groups}
	}
	return kept
}

// network and client are two of the facts, without the others.
func (k *facts) network() policy.Network { return k.shared.Value().network }
func (k *facts) client() uint64          { return k.shared.Value().client }

// isNamed reports whether there is a name among the facts.
func (k *facts) isNamed() bool { return k.labels != nil && len(k.labels.names) > 0 }

// flow returns the facts as they were kept, for a judgement at a time.
func (k *facts) flow(at time.Time) policy.Flow {
	s := k.shared.Value()
	f := policy.Flow{
		Network: s.network, Place: s.place, Client: s.client, Src: k.src, Dst: k.dst, Peer: s.peer, User: s.user, UID: s.uid, HasUID: s.hasUID,
		Process: s.process, Unit: s.unit, Container: s.container, UserUnit: s.userUnit, Sender: k.sender, Time: at, Sniffed: s.sniffed,
		Now: s.now, Down: s.down,
	}
	if k.labels != nil {
		f.Names, f.Groups = k.labels.names, k.labels.groups
	}
	return f
}
