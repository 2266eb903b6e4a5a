package blocklist

import (
	"encoding/binary"
	"math/bits"
)

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
		s.gaps(home)
		s.push(h | uint64(id))
		word, _ := bits.Mul64(h, uint64(s.filter.len()))
		s.filter.put(word, s.filter.at(word)|filterMask(h))
	}
	return nil
}

// gaps fills the table with gaps up to slot n.
func (s *Set) gaps(n uint64) {
	for uint64(s.table.len()) < n {
		s.push(0)
	}
}

func (s *Set) push(entry uint64) { s.table = binary.LittleEndian.AppendUint64(s.table, entry) }

func (r *record) add(m mark) {
	bit := CategorySet(1) << (m & markCategory)
	switch {
	case m&markImportant != 0 && m&markAllow != 0:
		r.ForceAllow |= bit
	case m&markImportant != 0:
		r.Force |= bit
	case m&markBelow != 0 && m&markAllow != 0:
		r.AllowBelow |= bit
	case m&markBelow != 0:
		r.BlockBelow |= bit
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
