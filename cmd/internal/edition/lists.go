package edition

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/lists"
	"penstock/policy/blocklist"
)

// CategoryNames returns the names of the built-in categories and those of a configuration, sorted.
func CategoryNames(cfg *config.Config) []string {
	names := blocklist.StarterCategories()
	for name := range cfg.Categories {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// usedCategories returns the categories that a rule names. The lists of the others are not read.
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
	if cfg.DNS.Enforce {
		used = append(used, categoryDoH)
	}
	slices.Sort(used)
	return slices.Compact(used)
}

// categoriesOf returns the categories that rules use, with their lists. Lists must not block the names of split zones, which
// belong to the company.
func categoriesOf(cfg *config.Config) []lists.Category {
	var own []string
	for _, s := range cfg.DNS.Split {
		for _, domain := range s.Domains {
			own = append(own, strings.TrimPrefix(domain, "*."))
		}
	}
	var out []lists.Category
	for _, name := range usedCategories(cfg) {
		c := cfg.Categories[name]
		category := lists.Category{Name: name}
		switch c.OnMissing {
		case "":
			category.OnMissing = lists.Await
		case "allow":
			category.OnMissing = lists.Allow
		case "fail":
			category.OnMissing = lists.Fail
		}
		for i, l := range slices.Concat(c.Lists, c.Allow) {
			format, _ := blocklist.ParseFormat(l.Format) // the configuration was checked
			category.Sources = append(category.Sources, lists.Source{
				File: l.File, URL: l.URL, Format: format, Allow: i >= len(c.Lists), AllowTLD: l.AllowTLD, Refresh: l.Refresh, Via: l.Via, NeverBlock: own,
			})
		}
		out = append(out, category)
	}
	return out
}

// readLists reads the lists of a configuration's categories. The error is a *config.Error.
func readLists(ctx context.Context, l *lists.Lists, cfg *config.Config) (*lists.Content, error) {
	c, err := l.Read(ctx, categoriesOf(cfg))
	if err == nil {
		return c, nil
	}
	var faults []config.Fault
	for _, err := range unjoined(err) {
		fault := config.Fault{Message: err.Error()}
		if fail, ok := errors.AsType[*lists.FailError](err); ok {
			fault.Pos = cfg.Categories[fail.Category].Pos
			fault.Mend = "fix the list, or set on_missing: block or allow"
		}
		faults = append(faults, fault)
	}
	return nil, &config.Error{Faults: faults}
}

// unjoined splits errors made by errors.Join, at every level.
func unjoined(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || errors.Join(joined.Unwrap()...).Error() != err.Error() { // made by fmt.Errorf, which adds text
		return []error{err}
	}
	var list []error
	for _, one := range joined.Unwrap() {
		list = append(list, unjoined(one)...)
	}
	return list
}

// ListDir returns the directory for the last good versions of lists and their compiled set. If penstock changes the host
// (ownsHost), it is next to the host's state. Otherwise it is in the user's cache if a list is fetched, in the state's folder if
// one is read from a file, and "" if all are built in.
func ListDir(cfg *config.Config, ownsHost bool) string {
	if state := stateFile(cfg, ownsHost); state != "" {
		return filepath.Join(filepath.Dir(state), "lists")
	}
	subscribes, reads := false, false
	for _, c := range cfg.Categories {
		for _, l := range slices.Concat(c.Lists, c.Allow) {
			subscribes, reads = subscribes || l.URL != "", reads || l.File != ""
		}
	}
	switch {
	case !subscribes && reads && cfg.StateDir != "":
		return filepath.Join(cfg.StateDir, "lists")
	case !subscribes:
		return ""
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return filepath.Join(filepath.Dir(config.DefaultStateFile()), "lists")
	}
	sum := sha256.Sum256([]byte(cfg.Path)) // each configuration runs in its own process
	return filepath.Join(cache, "penstock", "lists-"+hex.EncodeToString(sum[:4]))
}

// HandshakeFile returns the file for the time of the last handshake: next to the host's state if penstock configures the host
// (ownsHost), otherwise "".
func HandshakeFile(cfg *config.Config, ownsHost bool) string {
	if state := stateFile(cfg, ownsHost); state != "" {
		return state + ".handshake"
	}
	return ""
}

// stateFile returns the file with the host's state, or "" if penstock does not configure the host.
func stateFile(cfg *config.Config, ownsHost bool) string {
	if t := cfg.Listen.TUN; t != nil && ownsHost && (t.Routes == "auto" || t.DNS == "auto") {
		return t.StateFile
	}
	return ""
}
