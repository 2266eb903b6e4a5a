package blocklist

import "math/bits"

// place appends a sorted part to the table and the filter.
func (s *Set) place(part []uint64, ids *recordIDs) error {
	for i := 0; i < len(part); {
		h := part[i] & fingerprintMask
		var r record
		for ; i < len(part) && part[i]&fingerprintMask == h; i++ {
			r.add(mark(part[i]))
		}
		id, err := ids.of(r)
		if err != nil {
			return err
		}
		home, _ := bits.Mul64(h, s.slots)
		for uint64(len(s.table)) < home {
			s.table = append(s.table, 0)
		}
		s.table = append(s.table, h|uint64(id))
		word, _ := bits.Mul64(h, uint64(len(s.filter)))
		s.filter[word] |= filterMask(h)
	}
	return nil
}

func (r *record) add(m mark) {
	bit := CategorySet(1) << (m & markCategory)
	switch {
	case m&markImportant != 0 && m&markAllow != 0:
		r.ForceAllow |= bit
	case m&markImportant != 0:
		r.Force |= bit
	case m&markExact != 0 && m&markAllow != 0:
		r.AllowExact |= bit
	case m&markExact != 0:
		r.BlockExact |= bit
	case m&markAllow != 0:
		r.Allow |= bit
	default:
		r.Block |= bit
	}
}
