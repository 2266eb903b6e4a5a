package bundle

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"penstock/cmd/internal/fleet/store"
)

// fixed is a small bundle that is the same in every run, so that what a fuzzer finds stays true.
func fixed(t testing.TB) (Signed, PrivateKey, []byte) {
	t.Helper()
	key, err := ParsePrivateKey(privatePrefix + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{"a.yaml": "site: {}\n", "b/c.yaml": "peers: []\n"}
	m := Manifest{Site: "berlin", Generation: 2, Made: time.Unix(1e9, 0), Signers: []PublicKey{key.Public()},
		Gateways: []Gateway{{"a", "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj"}},
		Files: []File{
			{Name: "a.yaml", Digest: digestOf(texts["a.yaml"]), Size: int64(len(texts["a.yaml"]))},
			{Name: "b/c.yaml", Digest: digestOf(texts["b/c.yaml"]), Size: int64(len(texts["b/c.yaml"]))},
		}}
	s, err := Sign(m, key)
	if err != nil {
		t.Fatal(err)
	}
	verified, err := s.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	put := func(name, text string) {
		if err := w.WriteHeader(header(name, int64(len(text)))); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	put(signedName, string(s))
	for _, f := range blobs(verified) {
		put(blobFolder+f.Digest.String(), texts[f.Name])
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return s, key, archive.Bytes()
}

// FuzzSigned lets anything come for a signed bundle, as a store may bring it.
func FuzzSigned(f *testing.F) {
	s, key, _ := fixed(f)
	f.Add([]byte(s))
	f.Add([]byte(`{"signed":"e30=","signatures":[]}`))
	f.Add([]byte("null"))
	good, err := s.Manifest()
	if err != nil {
		f.Fatal(err)
	}
	trusted := []PublicKey{key.Public()}
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := Signed(text).Verify(trusted)
		if err == nil && !m.same(good) {
			t.Fatalf("got %+v, which nobody has signed", m)
		}
		if err != nil && m != nil {
			t.Fatal("got a manifest and an error")
		}
		if m, err := Signed(text).Manifest(); err == nil {
			checkManifest(t, m)
		}
		if c, err := VerifyChange(text, trusted); err == nil {
			t.Fatalf("got the change %+v, which nobody has signed", c)
		}
		_, _ = Signed(text).SignedBy()
	})
}

// FuzzManifest lets anything be in a manifest that somebody trusted has signed.
func FuzzManifest(f *testing.F) {
	s, key, _ := fixed(f)
	e, err := s.open(MaxSigned)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(e.Signed)
	f.Add(bytes.Replace(e.Signed, []byte("a.yaml"), []byte("../../a"), 1))
	f.Add(bytes.Replace(e.Signed, []byte(`"size":9`), []byte(`"size":9223372036854775807`), 1))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := parseManifest(text)
		if err != nil {
			return
		}
		checkManifest(t, m)
		again, err := Sign(*m, key)
		if err != nil {
			t.Fatalf("what was read cannot be signed: %v", err)
		}
		if _, err := again.Verify([]PublicKey{key.Public()}); err != nil {
			t.Fatalf("what was signed cannot be read: %v", err)
		}
	})
}

// checkManifest wants a manifest that does no harm.
func checkManifest(t *testing.T, m *Manifest) {
	t.Helper()
	var total int64
	seen := make(map[string]bool)
	for _, f := range m.Files {
		path := filepath.Join("/state", filepath.FromSlash(f.Name))
		if !strings.HasPrefix(path, filepath.FromSlash("/state/")) || !filepath.IsLocal(f.Name) || strings.ContainsAny(f.Name, "\\:\x00") {
			t.Fatalf("got a file called %q", f.Name)
		}
		if folded := strings.ToLower(f.Name); seen[folded] {
			t.Fatalf("got the file %q twice", f.Name)
		} else {
			seen[folded] = true
		}
		if f.Size < 0 || f.Size > MaxFile {
			t.Fatalf("got a file of %d bytes", f.Size)
		}
		total += f.Size
	}
	if total > MaxTotal || len(m.Files) > MaxFiles || m.Generation == 0 || len(m.Signers) == 0 {
		t.Fatalf("got %+v", m)
	}
}

// summed writes the checksums of the headers of a tar file, which a fuzzer does not find.
func summed(text []byte) []byte {
	text = bytes.Clone(text)
	for block := range slices.Chunk(text, 512) {
		if len(block) < 512 || !bytes.HasPrefix(block[257:], []byte("ustar")) {
			continue
		}
		copy(block[148:156], "        ")
		total := 0
		for _, b := range block {
			total += int(b)
		}
		copy(block[148:156], fmt.Sprintf("%06o\x00 ", total))
	}
	return text
}

// FuzzArchive lets anything come for a .bundle file.
func FuzzArchive(f *testing.F) {
	_, _, archive := fixed(f)
	f.Add(archive)
	f.Add(archive[:700])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, text []byte) {
		text = summed(text)
		a, err := readArchive(bytes.NewReader(text), int64(len(text)))
		if err != nil {
			return
		}
		m, err := a.Signed().Manifest()
		if err != nil {
			t.Fatalf("it was opened, and has no manifest: %v", err)
		}
		checkManifest(t, m)
		for _, file := range m.Files {
			var got bytes.Buffer
			if err := a.Fetch(t.Context(), file, &got); err == nil && digestOf(got.String()) != file.Digest {
				t.Fatalf("%s: got other bytes than the manifest says", file.Name)
			} else if err != nil && !errors.Is(err, ErrDamaged) {
				t.Fatalf("%s: got %v, want ErrDamaged", file.Name, err)
			}
		}
	})
}

// FuzzChange lets anything be in a change of a peer that somebody trusted has signed.
func FuzzChange(f *testing.F) {
	_, key, _ := fixed(f)
	f.Add([]byte(`{"site":"berlin","generation":1,"number":1,"peer":"ana","entry":"name: ana\n"}`))
	f.Add([]byte(`{"site":"berlin","generation":1,"number":1,"peer":"ana","removed":true}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if !json.Valid(text) {
			return
		}
		s, err := sign(changeDomain, json.RawMessage(text), key, maxChange)
		if err != nil {
			return
		}
		c, err := VerifyChange(s, []PublicKey{key.Public()})
		if err != nil {
			return
		}
		if _, err := SignChange(*c, key); err != nil || c.Number == 0 || c.Removed == (c.Entry != "") {
			t.Fatalf("got %+v, %v", c, err)
		}
	})
}

// A tar file can say more than it has, and have what nobody asked for.
func TestArchivesThatAreRefused(t *testing.T) {
	s, _, good := fixed(t)
	m, err := s.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	type entry struct {
		h    tar.Header
		text string
	}
	regular := func(name, text string) entry {
		return entry{*header(name, int64(len(text))), text}
	}
	first := regular(signedName, string(s))
	files := blobs(m)
	texts := map[store.Digest]string{digestOf("site: {}\n"): "site: {}\n", digestOf("peers: []\n"): "peers: []\n"}
	blob := func(i int) entry { return regular(blobFolder+files[i].Digest.String(), texts[files[i].Digest]) }
	with := func(e entry, change func(*tar.Header)) entry { change(&e.h); return e }
	tests := []struct {
		name    string
		entries []entry
		want    error
	}{
		{"nothing in the good one", []entry{first, blob(0), blob(1)}, nil},
		{"nothing", nil, ErrDamaged},
		{"without the manifest", []entry{blob(0), blob(1)}, ErrDamaged},
		{"without a blob", []entry{first, blob(0)}, ErrDamaged},
		{"blobs out of order", []entry{first, blob(1), blob(0)}, ErrDamaged},
		{"a blob twice", []entry{first, blob(0), blob(0), blob(1)}, ErrDamaged},
		{"another file", []entry{first, blob(0), blob(1), regular("more", "x")}, ErrDamaged},
		{"a path that leads out", []entry{with(first, func(h *tar.Header) { h.Name = "../bundle.json" }), blob(0), blob(1)}, ErrDamaged},
		{"a link", []entry{first, {tar.Header{Typeflag: tar.TypeSymlink, Name: blob(0).h.Name, Linkname: "/etc/passwd", Format: tar.FormatUSTAR}, ""}, blob(1)}, ErrDamaged},
		{"another size", []entry{first, regular(blob(0).h.Name, blob(0).text+"x"), blob(1)}, ErrDamaged},
		{"records of PAX", []entry{first, with(blob(0), func(h *tar.Header) { h.Format, h.PAXRecords = tar.FormatPAX, map[string]string{"X.y": "z"} }), blob(1)}, ErrDamaged},
		{"a manifest that is too large", []entry{regular(signedName, string(make([]byte, MaxSigned+1)))}, ErrTooLarge},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			for _, e := range tt.entries {
				if err := w.WriteHeader(&e.h); err != nil {
					t.Fatal(err)
				}
				if _, err := io.WriteString(w, e.text); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if a, err := readArchive(bytes.NewReader(b.Bytes()), int64(b.Len())); !errors.Is(err, tt.want) || (err == nil) != (a != nil) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if tt.want == nil && !bytes.Equal(b.Bytes(), good) {
				t.Error("it differs from what the others begin with")
			}
		})
	}
	// The bytes of a blob are looked at when they are fetched.
	bad := bytes.Replace(good, []byte("peers: []\n"), []byte("peers: {}\n"), 1)
	a, err := readArchive(bytes.NewReader(bad), int64(len(bad)))
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Fetch(t.Context(), m.Files[1], io.Discard); !errors.Is(err, ErrDamaged) {
		t.Errorf("a changed blob: got %v, want ErrDamaged", err)
	}
}

// large is a bundle whose manifest has about 1 MiB.
func large(b *testing.B) (Signed, []PublicKey) {
	b.Helper()
	s := newSite(b, nil)
	m := s.manifest(1)
	for i := range MaxFiles {
		m.Files = append(m.Files, File{Name: fmt.Sprintf("peers/%s/%05d.yaml", strings.Repeat("x", 100), i), Digest: store.Digest{byte(i), byte(i >> 8), 1}, Size: 100})
	}
	signed, err := Sign(m, s.key)
	if err != nil {
		b.Fatal(err)
	}
	return signed, m.Signers
}

func BenchmarkVerify(b *testing.B) {
	signed, trusted := large(b)
	e, err := signed.open(MaxSigned)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(e.Signed)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := signed.Verify(trusted); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUnpack(b *testing.B) {
	s := newSite(b, nil)
	for i := range 100 {
		s.write(fmt.Sprintf("peers/%03d.yaml", i), strings.Repeat(fmt.Sprintln("peer", i), 1000))
	}
	s.write("lists/big.txt", strings.Repeat("casino.example\n", 1<<20))
	s.write("secrets/key", "secret")
	made := s.make(1)
	total := int64(0)
	for _, f := range made.manifest.Files {
		total += f.Size
	}
	b.SetBytes(total)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := (Disk{Dir: b.TempDir()}).Unpack(b.Context(), made.signed, made.manifest, s.gateway, made.fetch); err != nil {
			b.Fatal(err)
		}
	}
}
