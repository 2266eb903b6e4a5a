package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"penstock/cmd/internal/fleet/store"
)

const (
	format      = 1
	secrets     = "secrets" // the folder whose files are sealed
	mostName    = 255       // bytes of a file's name, folders included
	mostWord    = 63        // bytes of the name of a site or a gateway
	mostKeys    = 64        // signers
	mostGateway = 4096
)

// parseManifest reads the exact bytes of a manifest, and checks it.
func parseManifest(text []byte) (*Manifest, error) {
	// What a newer penstock means by a further field is not known here. Its number of the format says so in better words.
	var version struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(text, &version); err != nil {
		return nil, fmt.Errorf("%w: its manifest is not JSON: %w", ErrDamaged, err)
	}
	if version.Format != format {
		return nil, fmt.Errorf("the bundle has format %d, and this penstock reads format %d: update penstock", version.Format, format)
	}
	var m Manifest
	if err := strict(text, &m); err != nil {
		return nil, fmt.Errorf("%w: its manifest: %w", ErrDamaged, err)
	}
	if err := m.check(); errors.Is(err, ErrTooLarge) {
		return nil, err
	} else if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return &m, nil
}

// strict decodes JSON without unknown fields and without anything behind it.
func strict(text []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if rest := bytes.TrimSpace(text[d.InputOffset():]); len(rest) > 0 {
		return errors.New("something stands behind its end")
	}
	return nil
}

// check returns what is wrong with a manifest that was made here or that somebody trusted has signed.
func (m *Manifest) check() error {
	if m.Format != format {
		return fmt.Errorf("its format is %d", m.Format)
	}
	if err := checkWord("site", m.Site); err != nil {
		return err
	}
	if m.Generation == 0 {
		return errors.New("generations begin with 1")
	}
	if err := m.checkPeople(); err != nil {
		return err
	}
	return m.checkFiles()
}

// checkPeople checks signers and gateways.
func (m *Manifest) checkPeople() error {
	switch {
	case len(m.Signers) == 0:
		return errors.New("it names no signers, so that nobody could sign the next one")
	case len(m.Signers) > mostKeys:
		return fmt.Errorf("%w: it names %d signers, and at most %d can be named", ErrTooLarge, len(m.Signers), mostKeys)
	case len(m.Gateways) == 0:
		return errors.New("it names no gateways")
	case len(m.Gateways) > mostGateway:
		return fmt.Errorf("%w: it names %d gateways, and at most %d can be named", ErrTooLarge, len(m.Gateways), mostGateway)
	}
	signers := make(map[PublicKey]bool, len(m.Signers))
	for _, k := range m.Signers {
		if k == (PublicKey{}) {
			return errors.New("a signer's key is zero")
		}
		if signers[k] {
			return fmt.Errorf("it names the signer %s twice", k)
		}
		signers[k] = true
	}
	names, keys := make(map[string]bool, len(m.Gateways)), make(map[string]string, len(m.Gateways))
	for _, g := range m.Gateways {
		if err := checkWord("gateway", g.Name); err != nil {
			return err
		}
		if names[g.Name] {
			return fmt.Errorf("it names the gateway %s twice", g.Name)
		}
		names[g.Name] = true
		if err := CheckRecipient(g.Recipient); err != nil {
			return fmt.Errorf("gateway %s: %w", g.Name, err)
		}
		if other, twice := keys[g.Recipient]; twice {
			return fmt.Errorf("the gateways %s and %s have the same key", other, g.Name)
		}
		keys[g.Recipient] = g.Name
	}
	return nil
}

// checkFiles checks the names, sizes and the order of the files.
func (m *Manifest) checkFiles() error {
	if len(m.Files) > MaxFiles {
		return fmt.Errorf("%w: it has %d files, and at most %d can be in one", ErrTooLarge, len(m.Files), MaxFiles)
	}
	var total int64
	taken := make(map[string]string, 2*len(m.Files)) // how a name or folder is spelled, by its folded form
	for i, f := range m.Files {
		if err := checkName(f.Name); err != nil {
			return err
		}
		if i > 0 && m.Files[i-1].Name >= f.Name {
			return fmt.Errorf("its files are not in order: %q stands behind %q", f.Name, m.Files[i-1].Name)
		}
		if err := takeName(taken, f.Name); err != nil {
			return err
		}
		most, isSecret := int64(MaxFile), strings.HasPrefix(f.Name, secrets+"/")
		if isSecret {
			most = MaxSealed
		}
		switch {
		case f.Size < 0:
			return fmt.Errorf("the size of %s is %d", f.Name, f.Size)
		case f.Size > most:
			return fmt.Errorf("%w: %s has %d bytes, and at most %d can be in a file", ErrTooLarge, f.Name, f.Size, most)
		case f.Sealed != isSecret:
			return fmt.Errorf("files below %s/, and no others, are sealed: look at %s", secrets, f.Name)
		case f.Digest == (store.Digest{}):
			return fmt.Errorf("%s has no digest", f.Name)
		}
		if total += f.Size; total > MaxTotal {
			return fmt.Errorf("%w: its files have more than %d bytes together", ErrTooLarge, MaxTotal)
		}
	}
	return nil
}

// takeName returns an error if a file system could take a name for another one: in the other case, or as a folder and a file.
func takeName(taken map[string]string, name string) error {
	for i := 0; i <= len(name); i++ {
		if i < len(name) && name[i] != '/' {
			continue
		}
		part := name[:i]
		if i < len(name) {
			part += "/"
		}
		folded := strings.ToLower(strings.TrimSuffix(part, "/"))
		other, known := taken[folded]
		if known && (other != part || i == len(name)) {
			return fmt.Errorf("%q and %q are the same file on some systems", other, part)
		}
		taken[folded] = part
	}
	return nil
}

// checkName returns an error for a name that is not below the bundle's folder, or not a name of a file on every system.
func checkName(name string) error {
	bad := func(why string) error {
		return fmt.Errorf("a file cannot be called %q: %s", shortened(name), why)
	}
	if len(name) > mostName {
		return bad(fmt.Sprintf("a name has at most %d bytes, with its folders", mostName))
	}
	for i := range len(name) {
		// Other letters are written in several ways, which some systems take for the same name.
		if c := name[i]; c < ' ' || c > '~' || strings.IndexByte(`\:*?"<>|`, c) >= 0 {
			return bad(`use letters a to z, digits and signs, but not \ : * ? " < > |`)
		}
	}
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "":
			return bad("between slashes stand names")
		case part[0] == '.':
			return bad("names that begin with a dot are left out of bundles")
		case part[0] == ' ', part[len(part)-1] == ' ', part[len(part)-1] == '.':
			return bad("a name has no space at its ends, and no dot at its end")
		case isDevice(part):
			return bad("it is a device on Windows")
		}
	}
	if first, _, below := strings.Cut(name, "/"); below && first != secrets && strings.EqualFold(first, secrets) {
		return bad("the folder of what is sealed is called " + secrets)
	}
	return nil
}

// isDevice reports what Windows takes for a device, with whatever ending.
func isDevice(part string) bool {
	base, _, _ := strings.Cut(strings.ToLower(part), ".")
	switch base = strings.TrimRight(base, " "); base {
	case "con", "prn", "aux", "nul", "conin$", "conout$":
		return true
	}
	return len(base) == 4 && (strings.HasPrefix(base, "com") || strings.HasPrefix(base, "lpt")) && base[3] >= '0' && base[3] <= '9'
}

// checkWord returns an error if the name of a site or a gateway cannot be a word of a key in a store.
func checkWord(what, word string) error {
	ok := word != "" && len(word) <= mostWord
	for i := range len(word) {
		c := word[i]
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_')
	}
	if !ok {
		return fmt.Errorf("a %s cannot be called %q: use at most %d of a-z, A-Z, 0-9, - and _", what, shortened(word), mostWord)
	}
	return nil
}

// Follows returns an error if m may not be put in force after current, which is nil if none is in force: ErrSite if it is for another
// site, ErrOld if its generation is lower, or is the same with other contents. The same bundle again is no error.
func (m *Manifest) Follows(current *Manifest, site string) error {
	if m.Site != site {
		return fmt.Errorf("%w: it is for %q, and this is %q", ErrSite, m.Site, site)
	}
	switch {
	case current == nil || m.Generation > current.Generation:
		return nil
	case m.Generation < current.Generation:
		return fmt.Errorf("%w: it has generation %d, and %d is in force", ErrOld, m.Generation, current.Generation)
	case !m.same(current):
		return fmt.Errorf("%w: both have generation %d, with different contents: sign it again with a larger one", ErrOld, m.Generation)
	}
	return nil
}

// same reports whether two manifests say the same.
func (m *Manifest) same(other *Manifest) bool {
	a, errA := json.Marshal(m)
	b, errB := json.Marshal(other)
	return errA == nil && errB == nil && bytes.Equal(a, b)
}
