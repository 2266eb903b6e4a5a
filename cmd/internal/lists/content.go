package lists

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"penstock/policy/blocklist"
)

// Content is the lists of some categories as they were read, compiled. It never changes.
type Content struct {
	categories []Category
	set        *blocklist.Set
	sources    map[string][]blocklist.Source // by category; Find reads them again
	status     []Status
	empty      []string // a sentence for each category that has nothing
	key        string   // digest of what was read
}

// Status is the state of one list.
type Status struct {
	Category string
	List     string // file, address or BuiltIn
	Entries  int
	LeftOut  string    // what was left out of it and the operator should know; empty if nothing
	Updated  time.Time // when it last changed; zero if built in or missing
	Checked  time.Time // when the server last said that there is no newer version
	Next     time.Time // when the next look for a newer version is; zero if never
	Err      error     // why it could not be read or renewed
}

// Hit is a line of a category's list that matches a host.
type Hit struct {
	Category string
	blocklist.Hit
}

// Set returns the compiled set. That of a nil Content is empty.
func (c *Content) Set() *blocklist.Set {
	if c == nil {
		return nil
	}
	return c.set
}

// Find reads the lists again and returns the lines that match a host, given as a canonical name or an address. It leaves
// out lists that cannot be read; the error names them.
func (c *Content) Find(host string) ([]Hit, error) {
	var hits []Hit
	var errs []error
	for _, category := range c.categories {
		found, err := blocklist.Find(host, c.sources[category.Name]...)
		if err != nil {
			errs = append(errs, fmt.Errorf("category %s: %w", category.Name, err))
		}
		for _, h := range found {
			hits = append(hits, Hit{category.Name, h})
		}
	}
	return hits, errors.Join(errs...)
}

// FailError says that a category is missing whose OnMissing is Fail.
type FailError struct {
	Category string
	Reason   error
}

func (e *FailError) Error() string { return fmt.Sprintf("category %s: %v", e.Category, e.Reason) }

func (e *FailError) Unwrap() error { return e.Reason }

// Read reads all lists of categories that are on this machine and compiles them. It fetches nothing and changes nothing.
// A list that cannot be read means what its category's OnMissing says; a *FailError is returned, joined with others, for
// each category where that is Fail.
func (l *Lists) Read(ctx context.Context, categories []Category) (*Content, error) {
	c := &Content{categories: categories, sources: make(map[string][]blocklist.Source), key: l.key(categories)}
	compiled, fromCache := l.readCompiled(c.key)
	b := blocklist.NewBuilder()
	var errs []error
	for _, category := range categories {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		add := func(s Source) (count, error) {
			if n, ok := compiled.entries(category.Name, s.Name()); fromCache && ok {
				return n, nil
			}
			return l.addTo(b, category.Name, s)
		}
		err := l.readCategory(c, category, add)
		switch {
		case err == nil:
		case category.OnMissing == Fail:
			errs = append(errs, &FailError{category.Name, err})
		case c.blocks(category.Name):
		case category.OnMissing == Allow, category.OnMissing == Await && refused(err):
			c.empty = append(c.empty, fmt.Sprintf("category %s holds no name, because it has no list that can be used: %s", category.Name, oneLine(err)))
		default:
			c.empty = append(c.empty, fmt.Sprintf("category %s holds every name until it has a list: %s", category.Name, oneLine(err)))
			if err := b.MatchAll(category.Name); err != nil {
				return nil, err
			}
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if c.set = compiled.set; fromCache {
		return c, nil
	}
	set, err := b.Build()
	if err != nil {
		return nil, fmt.Errorf("compile the lists: %w", err)
	}
	c.set = set
	return c, nil
}

// Empty returns a sentence for each category that has nothing at all: what it means now, and why.
func (c *Content) Empty() []string {
	if c == nil {
		return nil
	}
	return c.empty
}

// oneLine writes joined errors on one line.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// refused reports whether every list is there, and its content is the reason not to use it.
func refused(err error) bool {
	return !slices.ContainsFunc(unjoined(err), func(one error) bool {
		_, content := errors.AsType[*blocklist.ListError](one)
		return !content
	})
}

// unjoined splits an error made by errors.Join.
func unjoined(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}

// readCategory reads one category. The error names the lists that are missing.
func (l *Lists) readCategory(c *Content, category Category, add func(Source) (count, error)) error {
	var errs []error
	for _, s := range category.sources() {
		status := Status{Category: category.Name, List: s.Name()}
		var err error
		var n count
		if status.Updated, status.Checked, err = l.age(s); err == nil {
			n, err = add(s)
		}
		if err != nil && !errors.Is(err, errNotFetched) && l.refusal(s.URL) == nil { // whoever fetched it has told
			l.Log.Warn("a list cannot be read", "list", s.Name(), "category", category.Name, "err", err)
			l.Metrics.failed()
		}
		status.Err = err
		if err != nil && l.hasCopy(s) {
			s.copied = true
			n, err = add(s)
		}
		status.Entries, status.LeftOut = n.Entries, n.LeftOut
		c.status = append(c.status, status)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		c.sources[category.Name] = append(c.sources[category.Name], l.asRead(category.Name, s, status.Updated))
	}
	if len(errs) == 0 || c.blocks(category.Name) || category.OnMissing == Fail {
		return errors.Join(errs...)
	}
	// It has nothing at all: use the built-in list until something comes.
	if n, err := add(Source{}); err == nil {
		c.status = append(c.status, Status{Category: category.Name, List: BuiltIn, Entries: n.Entries})
		c.sources[category.Name] = append(c.sources[category.Name], l.listOf(category.Name, Source{}))
		return nil
	}
	return errors.Join(errs...)
}

// blocks reports whether a list was read that adds names to the category.
func (c *Content) blocks(category string) bool {
	for _, s := range c.sources[category] {
		if !s.Options.Allow {
			return true
		}
	}
	return false
}

// lost returns an error that names the lists which are in old and not in c, because they cannot be read any more and no copy of
// them was kept. Nobody asked for less: perhaps a file is just being written.
func (c *Content) lost(old *Content) error {
	var errs []error
	for _, s := range c.status {
		has := func(l blocklist.Source) bool { return l.Options.List == s.List }
		if s.Err != nil && slices.ContainsFunc(old.sources[s.Category], has) && !slices.ContainsFunc(c.sources[s.Category], has) {
			errs = append(errs, fmt.Errorf("category %s: %w", s.Category, s.Err))
		}
	}
	return errors.Join(errs...)
}

// age returns when a list changed and when it was last checked. It fails if there is no list.
func (l *Lists) age(s Source) (updated, checked time.Time, err error) {
	switch {
	case s.File != "":
		info, err := os.Stat(s.File)
		if err != nil {
			return time.Time{}, time.Time{}, err
		}
		return info.ModTime(), time.Time{}, nil
	case s.URL != "":
		c := l.shelf.info(s.URL)
		if c.URL == "" {
			if err := l.refusal(s.URL); err != nil {
				return time.Time{}, time.Time{}, err
			}
			return time.Time{}, time.Time{}, fmt.Errorf("list %s: %w", s.Name(), errNotFetched)
		}
		return c.Fetched, c.Checked, nil
	}
	return time.Time{}, time.Time{}, nil
}

var errNotFetched = errors.New("not fetched yet")

// listOf returns the list of a source for the compiler.
func (l *Lists) listOf(category string, s Source) blocklist.Source {
	list := blocklist.Source{Options: blocklist.Options{
		List: s.Name(), Format: s.Format, Allow: s.Allow, AllowTLD: s.AllowTLD, AllowEmpty: s.Allow, NeverBlock: s.NeverBlock,
	}}
	list.Open = func() (io.ReadCloser, error) {
		switch {
		case s.copied:
			return os.Open(l.shelf.path(s.File))
		case s.File != "":
			return openSteady(s.File)
		case s.URL != "":
			return os.Open(l.shelf.path(s.URL))
		}
		r, ok := blocklist.Starter(category)
		if !ok {
			return nil, fmt.Errorf("category %s has no built-in list: give it lists", category)
		}
		return io.NopCloser(r), nil
	}
	return list
}

// asRead returns a list as it was read. If a file has changed since then, its copy is used.
func (l *Lists) asRead(category string, s Source, changed time.Time) blocklist.Source {
	list := l.listOf(category, s)
	if s.File == "" || s.copied {
		return list
	}
	file := list.Open
	list.Open = func() (io.ReadCloser, error) {
		if info, err := os.Stat(s.File); err == nil && info.ModTime().Equal(changed) {
			return file()
		}
		if !l.hasCopy(s) || !l.shelf.info(s.File).Fetched.Equal(changed) {
			return nil, errors.New("it has changed since it was read: reload to bring it into force")
		}
		return os.Open(l.shelf.path(s.File))
	}
	return list
}

// addTo reads a list into the builder and counts its entries. After an error the builder is as before.
func (l *Lists) addTo(b *blocklist.Builder, category string, s Source) (count, error) {
	stored := s.URL
	if s.copied {
		stored = s.File
	}
	if stored != "" {
		if err := l.shelf.verify(stored); err != nil {
			return count{}, fmt.Errorf("list %s: %w", s.Name(), err)
		}
	}
	report, err := addOnce(b, category, l.listOf(category, s))
	for attempt := 1; errors.Is(err, errChanging) && attempt < steadyAttempts; attempt++ {
		time.Sleep(steadyPause)
		report, err = addOnce(b, category, l.listOf(category, s))
	}
	if err != nil {
		return count{}, err
	}
	return count{report.Entries(), leftOut(report, s.File != "")}, nil
}

func addOnce(b *blocklist.Builder, category string, s blocklist.Source) (blocklist.Report, error) {
	r, err := s.Open()
	if err != nil {
		return blocklist.Report{}, err
	}
	defer r.Close()
	return b.Add(category, r, s.Options)
}

// key returns a digest of everything that decides what Read returns.
func (l *Lists) key(categories []Category) string {
	h := sha256.New()
	for _, c := range categories {
		fmt.Fprintf(h, "%q %d\n", c.Name, c.OnMissing)
		if r, ok := blocklist.Starter(c.Name); ok {
			_, _ = io.Copy(h, r) // in memory: cannot fail
		}
		for _, s := range c.Sources {
			fmt.Fprintf(h, "%q %q %v %v %v %q ", s.File, s.URL, s.Format, s.Allow, s.AllowTLD, s.NeverBlock)
			if s.File != "" {
				if info, err := os.Stat(s.File); err == nil {
					fmt.Fprintf(h, "%d %d", info.Size(), info.ModTime().UnixNano())
				}
			} else {
				fmt.Fprint(h, l.shelf.info(s.URL).Digest, l.refusal(s.URL) != nil)
			}
			fmt.Fprintln(h)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:12])
}
