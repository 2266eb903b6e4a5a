package blocklist

import (
	"iter"
	"math/bits"
	"net/netip"
	"runtime"
)

// CategorySet is a set of categories of one Set: bit i stands for the i-th of Set.Categories.
type CategorySet uint64

// MaxCategories is the maximum number of categories in a Set.
const MaxCategories = 64

// Bits yields the index of every category in the set, ascending.
func (c CategorySet) Bits() iter.Seq[int] {
	return func(yield func(int) bool) {
		for ; c != 0; c &= c - 1 {
			if !yield(bits.TrailingZeros64(uint64(c))) {
				return
			}
		}
	}
}

// Set says which categories a name is in. It is immutable and safe for concurrent use; a nil Set is empty.
//
// An entry stands for its name and all subdomains, unless its list means only one of the two. Within a category the entry
// with the most labels wins. If two have as many labels, an allow wins over a block. Important entries take precedence over
// all others. The Set stores names as 48-bit fingerprints under a random key. The probability that an unlisted name is taken
// for a given entry is one in 2.8e14.
type Set struct {
	seed        seed
	categories  []string
	everything  CategorySet // categories that every name is in, because their lists are missing
	names       int         // distinct fingerprints
	records     []record    // what table entries refer to; index 0 is unused
	expressions []expression
	tops        bool // there are entries for names of one label

	// filter has one 64-bit Bloom filter for every eight names. Most misses cost one word of it.
	filter words
	// table holds fingerprint<<16 | record in ascending order. The home slot of an entry is proportional to its
	// fingerprint; the entry is in that slot or a later one, with no gap in between. Zero is a gap. The last slot is always
	// a gap.
	table words
	slots uint64 // number of home slots; the rest of table is overflow
}

// record holds what all lists together say about one name.
type record struct {
	Block, Allow           CategorySet // the name and its subdomains
	BlockExact, AllowExact CategorySet // the name alone
	BlockBelow, AllowBelow CategorySet // its subdomains alone
	Force, ForceAllow      CategorySet // important entries
}

// Categories returns the names of the categories in bit order. The caller must not change them.
func (s *Set) Categories() []string {
	if s == nil {
		return nil
	}
	return s.categories
}

// Names returns the number of distinct names and addresses in the Set.
func (s *Set) Names() int {
	if s == nil {
		return 0
	}
	return s.names
}

// Bytes returns the resident size of the matcher's tables, in bytes.
func (s *Set) Bytes() int {
	if s == nil {
		return 0
	}
	return cap(s.filter) + cap(s.table) + 64*cap(s.records)
}

// Lookup returns the categories of a canonical host name. It does not allocate.
func (s *Set) Lookup(host string) CategorySet {
	if s == nil || host == "" {
		return 0
	}
	k, t := &s.seed, tally{}
	if len(s.expressions) > 0 {
		t.matched = matchExpressions(s.expressions, host)
	}
	h, end := hashLabel(k, k.start, host, len(host))
	if s.tops { // most lists have no top-level domain, so the first probe is for two labels
		s.probe(h, end == 0, &t)
	}
	for end > 0 {
		h, end = hashLabel(k, h, host, end-1)
		s.probe(h, end == 0, &t)
	}
	return t.result() | s.everything
}

// LookupWire is like Lookup for an uncompressed DNS wire name in any case. A malformed name is in no category.
func (s *Set) LookupWire(wire []byte) CategorySet {
	if s == nil || len(wire) > 255 {
		return 0
	}
	var starts [128]uint8
	labels, at := 0, 0
	for at < len(wire) && wire[at] != 0 {
		n := int(wire[at])
		if n > maxLabel || at+1+n >= len(wire) {
			return 0
		}
		starts[labels] = uint8(at)
		labels++
		at += 1 + n
	}
	if labels == 0 || at+1 != len(wire) {
		return 0
	}
	k, t := &s.seed, tally{}
	if len(s.expressions) > 0 {
		t.matched = matchExpressionsWire(s.expressions, wire)
	}
	h := k.start
	for l := labels - 1; l >= 0; l-- {
		at := int(starts[l])
		label := wire[at+1 : at+1+int(wire[at])]
		h = hashWireLabel(k, h, label)
		if l < labels-1 || s.tops {
			s.probe(h, l == 0, &t)
		}
	}
	return t.result() | s.everything
}

// LookupAddr returns the categories of an address, for lists that contain addresses.
func (s *Set) LookupAddr(addr netip.Addr) CategorySet {
	if s == nil || !addr.IsValid() {
		return 0
	}
	var t tally
	s.probe(hashAddr(&s.seed, addr), true, &t)
	return t.result()
}

// probe adds to t the record for hash h, if there is one. For most names the filter rules it out.
func (s *Set) probe(h uint64, whole bool, t *tally) {
	hi, _ := bits.Mul64(h&fingerprintMask, uint64(s.filter.len()))
	if m := filterMask(h); s.filter.at(hi)&m == m {
		s.find(h, whole, t)
	}
	runtime.KeepAlive(s)
}

func (s *Set) find(h uint64, whole bool, t *tally) {
	h &= fingerprintMask
	i, _ := bits.Mul64(h, s.slots)
	for ; ; i++ {
		e := s.table.at(i)
		if e == 0 || e&fingerprintMask > h {
			return
		}
		if e&fingerprintMask == h {
			t.add(&s.records[uint16(e)], whole)
			return
		}
	}
}

// filterMask picks four bits of a filter word by the low 24 bits of a fingerprint. The high bits pick the word.
func filterMask(h uint64) uint64 {
	return 1<<(h>>16&63) | 1<<(h>>22&63) | 1<<(h>>28&63) | 1<<(h>>34&63)
}

// tally combines the records of the suffixes of a name, from the shortest to the longest.
type tally struct {
	matched, force, forceAllow CategorySet
}

func (t *tally) add(r *record, whole bool) {
	block, allow := r.Block, r.Allow
	if whole {
		block |= r.BlockExact
		allow |= r.AllowExact
	} else {
		block |= r.BlockBelow
		allow |= r.AllowBelow
	}
	t.matched = (t.matched | block) &^ allow
	t.force |= r.Force
	t.forceAllow |= r.ForceAllow
}

func (t *tally) result() CategorySet { return (t.matched | t.force) &^ t.forceAllow }
