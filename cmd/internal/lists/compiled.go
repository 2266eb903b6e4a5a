package lists

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"penstock/policy/blocklist"
)

// compiled is the set of all lists as the last run left it, with how many entries each list had.
type compiled struct {
	set    *blocklist.Set
	counts map[string]count
}

// count is what reading a list found.
type count struct {
	Entries int    `json:"entries"`
	LeftOut string `json:"left_out,omitempty"` // see Status
}

// leftOut says what was left out of a list that its operator should know; empty if nothing was. Of a list that others write
// it does not tell the rules that are not about a host name: such lists are full of them.
func leftOut(r blocklist.Report, own bool) string {
	wide, long := r.Skipped[blocklist.SkipTopLevel]+r.Skipped[blocklist.SkipSuffix], r.Skipped[blocklist.SkipLong]
	var names []string
	for _, one := range r.Refused {
		if one.Text != "" {
			names = append(names, fmt.Sprintf("line %d: %s", one.Line, one.Text))
		}
	}
	var parts []string
	if wide > 0 {
		parts = append(parts, fmt.Sprintf("%s for whole top-level domains or public suffixes (%s); allow_tld: true takes them",
			quantity(wide, "entry", "entries"), strings.Join(names, ", ")))
	}
	if long > 0 {
		parts = append(parts, fmt.Sprintf("%s of more than %d bytes", quantity(long, "line", "lines"), blocklist.MaxLine))
	}
	other := 0
	for _, reason := range []string{blocklist.SkipModifier, blocklist.SkipNotBlock, blocklist.SkipCosmetic, blocklist.SkipPath, blocklist.SkipPattern} {
		other += r.Skipped[reason]
	}
	if own && other > 0 {
		parts = append(parts, quantity(other, "rule", "rules")+" with a condition or another answer, or for a part of a page, a path or a pattern")
	}
	return strings.Join(parts, "; ")
}

func quantity(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// compiledPath returns the file of the set with a key. NAME.json beside it has the counts.
func (l *Lists) compiledPath(key string) string {
	return filepath.Join(l.shelf.dir, "compiled-"+key)
}

func countKey(category, list string) string { return category + " " + list }

func (c compiled) entries(category, list string) (count, bool) {
	n, ok := c.counts[countKey(category, list)]
	return n, ok
}

// readCompiled reads the compiled set of some content, if it is there and undamaged.
func (l *Lists) readCompiled(key string) (compiled, bool) {
	var c compiled
	if l.shelf.dir == "" {
		return c, false
	}
	b, err := os.ReadFile(l.compiledPath(key) + ".json")
	if err != nil || json.Unmarshal(b, &c.counts) != nil {
		return compiled{}, false
	}
	if c.set, err = blocklist.ReadFile(l.compiledPath(key)); err != nil {
		l.Log.Warn("the compiled lists cannot be used; compiling them again", "err", err)
		return compiled{}, false
	}
	return c, true
}

// keepCompiled writes the compiled set for the next start and removes those of other content. A set that lacks a list which
// could not be read is not kept, because its key would be the same once that list can be read.
func (l *Lists) keepCompiled(c *Content) error {
	path := l.compiledPath(c.key)
	if _, err := os.Stat(path + ".json"); err == nil {
		return nil
	}
	counts := make(map[string]count)
	for _, s := range c.status {
		switch {
		case s.Err == nil:
			counts[countKey(s.Category, s.List)] = count{s.Entries, s.LeftOut}
		case !errors.Is(s.Err, errNotFetched):
			return nil
		}
	}
	if err := c.set.WriteFile(path); err != nil {
		return err
	}
	if err := writeWhole(path+".json", counts); err != nil {
		return fmt.Errorf("keep the compiled lists: %w", err)
	}
	old, err := filepath.Glob(l.compiledPath("*"))
	if err != nil {
		return err
	}
	for _, file := range old {
		if !strings.HasPrefix(file, path) {
			if err := os.Remove(file); err != nil {
				return fmt.Errorf("keep the compiled lists: %w", err)
			}
		}
	}
	return nil
}
