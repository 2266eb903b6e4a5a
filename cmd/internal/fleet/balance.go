package fleet

import (
	"context"
	"maps"
	"slices"
	"time"

	"penstock/router/transport/wireguard"
)

const (
	// newcomer is how long a peer that has come may be offered to another gateway. Penstock's client hears the call of another one for
	// 30 s after it has connected.
	newcomer = 25 * time.Second
	// offerLife is how long a gateway may take up an offer, and how long it counts as that gateway's.
	offerLife = 10 * time.Second
	// stays is how long a peer that was offered or taken over is not offered again.
	stays = time.Hour
	// mostOffers are made at one look: a call takes 2 ms.
	mostOffers = 50
)

// load is a gateway as balance sees it.
type load struct {
	name   string
	region string
	peers  int  // with a session, without those that are offered to others and with those that are offered to it
	open   bool // it serves, and has said so just now
}

// surplus returns which gateway of our region takes how many peers that come to us: the least loaded one, if we have far more than it.
// shedding says whether we hand over already; then it goes on until we have little more. All gateways that have more than the average
// share what the least loaded one lacks, so nobody is led past the average by equal views, and nobody hands back what it got.
func surplus(own load, others []load, shedding bool) (to string, peers int, still bool) {
	others = slices.DeleteFunc(slices.Clone(others), func(o load) bool { return !o.open || o.region != own.region || o.name == own.name })
	if !own.open || len(others) == 0 {
		return "", 0, false
	}
	least, all := others[0], own.peers
	for _, o := range others {
		all += o.peers
		if o.peers < least.peers || o.peers == least.peers && o.name < least.name {
			least = o
		}
	}
	more := 4 + least.peers/4
	if shedding {
		more = 2 + least.peers/8
	}
	if own.peers-least.peers <= more {
		return "", 0, false
	}
	average := (all + len(others)) / (len(others) + 1) // rounded up
	ours := max(0, own.peers-average)
	excess := ours
	for _, o := range others {
		excess += max(0, o.peers-average)
	}
	if ours == 0 {
		return "", 0, true
	}
	return least.name, min(ours, (average-least.peers)*ours/excess), true
}

// balance is which peers have come to this gateway, and which of them were offered to others. An offer is a note in a peer's record.
// The other gateway calls the peer, and our session ends when the peer has answered there: a peer that cannot be called from elsewhere,
// such as one behind NAT, stays without noticing. Node.mu guards it.
type balance struct {
	came     map[wireguard.PublicKey]time.Time // not long ago
	settled  map[wireguard.PublicKey]time.Time // when it was offered or taken over
	offers   map[wireguard.PublicKey]offer     // to others
	shedding bool
}

// offer is a peer on its way to another gateway.
type offer struct {
	to    string
	until time.Time // when it is given up, or the other gateway's report has the peer
}

// reportTime is how long after its handshake a peer may be missing in what its gateway tells.
const reportTime = ownEvery + 2*beatEvery

func newBalance() balance {
	return balance{
		came: make(map[wireguard.PublicKey]time.Time), settled: make(map[wireguard.PublicKey]time.Time), offers: make(map[wireguard.PublicKey]offer),
	}
}

// begun notes that a session of a peer has begun here.
func (b *balance) begun(peer wireguard.PublicKey, now time.Time) {
	if at, ok := b.settled[peer]; !ok || now.Sub(at) >= stays {
		b.came[peer] = now
	}
}

// keep notes that a peer is not offered.
func (b *balance) keep(peer wireguard.PublicKey, now time.Time) {
	b.settled[peer] = now
	delete(b.came, peer)
}

// over notes that a peer has a later session elsewhere. It reports whether that was offered.
func (b *balance) over(peer wireguard.PublicKey, now time.Time) bool {
	o, offered := b.offers[peer]
	if offered {
		b.offers[peer] = offer{o.to, now.Add(reportTime)}
	}
	delete(b.came, peer)
	return offered
}

// sweep forgets what is old.
func (b *balance) sweep(now time.Time) {
	maps.DeleteFunc(b.came, func(_ wireguard.PublicKey, at time.Time) bool { return now.Sub(at) >= newcomer })
	maps.DeleteFunc(b.settled, func(_ wireguard.PublicKey, at time.Time) bool { return now.Sub(at) >= stays })
	maps.DeleteFunc(b.offers, func(_ wireguard.PublicKey, o offer) bool { return now.After(o.until) })
}

// choose returns which gateway some of the peers that have come can go to, how many, and those peers. peers are ours.
func (b *balance) choose(own load, others []load, peers map[wireguard.PublicKey]time.Time) (to string, n int, from []wireguard.PublicKey) {
	others = slices.Clone(others)
	for peer, o := range b.offers {
		if _, ours := peers[peer]; ours {
			own.peers--
		}
		if i := slices.IndexFunc(others, func(l load) bool { return l.name == o.to }); i >= 0 {
			others[i].peers++
		}
	}
	if to, n, b.shedding = surplus(own, others, b.shedding); n == 0 {
		return "", 0, nil
	}
	for peer := range b.came {
		if _, ours := peers[peer]; ours {
			from = append(from, peer)
		}
	}
	return to, min(n, mostOffers), from
}

// loads returns the gateways of the site as they told how they are.
func (v view) loads(now time.Time) (all []load) {
	for name, o := range v.others {
		fresh := now.Sub(o.heard) < askAfter || now.Sub(o.heard) < silence && now.Sub(o.answered) < silence
		all = append(all, load{name: name, region: o.Region, peers: o.Peers, open: fresh && o.State == Serving})
	}
	return all
}

// offer offers peers that have just come, and have no flows, to a gateway of our region that has far fewer.
func (n mover) offer(ctx context.Context, now time.Time, v view) {
	state, _ := n.state()
	own := load{name: n.self, region: n.Live().Fleet.Region, open: state == Serving && n.Connected() && ctx.Err() == nil}
	n.mu.Lock()
	own.peers = len(n.own)
	n.balance.sweep(now)
	to, most, peers := n.balance.choose(own, v.loads(now), n.own)
	n.mu.Unlock()
	if len(peers) == 0 {
		return
	}
	peers = n.Gateway.Idle(peers)
	n.mu.Lock()
	defer n.mu.Unlock()
	made := 0
	for _, peer := range peers[:min(most, len(peers))] {
		r, told := n.published[peer]
		at, ours := n.own[peer]
		if !told || !ours || r.Moved {
			continue
		}
		n.balance.keep(peer, now)
		n.balance.offers[peer] = offer{to, now.Add(offerLife)}
		n.put(peer, record{Endpoint: r.Endpoint, Age: now.Sub(at), To: markOf(to)})
		n.metrics.offered.Inc()
		made++
	}
	if made > 0 {
		n.Log.Info("offering peers that have come to a gateway with fewer", "peers", made, "gateway", to, "own", own.peers)
	}
}
