package policy

import (
	"net/netip"
	"slices"
	"sort"

	"github.com/gaissmai/bart"
)

// bitset has one bit for each matcher.
type bitset []uint64

func (b bitset) set(i int)      { b[i>>6] |= 1 << (i & 63) }
func (b bitset) has(i int) bool { return b[i>>6]>>(i&63)&1 != 0 }

// index holds, for every field, which matchers a fact satisfies. Each set includes the matchers without a condition on the
// field, so that intersecting the sets of all fields gives the matchers that match.
type index struct {
	all bitset

	domains    map[string]domainMatchers
	domainAny  bitset // no condition on the domain
	categories map[string]bitset
	catAny     bitset
	dst, src   prefixes
	portStarts []uint16 // ports from portStarts[i] on satisfy ports[i]
	ports      []bitset
	portAny    bitset
	protocols  [protocols]bitset
	peers      map[string]bitset
	peerAny    bitset
	groups     map[string]bitset
	groupAny   bitset
}

// domainMatchers lists the matchers that have a condition on one domain.
type domainMatchers struct{ tree, below, exact []uint32 }

// prefixes maps an address to the matchers with a prefix that contains it.
type prefixes struct {
	table *bart.Table[[]uint32] // the value of a prefix includes those of all prefixes that contain it
	any   bitset
}

// indexer collects conditions by field; seal turns them into an index.
type indexer struct {
	n         int // matchers
	domain    map[string]*domainMatchers
	hasDomain []int
	category  map[string][]int
	dst, src  map[netip.Prefix][]uint32
	hasDst    []int
	hasSrc    []int
	port      map[portRange][]int
	protocol  [protocols][]int
	peer      map[string][]int
	group     map[string][]int
}

func newIndexer() *indexer {
	return &indexer{
		domain: map[string]*domainMatchers{}, category: map[string][]int{}, dst: map[netip.Prefix][]uint32{},
		src: map[netip.Prefix][]uint32{}, port: map[portRange][]int{}, peer: map[string][]int{}, group: map[string][]int{},
	}
}

func (x *indexer) addDomain(i int, name string, kind domainKind) {
	d := x.domain[name]
	if d == nil {
		d = &domainMatchers{}
		x.domain[name] = d
	}
	switch kind {
	case domainTree:
		d.tree = append(d.tree, uint32(i))
	case domainBelow:
		d.below = append(d.below, uint32(i))
	case domainExact:
		d.exact = append(d.exact, uint32(i))
	}
	x.hasDomain = append(x.hasDomain, i)
}

// without returns the set of all matchers except these.
func (x *indexer) without(lists ...[]int) bitset {
	b := make(bitset, (x.n+63)/64)
	for i := range x.n {
		b.set(i)
	}
	for _, list := range lists {
		for _, i := range list {
			b[i>>6] &^= 1 << (i & 63)
		}
	}
	return b
}

func with(any bitset, list []int) bitset {
	b := slices.Clone(any)
	for _, i := range list {
		b.set(i)
	}
	return b
}

// byWord returns the sets of a field whose values are words, and the set of the matchers without a condition on it.
func (x *indexer) byWord(words map[string][]int) (map[string]bitset, bitset) {
	var conditioned [][]int
	for _, list := range words {
		conditioned = append(conditioned, list)
	}
	any := x.without(conditioned...)
	sets := make(map[string]bitset, len(words))
	for word, list := range words {
		sets[word] = with(any, list)
	}
	return sets, any
}

func (x *indexer) seal() index {
	ix := index{all: x.without(), domains: make(map[string]domainMatchers, len(x.domain)), domainAny: x.without(x.hasDomain)}
	for name, d := range x.domain {
		ix.domains[name] = *d
	}
	ix.categories, ix.catAny = x.byWord(x.category)
	ix.peers, ix.peerAny = x.byWord(x.peer)
	ix.groups, ix.groupAny = x.byWord(x.group)
	ix.dst = prefixes{sealPrefixes(x.dst), x.without(x.hasDst)}
	ix.src = prefixes{sealPrefixes(x.src), x.without(x.hasSrc)}
	any := x.without(x.protocol[:]...)
	for p := range ix.protocols {
		ix.protocols[p] = with(any, x.protocol[p])
	}
	ix.protocols[protocolQUIC] = with(ix.protocols[protocolQUIC], x.protocol[protocolUDP])
	x.sealPorts(&ix)
	return ix
}

func sealPrefixes(lists map[netip.Prefix][]uint32) *bart.Table[[]uint32] {
	if len(lists) == 0 {
		return nil
	}
	t := new(bart.Table[[]uint32])
	for inner := range lists {
		var all []uint32
		for bits := range inner.Bits() + 1 {
			outer, _ := inner.Addr().Prefix(bits) // within its length: cannot fail
			all = append(all, lists[outer]...)
		}
		t.Insert(inner, all)
	}
	return t
}

func (x *indexer) sealPorts(ix *index) {
	var conditioned [][]int
	starts := []int{0}
	for r, list := range x.port {
		conditioned = append(conditioned, list)
		starts = append(starts, int(r.first), int(r.last)+1)
	}
	ix.portAny = x.without(conditioned...)
	sort.Ints(starts)
	for _, start := range slices.Compact(starts) {
		if start > 0xffff {
			break
		}
		b := slices.Clone(ix.portAny)
		for r, list := range x.port {
			if int(r.first) <= start && start <= int(r.last) {
				for _, i := range list {
					b.set(i)
				}
			}
		}
		ix.portStarts = append(ix.portStarts, uint16(start))
		ix.ports = append(ix.ports, b)
	}
}

// port returns the matchers satisfied by a port.
func (ix *index) port(port uint16) bitset {
	i, found := slices.BinarySearch(ix.portStarts, port)
	if !found {
		i--
	}
	return ix.ports[i]
}

// lookup returns the matchers with a condition that an address satisfies.
func (p *prefixes) lookup(addr netip.Addr) []uint32 {
	if p.table == nil || !addr.IsValid() {
		return nil
	}
	list, _ := p.table.Lookup(addr.Unmap().WithZone(""))
	return list
}
