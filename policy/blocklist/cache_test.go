package blocklist

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestACacheFileHoldsTheSameSet(t *testing.T) {
	want := listed(t, "ads: ||ads.example^ @@||ok.ads.example^ ||x.example^$important /^track[0-9]/", "adult: adult.example 192.0.2.7")
	path := filepath.Join(t.TempDir(), "lists.cache")
	if err := want.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	got, err := ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"ads.example", "ok.ads.example", "x.example", "track1.example", "www.adult.example", "other.example"} {
		if g, w := got.Lookup(host), want.Lookup(host); g != w {
			t.Errorf("%s: got %b, want %b", host, g, w)
		}
	}
	if got.Names() != want.Names() || got.named(^CategorySet(0)&3) != want.named(3) {
		t.Errorf("got %d names, want %d", got.Names(), want.Names())
	}
	files, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(files) != 1 {
		t.Errorf("got %d files, %v; want the cache alone", len(files), err)
	}
}

func TestADamagedCacheFileIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lists.cache")
	if err := listed(t, "ads: a.example b.example c.example").WriteFile(path); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := range good {
		bad := append([]byte(nil), good...)
		bad[at] ^= 0x21
		writeFile(t, path, bad)
		if _, err := ReadFile(path); !errors.Is(err, ErrCache) {
			t.Fatalf("byte %d changed: got %v, want ErrCache", at, err)
		}
		writeFile(t, path, good[:at])
		if _, err := ReadFile(path); !errors.Is(err, ErrCache) {
			t.Fatalf("cut to %d bytes: got %v, want ErrCache", at, err)
		}
	}
	if _, err := ReadFile(path + ".not"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want fs.ErrNotExist", err)
	}
}

func writeFile(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
