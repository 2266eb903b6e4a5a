package router

import (
	"net/netip"
	"sync"
	"time"

	"penstock/policy"
)

const (
	killedFor = time.Minute // a connection of QUIC that hears nothing from its server ends in 30 s with most clients
	maxKilled = 4096
)

// killed are flows of datagrams that were ended by Kill, with the names that they have shown. Their clients may go on from the same port,
// as those of QUIC do, and show no name again.
type killed struct {
	mu    sync.Mutex // guards below
	flows map[killedKey]killedFlow
}

type killedKey struct {
	client   uint64
	src, dst netip.AddrPort
}

type killedFlow struct {
	names []policy.Name
	until time.Time
}

// note keeps the names that a flow has shown.
func (k *killed) note(f *policy.Flow, now time.Time) {
	if f.Network != policy.UDP {
		return
	}
	var names []policy.Name
	for _, n := range f.Names {
		if n.From == policy.FromQUIC {
			names = append(names, n)
		}
	}
	if names == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.flows == nil {
		k.flows = make(map[killedKey]killedFlow)
	}
	if len(k.flows) >= maxKilled {
		for key, old := range k.flows { // what is over goes first; in a flood, any
			delete(k.flows, key)
			if now.Before(old.until) {
				break
			}
		}
	}
	k.flows[killedKey{f.Client, f.Src, f.Dst}] = killedFlow{names, now.Add(killedFor)}
}

// recall adds the names of a flow that was killed to one between the same ports.
func (k *killed) recall(f *policy.Flow) {
	if f.Network != policy.UDP {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.flows) == 0 {
		return
	}
	key := killedKey{f.Client, f.Src, f.Dst}
	old, ok := k.flows[key]
	switch {
	case !ok:
	case f.Time.After(old.until):
		delete(k.flows, key)
	default:
		f.Names = append(f.Names[:len(f.Names):len(f.Names)], old.names...)
	}
}
