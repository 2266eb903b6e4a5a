package policy

import (
	"slices"
	"strings"

	"penstock/policy/blocklist"
)

// tri is the truth of a condition when not every fact is known. Of several conditions, the smallest decides.
type tri uint8

const (
	no tri = iota
	maybe
	yes
)

func (t tri) String() string { return [...]string{"no", "maybe", "yes"}[t] }

func triOf(b bool) tri {
	if b {
		return yes
	}
	return no
}

// view is the state of a scan under one name.
type view struct {
	name Name // zero: none
	open bool // the name is not known yet, so conditions on it are maybe

	decided *Decision // what counts for the name, of the decisions about names
	spared  bool      // and it allows
	may     bitset    // matchers whose indexed conditions are all maybe or yes
	must    bitset    // matchers whose indexed conditions are all yes
}

// scan is the reusable working memory for one decision.
type scan struct {
	policy   *Policy
	flow     Flow
	paused   bool // a pause is in force
	question bool // port, protocol and program are unknown, and the address may be
	set      *blocklist.Set
	may      bitset // as in view, from all facts except names
	must     bitset
	named    view // under a name, or without one if none will come
	open     view // under a name that is still to come
	tmp      bitset
}

func newScan(words int) *scan {
	b := make(bitset, 7*words)
	cut := func() bitset {
		part := b[:words:words]
		b = b[words:]
		return part
	}
	return &scan{may: cut(), must: cut(), named: view{may: cut(), must: cut()}, open: view{may: cut(), must: cut()}, tmp: cut()}
}

// begin takes a scan from the pool to judge a flow; end returns it.
func (p *Policy) begin(f *Flow, question bool) *scan {
	s := p.scans.Get().(*scan)
	s.policy, s.flow, s.question, s.set = p, *f, question, nil
	if p.lists != nil {
		s.set = p.lists()
	}
	s.paused = s.winner(p.decided.filters) != nil
	s.facts()
	return s
}

func (s *scan) end() {
	pool := s.policy.scans
	s.policy, s.flow, s.set, s.named.name, s.named.decided = nil, Flow{}, nil, Name{}, nil
	pool.Put(s)
}

// facts fills s.may and s.must from all facts except names.
func (s *scan) facts() {
	ix := &s.policy.index
	src := s.tmp
	copy(src, ix.src.any)
	for _, i := range ix.src.lookup(s.flow.Src.Addr()) {
		src.set(int(i))
	}
	peer := ix.peerAny
	if b, ok := ix.peers[s.flow.Peer]; ok {
		peer = b
	}
	for w := range s.must {
		s.must[w] = src[w] & peer[w]
	}
	copy(s.may, s.must)
	s.groups(s.must)
	if !s.maySignIn() {
		copy(s.may, s.must)
	}
	if s.question && !s.flow.Dst.Addr().IsValid() {
		for w := range s.must {
			s.must[w] &= ix.dst.any[w] & ix.portAny[w] & ix.protocols[protocolUnknown][w]
		}
		return
	}
	dst := s.tmp
	copy(dst, ix.dst.any)
	for _, i := range ix.dst.lookup(s.flow.Dst.Addr()) {
		dst.set(int(i))
	}
	if s.question {
		for w := range s.must {
			s.may[w] &= dst[w]
			s.must[w] &= dst[w] & ix.portAny[w] & ix.protocols[protocolUnknown][w]
		}
		return
	}
	port, proto := ix.port(s.flow.Dst.Port()), ix.protocols[s.flow.protocol()]
	for w := range s.must {
		s.must[w] &= dst[w] & port[w] & proto[w]
	}
	copy(s.may, s.must)
}

// maySignIn reports whether somebody may sign in between the question that is judged and the flow that follows. Who that will be,
// and in which groups, is not known yet.
func (s *scan) maySignIn() bool {
	return s.question && s.policy.signIn && s.flow.Peer != "" && s.flow.User == ""
}

func (s *scan) groups(into bitset) {
	ix := &s.policy.index
	if len(ix.groups) == 0 {
		return
	}
	copy(s.tmp, ix.groupAny)
	for _, g := range s.flow.Groups {
		for w, bits := range ix.groups[g] {
			s.tmp[w] |= bits
		}
	}
	for w := range into {
		into[w] &= s.tmp[w]
	}
}

// look fills s.named for a name. The zero Name means that the flow has none.
func (s *scan) look(name Name) *view {
	v, ix := &s.named, &s.policy.index
	v.name, v.decided = name, s.about(name.Host)
	v.spared = v.decided != nil && !v.decided.Block
	domain := s.tmp
	copy(domain, ix.domainAny)
	for host, whole := name.Host, true; host != ""; whole = false {
		if d, ok := ix.domains[host]; ok {
			for _, i := range d.tree {
				domain.set(int(i))
			}
			list := d.below
			if whole {
				list = d.exact
			}
			for _, i := range list {
				domain.set(int(i))
			}
		}
		dot := strings.IndexByte(host, '.')
		if dot < 0 {
			break
		}
		host = host[dot+1:]
	}
	for w := range v.may {
		v.may[w] = s.may[w] & domain[w]
		v.must[w] = s.must[w] & domain[w]
	}
	if len(ix.categories) > 0 {
		s.category(s.categoriesOf(name.Host))
		for w := range v.may {
			v.may[w] &= s.tmp[w]
			v.must[w] &= s.tmp[w]
		}
	}
	return v
}

// lookOpen fills s.open for a name that is still to come.
func (s *scan) lookOpen() *view {
	v, ix := &s.open, &s.policy.index
	v.open = true
	s.category(s.categoriesOf(""))
	for w := range v.may {
		v.may[w] = s.may[w]
		v.must[w] = s.must[w] & ix.domainAny[w] & s.tmp[w]
	}
	if s.set == nil {
		for w := range v.may {
			v.may[w] &= ix.catAny[w] // without lists no name can be in a category
		}
	}
	return v
}

// categoriesOf returns the categories of a name and of the flow's destination. For a question it
// ignores an unknown address. Treated as maybe, one address in a list would keep every question from being blocked.
func (s *scan) categoriesOf(host string) blocklist.CategorySet {
	if s.set == nil {
		return 0
	}
	var hits blocklist.CategorySet
	if host != "" {
		hits = s.set.Lookup(host)
	}
	if s.flow.Dst.Addr().IsValid() {
		hits |= s.set.LookupAddr(s.flow.Dst.Addr().Unmap())
	}
	return hits
}

// category sets s.tmp to the matchers that these categories satisfy.
func (s *scan) category(hits blocklist.CategorySet) {
	ix := &s.policy.index
	copy(s.tmp, ix.catAny)
	if hits == 0 {
		return
	}
	names := s.set.Categories()
	for i := range hits.Bits() {
		lifted := s.isLifted(names[i])
		for w, bits := range ix.categories[names[i]] {
			if lifted {
				bits &^= s.policy.lifts[w]
			}
			s.tmp[w] |= bits
		}
	}
}

// tri returns whether matcher i matches in a view.
func (s *scan) tri(v *view, i int) tri {
	if !v.may.has(i) {
		return no
	}
	t := maybe
	if v.must.has(i) {
		t = yes
	}
	m := &s.policy.matchers[i]
	if m.residual {
		t = min(t, s.residual(v, m))
	}
	if m.not >= 0 && t != no {
		t = min(t, yes-s.tri(v, int(m.not)))
	}
	return t
}

// residual evaluates the conditions that are not indexed.
func (s *scan) residual(v *view, m *matcher) tri {
	return min(s.program(m), s.signIn(m), s.clock(m), s.seenIn(v, m), s.mismatch(v, m), s.destination(m))
}

func (s *scan) signIn(m *matcher) tri {
	switch f := &s.flow; {
	case m.signedIn == nil && len(m.user) == 0:
		return yes
	case s.maySignIn():
		return maybe
	case m.signedIn != nil && (f.Peer == "" || *m.signedIn != (f.User != "")):
		return no
	default:
		return triOf(len(m.user) == 0 || f.User != "" && slices.Contains(m.user, f.User))
	}
}

func (s *scan) clock(m *matcher) tri {
	if len(m.schedule) == 0 {
		return yes
	}
	if s.flow.Time.IsZero() {
		return no
	}
	for _, w := range m.schedule {
		if w.contains(s.flow.Time) {
			return yes
		}
	}
	return no
}

// destination evaluates Match.Gateway and Match.Peers.
func (s *scan) destination(m *matcher) tri {
	switch {
	case !m.gateway && !m.peers:
		return yes
	case s.question && !s.flow.Dst.Addr().IsValid():
		return maybe
	}
	return triOf(m.opens(s.flow.place()))
}

func (s *scan) seenIn(v *view, m *matcher) tri {
	switch {
	case m.seenIn == 0:
		return yes
	case v.open, s.question:
		return maybe
	}
	return triOf(m.seenIn>>v.name.From&1 != 0)
}

func (s *scan) mismatch(v *view, m *matcher) tri {
	switch {
	case m.mismatch == mismatchAny:
		return yes
	case v.open, s.question:
		return maybe
	}
	differs := v.name.From.inFlow() && !s.resolved(v.name.Host)
	return triOf(differs == (m.mismatch == mismatchYes))
}

// resolved reports whether DNS gave the flow's destination as an address of host.
func (s *scan) resolved(host string) bool {
	for _, n := range s.flow.Names {
		if !n.From.inFlow() && n.Host == host {
			return true
		}
	}
	return false
}
