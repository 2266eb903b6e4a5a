package lastgood

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"penstock/cmd/internal/config"
)

// world writes files below a folder, by their names there.
func world(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const gateway = `listen:
  wireguard: {listen_port: 51820, address: [10.99.0.1/24], private_key: {file: keys/gateway.key}}
include: [peers.d/*.yaml]
categories: {bad: {lists: [{file: bad.txt}]}}
flow_log: {file: flows.log}
rules: [{name: no, match: {category: bad}, do: block}, {name: rest, do: direct}]
`

const key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"

func TestACopyStandsInForItsFiles(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a path below a folder cannot have a drive")
	}
	dir := world(t, map[string]string{
		"config.yaml": gateway, "keys/gateway.key": key, "bad.txt": "casino.example\n",
		"peers.d/ana.yaml": "peers: [{name: ana, public_key: QKLNDTphfWCUSf/SIXuO7CqhJDEhDFRw6cQ7RxUHPVo=, allowed_ips: [10.99.0.2/32]}]\n",
	})
	path := filepath.Join(dir, "config.yaml")
	good := Copy{Dir: filepath.Join(t.TempDir(), "good")}
	if _, _, err := good.Load(path); !errors.Is(err, ErrNone) {
		t.Errorf("before anything was kept: got %v, want ErrNone", err)
	}
	c, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	files := append(c.Files, c.Inputs...)
	if err := good.Keep(files, c.Kept); err != nil {
		t.Fatal(err)
	}
	// Everything breaks at once.
	for _, name := range []string{"keys/gateway.key", "bad.txt", "peers.d/ana.yaml"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, []byte("listen: {tunn: {}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, when := range []string{"kept", "kept, and a further copy was cut short"} {
		got, kept, err := good.Load(path)
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if got.Peers.Len() != 1 || kept.IsZero() || got.Path != path {
			t.Errorf("%s: got %d peers, kept at %v, path %s; want 1 and the path of the original", when, got.Peers.Len(), kept, got.Path)
		}
		if secret, err := got.Listen.WireGuard.PrivateKey.Read(); err != nil || secret != strings.TrimSpace(key) {
			t.Errorf("%s: the key: got %q, %v", when, secret, err)
		}
		if list := got.Categories["bad"].Lists[0].File; !strings.HasPrefix(list, good.Dir) {
			t.Errorf("%s: the list: got %s, want that of the copy", when, list)
		}
		if want := filepath.Join(dir, "flows.log"); got.FlowLog.File != want {
			t.Errorf("%s: the flow log: got %s, want %s", when, got.FlowLog.File, want)
		}
		if when == "kept" {
			if err := os.Rename(good.Dir, good.Dir+".old"); err != nil { // as Keep does
				t.Fatal(err)
			}
		}
	}
	if err := os.Rename(good.Dir+".old", good.Dir); err != nil {
		t.Fatal(err)
	}

	err = filepath.WalkDir(good.Dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if info, err := d.Info(); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: got mode %v, %v; others may read it", path, info.Mode(), err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestAFailedCopyLeavesTheEarlierOne(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a path below a folder cannot have a drive")
	}
	dir := world(t, map[string]string{"config.yaml": "rules: [{name: rest, do: direct}]\nlisten: {tun: {}}\n", "other": ""})
	path := filepath.Join(dir, "config.yaml")
	good := Copy{Dir: filepath.Join(t.TempDir(), "good")}
	if err := good.Keep([]string{path}, (&config.Config{}).Kept); err != nil {
		t.Fatal(err)
	}
	if err := good.Keep([]string{path, filepath.Join(dir, "other", "not a folder")}, (&config.Config{}).Kept); err == nil {
		t.Error("a file below a file: got no error")
	}
	if err := good.Keep([]string{filepath.Join(dir, "gone")}, (&config.Config{}).Kept); err == nil {
		t.Error("a configuration that is gone: got no error")
	}
	if _, _, err := good.Load(path); err != nil {
		t.Errorf("after a failed copy: %v", err)
	}
	if err := (Copy{}).Keep([]string{path}, (&config.Config{}).Kept); err != nil {
		t.Errorf("without a folder: got %v, want nothing", err)
	}
}

// TestAFileOfPeersIsKeptAsItWorks breaks a file of peers while penstock runs, and starts it again.
func TestAFileOfPeersIsKeptAsItWorks(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a path below a folder cannot have a drive")
	}
	const ana = "peers: [{name: ana, public_key: QKLNDTphfWCUSf/SIXuO7CqhJDEhDFRw6cQ7RxUHPVo=, allowed_ips: [10.99.0.2/32]}]\n"
	dir := world(t, map[string]string{"config.yaml": gateway, "keys/gateway.key": key, "bad.txt": "casino.example\n", "peers.d/ana.yaml": ana})
	path, file := filepath.Join(dir, "config.yaml"), filepath.Join(dir, "peers.d", "ana.yaml")
	good := Copy{Dir: filepath.Join(t.TempDir(), "good")}
	if _, known := good.Former(file); known {
		t.Error("before anything was kept: got a text")
	}
	c, err := config.LoadServing(path, good.Former)
	if err != nil {
		t.Fatal(err)
	}
	for _, when := range []string{"at a reload", "at the next start", "at the start after that"} {
		if err := good.Keep(append(c.Files, c.Inputs...), c.Kept); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(ana[:40]), 0o600); err != nil {
			t.Fatal(err)
		}
		if when == "at a reload" {
			c, err = c.Reload()
		} else {
			c, err = config.LoadServing(path, good.Former)
		}
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if c.Peers.Len() != 1 || len(c.Bad) != 1 || !c.Bad[0].Kept {
			t.Errorf("%s: got %d peers and bad files %+v, want ana as she was", when, c.Peers.Len(), c.Bad)
		}
	}
}

// TestACopyWithoutAPeerThatRulesName has a file that never worked, of a peer that a rule and a test are about.
func TestACopyWithoutAPeerThatRulesName(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a path below a folder cannot have a drive")
	}
	const ben = "peers: [{name: ben, public_key: QKLNDTphfWCUSf/SIXuO7CqhJDEhDFRw6cQ7RxUHPVo=, allowed_ips: [10.99.0.3/32]}]\n"
	text := strings.Replace(gateway, "rules: [", "tests: [{from: ana, to: x.example, expect: block}]\nrules: [{name: ana, match: {peer: ana}, do: block}, ", 1)
	dir := world(t, map[string]string{"config.yaml": text, "keys/gateway.key": key, "bad.txt": "casino.example\n", "peers.d/ana.yaml": "peers: [{na", "peers.d/ben.yaml": ben})
	path := filepath.Join(dir, "config.yaml")
	good := Copy{Dir: filepath.Join(t.TempDir(), "good")}
	c, err := config.LoadServing(path, good.Former)
	if err != nil {
		t.Fatal(err)
	}
	if err := good.Keep(append(c.Files, c.Inputs...), c.Kept); err != nil {
		t.Fatal(err)
	}
	copied, _, err := good.Load(path)
	if err != nil || copied.Peers.Len() != 1 {
		t.Errorf("got %v, %v; want a copy that can be run, with ben", copied, err)
	}
}
