package lists

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// shelf is the directory with the last good versions of subscriptions, and of files by their path.
type shelf struct{ dir string }

// copyInfo describes the last good version of a list.
type copyInfo struct {
	URL          string    `json:"url"` // or path
	ETag         string    `json:"etag,omitempty"`
	LastModified string    `json:"last_modified,omitempty"`
	Digest       string    `json:"digest,omitempty"` // SHA-256 of the version, hexadecimal
	Entries      int       `json:"entries"`
	Fetched      time.Time `json:"fetched"` // when it last changed
	Checked      time.Time `json:"checked"` // when it was last known to be the newest
}

// path returns the file with a subscription's last good version.
func (s shelf) path(url string) string {
	sum := sha256.Sum256([]byte(url))
	return filepath.Join(s.dir, hex.EncodeToString(sum[:12])+".list")
}

// info reads the description of the last good version. It is zero if there is none.
func (s shelf) info(url string) copyInfo {
	var c copyInfo
	b, err := os.ReadFile(s.path(url) + ".json")
	if err != nil || json.Unmarshal(b, &c) != nil || c.URL != url {
		return copyInfo{}
	}
	if _, err := os.Stat(s.path(url)); err != nil {
		return copyInfo{}
	}
	return c
}

// verify returns an error if the last good version of a list is not what was put there: a crash or a full disk may leave a
// part of it, which reads like a shorter list.
func (s shelf) verify(url string) error {
	c := s.info(url)
	if c.Digest == "" {
		return nil
	}
	f, err := os.Open(s.path(url))
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	if hex.EncodeToString(h.Sum(nil)) != c.Digest {
		return fmt.Errorf("%w: %s", errDamaged, s.path(url))
	}
	return nil
}

var errDamaged = errors.New("the stored copy is damaged")

// put turns a complete file in the directory into the last good version. A crash in between leaves a file without a
// description; then the list is fetched again without conditions.
func (s shelf) put(file *os.File, c copyInfo) error {
	if err := file.Sync(); err != nil {
		return err
	}
	if err := os.Remove(s.path(c.URL) + ".json"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(file.Name(), s.path(c.URL)); err != nil {
		return err
	}
	return s.note(c)
}

// note writes the description of a last good version.
func (s shelf) note(c copyInfo) error {
	return writeWhole(s.path(c.URL)+".json", c)
}

// writeWhole writes a value as JSON to a file that appears whole or not at all.
func writeWhole(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), temporary)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails once it has been renamed
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// temporary is the pattern of files that are not in use yet.
const temporary = "new-*"

// open makes the directory and removes what a crash left behind.
func (s shelf) open() error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("directory of the lists: %w", err)
	}
	left, err := filepath.Glob(filepath.Join(s.dir, temporary))
	if err != nil {
		return err
	}
	for _, file := range left {
		if err := os.Remove(file); err != nil {
			return fmt.Errorf("directory of the lists: %w", err)
		}
	}
	return nil
}
