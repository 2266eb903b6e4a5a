package hostnet

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ourHeader is the first line of a resolv.conf that we wrote: how we know it again.
const ourHeader = "# Written by penstock. The original comes back when it stops."

// resolvConf is the resolver file rewritten. It replaces a link as well, such as resolvconf's or
// NetworkManager's, whose owners go on writing behind it; on undo the link comes back.
type resolvConf struct {
	Path    string      `json:"path"`
	Missing bool        `json:"missing,omitempty"` // there was none
	Link    string      `json:"link,omitempty"`    // it was a symbolic link to this
	Content []byte      `json:"content,omitempty"` // original bytes, also of a link's target
	Mode    fs.FileMode `json:"mode,omitempty"`
	UID     int         `json:"uid"`
	GID     int         `json:"gid"`

	dns    []netip.Addr
	search []string
}

// planResolvConf reads what is there.
func planResolvConf(path string, dns []netip.Addr, search []string) (*resolvConf, error) {
	r, err := readResolvConf(path)
	if err != nil {
		return nil, err
	}
	r.dns, r.search = dns, search
	return r, nil
}

func readResolvConf(path string) (*resolvConf, error) {
	r := &resolvConf{Path: path}
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		r.Missing = true
		return r, nil
	}
	if err != nil {
		return nil, fmt.Errorf("hostnet: resolver file: %w", err)
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		if r.Link, err = os.Readlink(path); err != nil {
			return nil, fmt.Errorf("hostnet: resolver file: %w", err)
		}
	}
	if r.Content, err = os.ReadFile(path); err != nil && !(r.Link != "" && errors.Is(err, fs.ErrNotExist)) {
		return nil, fmt.Errorf("hostnet: resolver file: %w", err)
	}
	r.Mode = info.Mode().Perm()
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		r.UID, r.GID = int(stat.Uid), int(stat.Gid)
	}
	return r, nil
}

// resolvConfKey is the path.
type resolvConfKey string

func (r *resolvConf) stage() stage { return stageResolver }
func (r *resolvConf) key() any     { return resolvConfKey(r.Path) }
func (r *resolvConf) entry() entry { return entry{ResolvConf: r} }

func (r *resolvConf) String() string { return "resolver file " + r.Path }

// adopt keeps the earlier original while the file is still ours. When somebody wrote it meanwhile,
// a DHCP client after a change of network say, theirs is the new original.
func (r *resolvConf) adopt(earlier change) change {
	if !r.Missing && !isOurs(r.Content) {
		return r
	}
	adopted := *earlier.(*resolvConf)
	adopted.dns, adopted.search = r.dns, r.search
	return &adopted
}

func isOurs(content []byte) bool { return bytes.HasPrefix(content, []byte(ourHeader)) }

func (r *resolvConf) present(*view) (bool, error) {
	content, err := os.ReadFile(r.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return bytes.Equal(content, r.render()), err
}

// render is our file. Options of the original stay: they are about this host's programs.
func (r *resolvConf) render() []byte {
	var b bytes.Buffer
	b.WriteString(ourHeader + "\n")
	for _, a := range r.dns {
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	if len(r.search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(r.search, " "))
	}
	for line := range strings.Lines(string(r.Content)) {
		if strings.HasPrefix(line, "options") {
			b.WriteString(strings.TrimRight(line, "\n") + "\n")
		}
	}
	return b.Bytes()
}

func (r *resolvConf) make(*kernel) error {
	mode := r.Mode
	if r.Missing || r.Link != "" {
		mode = 0o644
	}
	return r.replace(r.render(), mode)
}

// replace puts a regular file in place: by rename, or, where that is refused (a file that is itself
// a mount, a directory that cannot be written), by writing into the one that is there.
func (r *resolvConf) replace(content []byte, mode fs.FileMode) error {
	err := writeAtomic(r.Path, content, mode)
	if err == nil {
		if r.Link == "" && !r.Missing {
			return os.Lchown(r.Path, r.UID, r.GID)
		}
		return nil
	}
	if inPlace := writeInPlace(r.Path, content); inPlace != nil {
		return errors.Join(err, inPlace)
	}
	return nil
}

func writeInPlace(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}

func (r *resolvConf) undo(*kernel) error {
	now, err := readResolvConf(r.Path)
	if err != nil {
		return err
	}
	cutShort := len(now.Content) == 0 && len(r.Content) > 0 && !now.Missing // killed while writing in place
	switch {
	case !isOurs(now.Content) && !cutShort:
		return nil // never written, or somebody else's by now
	case now.Link != "" && now.Link == r.Link:
		return writeInPlace(r.Path, r.Content) // the link stood in a directory we could not write
	case r.Missing:
		return os.Remove(r.Path)
	case r.Link != "":
		return r.relink()
	}
	return r.replace(r.Content, r.Mode)
}

// relink puts the symbolic link back in one step.
func (r *resolvConf) relink() error {
	temporary := filepath.Join(filepath.Dir(r.Path), "."+filepath.Base(r.Path)+".penstock")
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(r.Link, temporary); err != nil {
		return err
	}
	if err := os.Rename(temporary, r.Path); err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	return syncDir(filepath.Dir(r.Path))
}

// sameOriginal reports whether undoing either leads to the same file.
func (r *resolvConf) sameOriginal(o *resolvConf) bool {
	return r.Missing == o.Missing && r.Link == o.Link && r.Mode == o.Mode && r.UID == o.UID && r.GID == o.GID &&
		bytes.Equal(r.Content, o.Content)
}
