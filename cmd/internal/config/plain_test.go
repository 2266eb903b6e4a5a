package config

import (
	"encoding/base64"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const somePlain = `# who may connect

peers:
  - {name: ana, public_key: "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=", allowed_ips: [10.77.0.2/32], groups: [staff, it]}
  - {name: "bob", public_key: xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dh=, allowed_ips: ["10.77.0.3/32", "fd77::3/128"], groups: staff}
# on leave
  - {name: eve, allowed_ips: 10.77.0.4/32, disabled: true, persistent_keepalive: 25s}
  - {allowed_ips: [10.77.0.5/32, 10.77.1.0/24], name: joe, expires: "2030-01-02T03:04:05Z", dns_renewals: 3}
`

const someBlock = `peers:
  - name: "ana"
    public_key: xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=
    allowed_ips: ["10.77.0.2/32", "fd77::2/128"]
    groups: ["staff"]
    dns_renewals: 2
    disabled: true
    expires: "2030-01-02T03:04:05Z"
  - name: bob
    allowed_ips: 10.77.0.3/32
  - {name: eve}
`

var comparablePrefixes = cmpopts.EquateComparable(netip.Prefix{})

// both decodes text as a plain file, if it is one, and as any other.
func both(text string) (plain, slow *decoder, isPlain bool) {
	const path = "/etc/penstock/peers/some.yaml"
	plain, slow = newDecoder(path), newDecoder(path)
	for _, d := range []*decoder{plain, slow} {
		d.config.Files, d.config.texts[path] = []string{path}, text
	}
	isPlain = decodePlain(plain, path)
	decodeYAML(slow, path, []byte(text))
	return plain, slow, isPlain
}

// samePeers reports a difference between two ways to decode a text. It must be a plain one.
func samePeers(t *testing.T, text string, plain, slow *decoder) {
	t.Helper()
	if len(slow.faults) > 0 {
		t.Fatalf("the decoder finds a fault in a plain file: %v\n%s", slow.faults, text)
	}
	if diff := cmp.Diff(slow.config.Peers.Slice(), plain.config.Peers.Slice(), comparablePrefixes); diff != "" {
		t.Fatalf("peers differ (-slow +plain):\n%s\n%s", diff, text)
	}
	for _, path := range slices.Sorted(maps.Keys(slow.config.positions)) {
		for _, at := range []string{path, path + ".nothing", path + "[7]"} {
			if got, want := plain.config.Position(at), slow.config.Position(at); got != want {
				t.Errorf("position of %s: got %v, want %v\n%s", at, got, want, text)
			}
		}
	}
}

func TestPlain(t *testing.T) {
	for name, text := range map[string]string{"lines": somePlain, "blocks": someBlock, "not indented": strings.ReplaceAll(someBlock, "\n  ", "\n")} {
		t.Run(name, func(t *testing.T) {
			plain, slow, isPlain := both(text)
			if !isPlain {
				t.Fatalf("got a file that is not plain, want one that is:\n%s", text)
			}
			samePeers(t, text, plain, slow)
		})
	}
}

// TestPlainAgrees composes files of words that YAML takes for this or that.
func TestPlainAgrees(t *testing.T) {
	words := []string{
		"ana", "a-b", "a.b@c_d", "a", "y", "No", "NULL", "Inf", "e5", "a1e5", "true", "False", "x0x1", "\"true\"", "\"12\"", "\"a:b\"", "\"null\"", "\"-\"",
		"\"0x12\"", "\"1e3\"", "\"=\"", "\"+\"", "\"a: b\"", "12", "0x12", "1e3", "~", "-", "\"\"", "a:b", "\"/\"", "\".inf\"", "\"@a\"",
		"10.0.0.1/32", "10.0.0.1/8", "\"10.0.0.1/32\"", "\"fd77::1/64\"", "fd77::1/64", "10.0.0.256/1", "\"::ffff:10.0.0.1/120\"",
		"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=", "1TIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8D+=", "\"/TIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\"",
		"0x12345rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=", "2030", "\"2030-01-02T03:04:05Z\"", "\"2030-01-02\"", "25s", "0s", "1m", "007s", "3", "03", "123456789",
	}
	keys := []string{"name", "name", "name", "public_key", "allowed_ips", "groups", "disabled", "expires", "persistent_keepalive", "dns_renewals"}
	random := rand.New(rand.NewPCG(1, 2))
	word := func() string { return words[random.IntN(len(words))] }
	pair := func(key string) string {
		value := word()
		if key == "allowed_ips" || key == "groups" || random.IntN(20) == 0 {
			list := []string{word()}
			for random.IntN(3) == 0 {
				list = append(list, word())
			}
			if value = "[" + strings.Join(list, ", ") + "]"; random.IntN(4) == 0 {
				value = list[0]
			}
		}
		return key + ": " + value
	}
	agreed := 0
	for range 30_000 {
		indent := strings.Repeat(" ", random.IntN(5))
		text := "peers:\n"
		for range 1 + random.IntN(2) {
			pairs := []string{pair(keys[random.IntN(len(keys))])}
			if random.IntN(2) == 0 {
				pairs = append(pairs, pair(keys[random.IntN(len(keys))]))
			}
			if random.IntN(2) == 0 {
				text += indent + "- {" + strings.Join(pairs, ", ") + "}\n"
			} else {
				text += indent + "- " + strings.Join(pairs, "\n  "+indent) + "\n"
			}
			if random.IntN(10) == 0 {
				text += "# a comment\n"
			}
		}
		plain, slow, isPlain := both(text)
		if isPlain {
			agreed++
			samePeers(t, text, plain, slow)
		}
		if t.Failed() {
			return
		}
	}
	if agreed < 1000 {
		t.Errorf("got %d plain files, want enough to compare", agreed)
	}
}

func TestNotPlain(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":               "",
		"no peers":              "peers:\n",
		"another section":       somePlain + "rules: []\n",
		"a key that is unknown": "peers:\n  - {name: ana, colour: red}\n",
		"a key twice":           "peers:\n  - {name: ana, name: bob}\n",
		"no name":               "peers:\n  - {allowed_ips: [10.0.0.1/32]}\n",
		"no prefix":             "peers:\n  - {name: ana, allowed_ips: [10.0.0.256/32]}\n",
		"an IPv6 address that goccy-yaml tears apart": "peers:\n  - {name: ana, allowed_ips: [fd77::1/64]}\n",
		"a number":                    "peers:\n  - {name: 12}\n",
		"a boolean":                   "peers:\n  - {name: yes}\n",
		"a tab":                       "peers:\n\t- {name: ana}\n",
		"another indentation":         "peers:\n  - {name: ana}\n    - {name: bob}\n",
		"an alias":                    "peers:\n  - {name: *ana}\n",
		"a comment behind":            "peers:\n  - {name: ana} # him\n",
		"an empty line within a peer": "peers:\n  - name: ana\n\n    disabled: true\n",
		"a time that is none":         "peers:\n  - {name: ana, expires: \"2030-13-01T00:00:00Z\"}\n",
	} {
		t.Run(name, func(t *testing.T) {
			if plain, _, isPlain := both(text); isPlain {
				t.Errorf("got a plain file: %+v", plain.config.Peers.Slice())
			}
		})
	}
}

// FuzzPlain compares both ways to decode any text that is plain.
func FuzzPlain(f *testing.F) {
	f.Add(somePlain)
	f.Add(someBlock)
	f.Add("peers:\n- {name: a-b.c@d, groups: [\"true\", x]}\n\n#\n")
	f.Add("peers:\n      - name: nullo\n        public_key: \"//IBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\"\n# end")
	f.Fuzz(func(t *testing.T, text string) {
		if plain, slow, isPlain := both(text); isPlain {
			samePeers(t, text, plain, slow)
		}
	})
}

// TestPlainFilesAreReadOnce reloads a folder in which one file has changed. The other keeps what was read, and everything is as if
// it had been read anew.
func TestPlainFilesAreReadOnce(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	peer := func(i int) string {
		return fmt.Sprintf("  - {name: p%d, public_key: \"%s\", allowed_ips: [10.77.1.%d/32]}\n", i, testKey(byte(i)), i)
	}
	write("gw.key", testKey(200))
	write("main.yaml", `version: 1
include: ["peers/*.yaml"]
listen: {wireguard: {address: [10.77.0.1/16], private_key: {file: gw.key}}}
rules: [{name: rest, do: block}]
`)
	write("peers/a.yaml", "peers:\n"+peer(1)+peer(2))
	write("peers/b.yaml", "peers:\n"+peer(3))
	first, err := LoadServing(filepath.Join(dir, "main.yaml"), nil)
	if err != nil {
		t.Fatal(err)
	}
	write("peers/a.yaml", "peers:\n"+peer(1)+peer(4)+peer(2))
	next, err := first.ReloadPeers()
	if err != nil {
		t.Fatal(err)
	}
	anew, err := Load(filepath.Join(dir, "main.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(anew.Peers.Slice(), next.Peers.Slice(), comparablePrefixes); diff != "" {
		t.Errorf("peers (-read anew +reloaded):\n%s", diff)
	}
	for i := range anew.Peers.Len() {
		at := fmt.Sprintf("peers[%d].allowed_ips[0]", i)
		if got, want := next.Position(at), anew.Position(at); got != want || got.Line == 0 {
			t.Errorf("position of %s: got %v, want %v", at, got, want)
		}
	}
	b := filepath.Join(dir, "peers/b.yaml")
	d := newDecoder(next.Path)
	d.peers, d.config.texts[b] = &peersFiles{before: first}, next.texts[b]
	if readBefore(d, b) != first {
		t.Error("the file that has not changed is decoded anew, want the peers of before")
	}
	d.config.texts[b] += "#"
	if readBefore(d, b) != nil {
		t.Error("a file that has changed has the peers of before")
	}
	if first.plains[b] == next.plains[b] || next.Peers.At(3).Name != first.Peers.At(2).Name {
		t.Error("the peers of the file that has not changed are where they were, want them behind one more")
	}
}

// testKey returns a WireGuard key in base64.
func testKey(n byte) string {
	return base64.StdEncoding.EncodeToString(append(make([]byte, 31), n))
}

// TestPeersThatWereChangedSinceABundleAreLeftToTheDecoder, which leaves them out.
func TestPeersThatWereChangedSinceABundleAreLeftToTheDecoder(t *testing.T) {
	for changed, want := range map[string]bool{"nobody": true, "eve": false} {
		d := newDecoder("/bundle/peers/some.yaml")
		d.changed, d.config.texts[d.config.Path] = map[string]bool{changed: true}, somePlain
		if got := decodePlain(d, d.config.Path); got != want {
			t.Errorf("with a change of %s: got %v, want %v", changed, got, want)
		}
	}
}
