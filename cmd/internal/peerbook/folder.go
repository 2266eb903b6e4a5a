package peerbook

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/private"
)

const (
	lockName   = ".penstock-lock"
	formerName = ".penstock-former.json" // addresses of removed peers

	// lockWait is how long a command waits for others that change peers. Each takes some 10 ms.
	lockWait = 30 * time.Second
)

// Folder is the locked folder with a file for each peer, which the configuration includes by a glob. A nil Folder
// stands for a configuration without such a glob.
type Folder struct {
	// PeersOnly checks a change against the configuration that it is given. Otherwise that is read again, as penstock reload does.
	PeersOnly bool

	dir    string
	unlock func()
}

// Open locks the folder that the file of a peer belongs into, and makes it if it is missing. It returns nil if the
// configuration includes no glob that the file would match.
func Open(ctx context.Context, c *config.Config, name string) (*Folder, error) {
	path := Path(c, name)
	if path == "" {
		return nil, nil
	}
	dir := filepath.Dir(path)
	for _, pattern := range globs(c) {
		if taken, err := filepath.Match(pattern, filepath.Join(dir, formerName)); err == nil && taken {
			return nil, c.Err("include", pattern+" also matches files that penstock keeps beside the peers", "write "+filepath.Join(dir, "*.yaml"))
		}
	}
	if err := makeFolder(dir); err != nil {
		return nil, fmt.Errorf("make the folder of peers: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, lockWait, fmt.Errorf("another command has held it for %v", lockWait))
	defer cancel()
	unlock, err := LockFile(ctx, filepath.Join(dir, lockName))
	if err != nil {
		return nil, fmt.Errorf("lock the peers in %s: %w", dir, err)
	}
	return &Folder{dir: dir, unlock: unlock}, nil
}

// OpenAt is Open for the configuration at file before that is loaded, so that what is loaded then is what the lock is for. It returns
// nil if the file alone does not say where the folder is, or there is none yet: then it takes Open, and to load once more.
func OpenAt(ctx context.Context, file, name string) (*Folder, error) {
	abs, err := filepath.Abs(file)
	if err != nil {
		return nil, nil
	}
	outline := &config.Config{Path: abs, Include: config.Includes(abs)}
	path := Path(outline, name)
	if path == "" {
		return nil, nil
	}
	if _, err := os.Stat(filepath.Dir(path)); err != nil {
		return nil, nil
	}
	return Open(ctx, outline, name)
}

// Is reports whether f is the folder that the file of a peer belongs into.
func (f *Folder) Is(c *config.Config, name string) bool {
	path := Path(c, name)
	return f != nil && path != "" && filepath.Dir(path) == f.dir
}

// makeFolder makes a folder that is missing. Those who may read the folder above it may read it too.
func makeFolder(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return share(dir, filepath.Dir(dir))
}

// Close gives the lock back. It does nothing if f is nil, and the second time.
func (f *Folder) Close() {
	if f != nil && f.unlock != nil {
		f.unlock()
		f.unlock = nil
	}
}

// Writable returns why this process cannot write files of peers, or nil.
func (f *Folder) Writable() error {
	temp, err := private.WriteTemp(f.dir, "")
	if err != nil {
		return err
	}
	return os.Remove(temp)
}

// globs returns the include patterns of a configuration's main file as absolute paths.
func globs(c *config.Config) []string {
	var list []string
	for _, pattern := range c.Include {
		if !filepath.IsAbs(pattern) {
			pattern = filepath.Join(filepath.Dir(c.Path), pattern)
		}
		list = append(list, pattern)
	}
	return list
}

// Path returns where the file of a peer goes: below the first glob of include that matches a file of its name. It
// returns "" if there is none.
func Path(c *config.Config, name string) string {
	for _, pattern := range globs(c) {
		dir, file := filepath.Split(pattern)
		path := filepath.Join(dir, name+".yaml")
		if fits, err := filepath.Match(file, filepath.Base(path)); err == nil && fits && strings.Contains(file, "*") && !strings.ContainsAny(dir, "*?[") {
			return path
		}
	}
	return ""
}

// YAML is a peer as it stands in a configuration. Keys need no quotes; names, addresses and groups may.
func YAML(p config.Peer) string {
	var b strings.Builder
	var rates []string
	fmt.Fprintf(&b, "peers:\n  - name: %q\n", p.Name)
	if p.HasTunnel() {
		fmt.Fprintf(&b, "    public_key: %s\n    allowed_ips: %s\n", p.PublicKey, quoted(p.AllowedIPs))
	}
	if p.IsInvited() {
		fmt.Fprintf(&b, "    allowed_ips: %s\n    invite: {key: %q, until: %q", quoted(p.AllowedIPs), p.Invite.Key, p.Invite.Until.Format(time.RFC3339))
		if p.Invite.Endpoint != "" {
			fmt.Fprintf(&b, ", endpoint: %q", p.Invite.Endpoint)
		}
		if len(p.Invite.AllowedIPs) > 0 {
			fmt.Fprintf(&b, ", allowed_ips: %s", quoted(p.Invite.AllowedIPs))
		}
		b.WriteString("}\n")
	}
	if len(p.Groups) > 0 {
		fmt.Fprintf(&b, "    groups: %s\n", quoted(p.Groups))
	}
	if p.DNSRenewals > 0 {
		fmt.Fprintf(&b, "    dns_renewals: %d\n", p.DNSRenewals)
	}
	if p.Disabled {
		b.WriteString("    disabled: true\n")
	}
	if !p.Expires.IsZero() {
		fmt.Fprintf(&b, "    expires: %q\n", p.Expires.Format(time.RFC3339))
	}
	for _, r := range []struct {
		key  string
		rate config.Rate
	}{{"up", p.Rate.Up}, {"down", p.Rate.Down}} {
		if r.rate > 0 {
			rates = append(rates, fmt.Sprintf("%s: %s", r.key, r.rate))
		}
	}
	if len(rates) > 0 {
		fmt.Fprintf(&b, "    rate: {%s}\n", strings.Join(rates, ", "))
	}
	if q := p.Quota; q != nil {
		fmt.Fprintf(&b, "    quota: {monthly: %s, over: %s}\n", q.Monthly, q.Over)
	}
	return b.String()
}

// quoted writes values as a list.
func quoted[T any](values []T) string {
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = fmt.Sprintf("%q", fmt.Sprint(v))
	}
	return "[" + strings.Join(texts, ", ") + "]"
}

// Add writes a new peer to a file of its own and returns its path. The file is gone again if the configuration is invalid
// with it. c was read since the folder is locked.
func (f *Folder) Add(c *config.Config, p config.Peer) (string, error) {
	path := Path(c, p.Name)
	if _, err := os.Lstat(path); err == nil {
		return "", fmt.Errorf("write peer %s: there is a file %s already", p.Name, path)
	}
	if err := f.write(path, YAML(p)); err != nil {
		return "", fmt.Errorf("write peer %s: %w", p.Name, err)
	}
	if _, err := c.With(path); err != nil {
		return "", f.Undo(err, path)
	}
	return path, nil
}

// fits returns nil if the configuration is valid with what is written to path now.
func (f *Folder) fits(c *config.Config, path string) error {
	read := c.Reload
	if f.PeersOnly {
		read = c.ReloadPeers
	}
	next, err := read()
	if err != nil {
		return err
	}
	return next.ErrOf(path)
}

// Undo removes a file that Add wrote, after err.
func (f *Folder) Undo(err error, path string) error {
	if gone := os.Remove(path); gone != nil {
		return errors.Join(err, gone)
	}
	return err
}

// Own returns a peer and its file, if that holds this peer and nothing else.
func (f *Folder) Own(c *config.Config, name string) (config.Peer, string, error) {
	i := c.Peers.Index(func(p config.Peer) bool { return p.Name == name })
	if i < 0 {
		if err := c.ErrOf(Path(c, name)); err != nil {
			return config.Peer{}, "", fmt.Errorf("the file of peer %s has a fault: mend it or remove it: %w", name, err)
		}
		return config.Peer{}, "", fmt.Errorf("there is no peer %q", name)
	}
	p, path := c.Peers.At(i), Path(c, name)
	if f == nil || path == "" || p.Pos.File != path {
		return p, "", fmt.Errorf("peer %s is written at %s: change it there and run penstock reload", name, p.Pos)
	}
	text, err := private.ReadText(path, config.MaxFile)
	if err != nil {
		return p, "", fmt.Errorf("peer %s: %w", name, err)
	}
	if !IsWritten(string(text), p) {
		return p, "", fmt.Errorf("%s was edited by hand: change peer %s there and run penstock reload", path, name)
	}
	return p, path, nil
}

// IsWritten reports whether a text is what penstock writes of a peer, and not edited by hand since. Comments do not count.
func IsWritten(text string, p config.Peer) bool {
	return slices.Equal(settings(text), settings(YAML(p)))
}

// settings returns the lines of a peer's file in order of the alphabet, without comments and blanks.
func settings(text string) []string {
	var list []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			list = append(list, line)
		}
	}
	slices.Sort(list)
	return list
}

// Replace writes a new file for a peer. It puts the old one back if the configuration is invalid with the new one.
func (f *Folder) Replace(c *config.Config, path string, p config.Peer) error {
	before, err := private.Read(path, config.MaxFile)
	if err == nil {
		err = f.write(path, YAML(p))
	}
	if err != nil {
		return fmt.Errorf("write peer %s: %w", p.Name, err)
	}
	if err := f.fits(c, path); err != nil {
		return errors.Join(err, f.write(path, string(before)))
	}
	return nil
}

// Remove removes a peer and its file, remembers its addresses, and returns the file's path. Nothing changes if the
// configuration needs the peer.
func (f *Folder) Remove(c *config.Config, name string) (string, error) {
	p, path, err := f.Own(c, name)
	if err != nil {
		return "", err
	}
	if needs := needs(c, p); len(needs) > 0 {
		return "", fmt.Errorf("the configuration needs peer %s:\n%s", name, strings.Join(needs, "\n"))
	}
	aside := filepath.Join(f.dir, ".penstock-removed-"+name)
	if err := os.Rename(path, aside); err != nil {
		return "", fmt.Errorf("remove peer %s: %w", name, err)
	}
	if _, err = c.Reload(); err == nil {
		err = f.remember(c, p)
	}
	if err != nil {
		return "", errors.Join(err, os.Rename(aside, path))
	}
	if err := os.Remove(aside); err != nil {
		return "", fmt.Errorf("remove peer %s: %w", name, err)
	}
	return path, nil
}

// needs returns a sentence for each place that is invalid without a peer: rules and tests that name it.
func needs(c *config.Config, p config.Peer) []string {
	var list []string
	need := func(path, format string, args ...any) {
		list = append(list, fmt.Sprintf("%s: ", c.Position(path))+fmt.Sprintf(format, args...))
	}
	for i, rule := range c.Rules {
		path := fmt.Sprintf("rules[%d].match", i)
		for m := rule.Match; m != nil; m, path = m.Not, path+".not" {
			for j, name := range m.Peer {
				if name == p.Name {
					need(fmt.Sprintf("%s.peer[%d]", path, j), "rule %s is for peer %s: remove the peer from the rule first", rule.Name, name)
				}
			}
		}
	}
	for i, test := range c.Tests {
		if test.From == p.Name {
			need(fmt.Sprintf("tests[%d].from", i), "a test is about peer %s: remove the test first", p.Name)
		}
	}
	return list
}

// write makes or replaces a file in the folder, whole or not at all.
func (f *Folder) write(path, text string) error {
	temp, err := private.WriteTemp(f.dir, text)
	if err != nil {
		return err
	}
	defer os.Remove(temp) // after the rename there is none
	if err := share(temp, f.dir); err != nil {
		return err
	}
	return os.Rename(temp, path)
}
