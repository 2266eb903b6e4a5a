package program

import (
	"bytes"
	"cmp"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxHeld   = 8192             // sockets whose holders are remembered, and those that nobody holds
	maxProcs  = 1024             // programs that are remembered
	maxBusy   = 8                // processes that are looked at before all are
	unheldFor = 10 * time.Second // how long a socket is believed to be held by nobody that we may see
)

// holders finds the processes that hold a socket. Finding one anew means reading the names of all open files of all processes, so
// those that are likely are looked at first: those that have opened sockets of late, and those in the group that the socket is of.
type holders struct {
	proc   string // where /proc is
	rounds rounds
	near   budget // of looking at those that are likely

	mu     sync.Mutex           // guards below
	wanted map[uint32]*want     // inode: who waits for it
	held   map[uint32][]process // inode: who holds it, the first to begin first
	unheld map[uint32]time.Time // inode: until when nobody is looked for
	busy   []process            // who had a new socket, most recent first
	procs  map[process]*image
}

// want is a socket that is looked for.
type want struct {
	waiting int
	list    []process // who holds it, the first to begin first
}

// process is a process that cannot be mistaken for a later one with the same ID.
type process struct {
	pid   int
	start uint64 // in ticks after the boot
}

// image is what a process runs. It is kept for as long as the process runs the same program.
type image struct {
	path    string
	deleted bool
	group   Group
}

func newHolders(proc string) *holders {
	h := &holders{
		proc: proc, wanted: make(map[uint32]*want), held: make(map[uint32][]process), unheld: make(map[uint32]time.Time),
		procs: make(map[process]*image),
	}
	h.rounds = rounds{search: h.search, rest: 20 * time.Millisecond}
	return h
}

// find returns the program that holds a socket, which one of the processes in group is likely to be. Of several it returns the one
// that began first, and several says whether they differ.
func (h *holders) find(inode uint32, group func() []int) (p image, several, ok bool) {
	if inode == 0 {
		return image{}, false, false // the program has closed it
	}
	h.mu.Lock()
	list, unheld := h.held[inode], time.Now().Before(h.unheld[inode])
	h.mu.Unlock()
	if list = h.alive(list); len(list) == 0 && !unheld {
		h.near.spend(func() { list = h.nearby(inode, group()) })
		if len(list) == 0 {
			list = h.everywhere(inode)
		}
		h.remember(inode, list)
	}
	for _, one := range list {
		switch q := h.image(one); {
		case q == nil:
		case !ok:
			p, ok = *q, true
		case q.path != p.path || q.group != p.group:
			several = true
		}
	}
	return p, several, ok
}

// remember keeps who holds a socket.
func (h *holders) remember(inode uint32, list []process) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(list) == 0 {
		if len(h.unheld) >= maxHeld {
			clear(h.unheld)
		}
		h.unheld[inode] = time.Now().Add(unheldFor)
		return
	}
	if len(h.held) >= maxHeld {
		clear(h.held)
	}
	h.held[inode] = list
	h.busy = slices.DeleteFunc(h.busy, func(p process) bool { return p == list[0] })
	h.busy = slices.Insert(h.busy, 0, list[0])
	h.busy = h.busy[:min(len(h.busy), maxBusy)]
}

// alive returns the processes that have not ended.
func (h *holders) alive(list []process) []process {
	return slices.DeleteFunc(slices.Clone(list), func(p process) bool {
		now, _, ok := h.stat(p.pid)
		return !ok || now != p
	})
}

// nearby looks at the processes that are likely to hold a socket, and at the parent of the one that does.
func (h *holders) nearby(inode uint32, group []int) []process {
	h.mu.Lock()
	var busy []int
	for _, p := range h.busy {
		if len(group) == 0 || slices.Contains(group, p.pid) {
			busy = append(busy, p.pid)
		}
	}
	h.mu.Unlock()
	var list []process
	for _, pid := range slices.Concat(busy, group) {
		p, parent, ok := h.stat(pid)
		if !ok || !h.holds(pid, inode) {
			continue
		}
		list = append(list, p)
		for _, other := range append(busy, parent) {
			if q, _, ok := h.stat(other); ok && other > 1 && h.holds(other, inode) {
				list = append(list, q)
			}
		}
		break
	}
	return inOrder(list)
}

func inOrder(list []process) []process {
	slices.SortFunc(list, func(a, b process) int { return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.pid, b.pid)) })
	return slices.Compact(list)
}

// holds reports whether a process holds a socket.
func (h *holders) holds(pid int, wanted uint32) (found bool) {
	h.sockets(pid, func(inode uint32) bool {
		found = inode == wanted
		return !found
	})
	return found
}

// everywhere looks at all processes.
func (h *holders) everywhere(inode uint32) []process {
	h.mu.Lock()
	w := h.wanted[inode]
	if w == nil {
		w = new(want)
		h.wanted[inode] = w
	}
	w.waiting++
	h.mu.Unlock()
	h.rounds.wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	if w.waiting--; w.waiting == 0 {
		delete(h.wanted, inode)
	}
	return w.list
}

// search finds who holds the sockets that are wanted.
func (h *holders) search() {
	h.mu.Lock()
	found := make(map[uint32][]process, len(h.wanted))
	for inode := range h.wanted {
		found[inode] = nil
	}
	h.mu.Unlock()
	dir, err := os.Open(h.proc)
	if err != nil {
		return
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		one := process{pid: -1} // read once, and only if it holds one
		h.sockets(pid, func(inode uint32) bool {
			list, ok := found[inode]
			if !ok || len(list) >= maxBusy {
				return true
			}
			if one.pid < 0 {
				one, _, _ = h.stat(pid) // the zero process if it has ended
			}
			if one.pid > 0 {
				found[inode] = append(list, one)
			}
			return true
		})
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for inode, list := range found {
		if w := h.wanted[inode]; w != nil {
			w.list = inOrder(list)
		}
	}
}

// sockets calls each with the sockets that a process holds until it returns false; with none if we may not see them.
func (h *holders) sockets(pid int, each func(inode uint32) bool) {
	var link [64]byte
	dir, err := os.Open(h.proc + "/" + strconv.Itoa(pid) + "/fd")
	if err != nil {
		return // it has ended, or we may not see it
	}
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(1024)
		for _, name := range names {
			n, err := unix.Readlinkat(int(dir.Fd()), name, link[:])
			if err != nil {
				continue
			}
			if inode, ok := socketIn(link[:n]); ok && !each(inode) {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// socketIn reads "socket:[123]".
func socketIn(link []byte) (inode uint32, ok bool) {
	digits, ok := bytes.CutPrefix(link, []byte("socket:["))
	if !ok || len(digits) < 2 || digits[len(digits)-1] != ']' {
		return 0, false
	}
	for _, c := range digits[:len(digits)-1] {
		inode = inode*10 + uint32(c-'0')
	}
	return inode, true
}

// stat reads who a process is, and its parent.
func (h *holders) stat(pid int) (p process, parent int, ok bool) {
	b, err := os.ReadFile(h.proc + "/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return process{}, 0, false
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:])) // the name before may have any characters
	const ppid, starttime = 4 - 3, 22 - 3                               // proc_pid_stat(5) counts from 1, and two are before
	if len(fields) <= starttime {
		return process{}, 0, false
	}
	start, err := strconv.ParseUint(fields[starttime], 10, 64)
	parent, _ = strconv.Atoi(fields[ppid])
	return process{pid, start}, parent, err == nil
}

// image returns what a process runs, or nil if that cannot be known.
func (h *holders) image(p process) *image {
	dir := h.proc + "/" + strconv.Itoa(p.pid)
	path, err := os.Readlink(dir + "/exe") // each time: a process may run another program after exec
	if err != nil {
		return nil
	}
	if now, _, ok := h.stat(p.pid); !ok || now != p {
		return nil // that was another process
	}
	q := image{}
	q.path, q.deleted = strings.CutSuffix(path, " (deleted)")
	h.mu.Lock()
	known := h.procs[p]
	h.mu.Unlock()
	if known != nil && known.path == q.path && known.deleted == q.deleted {
		return known
	}
	text, _ := os.ReadFile(dir + "/cgroup")
	q.group = Parse(fromProc(string(text)))
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.procs) >= maxProcs {
		clear(h.procs)
	}
	h.procs[p] = &q
	return &q
}
