package resolver

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var ours = []netip.Addr{netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("fd77::1")}

// look describes what is at path: a link, a file with its mode, or nothing.
func look(t *testing.T, path string) string {
	t.Helper()
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "nothing"
	}
	must(t, err)
	if info.Mode()&fs.ModeSymlink != 0 {
		to, err := os.Readlink(path)
		must(t, err)
		return "link to " + to
	}
	content, err := os.ReadFile(path)
	must(t, err)
	return fmt.Sprintf("%s %q", info.Mode(), content)
}

func TestAFileIsReplacedAndComesBack(t *testing.T) {
	const original = "# from DHCP\nsearch home.example\nnameserver 192.168.1.1\noptions edns0\n"
	for name, arrange := range map[string]func(t *testing.T, path string){
		"a file": func(t *testing.T, path string) { must(t, os.WriteFile(path, []byte(original), 0o640)) },
		"a link": func(t *testing.T, path string) {
			must(t, os.WriteFile(path+".d", []byte(original), 0o644))
			must(t, os.Symlink(filepath.Base(path)+".d", path))
		},
		"a link to nothing": func(t *testing.T, path string) { must(t, os.Symlink("nowhere", path)) },
		"nothing":           func(*testing.T, string) {},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "resolv.conf")
			arrange(t, path)
			before := look(t, path)
			f, err := PlanFile(path, ours, []string{"corp.example", "~lab.example"})
			must(t, err)
			if there, err := f.Present(); there || err != nil {
				t.Errorf("before Write: got present %v, %v", there, err)
			}
			must(t, f.Write())
			if there, err := f.Present(); !there || err != nil {
				t.Errorf("after Write: got present %v, %v", there, err)
			}
			want := header + "\nnameserver 10.77.0.1\nnameserver fd77::1\nsearch corp.example\n"
			if strings.Contains(name, "nothing") {
				if f.Original() != nil {
					t.Errorf("got the original %q, want none", f.Original())
				}
			} else {
				want = strings.Replace(want, "corp.example\n", "corp.example home.example\noptions edns0\n", 1)
				if string(f.Original()) != original {
					t.Errorf("got the original %q, want %q", f.Original(), original)
				}
			}
			content, err := os.ReadFile(path)
			content, comments, _ := bytes.Cut(content, []byte(originalTitle))
			if err != nil || string(content) != want {
				t.Errorf("got  %q, %v\nwant %q", content, err, want)
			}
			again, err := PlanFile(path, ours, nil) // as the next process does, with the journal
			must(t, err)
			if adopted := again.Adopt(f); !adopted.SameOriginal(f) {
				t.Errorf("the next process has the original %+v, want %+v", adopted, f)
			}
			for line := range bytes.Lines(comments) {
				if len(line) > 80 || !bytes.HasPrefix(line, []byte("#")) {
					t.Errorf("got the line %q, want a short comment", line)
				}
			}
			if lost, err := PlanFile(path, ours, nil); err != nil || !lost.SameOriginal(f) { // without the journal
				t.Errorf("without the journal: got the original %+v, %v, want %+v", lost, err, f)
			}
			found, lost := Salvage(path)
			if lost || found == nil || !found.SameOriginal(f) {
				t.Fatalf("got %+v, %v, want the original", found, lost)
			}
			must(t, found.Undo())
			must(t, f.Undo())
			if after := look(t, path); after != before {
				t.Errorf("after Undo: got %s, want %s", after, before)
			}
		})
	}
}

func TestUndoLeavesWhatAnotherProgramWrote(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	must(t, os.WriteFile(path, []byte("nameserver 192.168.1.1\n"), 0o644))
	f, err := PlanFile(path, ours, nil)
	must(t, err)
	must(t, f.Write())
	const theirs = "nameserver 192.0.2.53\n"
	must(t, os.WriteFile(path, []byte(theirs), 0o644))
	again, err := PlanFile(path, ours, nil)
	must(t, err)
	if adopted := again.Adopt(f); string(adopted.Original()) != theirs {
		t.Errorf("got the original %q, want what the other program wrote", adopted.Original())
	}
	must(t, f.Undo())
	if content, _ := os.ReadFile(path); string(content) != theirs {
		t.Errorf("got %q, want it left alone", content)
	}
}

func TestUndoRepairsAFileThatWasCutShort(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	const original = "nameserver 192.168.1.1\n"
	must(t, os.WriteFile(path, []byte(original), 0o644))
	f, err := PlanFile(path, ours, nil)
	must(t, err)
	must(t, os.Truncate(path, 0)) // as a process that is killed while it writes in place
	must(t, f.Undo())
	if content, _ := os.ReadFile(path); string(content) != original {
		t.Errorf("got %q, want the original", content)
	}
}

func TestWhatAKilledWriterLeftBesideTheFileIsRemoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	f, err := PlanFile(path, ours, nil)
	must(t, err)
	for name, do := range map[string]func() error{"Write": f.Write, "Undo": f.Undo} {
		left, theirs := filepath.Join(filepath.Dir(path), ".resolv.conf.907192361"), filepath.Join(filepath.Dir(path), ".resolv.conf.swp")
		must(t, os.WriteFile(left, nil, 0o600))
		must(t, os.WriteFile(theirs, nil, 0o600))
		must(t, do())
		if _, err := os.Lstat(left); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the file that a killed process has left is still there: %v", name, err)
		}
		if _, err := os.Lstat(theirs); err != nil {
			t.Errorf("%s: another program's file is gone: %v", name, err)
		}
	}
}

func TestAnOriginalThatWasLostIsNotOurs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	must(t, os.WriteFile(path, []byte(header+"\nnameserver 10.77.0.1\n"), 0o644))
	f, err := PlanFile(path, ours, nil)
	must(t, err)
	if f.Original() != nil {
		t.Errorf("got %q, want nothing: it is our own file", f.Original())
	}
}

func TestSalvageBelievesOurWholeFileAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	must(t, os.WriteFile(path, []byte("nameserver 192.168.1.1\n"), 0o644))
	f, err := PlanFile(path, ours, nil)
	must(t, err)
	must(t, f.Write())
	whole, err := os.ReadFile(path)
	must(t, err)
	copied := f.render()
	foreign, err := json.Marshal(original{"net:[1]", *f})
	must(t, err)
	copied = append(bytes.Split(copied, []byte(originalTitle))[0], originalPrefix+base64.StdEncoding.EncodeToString(foreign)+"\n"...)
	for _, row := range []struct {
		sentence string
		content  []byte
		is, lost bool
	}{
		{"ours", whole, true, false},
		{"ours, of an earlier version", []byte(header + "\nnameserver 10.77.0.1\n"), false, true},
		{"cut short", whole[:len(whole)-20], false, true},
		{"the copy in a container of its host's", copied, false, true},
		{"another program's", append([]byte("# hello\n"), whole...), false, false},
		{"empty", nil, false, false},
	} {
		must(t, os.WriteFile(path, row.content, 0o644))
		if f, lost := Salvage(path); (f != nil) != row.is || lost != row.lost {
			t.Errorf("%s: got %+v, %t", row.sentence, f, lost)
		}
	}
	if f, lost := Salvage(path + ".missing"); f != nil || lost {
		t.Errorf("no file: got %+v, %t", f, lost)
	}
}

func TestIsFixed(t *testing.T) {
	for _, e := range []error{unix.EPERM, unix.EACCES, unix.EROFS, unix.EBUSY} {
		if !IsFixed(fmt.Errorf("wrapped: %w", e)) {
			t.Errorf("%v: got false, want a file that cannot be changed", e)
		}
	}
	for _, e := range []error{nil, unix.ENOSPC, unix.EIO} {
		if IsFixed(e) {
			t.Errorf("%v: got true, want a failure", e)
		}
	}
}

func TestServersLeavesOutOursAndTheStub(t *testing.T) {
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+filepath.Join(t.TempDir(), "no-bus"))
	got := Servers(&Bus{}, []byte("nameserver 192.168.1.1\nnameserver 10.77.0.1\nnameserver 192.168.1.1\nnameserver ::ffff:192.0.2.2\n"), 0, ours)
	if want := "[192.168.1.1 192.0.2.2]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
	path := filepath.Join(t.TempDir(), "resolv.conf")
	for content, want := range map[string]bool{"nameserver 127.0.0.53\n": true, "nameserver 127.0.0.1\n": false, "": false} {
		must(t, os.WriteFile(path, []byte(content), 0o644))
		if got := StubInUse(path); got != want {
			t.Errorf("StubInUse of %q: got %v, want %v", content, got, want)
		}
	}
	if StubInUse(path + ".missing") {
		t.Error("StubInUse of no file: got true")
	}
}

// What only root may read must not become readable by all, in the comments of our file.
func TestAnOriginalThatOthersMayNotReadStaysSo(t *testing.T) {
	dir := t.TempDir()
	target, path := filepath.Join(dir, "target"), filepath.Join(dir, "resolv.conf")
	if err := os.WriteFile(target, []byte("nameserver 10.0.0.1\n# secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
	f, err := PlanFile(path, []netip.Addr{netip.MustParseAddr("100.64.0.1")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Write(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	o := originalIn(content, path)
	if o == nil || o.Link != target {
		t.Fatalf("the link is not in our file: %+v", o)
	}
	if info.Mode().Perm()&0o004 != 0 && len(o.Content) > 0 {
		t.Errorf("mode %v, and the original of mode 0600 is in it", info.Mode().Perm())
	}
}
