package store

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// record is what a file of a bucket says.
type record struct {
	value   []byte
	version uint64        // 0: the file is a value as it is, without a header
	life    time.Duration // of a lease; 0: that of the bucket
}

// header is the first line of a file that a Dir wrote: key, version, life in ms, and checksum of the value. A file that does not
// begin with magic is a value as it is.
const (
	magic  = "penstock-store 1 "
	header = magic + "%s %d %d %08x\n"
)

// errDamaged is for a file that is not what a Dir or a person would have put there.
var errDamaged = errors.New("the file is damaged: remove it, and let whoever wrote it write it again")

// encode returns the content of a file.
func (r record) encode(key string) []byte {
	line := fmt.Sprintf(header, key, r.version, r.life.Milliseconds(), crc32.ChecksumIEEE(r.value))
	return append([]byte(line), r.value...)
}

// decode reads the content of a file.
func decode(key string, content []byte) (record, error) {
	if !bytes.HasPrefix(content, []byte(magic)) {
		if len(content) == 0 {
			return record{}, fmt.Errorf("it is empty: %w", errDamaged)
		}
		return record{value: content}, CheckValue(key, content)
	}
	line, value, _ := bytes.Cut(content, []byte("\n"))
	var (
		owner   string
		version uint64
		ms      int64
		sum     uint32
	)
	if _, err := fmt.Sscanf(string(line)+"\n", header, &owner, &version, &ms, &sum); err != nil || version == 0 || version == Any || ms < 0 {
		return record{}, fmt.Errorf("its first line makes no sense: %w", errDamaged)
	}
	switch {
	case owner != key:
		return record{}, fmt.Errorf("it is that of %s, so somebody renamed it, or the file system does not tell A from a", owner)
	case crc32.ChecksumIEEE(value) != sum || len(value) == 0:
		return record{}, errDamaged
	}
	return record{value, version, time.Duration(ms) * time.Millisecond}, CheckValue(key, value)
}

// readRecord reads a file of a bucket. The error matches fs.ErrNotExist if there is none, and names the file.
func readRecord(path string) (record, error) {
	content, err := readRegular(path, MaxValue+4096)
	if err != nil {
		return record{}, err
	}
	r, err := decode(filepath.Base(path), content)
	if err != nil {
		return record{}, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// readRegular reads a file that is not a pipe, a folder or a device, and not larger than most.
func readRegular(path string, most int64) ([]byte, error) {
	switch info, err := os.Stat(path); {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(content)) > most {
		err = fmt.Errorf("%s is larger than %d bytes", path, most)
	}
	return content, err
}

// replaceFile makes or replaces a file in one step. If synced, it is on the disk after that.
func replaceFile(path string, content []byte, synced bool) error {
	f, err := makeTemp(filepath.Dir(path))
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return commit(f, path, synced, err)
}

// makeTemp makes a file with a name that is no key.
func makeTemp(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, ".new-*")
	if err == nil {
		_ = f.Chmod(0o640) // gateways need not run as the same user; a file system without modes does not matter
	}
	return f, err
}

// commit closes a file, and gives it its name unless writing it failed.
func commit(f *os.File, path string, synced bool, err error) error {
	if err == nil && synced {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return err
	}
	if synced {
		syncFolder(filepath.Dir(path))
	}
	return nil
}

// syncFolder puts the names in a folder on the disk, where the system can do that.
func syncFolder(dir string) {
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync()
		d.Close()
	}
}

// mark is what tells a replaced file from the one before.
type mark struct {
	info fs.FileInfo
	at   time.Time // when this was first seen, by the monotonic clock
}

// same tells whether a file is surely the one of the mark. A file system with a coarse clock may give two files that follow each
// other the same mark, so it is sure only of one that it has seen for a while.
func (m mark) same(info fs.FileInfo, now time.Time) bool {
	return m.unchanged(info) && now.Sub(m.at) > 2*time.Second
}

func (m mark) unchanged(info fs.FileInfo) bool {
	return m.info != nil && os.SameFile(m.info, info) && m.info.Size() == info.Size() && m.info.ModTime().Equal(info.ModTime())
}
