package lists

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// hasCopy reports whether the last good version of a file was kept.
func (l *Lists) hasCopy(s Source) bool {
	return s.File != "" && l.Dir != "" && l.shelf.info(s.File).URL != ""
}

// keepFiles keeps a copy of each file that was read, in case the file is damaged later. It forgets subscriptions whose last
// good version cannot be read, so that they are fetched without conditions.
func (l *Lists) keepFiles(c *Content) error {
	read := make(map[string]Status) // by category and list
	for _, s := range c.status {
		read[countKey(s.Category, s.List)] = s
	}
	var errs []error
	for _, category := range c.categories {
		for _, s := range category.Sources {
			switch was := read[countKey(category.Name, s.Name())]; {
			case s.File != "" && was.Err == nil:
				errs = append(errs, l.keepFile(s, was.Updated))
			case s.URL != "" && was.Err != nil && !errors.Is(was.Err, errNotFetched) && l.shelf.info(s.URL).URL != "":
				errs = append(errs, os.Remove(l.shelf.path(s.URL)+".json"))
			}
		}
	}
	return errors.Join(errs...)
}

// keepFile copies the version of a file that was read, which changed last at the given time, unless it has that copy. A file
// that has changed since then is not copied, because its new version has not been checked.
func (l *Lists) keepFile(s Source, changed time.Time) error {
	if last := l.shelf.info(s.File); last.URL != "" && last.Fetched.Equal(changed) {
		return nil
	}
	f, err := os.Open(s.File)
	if err != nil {
		return err
	}
	defer f.Close()
	to, err := os.CreateTemp(l.Dir, temporary)
	if err != nil {
		return err
	}
	defer os.Remove(to.Name()) // fails once it has been renamed
	defer to.Close()
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(to, h), f); err != nil {
		return fmt.Errorf("copy list %s: %w", s.File, err)
	}
	if info, err := os.Stat(s.File); err != nil || !info.ModTime().Equal(changed) {
		return err
	}
	return l.shelf.put(to, copyInfo{URL: s.File, Digest: hex.EncodeToString(h.Sum(nil)), Fetched: changed})
}
