package readable

import (
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// poll is an epoll descriptor, for which Go's own poller waits.
type poll struct {
	file    *os.File
	raw     syscall.RawConn
	running bool // there is a goroutine that waits
}

// WhenReadable calls f once, in a goroutine of its own, when a read of the socket would not wait: there are bytes, an end or an error,
// or somebody calls Wake. ok is false, and f is not called, where that cannot be told or if the socket is closed.
func (k *Socket) WhenReadable(f func()) (ok bool) {
	s := k.set
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.poll.open() != nil || s.addLocked(k) != nil {
		return false
	}
	k.then = f
	s.waiting.Put(k.id, k)
	if !s.poll.running {
		s.poll.running = true
		go s.wait()
	}
	return true
}

// addLocked makes the kernel tell once when the socket is readable. It may do so at once: whoever hears it takes the lock first.
func (s *Set) addLocked(k *Socket) error {
	raw, err := k.conn.SyscallConn()
	if err != nil {
		return err
	}
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: int32(uint32(k.id)), Pad: int32(uint32(k.id >> 32))}
	failed := raw.Control(func(fd uintptr) {
		err = s.poll.control(unix.EPOLL_CTL_MOD, int(fd), &event)
		if errors.Is(err, unix.ENOENT) { // the first time
			err = s.poll.control(unix.EPOLL_CTL_ADD, int(fd), &event)
		}
	})
	return errors.Join(failed, err)
}

func (p *poll) open() error {
	if p.file != nil {
		return nil
	}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // says to package os that it can be polled
		unix.Close(fd)
		return os.NewSyscallError("fcntl", err)
	}
	file := os.NewFile(uintptr(fd), "epoll")
	raw, err := file.SyscallConn()
	if err = errors.Join(err, file.SetReadDeadline(time.Time{})); err != nil { // also where Go's poller does not take it
		return errors.Join(err, file.Close())
	}
	p.file, p.raw = file, raw
	return nil
}

// control is called by those who hold the lock of the set, so file is not closed meanwhile.
func (p *poll) control(op, fd int, event *unix.EpollEvent) (err error) {
	failed := p.raw.Control(func(own uintptr) { err = unix.EpollCtl(int(own), op, fd, event) })
	return errors.Join(failed, os.NewSyscallError("epoll_ctl", err))
}

// interrupt makes wait look whether there is anything to wait for.
func (p *poll) interrupt() {
	if p.running {
		p.file.SetReadDeadline(time.Unix(1, 0))
	}
}

// wait calls those who wait, until there are none.
func (s *Set) wait() {
	events := make([]unix.EpollEvent, 128)
	for s.more() {
		n := 0
		err := s.poll.raw.Read(func(fd uintptr) bool {
			var err error
			n, err = unix.EpollWait(int(fd), events, 0)
			return n > 0 || err != nil && err != unix.EINTR
		})
		if err != nil {
			continue // interrupted
		}
		for _, e := range events[:max(n, 0)] {
			if then := s.told(uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32); then != nil {
				go then()
			}
		}
	}
}

// more reports whether there is anything to wait for. If not, the next who waits starts another goroutine.
func (s *Set) more() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.poll.running = s.waiting.Len() > 0
	if s.poll.running {
		s.poll.file.SetReadDeadline(time.Time{})
	} else { // the descriptor too is needed only then
		s.poll.file.Close()
		s.poll = poll{}
	}
	return s.poll.running
}

func (s *Set) told(id uint64) (then func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.takeLocked(s.waiting.Get(id))
}
