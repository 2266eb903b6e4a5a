// Package handover keeps listening sockets open while penstock restarts: the service manager has a duplicate of each, and gives it to
// the next process (systemd's file descriptor store). So connections wait meanwhile that would be refused, and datagrams that would
// be lost, also after a crash. Sockets that the service manager has opened itself (socket activation) are used in the same way.
//
// It never believes the name of a socket that it is given: it uses one only if it is what opening it anew would make.
//
// It serves nothing, and does not know what the sockets are for.
package handover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
)

// Store keeps duplicates of sockets, and hands them to the next process.
type Store interface {
	// Keep keeps a duplicate of a descriptor under a name.
	Keep(name string, fd uintptr) error
	// Drop has what is kept under a name closed, soon.
	Drop(name string) error
}

// Sockets are the listening sockets of a process: it has a duplicate of each. A nil *Sockets opens sockets that nobody keeps. Methods
// may be called concurrently.
type Sockets struct {
	store Store // nil: none, but there may be sockets to use
	log   *slog.Logger

	mu   sync.Mutex // guards below
	all  []*socket
	told bool // that the store fails
}

// socket is one of them.
type socket struct {
	name string // in the store; any, if others have put it there
	file *os.File
	nature
	port uint16
	used bool // in this run
}

// How long the service manager may take to close a socket that it kept at a port that is needed. It needs milliseconds.
const (
	dropLimit = 3 * time.Second
	dropLook  = 2 * time.Millisecond
)

// nature is what a socket is, but for its port, as the kernel says. Two sockets of one nature can stand for each other.
type nature struct {
	addr                   netip.Addr // an IPv6 address may have the number of an interface as its zone
	domain, kind, protocol int
	listens, onlyIPv6      bool
	sharesAddr, sharesPort bool // SO_REUSEADDR, SO_REUSEPORT
	mark                   int
	device                 string // that it is bound to, or ""
}

// String returns the nature as a part of a name in a store.
func (n nature) String() string {
	kind := "udp"
	if n.kind == syscall.SOCK_STREAM {
		kind = "tcp"
	}
	return kind + "/" + strings.ReplaceAll(n.addr.String(), ":", "_") // a colon separates names
}

// Inherit takes the sockets that the service manager gives to this process, and hides them from its children. New ones are put into
// the store. If there is neither a store nor a socket, it returns nil. It is called once.
func Inherit(store Store, log *slog.Logger) *Sockets {
	files := activation.Files(true)
	if store == nil && len(files) == 0 {
		return nil
	}
	return with(files, store, log)
}

// with returns Sockets that have sockets.
func with(files []*os.File, store Store, log *slog.Logger) *Sockets {
	s := &Sockets{store: store, log: log}
	for _, file := range files {
		n, port, err := natureOf(file)
		if err != nil {
			log.Warn("the service manager has given something that is no socket", "name", file.Name(), "err", err)
		}
		s.all = append(s.all, &socket{name: file.Name(), file: file, nature: n, port: port})
	}
	return s
}

// Begin begins a run of penstock in this process. A run before it has ended: its sockets can be asked for again.
func (s *Sockets) Begin() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.all {
		k.used = false
	}
}

// Listen is lc.Listen, with the kept socket if there is one, so that the connections that wait there are accepted first. It is for
// TCP. lc.KeepAlive is not heeded; lc.KeepAliveConfig is.
func (s *Sockets) Listen(ctx context.Context, lc net.ListenConfig, network, address string) (net.Listener, error) {
	l, err := open(s, address, func(address string) (net.Listener, error) { return lc.Listen(ctx, network, address) }, net.FileListener)
	if tcp, ok := l.(*net.TCPListener); ok && s != nil && lc.KeepAliveConfig.Enable {
		return &listener{tcp, lc.KeepAliveConfig}, err
	}
	return l, err
}

// ListenPacket is lc.ListenPacket, with the kept socket if there is one, and the datagrams that wait there. It is for UDP.
func (s *Sockets) ListenPacket(ctx context.Context, lc net.ListenConfig, network, address string) (net.PacketConn, error) {
	return open(s, address, func(address string) (net.PacketConn, error) { return lc.ListenPacket(ctx, network, address) }, net.FilePacketConn)
}

// open returns a socket of the process before, or one that fresh opens.
func open[S io.Closer](s *Sockets, address string, fresh func(string) (S, error), adopt func(*os.File) (S, error)) (S, error) {
	host, number, err := net.SplitHostPort(address)
	port, wrong := strconv.ParseUint(number, 10, 16)
	if s == nil || err != nil || wrong != nil || port == 0 { // nobody could ask for a port that the system chose
		return fresh(address)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var like nature // of what is asked for
	if slices.ContainsFunc(s.all, func(k *socket) bool { return k.port == uint16(port) && !k.used }) {
		if like, err = natureAt(net.JoinHostPort(host, "0"), fresh); err == nil {
			if opened, ok := takeLocked(s, like, uint16(port), adopt); ok {
				return opened, nil
			}
		}
	}
	opened, err := fresh(address)
	if errors.Is(err, syscall.EADDRINUSE) && s.dropLocked(func(k *socket) bool { return k.port == uint16(port) && k.excludes(like) }) {
		for end := time.Now().Add(dropLimit); errors.Is(err, syscall.EADDRINUSE) && time.Now().Before(end); time.Sleep(dropLook) {
			opened, err = fresh(address)
		}
	}
	if err == nil {
		s.addLocked(opened)
	}
	return opened, err
}

// takeLocked returns the socket that has a nature and a port, if there is one that is not used.
func takeLocked[S io.Closer](s *Sockets, like nature, port uint16, adopt func(*os.File) (S, error)) (opened S, ok bool) {
	i := slices.IndexFunc(s.all, func(k *socket) bool { return k.port == port && k.nature == like && !k.used })
	if i < 0 {
		return opened, false
	}
	opened, err := adopt(s.all[i].file) // a duplicate
	if err != nil {
		s.log.Warn("cannot use a socket that was kept", "socket", s.all[i].name, "err", err)
		return opened, false
	}
	s.all[i].used = true
	return opened, true
}

// natureAt opens a socket as fresh does, but at another port, and returns what it is. So nothing here has to know what the network
// package makes of an address, or what a control function sets.
func natureAt[S io.Closer](address string, fresh func(string) (S, error)) (nature, error) {
	socket, err := fresh(address)
	if err != nil {
		return nature{}, err
	}
	defer socket.Close()
	n, _, err := natureOf(socket)
	return n, err
}

// excludes reports whether two sockets cannot have one port.
func (n nature) excludes(other nature) bool {
	return n.kind == other.kind && (n.addr == other.addr || n.addr.IsUnspecified() || other.addr.IsUnspecified())
}

// addLocked keeps a duplicate of a new socket, here and in the store.
func (s *Sockets) addLocked(opened any) {
	err := errors.ErrUnsupported
	if o, ok := opened.(interface{ File() (*os.File, error) }); ok {
		k := &socket{used: true}
		if k.file, err = o.File(); err == nil {
			if k.nature, k.port, err = natureOf(k.file); err == nil && s.store != nil {
				k.name = s.nameLocked(fmt.Sprintf("%v/%d", k.nature, k.port))
				err = control(k.file, func(fd uintptr) error { return s.store.Keep(k.name, fd) })
			}
			s.all = append(s.all, k)
		}
	}
	if err != nil && !s.told {
		s.told = true
		s.log.Warn("the service manager cannot keep sockets: connections are refused while penstock restarts", "err", err)
	}
}

// nameLocked returns a name that no socket has. The store drops by name, and so would drop both of two that share one.
func (s *Sockets) nameLocked(like string) string {
	name := like
	for n := 2; slices.ContainsFunc(s.all, func(k *socket) bool { return k.name == name }); n++ {
		name = fmt.Sprintf("%s/%d", like, n)
	}
	return name
}

// dropLocked closes sockets that are not used, here and in the store, and reports whether there were any.
func (s *Sockets) dropLocked(which func(*socket) bool) bool {
	var dropped []*socket
	s.all = slices.DeleteFunc(s.all, func(k *socket) bool {
		if k.used || !which(k) {
			return false
		}
		dropped = append(dropped, k)
		return true
	})
	for _, k := range dropped {
		k.file.Close()
		if s.store == nil || slices.ContainsFunc(s.all, func(other *socket) bool { return other.name == k.name }) {
			continue // the store knows nothing but names
		}
		if err := s.store.Drop(k.name); err != nil {
			s.log.Warn("a socket that nothing asks for any more stays open in the service manager until penstock is stopped", "socket", k.name, "err", err)
			continue
		}
		s.log.Info("a socket that was kept is closed: nothing asks for it any more", "socket", k.name)
	}
	return len(dropped) > 0
}

// Ready closes the sockets that nobody has asked for since Begin. In the store, connections would wait there for ever.
func (s *Sockets) Ready() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropLocked(func(*socket) bool { return true })
}

// control calls f with the descriptor of a socket.
func control(socket any, f func(fd uintptr) error) error {
	c, ok := socket.(syscall.Conn)
	if !ok {
		return errors.ErrUnsupported
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = f(fd) })
	return errors.Join(err, failed)
}

// listener sets up what it accepts, as the listener of a net.ListenConfig does. Nobody can hand one of those a socket.
type listener struct {
	*net.TCPListener
	keepAlive net.KeepAliveConfig
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	_ = c.SetKeepAliveConfig(l.keepAlive) // it fails if the client has left, which whoever reads will see
	return c, nil
}
