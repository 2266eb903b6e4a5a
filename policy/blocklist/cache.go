package blocklist

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
)

// A cache file holds, in this order: the magic string with the version, the length of the header, the header as JSON, the
// filter, the table, and the CRC-32C of everything before it. Numbers and words are little-endian. The file is read, not
// mapped: if a mapped file shrinks, the process dies.
const cacheMagic = "penstock blocklist 2\n"

// ErrCache means that a cache file cannot be used. The caller rebuilds it from the lists.
var ErrCache = errors.New("unusable list cache")

// cacheHead holds a Set without its two large tables, and their lengths in words.
type cacheHead struct {
	Seed        [4]uint64         `json:"seed"`
	Categories  []string          `json:"categories"`
	Everything  CategorySet       `json:"everything,omitempty"`
	Names       int               `json:"names"`
	Slots       uint64            `json:"slots"`
	Tops        bool              `json:"tops,omitempty"`
	Records     []record          `json:"records"`
	Expressions []cacheExpression `json:"expressions,omitempty"`
	Filter      int               `json:"filter"`
	Table       int               `json:"table"`
}

type cacheExpression struct {
	Source string      `json:"source"`
	Block  CategorySet `json:"block,omitempty"`
	Allow  CategorySet `json:"allow,omitempty"`
}

// WriteFile saves the Set to a file. It writes the file atomically. The directory must exist.
func (s *Set) WriteFile(path string) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write list cache: %w", err)
	}
	defer os.Remove(f.Name()) // fails after the rename, as it should
	err = s.write(f)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write list cache %s: %w", path, err)
	}
	return nil
}

func (s *Set) write(f io.Writer) error {
	head := cacheHead{
		Seed:       [4]uint64{s.seed.start, s.seed.addr, s.seed.chunk, s.seed.label},
		Categories: s.categories, Everything: s.everything, Names: s.names, Slots: s.slots, Tops: s.tops, Records: s.records,
		Filter: s.filter.len(), Table: s.table.len(),
	}
	for _, e := range s.expressions {
		head.Expressions = append(head.Expressions, cacheExpression{e.source, e.block, e.allow})
	}
	js, err := json.Marshal(head)
	if err != nil {
		return err
	}
	sum := crc32.New(crcTable)
	w := io.MultiWriter(f, sum)
	start := binary.LittleEndian.AppendUint64([]byte(cacheMagic), uint64(len(js)))
	for _, part := range [][]byte{start, js, s.filter, s.table} {
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	runtime.KeepAlive(s)
	_, err = f.Write(binary.LittleEndian.AppendUint64(nil, uint64(sum.Sum32())))
	return err
}

// ReadFile reads a file written by WriteFile. The error wraps ErrCache if the file has another version or is damaged.
func ReadFile(path string) (*Set, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read list cache: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read list cache: %w", err)
	}
	s, err := read(f, info.Size())
	if err != nil {
		return nil, fmt.Errorf("read list cache %s: %w", path, err)
	}
	return s, nil
}

const (
	cacheBlock   = 256 << 10 // bytes read at a time, so that they are still in the second-level cache for the checksum
	maxCacheHead = 16 << 20
)

var crcTable = crc32.MakeTable(crc32.Castagnoli)

// read needs the size of the file, so that a damaged header cannot make it allocate more than that.
func read(r io.Reader, size int64) (*Set, error) {
	sum := crc32.New(crcTable)
	in := io.TeeReader(r, sum)
	start := make([]byte, len(cacheMagic)+8)
	if _, err := io.ReadFull(in, start); err != nil || !bytes.HasPrefix(start, []byte(cacheMagic)) {
		return nil, fmt.Errorf("%w: unknown version", ErrCache)
	}
	n := binary.LittleEndian.Uint64(start[len(cacheMagic):])
	if n > min(maxCacheHead, uint64(size)) {
		return nil, fmt.Errorf("%w: damaged header", ErrCache)
	}
	js := make([]byte, n)
	var head cacheHead
	if _, err := io.ReadFull(in, js); err != nil || json.Unmarshal(js, &head) != nil || !head.sane(size) {
		return nil, fmt.Errorf("%w: damaged header", ErrCache)
	}
	s := &Set{
		seed:       seed{head.Seed[0], head.Seed[1], head.Seed[2], head.Seed[3]},
		categories: head.Categories, everything: head.Everything, names: head.Names, slots: head.Slots, tops: head.Tops, records: head.Records,
	}
	for _, e := range head.Expressions {
		x, err := compileExpression(e.Source)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrCache, err)
		}
		x.block, x.allow = e.Block, e.Allow
		s.expressions = append(s.expressions, x)
	}
	var err error
	if s.filter, err = s.readWords(in, head.Filter); err != nil {
		return nil, err
	}
	if s.table, err = s.readWords(in, head.Table); err != nil {
		return nil, err
	}
	want := uint64(sum.Sum32())
	var tail [8]byte
	if _, err := io.ReadFull(r, tail[:]); err != nil || binary.LittleEndian.Uint64(tail[:]) != want {
		return nil, fmt.Errorf("%w: checksum differs", ErrCache)
	}
	if s.table.at(uint64(head.Table-1)) != 0 {
		return nil, fmt.Errorf("%w: damaged table", ErrCache)
	}
	return s, nil
}

// sane reports whether Lookup can use the header without reading out of range.
func (h *cacheHead) sane(size int64) bool {
	most := size / 8
	return len(h.Categories) <= MaxCategories && len(h.Records) > 0 && len(h.Records) <= math.MaxUint16+1 &&
		h.Filter > 0 && int64(h.Filter) <= most && h.Table > 0 && int64(h.Table) <= most &&
		h.Slots > 0 && h.Slots < uint64(h.Table)
}

func (s *Set) readWords(r io.Reader, n int) (words, error) {
	w := s.makeWords(n)
	for rest := w; len(rest) > 0; {
		block := rest[:min(len(rest), cacheBlock)]
		if _, err := io.ReadFull(r, block); err != nil {
			return nil, fmt.Errorf("%w: truncated", ErrCache)
		}
		rest = rest[len(block):]
	}
	return w, nil
}
