package hostnet

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const procSys = "/proc/sys"

// sysctl is one kernel parameter of this network namespace, named by its path below /proc/sys.
type sysctl struct {
	Path string `json:"path"`
	Old  string `json:"old"`
	New  string `json:"new"`
	// Unless names a parameter that sets this one and others like it. It was not 1 before; if it is by the time of the undo, another
	// program wants this one as it is.
	Unless string `json:"unless,omitempty"`
	// Index is that of the interface that the parameter belongs to, which keeps the value when it gets another name, as udev gives one to
	// what has just come. 0: it belongs to none, or to whichever has the name.
	Index int `json:"index,omitempty"`
}

func (s *sysctl) stage() stage { return stageSysctl }

func (s *sysctl) key() any {
	if s.Index == 0 {
		return sysctl{Path: s.Path}
	}
	return sysctl{Path: s.pathOf("*"), Index: s.Index}
}

// pathOf returns the path of the parameter for an interface with another name.
func (s *sysctl) pathOf(name string) string {
	dir, parameter := filepath.Split(s.Path)
	return filepath.Join(filepath.Dir(filepath.Clean(dir)), name, parameter)
}

func (s *sysctl) String() string { return "sysctl " + s.Path }

func (s *sysctl) adopt(earlier change) change {
	adopted := *s
	was := earlier.(*sysctl)
	adopted.Old, adopted.Unless = was.Old, was.Unless
	return &adopted
}

// dispensable: containers mount /proc/sys read-only. The nftables table still guards the TUN's addresses.
func (s *sysctl) dispensable(err error) bool {
	return errors.Is(err, unix.EROFS) || errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist)
}

func (s *sysctl) present(*view) (bool, error) {
	value, err := readSysctl(s.Path)
	if s.dispensable(err) {
		return false, nil
	}
	return value == s.New, err
}

func (s *sysctl) make(*kernel) error {
	err := writeSysctl(s.Path, s.New)
	if s.Index != 0 && errors.Is(err, fs.ErrNotExist) {
		return nil // the interface has just gone or got another name, which Watch hears of: the host has such parameters
	}
	return err
}

func (s *sysctl) undo(k *kernel) error {
	path := s.Path
	if s.Index != 0 {
		link, err := k.nl.LinkByIndex(s.Index)
		if gone := (netlink.LinkNotFoundError{}); errors.As(err, &gone) {
			return nil // another interface that has the name now is none of ours
		}
		if err != nil {
			return err
		}
		path = s.pathOf(link.Attrs().Name)
	}
	value, err := readSysctl(path)
	if errors.Is(err, fs.ErrNotExist) {
		if s.Index != 0 {
			if link, err := k.nl.LinkByIndex(s.Index); err == nil && s.pathOf(link.Attrs().Name) != path {
				return s.undo(k) // it has just got another name
			}
		}
		return nil
	}
	if err != nil || value != s.New {
		return err // another program set another value
	}
	if s.Unless != "" && sysctlOrEmpty(s.Unless) == "1" {
		return nil
	}
	return writeSysctl(path, s.Old)
}

func readSysctl(path string) (string, error) {
	raw, err := os.ReadFile(filepath.Join(procSys, path))
	return strings.TrimSpace(string(raw)), err
}

func writeSysctl(path, value string) error {
	return os.WriteFile(filepath.Join(procSys, path), []byte(value+"\n"), 0)
}
