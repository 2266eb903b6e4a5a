// Package socks is the server's side of SOCKS5 (RFC 1928) with names and passwords (RFC 1929), as messages.
//
// It reads no byte beyond a message, so that what follows can be read from the same connection. It sets no deadlines, opens no
// connections, and knows nobody who may log in.
package socks

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
)

// Version is the first byte of a client's first message.
const Version = 5

const (
	loginVersion = 1 // RFC 1929, 2

	methodNone     = 0
	methodPassword = 2
	methodRefused  = 0xff
)

// Code is the answer to a request (RFC 1928, 6).
type Code byte

// The answers in use.
const (
	Succeeded Code = iota
	Failed
	NotAllowed
	NetworkUnreachable
	HostUnreachable
	Refused
	Expired
	UnknownCommand
	UnknownAddress
)

// The commands that are known here: to open a TCP connection, and to relay datagrams.
const (
	Connect   = 1
	Associate = 3
)

// ErrLogin says that a client has been told that it may not come in.
var ErrLogin = errors.New("socks: the client has not logged in")

// Request is what a client asks for. Either Host or Addr is set.
type Request struct {
	Command byte
	Host    string // as sent: 1 to 255 bytes, any
	Addr    netip.Addr
	Port    uint16
}

// Greet reads the client's greeting, agrees on a method, and lets the client log in. If login is nil, nobody has to, but a client
// that offers nothing else may send any name and password. The error wraps ErrLogin if the client was refused.
func Greet(rw io.ReadWriter, login func(name, password string) bool) error {
	methods, err := readGreeting(rw)
	if err != nil {
		return err
	}
	method := byte(methodRefused)
	switch {
	case login == nil && slices.Contains(methods, methodNone):
		method = methodNone
	case slices.Contains(methods, methodPassword):
		method = methodPassword
	}
	if _, err := rw.Write([]byte{Version, method}); err != nil {
		return err
	}
	switch method {
	case methodNone:
		return nil
	case methodRefused:
		return fmt.Errorf("%w: it offers the methods %v, and %d is needed", ErrLogin, methods, methodPassword)
	}
	return readLogin(rw, login)
}

func readGreeting(r io.Reader) (methods []byte, err error) {
	head, err := read(r, 2)
	if err != nil {
		return nil, err
	}
	if head[0] != Version {
		return nil, fmt.Errorf("socks: version %d, want %d", head[0], Version)
	}
	return read(r, int(head[1]))
}

func readLogin(rw io.ReadWriter, login func(name, password string) bool) error {
	version, err := read(rw, 1)
	if err != nil {
		return err
	}
	if version[0] != loginVersion {
		return fmt.Errorf("socks: version %d of the login, want %d", version[0], loginVersion)
	}
	name, err := readString(rw)
	if err != nil {
		return err
	}
	password, err := readString(rw)
	if err != nil {
		return err
	}
	if login != nil && !login(string(name), string(password)) {
		if _, err := rw.Write([]byte{loginVersion, 1}); err != nil {
			return err
		}
		return ErrLogin
	}
	_, err = rw.Write([]byte{loginVersion, 0})
	return err
}

// ErrAddress says that an address is of no known type, or empty. The client has not been answered.
var ErrAddress = errors.New("socks: unknown type of address")

// ReadRequest reads a request. It answers none.
func ReadRequest(r io.Reader) (q Request, err error) {
	head, err := read(r, 4)
	if err != nil {
		return q, err
	}
	if head[0] != Version {
		return q, fmt.Errorf("socks: version %d of a request, want %d", head[0], Version)
	}
	q.Command = head[1]
	return q, q.readAddress(r, head[3])
}

// readAddress reads an address of a type, and the port behind it.
func (q *Request) readAddress(r io.Reader, kind byte) (err error) {
	var host []byte
	switch kind {
	case 1:
		host, err = read(r, 4)
	case 3:
		host, err = readString(r)
	case 4:
		host, err = read(r, 16)
	default:
		err = ErrAddress
	}
	if err != nil {
		return err
	}
	port, err := read(r, 2)
	if err != nil {
		return err
	}
	q.Port = uint16(port[0])<<8 | uint16(port[1])
	if kind == 3 {
		q.Host = string(host)
		if q.Host == "" {
			return ErrAddress
		}
		return nil
	}
	q.Addr, _ = netip.AddrFromSlice(host) // of 4 or 16 bytes
	return nil
}

// ErrFragment says that a datagram is a part of one, which is not put together here.
var ErrFragment = errors.New("socks: a fragment of a datagram")

// ReadDatagram reads the head of a datagram (RFC 1928, 7). The payload is a view of msg.
func ReadDatagram(msg []byte) (to Request, payload []byte, err error) {
	r := bytes.NewReader(msg)
	head, err := read(r, 4)
	if err != nil {
		return to, nil, err
	}
	if head[2] != 0 {
		return to, nil, ErrFragment
	}
	if err := to.readAddress(r, head[3]); err != nil {
		return to, nil, err
	}
	return to, msg[len(msg)-r.Len():], nil
}

// DatagramHead is the head of a datagram that comes from an address.
func DatagramHead(from netip.AddrPort) []byte {
	return appendAddress([]byte{0, 0, 0}, from)
}

// ReplyBound says that a request has succeeded, and at which address the client is served.
func ReplyBound(w io.Writer, at netip.AddrPort) error {
	_, err := w.Write(appendAddress([]byte{Version, byte(Succeeded), 0}, at))
	return err
}

func appendAddress(b []byte, at netip.AddrPort) []byte {
	addr := at.Addr().Unmap()
	kind := byte(4)
	if addr.Is4() {
		kind = 1
	}
	b = append(append(b, kind), addr.AsSlice()...)
	return append(b, byte(at.Port()>>8), byte(at.Port()))
}

// Reply answers a request. It does not say from which address the proxy has dialled, which is nobody's business.
func Reply(w io.Writer, c Code) error {
	_, err := w.Write([]byte{Version, byte(c), 0, 1, 0, 0, 0, 0, 0, 0})
	return err
}

func readString(r io.Reader) ([]byte, error) {
	n, err := read(r, 1)
	if err != nil {
		return nil, err
	}
	return read(r, int(n[0]))
}

// read reads n bytes, at most 255.
func read(r io.Reader, n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return b, nil
}
