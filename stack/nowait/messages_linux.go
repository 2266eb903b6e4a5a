package nowait

import (
	"encoding/binary"
	"net"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Message is a struct mmsghdr: a datagram. What its fields point to must stay as it is until the call is over.
type Message struct {
	unix.Msghdr
	N uint32 // bytes that were read
}

// SetParts sets what is sent, or where to put what is received. There is at least one part.
func (m *Message) SetParts(parts []unix.Iovec) { m.Iov = &parts[0]; m.SetIovlen(len(parts)) }

// SetOOB sets the control messages that are sent, or room for those that are received. There may be none.
func (m *Message) SetOOB(control []byte) {
	m.Control = nil
	if len(control) > 0 {
		m.Control = &control[0]
	}
	m.SetControllen(len(control))
}

// CutBytes returns how many bytes AppendCut appends.
func CutBytes() int { return unix.CmsgSpace(2) }

// AppendCut appends the control message that has the kernel cut a datagram into parts of a size (UDP_SEGMENT).
func AppendCut(control []byte, size int) []byte {
	start := len(control)
	control = append(control, make([]byte, CutBytes())...)
	h := (*unix.Cmsghdr)(unsafe.Pointer(&control[start]))
	h.Level, h.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(control[start+unix.CmsgLen(0):], uint16(size))
	return control
}

// Exchange calls sendmmsg or recvmmsg, again when the socket is ready. Use one for one call at a time, and many times: the functions that
// the runtime calls are made once.
type Exchange struct {
	trap     uintptr
	name     string
	messages []Message
	n        int
	err      error
	call     func(fd uintptr) bool // x.once
}

// NewSend returns an Exchange that sends.
func NewSend() *Exchange { return newExchange(unix.SYS_SENDMMSG, "sendmmsg") }

// NewReceive returns an Exchange that receives.
func NewReceive() *Exchange { return newExchange(unix.SYS_RECVMMSG, "recvmmsg") }

func newExchange(trap uintptr, name string) *Exchange {
	x := &Exchange{trap: trap, name: name}
	x.call = x.once
	return x
}

func (x *Exchange) once(fd uintptr) (over bool) {
	x.n, x.err = again(func() (uintptr, uintptr, unix.Errno) {
		return unix.RawSyscall6(x.trap, fd, uintptr(unsafe.Pointer(&x.messages[0])), uintptr(len(x.messages)), unix.MSG_DONTWAIT, 0, 0)
	})
	return x.err != unix.EAGAIN
}

// Do waits until some messages have been exchanged, at least one, and returns how many. wait is Read or Write of the socket's
// syscall.RawConn. An error of the call is a *net.OpError, and says nothing of messages before: those were counted by the call before it.
func (x *Exchange) Do(wait func(func(fd uintptr) bool) error, messages []Message) (int, error) {
	x.messages = messages
	err := wait(x.call)
	x.messages = nil
	switch {
	case err != nil:
		return 0, err
	case x.err != nil:
		return 0, &net.OpError{Op: x.name, Net: "udp", Err: os.NewSyscallError(x.name, x.err)}
	}
	return x.n, nil
}
