package lists

import (
	"net/url"
	"time"

	"penstock/policy/blocklist"
)

// Category is a named set of names, and where it comes from.
type Category struct {
	Name string
	// Sources are read together. Without one that is not Allow, the built-in list of that name is the category.
	Sources   []Source
	OnMissing OnMissing
}

// OnMissing says what a category means of which nothing can be had: no list, no last good version and no built-in list.
type OnMissing uint8

// The zero OnMissing fails closed.
const (
	Block OnMissing = iota // it holds every name
	Allow                  // it holds none
	Fail                   // Read fails, whichever of its lists is missing
)

// Source is one list: a file or a subscription.
type Source struct {
	File    string
	URL     string // http or https; fetched by Run
	Format  blocklist.Format
	Allow   bool          // its names are exceptions
	Refresh time.Duration // how often it is looked for again; default 24 h
	Via     string        // handed to Config.Dial
	// NeverBlock are canonical names that the list must not block: one that does is refused.
	NeverBlock []string

	copied bool // read the last good copy of File
}

// BuiltIn is the name of a built-in list.
const BuiltIn = "built in"

// Name is how the list is called in logs and status: its path, or its address without a password.
func (s Source) Name() string {
	switch {
	case s.File != "":
		return s.File
	case s.URL == "":
		return BuiltIn
	}
	u, err := url.Parse(s.URL)
	if err != nil {
		return "a list with an address that is none"
	}
	return u.Redacted()
}

func (s Source) refresh() time.Duration {
	if s.Refresh <= 0 {
		return 24 * time.Hour
	}
	return s.Refresh
}

// sources are what a category is read from: the built-in list stands in where no list that blocks is named.
func (c Category) sources() []Source {
	for _, s := range c.Sources {
		if !s.Allow {
			return c.Sources
		}
	}
	return append([]Source{{}}, c.Sources...)
}
