package keeper

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// Manager keeps sockets. Its methods may be called concurrently.
type Manager struct {
	path string
	conn *net.UnixConn
	over sync.WaitGroup
	most int

	mu      sync.Mutex // guards below
	kept    []*os.File // each with its name
	refused int
}

// New returns a manager that keeps as many sockets at most, as FileDescriptorStoreMax= says. Its own socket is in dir.
func New(dir string, most int) (*Manager, error) {
	m := &Manager{path: filepath.Join(dir, "notify"), most: most}
	var err error
	if m.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path, Net: "unixgram"}); err != nil {
		return nil, fmt.Errorf("keeper: %w", err)
	}
	m.over.Go(m.listen)
	return m, nil
}

// listen takes what programs say until the manager is closed.
func (m *Manager) listen() {
	text, control := make([]byte, 4096), make([]byte, 256)
	for {
		n, oob, _, _, err := m.conn.ReadMsgUnix(text, control)
		if err != nil {
			return
		}
		var descriptors []int
		if messages, err := syscall.ParseSocketControlMessage(control[:oob]); err == nil {
			for i := range messages {
				more, _ := syscall.ParseUnixRights(&messages[i]) // another kind of message has none
				descriptors = append(descriptors, more...)
			}
		}
		m.take(strings.Split(string(text[:n]), "\n"), descriptors)
	}
}

func (m *Manager) take(lines []string, descriptors []int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name := "stored"
	for _, l := range lines {
		if after, ok := strings.CutPrefix(l, "FDNAME="); ok && !strings.Contains(after, ":") {
			name = after
		}
	}
	if slices.Contains(lines, "FDSTOREREMOVE=1") {
		m.kept = slices.DeleteFunc(m.kept, func(f *os.File) bool { return f.Name() == name && f.Close() == nil })
	}
	for _, fd := range descriptors {
		syscall.CloseOnExec(fd)
		f := os.NewFile(uintptr(fd), name)
		if !slices.Contains(lines, "FDSTORE=1") || len(m.kept) >= m.most {
			m.refused++
			f.Close()
			continue
		}
		m.kept = append(m.kept, f)
	}
}

// Names returns the names of what is kept, in their order.
func (m *Manager) Names() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for _, f := range m.kept {
		names = append(names, f.Name())
	}
	slices.Sort(names)
	return names
}

// Refused returns how many descriptors were not kept.
func (m *Manager) Refused() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.refused
}

// Manage makes a command, which has not been started, one of this manager's: it is given what is kept now.
func (m *Manager) Manage(cmd *exec.Cmd) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+m.path)
	if len(m.kept) == 0 {
		return
	}
	var names []string
	for _, f := range m.kept {
		names = append(names, f.Name())
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	cmd.Env = append(cmd.Env, fmt.Sprint("LISTEN_FDS=", len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	// Only the process itself knows its number before it runs.
	cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
}

// Stop closes what is kept, as the stop of a service does.
func (m *Manager) Stop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, f := range m.kept {
		f.Close()
	}
	m.kept = nil
}

// Close ends the manager.
func (m *Manager) Close() error {
	err := errors.Join(m.conn.Close(), os.Remove(m.path))
	m.over.Wait()
	m.Stop()
	if errors.Is(err, os.ErrNotExist) { // net removes it too
		err = nil
	}
	return err
}
