package config

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	folderConfig = `include: peers.d/*.yaml
listen: {wireguard: {address: 10.78.0.1/24, private_key: {file: gateway.key}}}
rules: [{name: ana, match: {peer: ana}, do: block}, {name: rest, do: direct}]
tests: [{from: ana, to: x.example, expect: block}]
`
	anaFile = "peers: [{name: ana, public_key: QKLNDTphfWCUSf/SIXuO7CqhJDEhDFRw6cQ7RxUHPVo=, allowed_ips: 10.78.0.2/32}]\n"
	benFile = "peers: [{name: ben, public_key: RKLNDTphfWCUSf/SIXuO7CqhJDEhDFRw6cQ7RxUHPVo=, allowed_ips: 10.78.0.3/32}]\n"
	eveFile = "peers: [{name: eve, public_key: SKLNDTphfWCUSf/SIXuO7CqhJDEhDFRw6cQ7RxUHPVo=, allowed_ips: 10.78.0.9/32}]\n"
)

// folder writes the configuration of a gateway with two peers in a folder, and returns its path.
func folder(t *testing.T) (dir, path string) {
	t.Helper()
	dir = t.TempDir()
	write(t, dir, "gateway.key", "2Bo5n4y4CRcCcX2HMRSL1fBDMhgT1Z4x0AMkYmZ9DGA=\n")
	write(t, dir, "peers.d/ana.yaml", anaFile)
	write(t, dir, "peers.d/ben.yaml", benFile)
	return dir, write(t, dir, "config.yaml", folderConfig)
}

func peersOf(c *Config) string {
	var names []string
	for _, p := range c.Peers.All() {
		names = append(names, p.Name+"@"+p.AllowedIPs[0].Addr().String())
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// TestABadFileOfPeersCostsItsPeersOnly breaks a file in each way, at a start and at a reload.
func TestABadFileOfPeersCostsItsPeersOnly(t *testing.T) {
	const both = "ana@10.78.0.2 ben@10.78.0.3"
	for _, row := range []struct {
		name, file, text  string
		started, reloaded string // the peers
		says              string
		kept              bool // at the reload
	}{
		{"half a file", "ana.yaml", anaFile[:30], "ben@10.78.0.3", both, "not YAML", true},
		{"an empty file", "ana.yaml", "", "ben@10.78.0.3", both, "the file is empty", true},
		{"the beginning of a word", "ana.yaml", "pee", "ben@10.78.0.3", both, "the file is", true},
		{"a misspelt section", "ana.yaml", "pers: []\n", "ben@10.78.0.3", both, "unknown key", true},
		{"a key that is none", "ana.yaml", strings.Replace(anaFile, "QKL", "Q", 1), "ben@10.78.0.3", both, "not 32 bytes", true},
		{"the gateway's key", "ana.yaml", strings.Replace(anaFile, "QKLNDTphfWCUSf/SIXuO7CqhJDEhDFRw6cQ7RxUHPVo=", "A2SDNaMV+WD6LHUWUumef7WsJjELbZve3TcQIxIEzy8=", 1),
			"ben@10.78.0.3", both, "is the gateway's", true},
		{"another's address", "ana.yaml", strings.Replace(anaFile, "10.78.0.2", "10.78.0.3", 1), "ana@10.78.0.3", both, "peer ben, at", true},
		{"a secret that is gone", "ana.yaml", strings.Replace(anaFile, "}]", ", preshared_key: {file: none}}]", 1), "ben@10.78.0.3", both, "there is no file", true},
		{"a new file, half", "aaa.yaml", eveFile[:40], both, both, "not YAML", false},
		{"a new file that wants another's address and comes before it", "aaa.yaml", strings.Replace(eveFile, "10.78.0.9", "10.78.0.3", 1),
			"ana@10.78.0.2 eve@10.78.0.3", both, "at", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir, path := folder(t)
			before, err := LoadServing(path, nil)
			if err != nil || len(before.Bad) > 0 {
				t.Fatalf("got %v, %v; want no fault before", before, err)
			}
			write(t, dir, "peers.d/"+row.file, row.text)
			if c, err := Load(path); err == nil {
				t.Errorf("check accepts it: %s", peersOf(c))
			}
			started, err := LoadServing(path, nil)
			if err != nil {
				t.Fatalf("at a start: %v", err)
			}
			if got := peersOf(started); got != row.started || len(started.Bad) != 1 || started.Bad[0].Kept {
				t.Errorf("at a start: got peers %q and bad files %+v, want peers %q and one file left out", got, started.Bad, row.started)
			}
			for _, reload := range []func() (*Config, error){before.Reload, before.ReloadPeers} {
				c, err := reload()
				if err != nil {
					t.Fatalf("at a reload: %v", err)
				}
				if got := peersOf(c); got != row.reloaded {
					t.Errorf("at a reload: got peers %q, want %q", got, row.reloaded)
				}
				if len(c.Bad) != 1 || c.Bad[0].File != filepath.Join(dir, "peers.d", row.file) || c.Bad[0].Kept != row.kept || !strings.Contains(c.Bad[0].String(), row.says) {
					t.Errorf("at a reload: got bad files %+v, want %s, kept %v, saying %q", c.Bad, row.file, row.kept, row.says)
				}
				if again, err := c.Reload(); err != nil || peersOf(again) != row.reloaded {
					t.Errorf("at the next reload: got %v, want the peers %q", err, row.reloaded)
				}
			}
			if warnings := strings.Join(started.Warnings(), "\n"); !strings.Contains(warnings, started.Bad[0].File) {
				t.Errorf("got warnings %q, want one about the file", warnings)
			}
		})
	}
}

func TestAFormerTextThatDoesNotFitIsLeftOut(t *testing.T) {
	dir, path := folder(t)
	before, err := LoadServing(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "peers.d/ana.yaml", anaFile[:30])
	write(t, dir, "config.yaml", strings.Replace(folderConfig, "10.78.0.1/24", "10.78.0.2/24", 1)) // what was ana's is now the gateway's
	c, err := before.Reload()
	if err != nil {
		t.Fatal(err)
	}
	if got := peersOf(c); got != "ben@10.78.0.3" || len(c.Bad) != 1 || c.Bad[0].Kept {
		t.Errorf("got peers %q and bad files %+v, want ben and ana's left out", got, c.Bad)
	}
}

// TestOtherFilesAreAllOrNothing breaks files that may have more than peers in them: leaving those out could lift a block.
func TestOtherFilesAreAllOrNothing(t *testing.T) {
	for _, row := range []struct{ name, file, text string }{
		{"the configuration itself", "config.yaml", folderConfig + "rulse: []\n"},
		{"a file of rules among those of peers", "peers.d/rules.yaml", "rules: [{name: no, match: {port: 1}, do: blok}]\n"},
		{"half a file of rules", "peers.d/rules.yaml", "rules:\n - {name: no, mat"},
		{"half a file of rules in one line", "peers.d/rules.yaml", "{rules: [{name: no, mat"},
		{"a file of peers with a rule", "peers.d/ana.yaml", anaFile + "rules: [{name: no, match: {port: 1}, do: blok}]\n"},
		{"a file of a folder in which another has rules", "more.d/b.yaml", "pe"},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir, path := folder(t)
			write(t, dir, "more.d/a.yaml", "rules: [{name: no, match: {port: 1}, do: block}]\n")
			write(t, dir, "more.d/b.yaml", "rules: [{name: no2, match: {port: 2}, do: block}]\n")
			write(t, dir, "config.yaml", strings.Replace(folderConfig, "peers.d/*.yaml", "[peers.d/*.yaml, more.d/*.yaml]", 1))
			before, err := LoadServing(path, nil)
			if err != nil {
				t.Fatal(err)
			}
			write(t, dir, row.file, row.text)
			if c, err := LoadServing(path, nil); err == nil {
				t.Errorf("at a start: got peers %q and bad files %+v, want an error", peersOf(c), c.Bad)
			}
			if c, err := before.Reload(); err == nil {
				t.Errorf("at a reload: got peers %q and bad files %+v, want an error", peersOf(c), c.Bad)
			}
		})
	}
}

func TestReloadPeersReadsNothingElse(t *testing.T) {
	dir, path := folder(t)
	write(t, dir, "config.yaml", strings.Replace(folderConfig, "peers.d/*.yaml", "[peers.d/*.yaml, more.d/*.yaml]", 1))
	write(t, dir, "more.d/rules.yaml", "rules: [{name: no, match: {port: 1}, do: block}]\n")
	write(t, dir, "more.d/fay.yaml", strings.NewReplacer("eve", "fay", "SKL", "TKL", "10.78.0.9", "10.78.0.8").Replace(eveFile))
	c, err := LoadServing(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "config.yaml", "nonsense")
	if err := os.RemoveAll(filepath.Join(dir, "more.d")); err != nil {
		t.Fatal(err)
	}
	if _, changed := c.Look(); changed {
		t.Error("a change in a folder that has rules too is none of the peers'")
	}
	if err := os.Remove(filepath.Join(dir, "peers.d/ben.yaml")); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "peers.d/eve.yaml", eveFile)
	next, err := c.ReloadPeers()
	if err != nil {
		t.Fatal(err)
	}
	if got := peersOf(next); got != "ana@10.78.0.2 eve@10.78.0.9 fay@10.78.0.8" || len(next.Rules) != 3 {
		t.Errorf("got peers %q and %d rules, want what was read before but for ben, who is gone, and eve", got, len(next.Rules))
	}
	write(t, dir, "peers.d/more.yaml", "rules: [{name: no9, match: {port: 1}, do: block}]\n")
	if _, err := next.ReloadPeers(); err == nil || !strings.Contains(err.Error(), "more.yaml: the file is new and has more than peers in it: run penstock reload") {
		t.Errorf("a new file with rules: got %v", err)
	}
}

func TestLookSeesEachChange(t *testing.T) {
	dir, path := folder(t)
	for _, row := range []struct {
		name   string
		change func() error
		want   bool
	}{
		{"nothing", func() error { return nil }, false},
		{"another file of the folder", func() error { return os.WriteFile(filepath.Join(dir, "peers.d/.lock"), nil, 0o600) }, false},
		{"the configuration itself", func() error { return os.WriteFile(path, []byte(folderConfig+"\n"), 0o600) }, false},
		{"a longer file", func() error {
			return os.WriteFile(filepath.Join(dir, "peers.d/ana.yaml"), []byte(anaFile+"\n"), 0o600)
		}, true},
		{"a new file", func() error { return os.WriteFile(filepath.Join(dir, "peers.d/new.yaml"), nil, 0o600) }, true},
		{"a file that is gone", func() error { return os.Remove(filepath.Join(dir, "peers.d/ben.yaml")) }, true},
		{"another mode", func() error { return os.Chmod(filepath.Join(dir, "peers.d/ana.yaml"), 0o644) }, true},
	} {
		c, err := LoadServing(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := row.change(); err != nil {
			t.Fatal(err)
		}
		if _, changed := c.Look(); changed != row.want {
			t.Errorf("%s: changed is %v, want %v", row.name, changed, row.want)
		}
	}
}

// TestWhoHadAnAddressKeepsIt has a newcomer that wants an address of ana, whose file changes as well.
func TestWhoHadAnAddressKeepsIt(t *testing.T) {
	dir, path := folder(t)
	before, err := LoadServing(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "peers.d/aaa.yaml", strings.Replace(eveFile, "10.78.0.9", "10.78.0.2", 1))
	for _, step := range []string{"when it comes", "when ana's file changes", "when it stays"} {
		c, err := before.Reload()
		if err != nil {
			t.Fatal(err)
		}
		if got := peersOf(c); got != "ana@10.78.0.2 ben@10.78.0.3" || len(c.Bad) != 1 || filepath.Base(c.Bad[0].File) != "aaa.yaml" || c.Bad[0].Kept {
			t.Errorf("%s: got peers %q and bad files %+v, want ana and ben, and the newcomer left out", step, got, c.Bad)
		}
		if step == "when ana's file changes" && !slices.Equal(c.Peers.At(0).Groups, []string{"staff"}) {
			t.Errorf("%s: got %+v, want it to be in force", step, c.Peers.At(0))
		}
		write(t, dir, "peers.d/ana.yaml", strings.Replace(anaFile, "}]", ", groups: staff}]", 1))
		before = c
	}
}

// TestAFileThatHadRulesIsNotLeftOut empties a file of rules beside those of peers: nothing in it says what it was.
func TestAFileThatHadRulesIsNotLeftOut(t *testing.T) {
	for _, text := range []string{"", "rul", "{ru"} {
		dir, path := folder(t)
		write(t, dir, "peers.d/rules.yaml", "rules: [{name: no, match: {port: 1}, do: block}]\n")
		c, err := LoadServing(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		write(t, dir, "peers.d/rules.yaml", text)
		for _, reload := range []func() (*Config, error){c.Reload, c.ReloadPeers} {
			if next, err := reload(); err == nil && len(next.Rules) != len(c.Rules) {
				t.Errorf("%q: got %d rules, want %d or an error", text, len(next.Rules), len(c.Rules))
			}
		}
	}
}

// TestNoKeyOfAPeerIsASection keeps text that cannot be parsed readable for sectionsOf.
func TestNoKeyOfAPeerIsASection(t *testing.T) {
	top := fieldsOf(reflect.TypeFor[Config]())
	for _, inner := range []reflect.Type{reflect.TypeFor[Peer](), reflect.TypeFor[Secret]()} {
		for key := range fieldsOf(inner) {
			if _, known := top[key]; known {
				t.Errorf("%s has the key %s, which is a section too: half a file of peers would count as one with other sections", inner.Name(), key)
			}
		}
	}
}

// TestOneMoreFileOfPeersIsCheckedAsInAReload adds a file in each way, and compares what With says to what Reload says.
func TestOneMoreFileOfPeersIsCheckedAsInAReload(t *testing.T) {
	const key = "SKLNDTphfWCUSf/SIXuO7CqhJDEhDFRw6cQ7RxUHPVo="
	for _, row := range []struct {
		sentence, text string
		prepare        func(t *testing.T, dir string)
		fault          string // empty: it is taken
	}{
		{"a peer is added", eveFile, nil, ""},
		{"a peer is added as penstock writes it", "peers:\n  - name: \"eve\"\n    public_key: " + key + "\n    allowed_ips: [\"10.78.0.9/32\"]\n", nil, ""},
		{"a peer is added that is not plain", "peers:\n  - name: eve\n    public_key: " + key + "\n    allowed_ips: 10.78.0.9/32\n    rate: {up: 20Mbit}\n", nil, ""},
		{"its key is another's", strings.Replace(eveFile, "SKLN", "QKLN", 1), nil, "key"},
		{"its address is another's", strings.Replace(eveFile, "10.78.0.9/32", "10.78.0.3/32", 1), nil, "10.78.0.3"},
		{"its network holds another's address", strings.Replace(eveFile, "10.78.0.9/32", "10.78.0.0/30", 1), nil, "10.78.0."},
		{"its name is another's", strings.Replace(eveFile, "eve", "ana", 1), nil, "ana"},
		{"its key is none", strings.Replace(eveFile, "SKLN", "", 1), nil, "32 bytes"},
		{"it is not YAML", "peers: [{name: eve", nil, "YAML"},
		{"it has a key that no peer has", strings.Replace(eveFile, "name", "nam", 1), nil, "nam"},
		{"it is empty", "", nil, "empty"},
		{"it has rules", "rules: [{name: all, do: block}]\n", nil, "rules"},
		{"the file of another peer is broken, and named", eveFile, func(t *testing.T, dir string) { write(t, dir, "peers.d/ben.yaml", "peers: [{name: ben") }, ""},
		{"it wants the address of another peer whose file is broken in another way", strings.Replace(eveFile, "10.78.0.9", "10.78.0.3", 1),
			func(t *testing.T, dir string) {
				write(t, dir, "peers.d/ben.yaml", strings.Replace(benFile, "RKLN", "", 1))
			}, "10.78.0.3"},
		{"a rule is about a peer whose file is broken", eveFile, func(t *testing.T, dir string) { write(t, dir, "peers.d/ana.yaml", "peers: [{name: ana") }, ""},
		{"others may write it", eveFile, func(t *testing.T, dir string) {
			if err := os.Chmod(filepath.Join(dir, "peers.d/eve.yaml"), 0o622); err != nil {
				t.Fatal(err)
			}
		}, "mode"},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			dir, path := folder(t)
			file := filepath.Join(dir, "peers.d/eve.yaml")
			write(t, dir, "peers.d/eve.yaml", row.text)
			if row.prepare != nil {
				row.prepare(t, dir)
			}
			aside := filepath.Join(dir, "aside")
			if err := os.Rename(file, aside); err != nil {
				t.Fatal(err)
			}
			c, err := LoadServing(path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(aside, file); err != nil {
				t.Fatal(err)
			}
			before, bad, files := peersOf(c), len(c.Bad), slices.Clone(c.Files)
			next, err := c.With(file)
			if peersOf(c) != before || !slices.Equal(c.Files, files) || c.Validate() != nil {
				t.Errorf("the configuration has changed: %s and %v", peersOf(c), c.Files)
			}
			want, wantErr := c.Reload()
			if wantErr == nil {
				wantErr = want.ErrOf(file)
			}
			if row.fault != "" {
				if err == nil || wantErr == nil || !strings.Contains(err.Error(), row.fault) {
					t.Fatalf("got %v and after a reload %v, want both to be about %q", err, wantErr, row.fault)
				}
				if err.Error() != wantErr.Error() {
					t.Errorf("got %v, want what a reload says: %v", err, wantErr)
				}
				return
			}
			if err != nil || wantErr != nil {
				t.Fatalf("got %v and after a reload %v, want none", err, wantErr)
			}
			if peersOf(next) != peersOf(want) || len(next.Bad) != bad || !slices.Equal(next.Absent, want.Absent) {
				t.Errorf("got %s, %v, want what a reload has: %s, %v", peersOf(next), next.Absent, peersOf(want), want.Absent)
			}
			isEve := func(p Peer) bool { return p.Name == "eve" }
			i, j := next.Peers.Index(isEve), want.Peers.Index(isEve)
			if !next.Peers.At(i).SameAs(want.Peers.At(j)) || next.Position("peers["+strconv.Itoa(i)+"].allowed_ips") != want.Position("peers["+strconv.Itoa(j)+"].allowed_ips") {
				t.Errorf("got %+v, want %+v", next.Peers.At(i), want.Peers.At(j))
			}
		})
	}
}

func TestIncludesOfAFileAlone(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string]string{
		"include: peers.d/*.yaml\n":               "peers.d/*.yaml",
		"include: [a.yaml, 'b/*.yaml']\nx: [1]\n": "a.yaml b/*.yaml",
		"rules: []\n": "",
		"include: [":  "",
	} {
		if got := strings.Join(Includes(write(t, dir, "config.yaml", text)), " "); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
	if got := Includes(filepath.Join(dir, "missing.yaml")); got != nil {
		t.Errorf("a missing file: got %q", got)
	}
}
