package lists

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"penstock/policy/blocklist"
)

// kept returns a directory in which a subscription of n names was kept, and the server that it came from.
func kept(t *testing.T, n int) (dir string, s *site, c Category) {
	t.Helper()
	dir, s = t.TempDir(), newSite(t, names(n))
	c = subscribed("bets", s)
	k := newKeeper(dir)
	stop := k.start(t, c)
	if err := k.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.wantHas(t, fmt.Sprintf("site%d.example", n-1), true)
	stop()
	return dir, s, c
}

// files returns the files of a directory that match.
func files(t *testing.T, dir, pattern string) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestWhatACrashTearsIsNotUsed damages, one after the other, what a running penstock leaves for the next one. The next one
// must have the whole list again in the end, and never less than all of it without saying so.
func TestWhatACrashTearsIsNotUsed(t *testing.T) {
	half := func(path string) error {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(path, b[:len(b)/2], 0o600)
	}
	empty := func(path string) error { return os.WriteFile(path, nil, 0o600) }
	for _, row := range []struct {
		name, pattern string
		damage        func(string) error
		atOnce        bool // the list is whole without the server
	}{
		{"half of the list", "*.list", half, false},
		{"an empty list", "*.list", empty, false},
		{"no list", "*.list", os.Remove, false},
		{"a list of other bytes", "*.list", func(path string) error { return os.WriteFile(path, []byte("other.example\n"), 0o600) }, false},
		{"half of the list's description", "*.list.json", half, false},
		{"no description of the list", "*.list.json", os.Remove, false},
		{"half of the compiled set", "compiled-*[!n]", half, true},
		{"an empty compiled set", "compiled-*[!n]", empty, true},
		{"half of the compiled set's description", "compiled-*.json", half, true},
		{"no description of the compiled set", "compiled-*.json", os.Remove, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir, _, c := kept(t, 40)
			damaged := files(t, dir, row.pattern)
			if len(damaged) != 1 {
				t.Fatalf("got %q, want one file to damage", damaged)
			}
			if !row.atOnce { // the list itself is read only if there is no compiled set
				for _, path := range files(t, dir, "compiled-*") {
					if err := os.Remove(path); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := row.damage(damaged[0]); err != nil {
				t.Fatal(err)
			}
			k := newKeeper(dir)
			k.use(t, c)
			status := k.current.Load().status[0]
			if row.atOnce && status.Err != nil {
				t.Errorf("got %v, want the list to be compiled again", status.Err)
			}
			if !row.atOnce && status.Err == nil {
				t.Errorf("got %d entries and no error, want one", status.Entries)
			}
			// A category that is missing holds every name, so that nothing gets through.
			k.wantHas(t, "site39.example", true)
			k.wantHas(t, "other.example", !row.atOnce)

			k.start(t, c)
			if err := k.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			k.wantHas(t, "site39.example", true)
			k.wantHas(t, "other.example", false)
			if got := k.Status(k.current.Load())[0]; got.Err != nil || got.Entries != 40 {
				t.Errorf("after the next fetch: got %d entries, %v; want 40", got.Entries, got.Err)
			}
		})
	}
}

func TestFilesThatACrashLeftAreRemoved(t *testing.T) {
	dir := t.TempDir()
	left := filepath.Join(dir, "new-123")
	if err := os.WriteFile(left, []byte("half of a li"), 0o600); err != nil {
		t.Fatal(err)
	}
	k := newKeeper(dir)
	k.start(t)
	if err := k.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want no file", err)
	}
}

func TestADirectoryThatCannotBeUsedIsAnError(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "in the way")
	k := newKeeper(filepath.Join(file, "lists"))
	k.use(t, Category{Name: "bets", Sources: []Source{{URL: "https://lists.example/bets.txt"}}})
	if err := k.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "directory of the lists") {
		t.Errorf("got %v, want an error that names the directory", err)
	}
}

// TestBadFiles has files of the operator that cannot be the list they should be. The built-in list does not stand in for a
// category that has none, so that it holds every name.
func TestBadFiles(t *testing.T) {
	for _, row := range []struct {
		name, text string
		want       error
		says       string
	}{
		{"a web page", "<!DOCTYPE html><p>sign in first", blocklist.ErrHTML, ""},
		{"nothing", "", blocklist.ErrEmpty, "set the format"},
		{"comments alone", "# nothing\n! yet\n", blocklist.ErrEmpty, ""},
		{"a top-level domain alone", "com\n", blocklist.ErrEmpty, ""},
		{"the company itself", "casino.example\nexample.org\ncorp.example\n", blocklist.ErrNeverBlock, "line 3"},
		{"half of a compressed file", "\x1f\x8b\x08\x00half", blocklist.ErrCompressed, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "bets.txt")
			write(t, file, row.text)
			k := newKeeper("")
			k.use(t, Category{Name: "bets", Sources: []Source{{File: file, NeverBlock: []string{"intranet.corp.example"}}}})
			err := k.current.Load().status[0].Err
			if !errors.Is(err, row.want) || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), row.says) {
				t.Errorf("got %v, want %v of %s with %q", err, row.want, file, row.says)
			}
			k.wantHas(t, "anything.example", true)
			if got := len(k.current.Load().status); got != 1 {
				t.Errorf("got %d lists, want the one that is bad", got)
			}
		})
	}
}

// TestARefusedListIsNoReasonToHoldEveryName has what a category means without a list that can be used.
func TestARefusedListIsNoReasonToHoldEveryName(t *testing.T) {
	page := filepath.Join(t.TempDir(), "page.txt")
	write(t, page, "<html>sign in")
	absent := Source{File: filepath.Join(t.TempDir(), "absent.txt")}
	for _, row := range []struct {
		name    string
		when    OnMissing
		sources []Source
		want    bool // every name is in the category
		says    string
	}{
		{"refused", Await, []Source{{File: page}}, false, "category bets holds no name, because it has no list that can be used: list " + page + " line 1: this is a web page"},
		{"refused, and block is written", Block, []Source{{File: page}}, true, "category bets holds every name until it has a list: list " + page},
		{"refused, and allow is written", Allow, []Source{{File: page}}, false, "category bets holds no name"},
		{"not there", Await, []Source{absent}, true, "category bets holds every name until it has a list"},
		{"one of each", Await, []Source{{File: page}, absent}, true, "category bets holds every name until it has a list"},
		{"not fetched yet", Await, []Source{{URL: "https://lists.example/a"}}, true, "not fetched yet"},
	} {
		k := newKeeper("")
		k.use(t, Category{Name: "bets", Sources: row.sources, OnMissing: row.when})
		k.wantHas(t, "anything.example", row.want)
		if got := k.current.Load().Empty(); len(got) != 1 || !strings.Contains(got[0], row.says) {
			t.Errorf("%s: got %q, want a sentence with %q", row.name, got, row.says)
		}
	}
}

func TestAFetchThatIsRefusedEndsTheWait(t *testing.T) {
	s := newSite(t, "<html>sign in")
	dir := t.TempDir()
	k := newKeeper(dir)
	c := subscribed("bets", s)
	c.OnMissing = Await
	k.use(t, c)
	k.wantHas(t, "anything.example", true)
	k.start(t, c)
	if err := k.Refresh(t.Context()); !errors.Is(err, blocklist.ErrHTML) {
		t.Fatalf("Refresh: got %v", err)
	}
	k.wantHas(t, "anything.example", false)
	s.say("casino.example\n")
	if err := k.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.wantHas(t, "casino.example", true)
	k.wantHas(t, "anything.example", false)
	if got := k.current.Load().Empty(); len(got) != 0 {
		t.Errorf("got %q of a category that has its list", got)
	}
}

func TestWhatIsLeftOutOfAListIsTold(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bets.txt")
	write(t, file, "casino.example\nzip\nco.uk\n"+strings.Repeat("x", 6<<10)+"\npoker.example\n")
	dir := t.TempDir()
	for _, run := range []string{"compiled", "from the cache"} {
		k := newKeeper(dir)
		stop := k.start(t, Category{Name: "bets", Sources: []Source{{File: file}}})
		k.wantHas(t, "poker.example", true)
		k.wantHas(t, "a.zip", false)
		want := "2 entries for whole top-level domains or public suffixes (line 2: zip, line 3: co.uk); allow_tld: true takes them; 1 line of more than 4096 bytes"
		if got := k.current.Load().status[0]; got.LeftOut != want || got.Entries != 2 || got.Err != nil {
			t.Errorf("%s: got %+v, want %q", run, got, want)
		}
		stop()
	}
	k := newKeeper(dir)
	k.use(t, Category{Name: "bets", Sources: []Source{{File: file, AllowTLD: true}}})
	k.wantHas(t, "a.zip", true)
}

func TestFilesNeedNoFolderForCopies(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bets.txt")
	write(t, file, "casino.example\n")
	k := newKeeper(filepath.Join(file, "no-folder")) // as on a read-only file system
	k.start(t, Category{Name: "bets", Sources: []Source{{File: file}}})
	write(t, file, "casino.example\npoker.example\n")
	if err := k.Refresh(t.Context()); err != nil {
		t.Errorf("refresh: %v", err)
	}
	k.wantHas(t, "poker.example", true)
}

func TestRulesThatAreNotAboutAHostNameAreToldOfAFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rules.txt")
	write(t, file, "||ads.example^\n||a.example^$client=10.0.0.1\n||b.example^$dnsrewrite=NOERROR;A;1.2.3.4\nexample.org##.ad\n||c.example/ad/*\n||d*.example^\n")
	k := newKeeper(t.TempDir())
	k.use(t, Category{Name: "ads", Sources: []Source{{File: file}}})
	const want = "5 rules with a condition or another answer, or for a part of a page, a path or a pattern"
	if got := k.current.Load().status[0]; got.LeftOut != want || got.Entries != 1 {
		t.Errorf("got %+v, want %q", got, want)
	}
}

func TestOneBadListDoesNotTakeTheOthersWithIt(t *testing.T) {
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good.txt"), filepath.Join(dir, "bad.txt")
	write(t, good, "casino.example\n")
	write(t, bad, "<html>\npoker.example\n")
	k := newKeeper("")
	k.use(t, Category{Name: "bets", Sources: []Source{{File: bad}, {File: good}}})
	k.wantHas(t, "casino.example", true)
	k.wantHas(t, "poker.example", false) // nothing of a list that is refused
	k.wantHas(t, "other.example", false)
}

func TestAFileThatIsGoneLeavesItsLastGoodVersion(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bets.txt")
	write(t, file, "casino.example\n")
	c := Category{Name: "bets", Sources: []Source{{File: file}}}
	dir := t.TempDir()
	k := newKeeper(dir)
	stop := k.start(t, c)
	if err := k.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	again := newKeeper(dir)
	again.use(t, c)
	again.wantHas(t, "casino.example", true)
	again.wantHas(t, "other.example", false)
	if hits, err := again.current.Load().Find("casino.example"); err != nil || len(hits) != 1 || hits[0].List != file {
		t.Errorf("got %+v, %v; want the line of the last good version", hits, err)
	}

	// A copy that is damaged too is not taken for the list.
	for _, path := range files(t, dir, "*.list") {
		if err := os.WriteFile(path, []byte("poker.example\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	again = newKeeper(dir)
	again.use(t, c)
	if got := again.current.Load().status[0].Err; got == nil {
		t.Error("got no error, want one")
	}
	again.wantHas(t, "other.example", true) // everything is blocked
}

// An editor that saves a file empties it first. If penstock looks just then, or the disk is full, the category must not open.
func TestAFileThatIsLostWithoutACopyStaysInForce(t *testing.T) {
	for _, category := range []string{"gambling", "bets"} { // with a built-in list that has other names, and without one
		for name, lose := range map[string]func(file string) error{
			"emptied": func(file string) error { return os.Truncate(file, 0) }, "gone": os.Remove,
		} {
			t.Run(category+" "+name, func(t *testing.T) {
				file := filepath.Join(t.TempDir(), "bets.txt")
				write(t, file, "casino.example\n")
				k := newKeeper("")
				k.start(t, Category{Name: category, Sources: []Source{{File: file}}})
				if err := lose(file); err != nil {
					t.Fatal(err)
				}
				if err := k.Refresh(t.Context()); err == nil || !strings.Contains(err.Error(), category) {
					t.Errorf("got %v, want an error about %s", err, category)
				}
				k.wantHas(t, "casino.example", true)
				k.wantHas(t, "other.example", false)

				write(t, file, "casino.example\npoker.example\n")
				if err := k.Refresh(t.Context()); err != nil {
					t.Fatal(err)
				}
				k.wantHas(t, "poker.example", true)
			})
		}
	}
}

func TestAFileThatIsBeingWrittenIsNotRead(t *testing.T) {
	for _, row := range []struct {
		name   string
		change func(*os.File) error
		want   error
	}{
		{"it grows", func(f *os.File) error { _, err := f.WriteString("poker.example\n"); return err }, errChanging},
		{"it is cut", func(f *os.File) error { return f.Truncate(20) }, errChanging},
		{"its bytes change", func(f *os.File) error { return os.Chtimes(f.Name(), time.Time{}, time.Now().Add(time.Minute)) }, errChanging},
		{"another takes its place", func(f *os.File) error { return os.Remove(f.Name()) }, nil}, // what was opened is whole
		{"nothing happens", func(*os.File) error { return nil }, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			f, err := os.OpenFile(filepath.Join(t.TempDir(), "bets.txt"), os.O_CREATE|os.O_RDWR, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteString(names(10)); err != nil {
				t.Fatal(err)
			}
			r, err := openSteady(f.Name())
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			begun := make([]byte, 10)
			if _, err := io.ReadFull(r, begun); err != nil {
				t.Fatal(err)
			}
			if err := row.change(f); err != nil {
				t.Fatal(err)
			}
			report, err := blocklist.Check(io.MultiReader(bytes.NewReader(begun), r), blocklist.Options{List: "bets"})
			if !errors.Is(err, row.want) {
				t.Errorf("got %d entries, %v; want %v", report.Entries(), err, row.want)
			}
		})
	}
}
