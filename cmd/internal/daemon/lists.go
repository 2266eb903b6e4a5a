package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"penstock/cmd/internal/config"
	"penstock/policy/blocklist"
)

// categories is the lists of one configuration, read.
type categories struct {
	set     *blocklist.Set
	sources map[string][]blocklist.Source // by category, to be read again for explanations
	status  []listStatus
}

// listStatus is how reading one list went.
type listStatus struct {
	Category string
	List     string // file, URL or "built in"
	Entries  int
	Updated  time.Time
	Err      error
}

const builtIn = "built in"

// categoryNames are the categories that a configuration defines or that are built in, sorted.
func categoryNames(cfg *config.Config) []string {
	names := blocklist.StarterCategories()
	for name := range cfg.Categories {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// usedCategories are those that a rule names: the others need not be read.
func usedCategories(cfg *config.Config) []string {
	var used []string
	var add func(m *config.Match)
	add = func(m *config.Match) {
		if m == nil {
			return
		}
		used = append(used, m.Category...)
		add(m.Not)
	}
	for _, r := range cfg.Rules {
		add(r.Match)
	}
	slices.Sort(used)
	return slices.Compact(used)
}

// loadCategories reads the lists of every category that the rules use. A list that cannot be read means what its
// category's on_missing says.
func loadCategories(ctx context.Context, cfg *config.Config) (*categories, error) {
	c := &categories{sources: make(map[string][]blocklist.Source)}
	b := blocklist.NewBuilder()
	var faults []config.Fault
	for _, name := range usedCategories(cfg) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		category := cfg.Categories[name]
		var missing []error
		for _, s := range listsOf(name, category) {
			status := listStatus{Category: name, List: s.Options.List}
			status.Entries, status.Updated, status.Err = addList(b, name, s)
			if status.Err != nil {
				missing = append(missing, status.Err)
			} else {
				c.sources[name] = append(c.sources[name], s.Source)
			}
			c.status = append(c.status, status)
		}
		if len(missing) == 0 {
			continue
		}
		switch err := errors.Join(missing...); category.OnMissing {
		case "fail":
			faults = append(faults, config.Fault{
				Pos: category.Pos, Message: fmt.Sprintf("category %s: %v", name, err),
				Mend: "mend the list, or say on_missing: block or allow",
			})
		case "block":
			if len(c.sources[name]) == 0 {
				if err := b.MatchAll(name); err != nil {
					return nil, err
				}
			}
		}
	}
	if len(faults) > 0 {
		return nil, &config.Error{Faults: faults}
	}
	set, err := b.Build()
	if err != nil {
		return nil, fmt.Errorf("build the category lists: %w", err)
	}
	c.set = set
	return c, nil
}

// source is one list of a category.
type source struct {
	blocklist.Source
	file string // empty: built in, or fetched
}

func listsOf(name string, c config.Category) []source {
	var list []source
	for _, l := range c.Lists {
		list = append(list, fileSource(l, false))
	}
	if len(c.Lists) == 0 {
		list = append(list, source{Source: blocklist.Source{
			Options: blocklist.Options{List: builtIn},
			Open: func() (io.ReadCloser, error) {
				r, ok := blocklist.Starter(name)
				if !ok {
					return nil, fmt.Errorf("category %s has no built-in list: give it lists", name)
				}
				return io.NopCloser(r), nil
			},
		}})
	}
	for _, l := range c.Allow {
		list = append(list, fileSource(l, true))
	}
	return list
}

func fileSource(l config.List, allow bool) source {
	name := l.File
	if name == "" {
		name = l.URL
	}
	format, err := blocklist.ParseFormat(l.Format)
	s := source{file: l.File}
	s.Options = blocklist.Options{List: name, Format: format, Allow: allow, AllowEmpty: allow}
	s.Open = func() (io.ReadCloser, error) {
		if err != nil {
			return nil, err
		}
		if l.File == "" {
			return nil, fmt.Errorf("list %s: subscriptions are not fetched by this version: download it and name it with file:", l.URL)
		}
		return os.Open(l.File)
	}
	return s
}

func addList(b *blocklist.Builder, category string, s source) (entries int, updated time.Time, err error) {
	r, err := s.Open()
	if err != nil {
		return 0, time.Time{}, err
	}
	defer r.Close()
	if s.file != "" {
		info, err := os.Stat(s.file)
		if err != nil {
			return 0, time.Time{}, err
		}
		updated = info.ModTime()
	}
	report, err := b.Add(category, r, s.Options)
	if err != nil {
		return 0, updated, err
	}
	return report.Entries(), updated, nil
}
