package blocklist

import (
	"bufio"
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
)

// A cache file is: magic with the version, length of the head, head as JSON, filter, table, CRC-32C of all before. Numbers
// and words are little-endian. It is read and not mapped: a file that shrinks under a mapping kills the process.
const cacheMagic = "penstock blocklist 1\n"

// ErrCache says that a cache file cannot be used. It is made anew from the lists.
var ErrCache = errors.New("cache of lists cannot be used")

// cacheHead is all of a Set but its big tables, with their lengths in words.
type cacheHead struct {
	Seed        [4]uint64         `json:"seed"`
	Categories  []string          `json:"categories"`
	Everything  CategorySet       `json:"everything,omitempty"`
	Names       int               `json:"names"`
	Slots       uint64            `json:"slots"`
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

// WriteFile keeps the Set in a file, which appears whole or not at all. The directory must exist.
func (s *Set) WriteFile(path string) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write list cache: %w", err)
	}
	defer os.Remove(f.Name()) // fails once it has been renamed
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
		Categories: s.categories, Everything: s.everything, Names: s.names, Slots: s.slots, Records: s.records,
		Filter: len(s.filter), Table: len(s.table),
	}
	for _, e := range s.expressions {
		head.Expressions = append(head.Expressions, cacheExpression{e.source, e.block, e.allow})
	}
	js, err := json.Marshal(head)
	if err != nil {
		return err
	}
	sum := crc32.New(crcTable)
	w := bufio.NewWriterSize(io.MultiWriter(f, sum), cacheBlock)
	w.WriteString(cacheMagic) // bufio keeps the first error for Flush
	w.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(js))))
	w.Write(js)
	var word [8]byte
	for _, words := range [][]uint64{s.filter, s.table} {
		for _, x := range words {
			binary.LittleEndian.PutUint64(word[:], x)
			w.Write(word[:])
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err = f.Write(binary.LittleEndian.AppendUint64(nil, uint64(sum.Sum32())))
	return err
}

// ReadFile reads what WriteFile wrote. The error is ErrCache if the file is of another version or damaged.
func ReadFile(path string) (*Set, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read list cache: %w", err)
	}
	defer f.Close()
	s, err := read(f)
	if err != nil {
		return nil, fmt.Errorf("read list cache %s: %w", path, err)
	}
	return s, nil
}

const (
	cacheBlock   = 256 << 10 // bytes read at a time: stays in the second-level cache until it is decoded
	maxCacheHead = 16 << 20
	maxCacheLen  = 1 << 29 // words in a table: 4 GiB
)

var crcTable = crc32.MakeTable(crc32.Castagnoli)

func read(r io.Reader) (*Set, error) {
	sum := crc32.New(crcTable)
	in := io.TeeReader(r, sum)
	start := make([]byte, len(cacheMagic)+8)
	if _, err := io.ReadFull(in, start); err != nil || !bytes.HasPrefix(start, []byte(cacheMagic)) {
		return nil, fmt.Errorf("%w: not of this version", ErrCache)
	}
	n := binary.LittleEndian.Uint64(start[len(cacheMagic):])
	if n > maxCacheHead {
		return nil, fmt.Errorf("%w: damaged head", ErrCache)
	}
	js := make([]byte, n)
	var head cacheHead
	if _, err := io.ReadFull(in, js); err != nil || json.Unmarshal(js, &head) != nil || !head.sane() {
		return nil, fmt.Errorf("%w: damaged head", ErrCache)
	}
	s := &Set{
		seed:       seed{head.Seed[0], head.Seed[1], head.Seed[2], head.Seed[3]},
		categories: head.Categories, everything: head.Everything, names: head.Names, slots: head.Slots, records: head.Records,
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
	if s.filter, err = readWords(in, head.Filter); err != nil {
		return nil, err
	}
	if s.table, err = readWords(in, head.Table); err != nil {
		return nil, err
	}
	want := uint64(sum.Sum32())
	var tail [8]byte
	if _, err := io.ReadFull(r, tail[:]); err != nil || binary.LittleEndian.Uint64(tail[:]) != want {
		return nil, fmt.Errorf("%w: checksum differs", ErrCache)
	}
	if s.table[len(s.table)-1] != 0 {
		return nil, fmt.Errorf("%w: damaged table", ErrCache)
	}
	return s, nil
}

// sane refuses what Lookup could not index.
func (h *cacheHead) sane() bool {
	return len(h.Categories) <= MaxCategories && len(h.Records) > 0 && len(h.Records) <= math.MaxUint16+1 &&
		h.Filter > 0 && h.Filter <= maxCacheLen && h.Table > 0 && h.Table <= maxCacheLen &&
		h.Slots > 0 && h.Slots < uint64(h.Table)
}

func readWords(r io.Reader, n int) ([]uint64, error) {
	words := make([]uint64, 0, min(n, maxCacheHead)) // a lying head must not take the memory before the data is there
	block := make([]byte, cacheBlock)
	for len(words) < n {
		b := block[:min(len(block), 8*(n-len(words)))]
		if _, err := io.ReadFull(r, b); err != nil {
			return nil, fmt.Errorf("%w: it is cut short", ErrCache)
		}
		for ; len(b) >= 8; b = b[8:] {
			words = append(words, binary.LittleEndian.Uint64(b))
		}
	}
	return words, nil
}
