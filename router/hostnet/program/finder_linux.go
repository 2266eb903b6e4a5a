package program

import (
	"fmt"
	"io/fs"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"
)

// Finder finds programs. It remembers a bounded number of sockets, control groups and processes. Its methods may be called by
// several goroutines at once.
type Finder struct {
	diag    diag // of single sockets
	all     diag // of all sockets
	groups  *groups
	holders *holders
	dumps   [2]dumps // tcp, udp
}

// New returns a Finder. It opens nothing before the first question.
func New() *Finder {
	f := &Finder{groups: newGroups("/sys/fs/cgroup", "/sys/fs/cgroup/unified"), holders: newHolders("/proc")}
	for i, network := range []string{"tcp", "udp"} {
		f.dumps[i].rounds = rounds{search: func() { f.dumps[i].fill(&f.all, network) }}
	}
	return f
}

// Close frees what the Finder holds. It can be used again.
func (f *Finder) Close() {
	f.diag.close()
	f.all.close()
}

// Sees reports whether we have the right to see the programs of other users. Without it their paths are not found.
func (f *Finder) Sees() bool {
	var caps [2]unix.CapUserData
	if unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &caps[0]) != nil {
		return false
	}
	has := func(cap int) bool { return caps[0].Effective>>cap&1 != 0 }
	return has(unix.CAP_SYS_PTRACE) && (has(unix.CAP_DAC_READ_SEARCH) || has(unix.CAP_DAC_OVERRIDE)) // the latter for /proc/PID/fd
}

// Find returns the program that sends from local to remote through a socket of this machine. network is "tcp" or "udp"; of "udp", port 0
// of remote is any. It may have to wait for a search of /proc. The error wraps fs.ErrNotExist if there is no such socket.
func (f *Finder) Find(network string, local, remote netip.AddrPort, want Want) (Program, error) {
	s, ok := f.Look(network, local, remote)
	if !ok { // it may be bound to an interface
		d := &f.dumps[0]
		if network == "udp" {
			d = &f.dumps[1]
		}
		d.rounds.wait()
		var err error
		if s.socket, err = d.find(network, local, remote); err != nil {
			return Program{}, fmt.Errorf("find the program that sends from %s to %s: %w", local, remote, err)
		}
	}
	return f.Holder(s, want), nil
}

// Socket is a socket of this machine as it was when it was looked at.
type Socket struct{ socket socket }

// Look finds the socket that sends from local to remote. It waits for nothing. It does not find one that is bound to an interface, nor
// one for any port of remote.
func (f *Finder) Look(network string, local, remote netip.AddrPort) (Socket, bool) {
	if isAnyPort(network, remote) { // the kernel knows no such question, and may find another socket than the connected one
		return Socket{}, false
	}
	s, err := f.diag.get(network, local, remote)
	return Socket{s}, err == nil && s.inode != 0 && s.likeness(network, local, remote) > 0
}

// Known returns what is known of the program that sends through a socket without a search.
func (f *Finder) Known(s Socket) Program {
	p := Program{UID: s.socket.uid}
	group, _, _ := f.groups.look(s.socket.group)
	p.Group = group.Group
	return p
}

// Holder returns the program that sends through a socket. It may have to wait for a search.
func (f *Finder) Holder(s Socket, want Want) Program {
	p := Program{UID: s.socket.uid}
	var group node
	known := false
	if s.socket.group != 0 {
		group, known = f.groups.find(s.socket.group)
	}
	if want.Group {
		p.Group = group.Group
	}
	if want.Path || want.Group && !known {
		q, several, ok := f.holders.find(s.socket.inode, group.processes)
		if ok {
			p.Path, p.Deleted, p.Several = q.path, q.deleted, several
		}
		if ok && want.Group && !known {
			p.Group = q.group
		}
	}
	return p
}

// dumps is a list of all sockets of a kind.
type dumps struct {
	rounds rounds

	mu   sync.Mutex // guards below
	err  error
	list map[uint16][]socket // by local port
}

func (d *dumps) fill(from *diag, network string) {
	list := make(map[uint16][]socket)
	var err error
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if failed := from.dump(network, family, func(s *socket) { list[s.local.Port()] = append(list[s.local.Port()], *s) }); failed != nil {
			err = failed
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.list, d.err = list, err
}

func (d *dumps) find(network string, local, remote netip.AddrPort) (best socket, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	score := 0
	for _, s := range d.list[local.Port()] {
		if s.family == unix.AF_INET && !local.Addr().Is4() {
			continue
		}
		if n := s.likeness(network, local, remote); n > score {
			best, score = s, n
		}
	}
	switch {
	case score > 0:
		return best, nil
	case d.err != nil:
		return best, d.err
	}
	return best, fs.ErrNotExist
}
