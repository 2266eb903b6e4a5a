package lists

import (
	"errors"
	"fmt"
	"io"
	"os"

	"penstock/policy/blocklist"
)

// hasCopy says that a file's last good version was kept.
func (l *Lists) hasCopy(s Source) bool {
	return s.File != "" && l.Dir != "" && l.shelf.info(s.File).URL != ""
}

// keepFiles keeps a copy of each file that was read, for the day on which it is damaged, and drops what is known of
// subscriptions whose last good version cannot be read, so that they are fetched whole.
func (l *Lists) keepFiles(c *Content) error {
	failed := make(map[string]bool) // by category and list
	for _, s := range c.status {
		failed[countKey(s.Category, s.List)] = s.Err != nil && !errors.Is(s.Err, errNotFetched)
	}
	var errs []error
	for _, category := range c.categories {
		for _, s := range category.Sources {
			switch bad := failed[countKey(category.Name, s.Name())]; {
			case s.File != "" && !bad:
				errs = append(errs, l.keepFile(category.Name, s))
			case s.URL != "" && bad && l.shelf.info(s.URL).URL != "":
				errs = append(errs, os.Remove(l.shelf.path(s.URL)+".json"))
			}
		}
	}
	return errors.Join(errs...)
}

// keepFile copies a file unless its copy is of the same size and time.
func (l *Lists) keepFile(category string, s Source) error {
	f, err := os.Open(s.File)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	c := copyInfo{URL: s.File, Digest: fmt.Sprintf("%d %d", info.Size(), info.ModTime().UnixNano()), Fetched: info.ModTime()}
	if l.shelf.info(s.File).Digest == c.Digest {
		return nil
	}
	to, err := os.CreateTemp(l.Dir, temporary)
	if err != nil {
		return err
	}
	defer os.Remove(to.Name()) // fails once it has been renamed
	defer to.Close()
	if _, err := io.Copy(to, f); err != nil {
		return fmt.Errorf("copy list %s: %w", s.File, err)
	}
	// It may be another file than the one that was read.
	if _, err := to.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if _, err := blocklist.Check(to, l.listOf(category, s).Options); err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	return l.shelf.put(to.Name(), c)
}
