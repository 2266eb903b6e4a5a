package program

import (
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxGroups is how many control groups are remembered. A search looks at no more: those of units come before those inside of them.
const maxGroups = 16384

// groups finds control groups by their IDs. An ID is the inode of the group's directory and is not used again.
type groups struct {
	roots  []string // where version 2 may be mounted
	rounds rounds

	mu    sync.Mutex // guards below
	known map[uint64]node
	gone  map[uint64]bool // searched for, and not found
}

// node is a control group.
type node struct {
	Group
	path string // of its directory
}

func newGroups(roots ...string) *groups {
	g := &groups{roots: roots, known: make(map[uint64]node), gone: make(map[uint64]bool)}
	g.rounds = rounds{search: g.search, rest: 50 * time.Millisecond}
	return g
}

// find returns the group with an ID. ok is false if it has ended, or is not visible to us.
func (g *groups) find(id uint64) (found node, ok bool) {
	if found, ok, done := g.look(id); done {
		return found, ok
	}
	g.rounds.wait()
	found, ok, done := g.look(id)
	if !done {
		g.mu.Lock()
		defer g.mu.Unlock()
		if len(g.gone) >= maxGroups {
			clear(g.gone)
		}
		g.gone[id] = true
	}
	return found, ok
}

func (g *groups) look(id uint64) (found node, ok, done bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	found, ok = g.known[id]
	return found, ok, ok || g.gone[id]
}

// search reads the tree of groups, level by level.
func (g *groups) search() {
	root := g.root()
	if root == "" {
		return
	}
	known := make(map[uint64]node)
	for level := []string{"/"}; len(level) > 0 && len(known) < maxGroups; {
		var next []string
		for _, at := range level {
			info, err := os.Lstat(root + at)
			if err != nil {
				continue // it has ended
			}
			// Beside version 1 all processes may be at the root of version 2: it says nothing there.
			if s, ok := info.Sys().(*syscall.Stat_t); ok && (at != "/" || root == g.roots[0]) {
				known[s.Ino] = node{Parse(at), root + at}
			}
			entries, err := os.ReadDir(root + at)
			if err != nil {
				continue
			}
			for _, e := range entries {
				if e.IsDir() && len(known)+len(next) < maxGroups {
					next = append(next, path.Join(at, e.Name()))
				}
			}
		}
		level = next
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.known = known
}

// root returns where version 2 is mounted; "" if it is not visible.
func (g *groups) root() string {
	for _, root := range g.roots {
		var s unix.Statfs_t
		if unix.Statfs(root, &s) == nil && s.Type == unix.CGROUP2_SUPER_MAGIC {
			return root
		}
	}
	return ""
}

// maxNear is how many processes of a group are looked at before all others.
const maxNear = 64

// processes returns the processes in a group, newest first; none if it has many.
func (n node) processes() []int {
	if n.path == "" {
		return nil
	}
	f, err := os.Open(n.path + "/cgroup.procs")
	if err != nil {
		return nil
	}
	defer f.Close()
	var buf [maxNear * 8]byte
	size, err := io.ReadFull(f, buf[:])
	if err == nil {
		return nil // there are more
	}
	var list []int
	for field := range strings.FieldsSeq(string(buf[:size])) {
		if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
			list = append(list, pid)
		}
	}
	slices.Sort(list)
	slices.Reverse(list)
	return list
}
