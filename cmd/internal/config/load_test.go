package config

import (
	"flag"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "write the messages that come into the files that say what should come")

// TestBadFiles loads every archive in testdata/bad and compares the whole message. Lines "chmod MODE FILE" before the
// first file change a mode from 0600.
func TestBadFiles(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("modes and paths of the archives are those of Unix")
	}
	archives, err := filepath.Glob("testdata/bad/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatalf("no archives: %v", err)
	}
	for _, path := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			want := unpack(t, archive, dir)
			_, err = Load(filepath.Join(dir, "config.yaml"))
			if err == nil {
				t.Fatalf("got no error, want %s", want)
			}
			got := strings.ReplaceAll(err.Error(), dir, "$DIR") + "\n"
			for _, secret := range []string{"2Bo5n4y4CRcCcX2HMRSL1fBDMhgT1Z4x0AMkYmZ9DGA=", "hunter2"} {
				if strings.Contains(got, secret) {
					t.Errorf("the message shows the secret %s:\n%s", secret, got)
				}
			}
			if *update {
				archive.Files[len(archive.Files)-1].Data = []byte(got)
				if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("message (-want +got):\n%s", diff)
			}
		})
	}
}

// unpack writes the files of an archive and returns the one named want.
func unpack(t *testing.T, archive *txtar.Archive, dir string) (want string) {
	t.Helper()
	for _, f := range archive.Files {
		if f.Name == "want" {
			want = string(f.Data)
			continue
		}
		write(t, dir, f.Name, string(f.Data))
	}
	for line := range strings.Lines(string(archive.Comment)) {
		if words := strings.Fields(line); len(words) == 3 && words[0] == "chmod" {
			mode, err := strconv.ParseUint(words[1], 8, 32)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(filepath.Join(dir, words[2]), os.FileMode(mode)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return want
}

// write makes a file that only its owner can read, and returns its path.
func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
