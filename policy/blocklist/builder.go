package blocklist

import (
	"bytes"
	"fmt"
	"io"
	"slices"
)

// Builder collects lists into a Set. It uses eight bytes per entry until Build. Make one with NewBuilder.
type Builder struct {
	seed        seed
	categories  []string
	everything  CategorySet
	tops        bool          // an entry has a single label
	parts       [256][]uint64 // entries by the first byte of their fingerprint: fingerprint<<16 | mark
	expressions []expression
}

// mark is what one list says about one name: a category and these flags, in 16 bits.
type mark uint16

const (
	markCategory  mark = MaxCategories - 1
	markAllow     mark = 1 << 8
	markExact     mark = 1 << 9
	markImportant mark = 1 << 10
	markBelow     mark = 1 << 11
)

// NewBuilder returns a Builder with a random key.
func NewBuilder() *Builder { return &Builder{seed: newSeed()} }

// Add reads a list into a category. If it fails, it leaves nothing of the list in the Builder. The error is a *ListError if
// the content of the list is the cause.
func (b *Builder) Add(category string, r io.Reader, o Options) (Report, error) {
	bit, err := b.category(category)
	if err != nil {
		return Report{}, err
	}
	var before [256]int
	for i := range b.parts {
		before[i] = len(b.parts[i])
	}
	expressions := len(b.expressions)
	var disabled []uint64
	report, err := Scan(r, o, func(e *Entry) error {
		if e.Expression != "" {
			return b.addExpression(e, bit)
		}
		m := mark(bit)
		if e.Allow {
			m |= markAllow
		}
		if e.Exact {
			m |= markExact
		}
		if e.Below {
			m |= markBelow
		}
		if e.Important {
			m |= markImportant
		}
		var h uint64
		if e.Addr.IsValid() {
			h = hashAddr(&b.seed, e.Addr)
			m |= markExact
		} else {
			h = hashName(&b.seed, e.Name)
			b.tops = b.tops || bytes.IndexByte(e.Name, '.') < 0
		}
		if e.Disables {
			disabled = append(disabled, h|uint64(m))
			return nil
		}
		b.parts[h>>56] = append(b.parts[h>>56], h|uint64(m))
		return nil
	})
	if err != nil {
		for i := range b.parts {
			b.parts[i] = b.parts[i][:before[i]]
		}
		b.expressions = b.expressions[:expressions]
		return report, err
	}
	for _, e := range disabled {
		i := e >> 56
		own := slices.DeleteFunc(b.parts[i][before[i]:], func(x uint64) bool { return x == e })
		b.parts[i] = b.parts[i][:before[i]+len(own)]
	}
	return report, nil
}

// MatchAll puts every name into a category. It stands in for missing lists, so that their category fails closed.
func (b *Builder) MatchAll(category string) error {
	bit, err := b.category(category)
	if err != nil {
		return err
	}
	b.everything |= 1 << bit
	return nil
}

func (b *Builder) category(name string) (int, error) {
	if i := slices.Index(b.categories, name); i >= 0 {
		return i, nil
	}
	if len(b.categories) == MaxCategories {
		return 0, fmt.Errorf("category %q: more than %d categories", name, MaxCategories)
	}
	b.categories = append(b.categories, name)
	return len(b.categories) - 1, nil
}

func (b *Builder) addExpression(e *Entry, bit int) error {
	if len(b.expressions) == maxExpressions {
		return fmt.Errorf("more than %d expressions: use names where possible", maxExpressions)
	}
	x, err := compileExpression(e.Expression)
	if err != nil {
		return err // unreachable: Scan has compiled it
	}
	if e.Allow {
		x.allow = 1 << bit
	} else {
		x.block = 1 << bit
	}
	b.expressions = append(b.expressions, x)
	return nil
}

// At this load an entry is 5 slots from its home slot on average. Table and filter together stay below 10 bytes per name.
const (
	loadNumerator   = 91
	loadDenominator = 100
	filterBits      = 8 // per name: the filter passes 4 to 5 of 100 misses
)

// Build returns a Set of everything added so far and empties the Builder.
func (b *Builder) Build() (*Set, error) {
	s := &Set{
		seed:        b.seed,
		categories:  b.categories,
		everything:  b.everything,
		expressions: b.expressions,
		tops:        b.tops,
	}
	parts := b.parts
	*b = Builder{seed: newSeed()}
	for i, p := range parts {
		slices.Sort(p)
		parts[i] = slices.Compact(p)
		s.names += countNames(parts[i])
	}
	s.slots = uint64(s.names)*loadDenominator/loadNumerator + 1
	s.filter = s.makeWords(s.names*filterBits/64 + 1)
	s.table = s.makeWords(int(s.slots) + 256)[:0] // the overflow at the end is a few dozen slots
	ids := recordIDs{known: map[record]uint16{}, list: []record{{}}}
	for i, p := range parts {
		if err := s.place(p, &ids); err != nil {
			return nil, err
		}
		parts[i] = nil // lets the garbage collector free it while the rest is placed
	}
	s.gaps(s.slots)
	s.push(0)
	s.records = ids.list
	return s, nil
}

// countNames counts the fingerprints in a sorted part.
func countNames(part []uint64) int {
	n, last := 0, uint64(0)
	for i, e := range part {
		if f := e & fingerprintMask; i == 0 || f != last {
			n, last = n+1, f
		}
	}
	return n
}

// recordIDs numbers the distinct records.
type recordIDs struct {
	known map[record]uint16
	list  []record
	last  record // of the previous entry, which nearly always has the same record
	id    uint16
}

func (ids *recordIDs) of(r record) (uint16, error) {
	if r == ids.last && ids.id != 0 {
		return ids.id, nil
	}
	id, ok := ids.known[r]
	if !ok {
		if len(ids.list) > 0xffff {
			return 0, fmt.Errorf("lists overlap in more than %d ways", 0xffff)
		}
		id = uint16(len(ids.list))
		ids.list = append(ids.list, r)
		ids.known[r] = id
	}
	ids.last, ids.id = r, id
	return id, nil
}
