package resolver

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"penstock/router/hostnet/internal/atomicfile"
)

// header is the first line of a resolv.conf that we wrote. It is how we recognise one.
const header = "# Written by penstock. The original comes back when it stops."

// File is resolv.conf rewritten. It replaces a symbolic link too, such as those of resolvconf and NetworkManager: their
// owners go on writing to its target, and Undo brings the link back. The exported fields are the original, and go into a
// journal.
type File struct {
	Path    string      `json:"path"`
	Missing bool        `json:"missing,omitempty"` // there was none
	Link    string      `json:"link,omitempty"`    // it was a symbolic link to this
	Content []byte      `json:"content,omitempty"` // original bytes, of the target if it was a link
	Mode    fs.FileMode `json:"mode,omitempty"`
	UID     int         `json:"uid"`
	GID     int         `json:"gid"`

	found  bool // in our file, which is on the disk: the original is not
	dns    []netip.Addr
	search []string
}

// PlanFile reads the file at path, which is to name dns and search. search comes before the search domains of the
// original, which are kept. Domains that begin with ~ are left out, because resolv.conf cannot route. If the file is ours, its original is
// the one that it has in comments.
func PlanFile(path string, dns []netip.Addr, search []string) (*File, error) {
	f, err := readFile(path)
	if err != nil {
		return nil, err
	}
	if isOurs(f.Content) {
		if o := originalIn(f.Content, path); o != nil {
			f = o
		}
	}
	f.dns, f.search = dns, search
	return f, nil
}

func readFile(path string) (*File, error) {
	f := &File{Path: path}
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		f.Missing = true
		return f, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read resolver file: %w", err)
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		if f.Link, err = os.Readlink(path); err != nil {
			return nil, fmt.Errorf("read resolver file: %w", err)
		}
	}
	f.Content, err = os.ReadFile(path)
	if errors.Is(err, unix.EISDIR) { // Write says so
		err = nil
	}
	leadsNowhere := errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR)
	if err != nil && !(f.Link != "" && leadsNowhere) {
		return nil, fmt.Errorf("read resolver file: %w", err)
	}
	f.Mode = info.Mode().Perm()
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		f.UID, f.GID = int(stat.Uid), int(stat.Gid)
	}
	return f, nil
}

// Adopt returns f with the original of an earlier plan, as long as the file on disk is ours. If another program wrote the
// file meanwhile, such as a DHCP client on a new network, that is the new original.
func (f *File) Adopt(earlier *File) *File {
	if !f.Missing && !f.found && !isOurs(f.Content) {
		return f
	}
	adopted := *earlier
	adopted.dns, adopted.search = f.dns, f.search
	return &adopted
}

func isOurs(content []byte) bool { return bytes.HasPrefix(content, []byte(header)) }

// Present reports whether the file is as Write leaves it.
func (f *File) Present() (bool, error) {
	content, err := os.ReadFile(f.Path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EISDIR) {
		return false, nil
	}
	return bytes.Equal(content, f.render()), err
}

// render returns our file. It keeps the options and search domains of the original.
func (f *File) render() []byte {
	var b bytes.Buffer
	b.WriteString(header + "\n")
	for _, a := range f.dns {
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	original := f.Original()
	if domains := joinDomains(f.search, searchDomains(original)); len(domains) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(domains, " "))
	}
	for line := range strings.Lines(string(original)) {
		if strings.HasPrefix(line, "options") {
			b.WriteString(strings.TrimRight(line, "\r\n") + "\n")
		}
	}
	f.appendOriginal(&b)
	return b.Bytes()
}

// Original returns the file as it would be without us, or nil if that is not known. The owner of a link that we replaced
// goes on writing to its target, so the target belongs to the network that the host is in now.
func (f *File) Original() []byte {
	if isOurs(f.Content) {
		return nil // the journal was lost, and our file is of an earlier version, or was cut short
	}
	if f.Link == "" {
		return f.Content
	}
	if now, err := os.ReadFile(f.Target()); err == nil && !isOurs(now) {
		return now
	}
	return f.Content
}

// Target is the file that the original links to. It is Path if the original is no link.
func (f *File) Target() string {
	if f.Link == "" || filepath.IsAbs(f.Link) {
		return cmp.Or(f.Link, f.Path)
	}
	return filepath.Join(filepath.Dir(f.Path), f.Link)
}

// Write puts our file in place. If the file cannot be changed at all, IsFixed recognises the error.
func (f *File) Write() error {
	f.sweep()
	mode := f.Mode
	if f.Missing || f.Link != "" {
		mode = 0o644
	}
	return f.replace(f.render(), mode)
}

// sweep removes what was left beside the file by a process that was killed while it wrote. What stays does no harm.
func (f *File) sweep() { _ = atomicfile.Sweep(f.Path) }

// replace puts a regular file in place by rename. Where that is refused, because the file is a mount point or the
// directory cannot be written, it writes into the file that is there.
func (f *File) replace(content []byte, mode fs.FileMode) error {
	err := atomicfile.Write(f.Path, content, mode)
	if err == nil {
		if f.Link == "" && !f.Missing {
			return os.Lchown(f.Path, f.UID, f.GID)
		}
		return nil
	}
	if inPlace := writeInPlace(f.Path, content); inPlace != nil {
		return fmt.Errorf("it can neither be replaced (%w) nor written to (%w)", cause(err), cause(inPlace))
	}
	return nil
}

// cause leaves the paths out of an error: the caller has named the file.
func cause(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// IsFixed reports whether an error of Write means that the file cannot be changed: it is immutable, a directory, or on a
// file system that is mounted read-only.
func IsFixed(err error) bool {
	for _, e := range []error{unix.EPERM, unix.EACCES, unix.EROFS, unix.EBUSY, unix.EISDIR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// IsWritable reports whether the file at path, for which IsFixed has recognised an error, can be changed by now, as far as its mode, its
// flags and its file system say.
func IsWritable(path string) bool {
	info, err := os.Lstat(path)
	replaced := errors.Is(err, fs.ErrNotExist) || err == nil && info.Mode()&fs.ModeSymlink != 0
	if replaced && unix.Access(filepath.Dir(path), unix.W_OK) == nil {
		return true
	}
	return err == nil && !info.IsDir() && unix.Access(path, unix.W_OK) == nil
}

func writeInPlace(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}

// Undo brings the original back, unless another program has written the file since.
func (f *File) Undo() error {
	f.sweep()
	now, err := readFile(f.Path)
	if err != nil {
		return err
	}
	cutShort := len(now.Content) == 0 && len(f.Content) > 0 && !now.Missing // we were killed while writing in place
	switch {
	case !isOurs(now.Content) && !cutShort:
		return nil
	case now.Link != "" && now.Link == f.Link:
		return writeInPlace(f.Path, f.Content) // the link was kept, because its directory could not be written
	case f.Missing:
		return os.Remove(f.Path)
	case f.Link != "":
		return atomicfile.Link(f.Link, f.Path)
	}
	return f.replace(f.Content, f.Mode)
}

// SameOriginal reports whether undoing f and o leads to the same file.
func (f *File) SameOriginal(o *File) bool {
	return f.Missing == o.Missing && f.Link == o.Link && f.Mode == o.Mode && f.UID == o.UID && f.GID == o.GID &&
		bytes.Equal(f.Content, o.Content)
}
