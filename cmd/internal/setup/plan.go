package setup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"unicode"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/config/profile"
	"penstock/cmd/internal/private"
	"penstock/policy/textfile"
	openvpn "penstock/router/transport/openvpn/profile"
)

// Host is what a Plan needs to know about this machine, and to have made.
type Host struct {
	Own    []netip.Prefix // addresses of this machine with their networks
	Key    func() string  // makes a private key for WireGuard
	Schema string         // the installed schema; empty: one is written beside the configuration
}

// Found is what checking a configuration found.
type Found struct {
	Files    []string // that it is read from
	Warnings []string
	Failed   []string // a sentence for each of its tests that does not hold
}

// Check compiles a configuration, as penstock check does.
type Check func(context.Context, *config.Config) (Found, error)

// Plan is what will be written.
type Plan struct {
	File   string
	Text   string // of the configuration
	beside []part // files that are written before it
	folder string // for peers; empty: none
}

// part is a file of a plan.
type part struct {
	path, text string
	source     string // the file that it is a copy of; empty: none
	mode       fs.FileMode
	kept       bool // it is there already, and good
}

// Free returns an error if there is a configuration already, or cannot be one.
func Free(file string) error {
	if strings.ContainsFunc(file, unicode.IsControl) {
		return fmt.Errorf("the configuration cannot be in %q: name another file with --file", file)
	}
	_, err := os.Lstat(file)
	switch {
	case err == nil:
		return fmt.Errorf("there is a configuration %s already: "+
			"edit it and run penstock check -c %s, or move it away, or name another with --file", file, file)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	}
	return err
}

// New turns answers into a plan, which has passed check. The warnings are those of check. Nothing is written yet.
func New(ctx context.Context, a *Answers, h Host, check Check) (*Plan, []string, error) {
	if runtime.GOOS == "windows" { // a copy of C:\a has no path below another folder
		return nil, nil, errors.New("init does not work on Windows yet: make a configuration with penstock import FILE -o CONFIG")
	}
	p := &Plan{File: a.File}
	schema := h.Schema
	if schema == "" {
		schema = "penstock.schema.json"
		p.add(part{path: p.at(schema), text: config.Schema(), mode: 0o644})
	}
	var warnings []string
	if a.Purpose == Gateway {
		p.folder = p.at(peersFolder)
		if err := p.addKey(h.Key); err != nil {
			return nil, nil, err
		}
		p.Text = a.gatewayText(schema, h.Own)
	} else {
		text, err := readProfile(a.Profile)
		if err != nil {
			return nil, nil, err
		}
		source, err := filepath.Abs(a.Profile)
		if err != nil {
			return nil, nil, err
		}
		if kindOf(text) != profile.WireGuard {
			if warnings, err = p.addNamed(source, text); err != nil {
				return nil, nil, err
			}
		}
		if err := p.addCopy(source, p.at(filepath.Base(source)), text); err != nil {
			return nil, nil, err
		}
		p.Text = a.laptopText(schema, filepath.Base(source))
	}
	found, err := p.check(ctx, check)
	if err == nil && len(found.Failed) > 0 {
		err = errors.New("its tests do not hold:\n" + strings.Join(found.Failed, "\n"))
	}
	return p, append(warnings, found.Warnings...), err
}

// at is the path of a file beside the configuration.
func (p *Plan) at(name string) string { return filepath.Join(filepath.Dir(p.File), name) }

// add adds a file, unless one is there: a schema that is there stays.
func (p *Plan) add(f part) {
	_, err := os.Lstat(f.path)
	f.kept = err == nil
	p.beside = append(p.beside, f)
}

// addKey adds the key of a gateway. One that is there is used: peers may know it.
func (p *Plan) addKey(make func() string) error {
	path := p.at(keyFile)
	text, err := private.ReadText(path, config.MaxFile)
	switch {
	case err == nil:
		p.beside = append(p.beside, part{path: path, text: string(text), kept: true})
	case errors.Is(err, fs.ErrNotExist):
		p.beside = append(p.beside, part{path: path, text: make() + "\n", mode: 0o600})
	default:
		return fmt.Errorf("the key of the gateway: %w", err)
	}
	return nil
}

// addCopy adds a file that is a copy of another.
func (p *Plan) addCopy(source, path, text string) error {
	if path == p.File || slices.ContainsFunc(p.beside, func(f part) bool { return f.path == path }) {
		return fmt.Errorf("the copy of %s would be %s, which is for another file: rename %s", source, path, source)
	}
	there, err := private.Read(path, config.MaxFile)
	switch {
	case err == nil && (string(there) == text || path == source):
		p.beside = append(p.beside, part{path: path, text: text, source: source, kept: true})
	case err == nil:
		return fmt.Errorf("there is a file %s already, and it is not a copy of %s: move it away, or rename the new one", path, source)
	case errors.Is(err, fs.ErrNotExist):
		p.beside = append(p.beside, part{path: path, text: text, source: source, mode: 0o600})
	default:
		return err
	}
	return nil
}

// addNamed adds copies of the files that an OpenVPN profile names beside itself. The warnings name others. What is wrong with the
// profile is found by the check of the copy.
func (p *Plan) addNamed(source, text string) (warnings []string, err error) {
	var named []string
	read := func(path string) ([]byte, error) {
		content, err := readLimited(path)
		if err == nil && !slices.Contains(named, path) {
			named = append(named, path)
		}
		return []byte(content), err
	}
	_, _, _ = openvpn.Parse(strings.NewReader(text), source, openvpn.Files{Secret: read, Public: read})
	for _, file := range named {
		rel, err := filepath.Rel(filepath.Dir(source), file)
		outside := err != nil || !filepath.IsLocal(rel)
		if outside && !strings.Contains(text, file) { // its path is relative, and leads elsewhere from the copy
			return nil, fmt.Errorf("%s names %s by a relative path: write %s there, or put the file beside %s", source, rel, file, source)
		}
		if outside {
			warnings = append(warnings, fmt.Sprintf("%s names %s, which stays where it is and is needed there", source, file))
			continue
		}
		content, err := readLimited(file)
		if err != nil {
			return nil, err
		}
		if err := p.addCopy(file, p.at(rel), content); err != nil {
			return nil, err
		}
	}
	return warnings, nil
}

// check checks a copy of what will be written, in a folder of its own that then goes. What it finds has the names of the originals.
func (p *Plan) check(ctx context.Context, check Check) (Found, error) {
	root, err := os.MkdirTemp("", "penstock-init-")
	if err != nil {
		return Found{}, err
	}
	defer os.RemoveAll(root)
	for _, f := range append(slices.Clone(p.beside), part{path: p.File, text: p.Text}) {
		copied := filepath.Join(root, f.path)
		if err := os.MkdirAll(filepath.Dir(copied), 0o700); err != nil {
			return Found{}, err
		}
		if err := os.WriteFile(copied, []byte(f.text), 0o600); err != nil {
			return Found{}, err
		}
	}
	var found Found
	c, err := config.LoadCopy(root, p.File)
	if err == nil {
		found, err = check(ctx, c)
	}
	names := p.names(root)
	for _, list := range [][]string{found.Files, found.Warnings, found.Failed} {
		for i := range list {
			list[i] = names.Replace(list[i])
		}
	}
	return found, p.placed(err, root, names)
}

// names puts the originals in the place of the copies below root.
func (p *Plan) names(root string) *strings.Replacer {
	var pairs []string
	for _, f := range p.beside {
		if f.source != "" {
			pairs = append(pairs, filepath.Join(root, f.path), f.source)
		}
	}
	return strings.NewReplacer(append(pairs, root, "")...)
}

// placed gives faults the places of the originals. Those in the configuration lose theirs, because that does not exist yet: what
// is wrong is an answer, or the profile.
func (p *Plan) placed(err error, root string, names *strings.Replacer) error {
	invalid, ok := errors.AsType[*config.Error](err)
	if !ok {
		if err != nil {
			return errors.New(names.Replace(err.Error()))
		}
		return nil
	}
	made := &config.Error{}
	for _, f := range invalid.Faults {
		place := f.Pos.String() + ": "
		if f.Pos.File == filepath.Join(root, p.File) {
			f.Pos, f.Excerpt = config.Position{}, ""
		}
		f.Pos.File, f.Mend = names.Replace(f.Pos.File), names.Replace(f.Mend)
		f.Message = names.Replace(strings.TrimPrefix(f.Message, place))
		made.Faults = append(made.Faults, f)
	}
	return made
}

// Write writes everything, the configuration last, and returns what it made. Nothing is replaced, and after an error nothing is
// left.
func (p *Plan) Write() (made []string, err error) {
	defer func() {
		for _, path := range slices.Backward(made) {
			if err != nil {
				os.Remove(path)
			}
		}
	}()
	if err := Free(p.File); err != nil {
		return nil, err
	}
	folders := []string{filepath.Dir(p.File)}
	for _, f := range p.beside {
		folders = append(folders, filepath.Dir(f.path))
	}
	if p.folder != "" {
		folders = append(folders, p.folder)
	}
	for _, folder := range folders {
		more, err := makeFolder(folder)
		made = append(made, more...)
		if err != nil {
			return made, fmt.Errorf("make the folder: %w", err)
		}
	}
	for _, f := range append(slices.Clone(p.beside), part{path: p.File, text: p.Text, mode: 0o600}) {
		if f.kept {
			continue
		}
		if err := private.WriteNew(f.path, f.text); err != nil {
			return made, fmt.Errorf("write the configuration: %w", err)
		}
		made = append(made, f.path)
		if err := os.Chmod(f.path, f.mode); err != nil {
			return made, err
		}
	}
	return made, nil
}

// makeFolder makes a folder that only its owner can use, with those above it, and returns those that were missing.
func makeFolder(path string) (made []string, err error) {
	if _, err := os.Stat(path); err == nil {
		return nil, nil
	}
	if above := filepath.Dir(path); above != path {
		if made, err = makeFolder(above); err != nil {
			return made, err
		}
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		return made, err
	}
	return append(made, path), nil
}

// readProfile reads a profile, whoever else can read it: only its copy has to be private.
func readProfile(path string) (string, error) {
	text, err := readLimited(path)
	if err != nil {
		return "", err
	}
	if kind := kindOf(text); kind == profile.Configuration {
		return "", fmt.Errorf("%s is %s already: run it with penstock run -c %s, or name a wg-quick or .ovpn file", path, kind, path)
	} else if kind == profile.Unknown && !strings.EqualFold(filepath.Ext(path), ".ovpn") {
		return "", fmt.Errorf("%s is %s: name a wg-quick or .ovpn file", path, kind)
	}
	return text, nil
}

func kindOf(text string) profile.Kind { return profile.KindOf(textfile.Decode([]byte(text))) }

// readLimited reads a regular file that is no larger than a part of a configuration may be.
func readLimited(path string) (string, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("there is no file %s", path)
	case err != nil:
		return "", err
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("%s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, config.MaxFile+1))
	if err == nil && len(text) > config.MaxFile {
		err = fmt.Errorf("%s is larger than %d bytes", path, config.MaxFile)
	}
	return string(text), err
}
