package bundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"penstock/cmd/internal/fleet/store"
)

// some is a digest.
func some(n byte) store.Digest { return store.Digest{n, 1} }

func TestVerifyRefuses(t *testing.T) {
	s := newSite(t, nil)
	stranger := newSite(t, nil)
	good := s.manifest(3)
	good.Format = 1
	good.Files = []File{{Name: "a.yaml", Digest: some(1), Size: 1}, {Name: "secrets/x", Digest: some(2), Size: 200, Sealed: true}}
	files := func(f ...File) func(*Manifest) { return func(m *Manifest) { m.Files = f } }
	plain := func(name string) File { return File{Name: name, Digest: some(1), Size: 1} }
	many := make([]File, MaxFiles+1)
	for i := range many {
		many[i] = plain(fmt.Sprintf("f%05d", i))
	}
	heavy := make([]File, 5)
	for i := range heavy {
		heavy[i] = File{Name: fmt.Sprintf("f%d", i), Digest: some(1), Size: MaxFile}
	}
	tests := []struct {
		name   string
		change func(*Manifest)
		want   error
		says   string
	}{
		{"nothing of a good one", func(*Manifest) {}, nil, ""},
		{"nothing of one without files", files(), nil, ""},
		{"a format of the future", func(m *Manifest) { m.Format = 2 }, nil, "format 2, and this penstock reads format 1: update penstock"},
		{"no generation", func(m *Manifest) { m.Generation = 0 }, ErrDamaged, "begin with 1"},
		{"a site that is no word", func(m *Manifest) { m.Site = "a.b" }, ErrDamaged, "use at most 63"},
		{"no site", func(m *Manifest) { m.Site = "" }, ErrDamaged, "use at most 63"},
		{"no signers", func(m *Manifest) { m.Signers = nil }, ErrDamaged, "no signers"},
		{"a signer twice", func(m *Manifest) { m.Signers = append(m.Signers, m.Signers[0]) }, ErrDamaged, "twice"},
		{"a signer that is zero", func(m *Manifest) { m.Signers = []PublicKey{{}} }, ErrDamaged, "zero"},
		{"too many signers", func(m *Manifest) {
			for i := range mostKeys {
				m.Signers = append(m.Signers, PublicKey{1, byte(i)})
			}
		}, ErrTooLarge, "65 signers"},
		{"no gateways", func(m *Manifest) { m.Gateways = nil }, ErrDamaged, "no gateways"},
		{"two gateways of a name", func(m *Manifest) { m.Gateways = append(m.Gateways, Gateway{"a", stranger.gateway.Recipient()}) }, ErrDamaged, "gateway a twice"},
		{"two gateways with a key", func(m *Manifest) { m.Gateways = append(m.Gateways, Gateway{"b", m.Gateways[0].Recipient}) }, ErrDamaged, "a and b have the same key"},
		{"a gateway with a private key", func(m *Manifest) {
			m.Gateways = []Gateway{{"a", strings.Fields(s.gateway.Reveal())[len(strings.Fields(s.gateway.Reveal()))-1]}}
		}, ErrDamaged, "this is a private key"},
		{"a gateway's name that is no word", func(m *Manifest) { m.Gateways[0].Name = "a b" }, ErrDamaged, "a gateway cannot be called"},
		{"too many files", files(many...), ErrTooLarge, "4097 files"},
		{"a file that is too large", files(File{Name: "a", Digest: some(1), Size: MaxFile + 1}), ErrTooLarge, "a has"},
		{"files that are too large together", files(heavy...), ErrTooLarge, "together"},
		{"a sealed file that is too large", files(File{Name: "secrets/a", Digest: some(1), Size: MaxSealed + 1, Sealed: true}), ErrTooLarge, "secrets/a has"},
		{"a size below zero", files(File{Name: "a", Digest: some(1), Size: -1}), ErrDamaged, "size"},
		{"no digest", files(File{Name: "a", Size: 1}), ErrDamaged, "digest"},
		{"a secret that is not sealed", files(plain("secrets/a")), ErrDamaged, "sealed"},
		{"a sealed file elsewhere", files(File{Name: "a", Digest: some(1), Size: 1, Sealed: true}), ErrDamaged, "sealed"},
		{"files out of order", files(plain("b"), plain("a")), ErrDamaged, "order"},
		{"a file twice", files(plain("a"), plain("a")), ErrDamaged, "order"},
		{"a file in another case", files(plain("A"), plain("a")), ErrDamaged, "same file on some systems"},
		{"a folder in another case", files(plain("D/x"), plain("d/y")), ErrDamaged, "same file on some systems"},
		{"a file that is a folder too", files(plain("a"), plain("a/b")), ErrDamaged, "same file on some systems"},
		{"a folder that is a file in another case", files(plain("A/b"), plain("a")), ErrDamaged, "same file on some systems"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := good
			m.Gateways = append([]Gateway(nil), good.Gateways...)
			m.Signers = append([]PublicKey(nil), good.Signers...)
			tt.change(&m)
			signed, err := sign(bundleDomain, m, s.key, MaxSigned)
			if err != nil {
				t.Fatal(err)
			}
			got, err := signed.Verify(m.Signers[:min(1, len(good.Signers), len(m.Signers))])
			if len(m.Signers) == 0 || m.Signers[0] != s.key.Public() {
				got, err = signed.Verify(good.Signers)
			}
			if tt.want == nil && tt.says == "" {
				if err != nil || !got.same(&m) {
					t.Errorf("got %+v, %v; want what was signed", got, err)
				}
				return
			}
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v, want %v that says %q", err, tt.want, tt.says)
			}
			if m.Format != 1 {
				return // Sign sets it
			}
			if _, err := Sign(m, s.key); err == nil || errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("to sign it: got %v, want an error that says %q", err, tt.says)
			}
		})
	}
}

func TestNamesThatAreNoFilesEverywhere(t *testing.T) {
	bad := []string{"", "/", "/etc/passwd", "..", "../a", "a/../b", "a/..", "./a", "a/./b", "a//b", "a/", `a\b`, `..\a`, "C:a", "c:/a", "a:stream",
		"nul", "NUL.txt", "a/con", "Com1", "lpt9.yaml", "aux .txt", "CONIN$", "a.", "a ", " a", "a\x00b", "a\nb", "\x7f", "ä", "a\u202eb", ".a", "a/.b",
		"Secrets/a", "SECRETS/b", strings.Repeat("a", mostName+1), "a?", "a*", "a|b", "<a>", `"`}
	for _, name := range bad {
		if err := checkName(name); err == nil {
			t.Errorf("%q: got no error", name)
		}
	}
	for _, name := range []string{"a", "a/b", "secrets/x", "a b.yaml", "a-b_c+d,e=f@g", "com10", "console", "nulls", "x/Secrets", "Secrets.yaml", strings.Repeat("a", mostName)} {
		if err := checkName(name); err != nil {
			t.Errorf("%q: got %v", name, err)
		}
		if !filepath.IsLocal(filepath.FromSlash(name)) {
			t.Errorf("%q is not local", name)
		}
	}
}

func TestOnlyTrustedSignaturesCount(t *testing.T) {
	s, other := newSite(t, usual()), newSite(t, nil)
	b := s.make(1)
	mine, theirs := []PublicKey{s.key.Public()}, []PublicKey{other.key.Public()}
	var e envelope
	if err := json.Unmarshal(b.signed, &e); err != nil {
		t.Fatal(err)
	}
	with := func(change func(*envelope)) Signed {
		c := envelope{append([]byte(nil), e.Signed...), append([]signature(nil), e.Signatures...)}
		change(&c)
		text, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	change, err := SignChange(Change{Site: "berlin", Generation: 1, Number: 1, Peer: "ana", Removed: true}, s.key)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name    string
		signed  Signed
		trusted []PublicKey
		want    error
	}{
		{"the operator's is", b.signed, mine, nil},
		{"a retired key is not", b.signed, theirs, ErrUnsigned},
		{"nobody is trusted", b.signed, nil, ErrUnsigned},
		{"the zero key is never trusted", with(func(e *envelope) { e.Signatures = []signature{{Signature: make([]byte, 64)}} }), []PublicKey{{}}, ErrDamaged},
		{"one of several counts", with(func(e *envelope) { e.Signatures = append([]signature{{theirs[0], make([]byte, 64)}}, e.Signatures...) }), mine, nil},
		{"a trusted name on another's signature", with(func(e *envelope) { e.Signatures[0].Key = theirs[0] }), theirs, ErrUnsigned},
		{"changed bytes", with(func(e *envelope) { e.Signed[40] ^= 1 }), mine, ErrUnsigned},
		{"a short signature", with(func(e *envelope) { e.Signatures[0].Signature = e.Signatures[0].Signature[:63] }), mine, ErrUnsigned},
		{"no signature", with(func(e *envelope) { e.Signatures = nil }), mine, ErrUnsigned},
		{"too many signatures", with(func(e *envelope) { e.Signatures = make([]signature, 17); fill(e.Signatures, mine[0]) }), mine, ErrTooLarge},
		{"a signed change of a peer", change, mine, ErrUnsigned},
		{"something behind it", append(append(Signed(nil), b.signed...), '{'), mine, ErrDamaged},
		{"an unknown field", append(Signed(`{"more":1,`), b.signed[1:]...), mine, ErrDamaged},
		{"nothing", nil, mine, ErrDamaged},
		{"no JSON", Signed("hello"), mine, ErrDamaged},
		{"null", Signed("null"), mine, ErrUnsigned},
		{"megabytes", make(Signed, MaxSigned+1), mine, ErrTooLarge},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, err := tt.signed.Verify(tt.trusted)
			if !errors.Is(err, tt.want) || (err == nil) != (m != nil) {
				t.Errorf("got %v, %v; want %v", m, err, tt.want)
			}
		})
	}
	if keys, err := b.signed.SignedBy(); err != nil || len(keys) != 1 || keys[0] != mine[0] {
		t.Errorf("signed by: got %v, %v; want %v", keys, err, mine)
	}
	if _, err := VerifyChange(b.signed, mine); !errors.Is(err, ErrUnsigned) {
		t.Errorf("a bundle as a change: got %v, want ErrUnsigned", err)
	}
}

func fill(s []signature, k PublicKey) {
	for i := range s {
		s[i].Key = k
	}
}

func TestABundleFollows(t *testing.T) {
	s := newSite(t, usual())
	at := func(generation uint64, site string) *Manifest {
		m := s.manifest(generation)
		m.Site = site
		return &m
	}
	other := at(3, "berlin")
	other.Signers = append(other.Signers, PublicKey{9})
	tests := []struct {
		name    string
		m       *Manifest
		current *Manifest
		want    error
	}{
		{"nothing", at(1, "berlin"), nil, nil},
		{"a lower one", at(4, "berlin"), at(3, "berlin"), nil},
		{"itself", at(3, "berlin"), at(3, "berlin"), nil},
		{"a higher one", at(2, "berlin"), at(3, "berlin"), ErrOld},
		{"another one of its generation", other, at(3, "berlin"), ErrOld},
		{"one of another site", at(4, "paris"), at(3, "berlin"), ErrSite},
		{"nothing, at another site", at(1, "paris"), nil, ErrSite},
	}
	for _, tt := range tests {
		if err := tt.m.Follows(tt.current, "berlin"); !errors.Is(err, tt.want) {
			t.Errorf("after %s: got %v, want %v", tt.name, err, tt.want)
		}
	}
}

func TestKeysAreReadAsTheyAreWritten(t *testing.T) {
	key, err := NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	identity, err := NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParsePrivateKey("\r\n" + key.Reveal()); err != nil || got.Public() != key.Public() {
		t.Errorf("an operator's key: got %v, %v", got.Public(), err)
	}
	if got, err := ParseIdentity(identity.Reveal()); err != nil || got.Recipient() != identity.Recipient() {
		t.Errorf("a gateway's key: got %v, %v", got, err)
	}
	if got, err := ParsePublicKey(key.Public().String()); err != nil || got != key.Public() {
		t.Errorf("a public key: got %v, %v", got, err)
	}
	for name, err := range map[string]error{
		"an operator's key for a gateway":  second(ParseIdentity(key.Reveal())),
		"a gateway's key for an operator":  second(ParsePrivateKey(identity.Reveal())),
		"two keys":                         second(ParsePrivateKey(key.Reveal() + key.Reveal())),
		"no key":                           second(ParsePrivateKey("# nothing\n")),
		"half a key":                       second(ParsePrivateKey(strings.TrimSpace(key.Reveal())[:len(key.Reveal())-9])),
		"half a gateway's key":             second(ParseIdentity(strings.TrimSpace(identity.Reveal())[:len(identity.Reveal())-9])),
		"a private key as a public one":    second(ParsePublicKey(key.Reveal()[strings.LastIndex(key.Reveal(), privatePrefix):])),
		"a public key of zeros":            second(ParsePublicKey(PublicKey{}.String())),
		"a public key with a line's end":   second(ParsePublicKey(key.Public().String() + "\n")),
		"a public key without its kind":    second(ParsePublicKey(key.Public().String()[len(publicPrefix):])),
		"a gateway's key for a public one": CheckRecipient(strings.TrimSpace(identity.Reveal())),
	} {
		if err == nil {
			t.Errorf("%s: got no error", name)
			continue
		}
		if strings.Contains(err.Error(), secretPart(key.Reveal())) || strings.Contains(err.Error(), secretPart(identity.Reveal())) {
			t.Errorf("%s: the error has the key in it", name)
		}
	}
}

// secretPart is enough of the last line of a key's file to know it by.
func secretPart(file string) string {
	lines := strings.Split(strings.TrimSpace(file), "\n")
	return lines[len(lines)-1][20:36]
}

func second[T any](_ T, err error) error { return err }

func TestKeysAreNeverPrinted(t *testing.T) {
	key, _ := NewPrivateKey()
	identity, _ := NewIdentity()
	for _, v := range []any{key, &key, identity, *identity, struct {
		K PrivateKey
		I *Identity
	}{key, identity}} {
		var b strings.Builder
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
			fmt.Fprintf(&b, verb, v)
		}
		slog.New(slog.NewTextHandler(&b, nil)).Info("key", "k", v)
		slog.New(slog.NewJSONHandler(&b, nil)).Info("key", "k", v)
		seed := fmt.Sprintf("%x", []byte(key.key.Seed()))
		for _, secret := range []string{secretPart(key.Reveal()), secretPart(identity.Reveal()), seed, fmt.Sprint([]byte(key.key.Seed()))} {
			if strings.Contains(b.String(), strings.Trim(secret, "[]")) {
				t.Errorf("%T prints its key", v)
			}
		}
	}
}

func TestChangesOfPeers(t *testing.T) {
	s, other := newSite(t, nil), newSite(t, nil)
	trusted := []PublicKey{s.key.Public()}
	good := Change{Site: "berlin", Generation: 1, Number: 2, Peer: "ana", Entry: "name: ana\n"}
	tests := []struct {
		name   string
		change func(*Change)
		ok     bool
	}{
		{"one that adds", func(*Change) {}, true},
		{"one that removes", func(c *Change) { c.Removed, c.Entry = true, "" }, true},
		{"a name with spaces", func(c *Change) { c.Peer = "Ana Müller" }, true},
		{"one that removes and adds", func(c *Change) { c.Removed = true }, false},
		{"one that does nothing", func(c *Change) { c.Entry = "" }, false},
		{"one without a number", func(c *Change) { c.Number = 0 }, false},
		{"one without a bundle", func(c *Change) { c.Generation = 0 }, false},
		{"one without a site", func(c *Change) { c.Site = "" }, false},
		{"one without a peer", func(c *Change) { c.Peer = "" }, false},
		{"a name that breaks lines", func(c *Change) { c.Peer = "a\nb" }, false},
		{"a name that is no text", func(c *Change) { c.Peer = "a\xff" }, false},
		{"a long name", func(c *Change) { c.Peer = strings.Repeat("a", 256) }, false},
		{"a long entry", func(c *Change) { c.Entry = strings.Repeat("a", maxEntry+1) }, false},
		{"an entry that is no text", func(c *Change) { c.Entry = "\xff" }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := good
			tt.change(&c)
			signed, err := SignChange(c, s.key)
			if (err == nil) != tt.ok {
				t.Errorf("to sign it: got %v, want ok %v", err, tt.ok)
			}
			if !tt.ok { // somebody trusted, who does not check
				if signed, err = sign(changeDomain, c, s.key, maxChange); err != nil {
					t.Fatal(err)
				}
			}
			got, err := VerifyChange(signed, trusted)
			if tt.ok && (err != nil || *got != c) || !tt.ok && err == nil && *got == c {
				t.Errorf("got %+v, %v; want ok %v", got, err, tt.ok)
			}
			if _, err := VerifyChange(signed, []PublicKey{other.key.Public()}); !errors.Is(err, ErrUnsigned) {
				t.Errorf("from a stranger: got %v, want ErrUnsigned", err)
			}
		})
	}
}

func TestBuildRefuses(t *testing.T) {
	key, _ := NewPrivateKey()
	identity, _ := NewIdentity()
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		make func(s *site) error
		says string
	}{
		{"a link that leads out", func(s *site) error { return os.Symlink(outside, filepath.Join(s.dir, "x")) }, "leads out"},
		{"a relative link that leads out", func(s *site) error { return os.Symlink("../../outside", filepath.Join(s.dir, "x")) }, "leads out"},
		{"a link to nothing", func(s *site) error { return os.Symlink("nothing", filepath.Join(s.dir, "x")) }, "leads out"},
		{"a link to a folder", func(s *site) error { return os.Symlink("peers", filepath.Join(s.dir, "x")) }, "link to a folder"},
		{"a link to a secret", func(s *site) error { return os.Symlink("secrets/wireguard.key", filepath.Join(s.dir, "x")) }, "same file"},
		{"a secret with a second name", func(s *site) error {
			return os.Link(filepath.Join(s.dir, "secrets", "wireguard.key"), filepath.Join(s.dir, "x"))
		}, "same file"},
		{"an operator's key", func(s *site) error { s.write("secrets/operator", key.Reveal()); return nil }, "operator's private key"},
		{"a gateway's key", func(s *site) error { s.write("gateway", identity.Reveal()); return nil }, "gateway's private key"},
		{"another private key", func(s *site) error { s.write("tls.key", "-----BEGIN EC PRIVATE KEY-----\n"); return nil }, "put it below secrets/"},
		{"secrets in another case", func(s *site) error {
			s.write("Private/x", "")
			return os.Rename(filepath.Join(s.dir, "Private"), filepath.Join(s.dir, "SECRETS"))
		}, "is called secrets"},
		{"a name of a device", func(s *site) error { s.write("peers/aux.yaml", ""); return nil }, "device"},
		{"a secret that is too large", func(s *site) error {
			s.write("secrets/big", "")
			return os.Truncate(filepath.Join(s.dir, "secrets/big"), MaxSealed+1)
		}, "too large"},
		{"a file that is too large", func(s *site) error { s.write("big", ""); return os.Truncate(filepath.Join(s.dir, "big"), MaxFile+1) }, "too large"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t, usual())
			if err := tt.make(s); err != nil {
				t.Skip("this system cannot make it:", err)
			}
			if b, err := Build(s.dir, s.manifest(1)); err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v, %v; want an error that says %q", b != nil, err, tt.says)
			}
		})
	}
	s := newSite(t, usual())
	if err := os.Symlink("site.yaml", filepath.Join(s.dir, "again.yaml")); err != nil {
		t.Skip(err)
	}
	b, err := Build(s.dir, s.manifest(1))
	if err != nil || len(b.Manifest.Files) != 4 {
		t.Fatalf("a link within the folder: got %v, want 4 files", err)
	}
	s.write("site.yaml", "changed: {}\n")
	if err := b.Fetch(t.Context(), b.Manifest.Files[0], discard{}); !errors.Is(err, ErrDamaged) {
		t.Errorf("a file that changed after it was built: got %v, want ErrDamaged", err)
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
