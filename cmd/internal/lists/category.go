package lists

import (
	"net/url"
	"time"

	"penstock/policy/blocklist"
)

// Category is a named set of host names, and the lists that it comes from.
type Category struct {
	Name string
	// Sources are read together. Without one that is not Allow, the built-in list of that name is the category.
	Sources   []Source
	OnMissing OnMissing
}

// OnMissing says what a category means that has nothing at all: no list that can be used, no last good version and no
// built-in list.
type OnMissing uint8

// The zero OnMissing fails closed.
const (
	Block OnMissing = iota // it holds every name
	Allow                  // it holds none
	Fail                   // Read fails if any of its lists is missing
	Await                  // it holds every name until its lists are there, but none if they are there and were refused
)

// Source is one list: a file or a subscription.
type Source struct {
	File   string
	URL    string // http or https; fetched by Run
	Format blocklist.Format
	Allow  bool // its names are exceptions
	// AllowTLD takes entries for whole top-level domains and public suffixes.
	AllowTLD bool
	Refresh  time.Duration // how often to look for a newer version; default 24 h
	Via      string        // handed to Config.Dial
	// NeverBlock are canonical names. A list that blocks one of them is refused.
	NeverBlock []string

	copied bool // read the last good copy of File
}

// BuiltIn is the name of a built-in list.
const BuiltIn = "built in"

// Name identifies the list in logs and status: its path, or its address without a password.
func (s Source) Name() string {
	switch {
	case s.File != "":
		return s.File
	case s.URL == "":
		return BuiltIn
	}
	u, err := url.Parse(s.URL)
	if err != nil {
		return "a list with an invalid address"
	}
	return u.Redacted()
}

func (s Source) refresh() time.Duration {
	if s.Refresh <= 0 {
		return 24 * time.Hour
	}
	return s.Refresh
}

// sources returns the lists that a category is read from: the built-in one if the category names none that blocks.
func (c Category) sources() []Source {
	for _, s := range c.Sources {
		if !s.Allow {
			return c.Sources
		}
	}
	return append([]Source{{}}, c.Sources...)
}
