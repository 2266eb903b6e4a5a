package blocklist

import (
	"slices"
	"strings"
)

// geosite is the stack of open files. It stops files from including each other in a circle.
type geosite struct {
	open []string
}

// inclusion is one include, and the attributes that select its entries.
type inclusion struct {
	outer   *inclusion
	with    []string
	without []string
}

// takes reports whether this inclusion and all outer ones select an entry with these attributes.
func (in *inclusion) takes(attrs []string) bool {
	for ; in != nil; in = in.outer {
		for _, a := range in.with {
			if !slices.Contains(attrs, a) {
				return false
			}
		}
		for _, a := range in.without {
			if slices.Contains(attrs, a) {
				return false
			}
		}
	}
	return true
}

// maxIncludes is the maximum depth of nested includes. The deepest in v2fly's files is 5.
const maxIncludes = 32

// geosite reads a line of a geosite source: kind:value @attribute &affiliation # comment.
func (s *scanner) geosite(raw []byte, in *inclusion) error {
	line, _, _ := strings.Cut(string(raw), "#")
	fields := strings.Fields(line)
	if len(fields) == 0 {
		return nil
	}
	kind, value, ok := strings.Cut(fields[0], ":")
	if !ok {
		kind, value = "domain", fields[0]
	}
	var attrs []string
	for _, f := range fields[1:] {
		switch f[0] {
		case '@':
			attrs = append(attrs, f[1:])
		case '&': // adds the entry to another file too; ignored here
		default:
			return s.skip(SkipInvalid)
		}
	}
	if kind == "include" {
		return s.include(value, attrs, in)
	}
	if !in.takes(attrs) {
		return nil
	}
	switch kind {
	case "domain":
		return s.domain([]byte(value))
	case "full":
		s.entry.Exact = true
		return s.name([]byte(value))
	case "keyword":
		return s.expression(KeywordPrefix + value)
	case "regexp":
		return s.expression(value)
	}
	return s.skip(SkipInvalid)
}

func (s *scanner) include(name string, attrs []string, outer *inclusion) error {
	if s.o.Include == nil {
		return s.skip(SkipIncludeless)
	}
	if slices.Contains(s.site.open, name) || len(s.site.open) == maxIncludes {
		return s.skip(SkipInvalid)
	}
	f, err := s.o.Include(name)
	if err != nil {
		return err
	}
	defer f.Close()
	in := &inclusion{outer: outer}
	for _, a := range attrs {
		if not, ok := strings.CutPrefix(a, "-"); ok {
			in.without = append(in.without, not)
		} else {
			in.with = append(in.with, a)
		}
	}
	s.site.open = append(s.site.open, name)
	err = s.file(f, name, in)
	s.site.open = s.site.open[:len(s.site.open)-1]
	return err
}
