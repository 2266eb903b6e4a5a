package dnsproxy

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/miekg/dns"

	"penstock/dnsproxy/records"
	"penstock/dnsproxy/wire"
	"penstock/policy"
)

// lookout finds out whether a peer may know of the hosts that a name of our own leads to, and of those that it belongs to: the host
// of _443._tcp.wiki.corp.example is wiki.corp.example. It may know of those that are neither ours nor in a split zone, of those without
// an address, and of those that it may reach.
type lookout struct {
	ours
	v4, v6 []netip.Addr // of the name, which may be told

	behind []string // if there is an alias: the name of others at its end, if the alias itself was asked for
	owners []string // hosts that the name belongs to
	hosts  []string // that its records lead to
	only   bool     // and there is nothing else about the name

	ctx context.Context

	mu    sync.Mutex // guards below, once upstreams are asked
	found map[string]finding
	left  int // answers to come
}

// finding is what was found out about a host.
type finding struct {
	sight    sight // hidden, unsure or inSight
	gone     bool  // the client has gone meanwhile
	verdict  policy.Verdict
	decided  string
	withheld netip.Addr
}

// lookout collects the hosts that count for the answer. It returns nil if there are none.
func (o ours) lookout(v4, v6 []netip.Addr) *lookout {
	e := o.ex.own.End()
	if e.Reverse.IsValid() {
		return nil
	}
	var behind []string
	if e.Alias != nil && o.ex.q.Type == dns.TypeCNAME {
		behind = []string{e.Target}
	}
	owners := o.addOwner(nil, o.ex.q.Host())
	for at := o.ex.own; at.Next != nil; at = at.Next {
		owners = o.addOwner(owners, at.Target)
	}
	hosts := e.Hosts()
	only := len(hosts) > 0
	if !only {
		hosts = e.Set(o.ex.q.Type).Hosts
	}
	if len(behind)+len(owners)+len(hosts) == 0 {
		return nil
	}
	return &lookout{ours: o, v4: v4, v6: v6, behind: behind, owners: owners, hosts: hosts, only: only}
}

// addOwner adds the host that a name belongs to, if it belongs to one. The domain of a zone is no host: see sighting.host.
func (o ours) addOwner(owners []string, name string) []string {
	host := name
	for strings.HasPrefix(host, "_") {
		_, host, _ = strings.Cut(host, ".")
	}
	if host == name || host == "" || o.st.zones[host] != nil {
		return owners
	}
	return append(owners, host)
}

// start finds out about all hosts, asks upstreams for those that only they know, and answers the exchange.
func (l *lookout) start(ctx context.Context) {
	l.ctx, l.found = ctx, make(map[string]finding)
	asks := map[string]string{} // names of others, by host
	for _, host := range slices.Concat(l.behind, l.owners, l.hosts) {
		if _, done := l.found[host]; done {
			continue
		}
		f, name := l.judge(host)
		if l.found[host] = f; name != "" {
			asks[host] = name
		}
	}
	if l.left = len(asks); l.left == 0 {
		l.answerAll()
		return
	}
	for host, name := range asks { // the last answer ends the exchange
		to, verdict := aboutHost{l, host, slices.Contains(l.behind, host)}, policy.Verdict{}
		if to.behind {
			verdict = l.ex.verdict
		}
		l.askBehind(ctx, name, dns.TypeA, verdict, to)
	}
}

// judge says what can be said about a host without upstreams, or else which name to ask them for.
func (l *lookout) judge(host string) (f finding, name string) {
	f = finding{sight: inSight}
	name = host
	if e := l.st.settings.Records.Find(host); e != nil {
		if e = e.End(); e.Alias == nil {
			return l.judgeOwn(host, e), ""
		}
		name = e.Target
	}
	if longest(l.st.zones, name) == nil {
		name = ""
	}
	return f, name
}

// judgeOwn judges a host by the addresses that we know of it.
func (l *lookout) judgeOwn(host string, e *records.Entry) finding {
	f := finding{sight: inSight}
	for _, addr := range slices.Concat(e.V4, e.V6) {
		v := l.decideAddr(l.ex, host, addr)
		if v.Action == policy.Forward {
			return finding{sight: inSight}
		}
		if f.sight == inSight {
			f = finding{sight: hidden, verdict: v, decided: host, withheld: addr}
		}
	}
	return f
}

// aboutHost takes the answer for a name of others.
type aboutHost struct {
	*lookout
	host   string
	behind bool // it is at the end of an alias: write judges its name
}

func (a aboutHost) answer(inner *exchange) error {
	f := finding{sight: inSight, verdict: inner.verdict, decided: strings.Clone(inner.decided), withheld: inner.withheld}
	refused := inner.decided != "" && inner.verdict.Action != policy.Forward && !inner.withheld.IsValid() // by its name
	switch {
	case inner.absent, refused && !a.behind:
		f.sight = hidden
	case len(inner.out) == 0 && !refused:
		f.gone = true
	case inner.sighting.open: // whatever else failed
	case inner.result == resultFailed, inner.result == resultLimited, inner.result == resultOverloaded:
		f.sight = unsure
	}
	a.mu.Lock()
	a.found[a.host] = f
	a.left--
	last := a.left == 0
	a.mu.Unlock()
	if last {
		a.answerAll()
	}
	return nil
}

// answerAll answers the exchange when everything has been found.
func (l *lookout) answerAll() {
	ex := l.ex
	what, why := l.sum()
	switch {
	case why.gone:
		ex.settle(resultDropped, ex.out[:0])
	case what == hidden:
		ex.verdict, ex.decided, ex.withheld = why.verdict, why.decided, why.withheld
		l.tell(ex)
		l.hide(l.ctx)
		return
	case what == unsure:
		ex.settle(resultFailed, wire.AppendEmpty(ex.out[:0], &ex.q, dns.RcodeServerFailure, wire.EDE{}))
	default:
		l.leftOut = make(map[string]bool)
		for _, host := range l.hosts {
			l.leftOut[host] = l.found[host].sight != inSight
		}
		l.tellOf(l.ctx, l.v4, l.v6)
		return
	}
	l.finish(l.ctx, ex)
}

// sum says what the client may know of the name, and the finding that says so. Whoever may not know of the host that it belongs to
// knows nothing of it. Otherwise one host that its records lead to is enough.
func (l *lookout) sum() (sight, finding) {
	what, why := inSight, finding{}
	for _, host := range slices.Concat(l.behind, l.owners) {
		if f := l.found[host]; f.gone || f.sight < what {
			what, why = f.sight, f
		}
	}
	for _, f := range l.found {
		if f.gone {
			return hidden, f
		}
	}
	if what != inSight || !l.only {
		return what, why
	}
	what = hidden
	for _, host := range l.hosts {
		f := l.found[host]
		if f.sight == inSight {
			return inSight, finding{}
		}
		if f.sight == unsure {
			what = unsure
		}
		if why.decided == "" || f.sight == hidden && why.sight == unsure {
			why = f
		}
	}
	return what, why
}

// internalHosts returns the hosts in the records of a name of our own that are no business of strangers from outside, or nil.
func (ex *exchange) internalHosts(st *state) (hosts map[string]bool) {
	sets := ex.own.End().Sets
	for i := range sets {
		for _, host := range sets[i].Hosts {
			if st.internal(host) {
				if hosts == nil {
					hosts = map[string]bool{}
				}
				hosts[host] = true
			}
		}
	}
	return hosts
}

// internal reports whether a name is in a split zone or in a closed domain, which is that of peers, or leads there by aliases of our own.
func (st *state) internal(host string) bool {
	for e := st.settings.Records.Find(host); ; e = e.Next {
		if longest(st.zones, host) != nil || e != nil && e.Closed {
			return true
		}
		if e == nil || e.Alias == nil {
			return false
		}
		host = e.Target
	}
}
