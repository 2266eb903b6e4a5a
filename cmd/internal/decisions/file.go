package decisions

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/peerbook"
	"penstock/cmd/internal/private"
	"penstock/policy"
	"penstock/policy/textfile"
)

const (
	lockWait = 10 * time.Second
	attempts = 10 // to change a file that others are changing
)

// head begins a new file.
const head = `# Decisions that penstock allow, penstock block and the console have made. penstock reads this file again when it has
# changed. One entry a line, such as
#   - {allow: shop.example}               # the name and what is below it, although a rule blocks it by name or category
#   - {block: "category:games", peer: ana}  # before any rule is asked
# until is the end of an entry; without it, the entry counts always. While the file has a fault, it allows nothing, and its blocks
# stay as they were.
`

// file is the managed file.
type file struct {
	path  string
	state string // folder for the copy of the text that was last good; "": none is kept

	seen fs.FileInfo // when it was last read; nil: it was not there
	gone bool        // it was not there at the last look
	torn bool        // it could not be read whole
}

// hasChanged reports whether the file is another one than when it was read. An editor may remove a file for a moment, so one that
// is gone has changed only when it is still gone at the second look.
func (f *file) hasChanged() bool {
	if f == nil {
		return false
	}
	info, err := os.Stat(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		before := f.gone
		f.gone = true
		return before && f.seen != nil
	}
	f.gone = false
	return f.torn || err != nil || f.seen == nil || !os.SameFile(info, f.seen) || info.Size() != f.seen.Size() ||
		!info.ModTime().Equal(f.seen.ModTime()) || info.Mode() != f.seen.Mode()
}

// read returns the entries of the file, none if there is no file, and keeps a copy of the text for a start with a faulty one.
func (f *file) read() ([]entry, error) {
	f.torn = false
	if info, err := os.Stat(f.path); err == nil {
		f.seen = info
	} else {
		f.seen = nil
	}
	raw, err := private.Read(f.path, config.MaxFile)
	if errors.Is(err, fs.ErrNotExist) {
		f.keep(nil)
		return []entry{}, nil
	}
	if err != nil {
		f.torn = true
		return nil, err
	}
	list, err := parse(f.path, raw)
	if err == nil {
		f.keep(raw)
	}
	return entries(list), err
}

// parse reads the text of a managed file.
func parse(path string, text []byte) ([]config.Decided, error) {
	return config.ParseDecisions(path, text, policy.CanonicalName)
}

// entries returns what is decided in a file.
func entries(list []config.Decided) []entry {
	out := make([]entry, 0, len(list))
	for _, d := range list {
		e := entry{Decision: policy.Decision{Block: d.Block != "", Peer: d.Peer, Always: d.Until.IsZero(), Until: d.Until, Made: d.Made}, by: d.By}
		if category, ok := strings.CutPrefix(d.Target(), "category:"); ok {
			e.Category = category
		} else {
			e.Name = d.Target()
		}
		out = append(out, e)
	}
	return out
}

func (f *file) goodCopy() string { return filepath.Join(f.state, ".decisions-last-good.yaml") }

// keep keeps a copy of a text that is good. Without one, blocks could be lost at a restart, if the file has a fault then.
func (f *file) keep(text []byte) {
	if f.state == "" {
		return
	}
	before, err := os.ReadFile(f.goodCopy())
	switch {
	case text == nil:
		os.Remove(f.goodCopy())
	case err != nil || !bytes.Equal(before, text):
		if os.MkdirAll(f.state, 0o700) == nil {
			_ = private.Replace(f.goodCopy(), string(text)) // the file itself is good: only a fault in it would need the copy
		}
	}
}

// lastGood returns the entries of the copy.
func (f *file) lastGood() []entry {
	raw, err := private.Read(f.goodCopy(), config.MaxFile)
	if f.state == "" || err != nil {
		return nil
	}
	list, err := parse(f.goodCopy(), raw)
	if err != nil {
		return nil
	}
	return entries(list)
}

// chooser says which of the entries of a file go, and which come.
type chooser func([]entry) (remove func(entry) bool, add []entry, err error)

// change is what has been written, or would be.
type change struct {
	list []entry
	diff string
}

// change replaces entries of the file: decide says which of those that it holds now go, and which come. Everything else in it stays
// as it is, comments too. Nothing changes if the file has a fault. With dry, nothing is written.
func (f *file) change(ctx context.Context, dry bool, decide chooser) (change, error) {
	path := f.path
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	dir := filepath.Dir(path)
	if !dry {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return change{}, fmt.Errorf("make the folder of decisions: %w", err)
		}
		ctx, cancel := context.WithTimeoutCause(ctx, lockWait, fmt.Errorf("another penstock has held it for %v", lockWait))
		defer cancel()
		unlock, err := peerbook.LockFile(ctx, filepath.Join(dir, "."+filepath.Base(path)+".lock"))
		if err != nil {
			return change{}, fmt.Errorf("lock the file of decisions: %w", err)
		}
		defer unlock()
	}
	for range attempts {
		before, mode, err := f.text(path)
		if err != nil {
			return change{}, err
		}
		list, err := parse(f.path, before)
		if before == nil {
			list, err = nil, nil
		}
		if err != nil {
			return change{}, fmt.Errorf("the file of decisions has a fault, so it is left as it is: mend it, and try again: %w", err)
		}
		remove, add, err := decide(entries(list))
		if err != nil {
			return change{}, err
		}
		old := string(textfile.Decode(before))
		text, after, err := rewrite(f.path, old, list, remove, add)
		if err != nil {
			return change{}, err
		}
		c := change{after, diff(f.path, old, text)}
		if dry || text == old {
			return c, nil
		}
		done, err := f.replace(path, before, mode, text)
		if err != nil {
			return change{}, fmt.Errorf("write the file of decisions: %w", err)
		}
		if done {
			f.seen, _ = os.Stat(f.path)
			f.keep([]byte(text))
			return c, nil
		}
	}
	return change{}, fmt.Errorf("%s changes all the time: try again", f.path)
}

// text returns the text and the mode of the file; nil if there is none.
func (f *file) text(path string) ([]byte, fs.FileMode, error) {
	raw, err := private.Read(path, config.MaxFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, 0o600, nil
	case err != nil:
		return nil, 0, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, 0, err
	}
	if raw == nil {
		raw = []byte{}
	}
	return raw, info.Mode().Perm(), nil
}

// replace writes the file whole or not at all, unless somebody has changed it since it was read.
func (f *file) replace(path string, before []byte, mode fs.FileMode, text string) (done bool, err error) {
	temp, err := private.WriteTemp(filepath.Dir(path), text)
	if err != nil {
		return false, err
	}
	defer os.Remove(temp) // after the rename there is none
	if err := os.Chmod(temp, mode); err != nil {
		return false, err
	}
	now, err := os.ReadFile(path)
	if before == nil {
		if !errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
	} else if err != nil || !bytes.Equal(now, before) {
		return false, nil
	}
	if err := os.Rename(temp, path); err != nil {
		return false, err
	}
	if d, err := os.Open(filepath.Dir(path)); err == nil { // a folder that cannot be synchronised, as on Windows, stays as it is
		_ = d.Sync()
		d.Close()
	}
	return true, nil
}

// rewrite is edit with a look at the result, which says what it is meant to say.
func rewrite(path, old string, list []config.Decided, remove func(entry) bool, add []entry) (text string, after []entry, err error) {
	text = edit(old, list, remove, add)
	read, err := parse(path, []byte(text))
	after = entries(read)
	same := func(a, b entry) bool { return yaml(a) == yaml(b) }
	if err != nil || !slices.EqualFunc(after, append(without(entries(list), remove), add...), same) {
		return "", nil, fmt.Errorf("%s is not written so that an entry can be added or removed: write each on a line of its own, below the key decisions", path)
	}
	return text, after, nil
}

// edit returns the text of a file without some of its entries, and with others below the last one.
func edit(text string, list []config.Decided, remove func(entry) bool, add []entry) string {
	if text == "" {
		text = head + "decisions: []\n"
	}
	lines := strings.SplitAfter(text, "\n")
	if last := lines[len(lines)-1]; last == "" {
		lines = lines[:len(lines)-1]
	} else {
		lines[len(lines)-1] = last + "\n"
	}
	var added []string
	indent := "  "
	if len(list) > 0 {
		first := lines[list[0].Pos.Line-1]
		indent, _, _ = strings.Cut(first, "-")
	}
	for _, e := range add {
		added = append(added, indent+"- "+yaml(e)+"\n")
	}
	all := entries(list)
	end := 0 // line below which entries are added
	if len(list) > 0 {
		end = list[len(list)-1].Last
	}
	left := len(without(all, remove)) + len(add)
	key := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "decisions:") })
	var out []string
	for i, line := range lines {
		number := i + 1
		gone := false
		for j, d := range list {
			gone = gone || d.Pos.Line <= number && number <= d.Last && remove(all[j])
		}
		switch {
		case i == key && left == 0 && len(list) > 0:
			out = append(out, strings.Replace(line, "decisions:", "decisions: []", 1))
		case i == key && len(list) == 0 && len(add) > 0:
			out = append(out, strings.Replace(line, "[]", "", 1))
			out[len(out)-1] = strings.TrimRight(out[len(out)-1], " \n") + "\n"
			end = number
		case !gone:
			out = append(out, line)
		}
		if number == end {
			out = append(out, added...)
		}
	}
	return strings.Join(out, "")
}

// yaml returns an entry as it is written.
func yaml(e entry) string {
	do := "allow"
	if e.Block {
		do = "block"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "{%s: %q", do, e.Target())
	if e.Peer != "" {
		fmt.Fprintf(&b, ", peer: %q", e.Peer)
	}
	if !e.Always {
		fmt.Fprintf(&b, ", until: %q", e.Until.UTC().Format(time.RFC3339))
	}
	fmt.Fprintf(&b, ", made: %q", e.Made.UTC().Format(time.RFC3339))
	if e.by != "" {
		fmt.Fprintf(&b, ", by: %q", e.by)
	}
	b.WriteString("}")
	return b.String()
}
