package netlab

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"

	"github.com/miekg/dns"
)

// Outside serves the internet and the intranet of the world without hosts: the caller passes it the flows. It is for machines
// that cannot run a Lab.
type Outside struct {
	CA *CA

	world         *Lab // names only
	plain, secure *handedListener
	over          sync.WaitGroup
}

// NewOutside starts the services. Close ends them.
func NewOutside() (*Outside, error) {
	ca, err := newCA()
	if err != nil {
		return nil, err
	}
	w := &Lab{CA: ca, PublicDNS: newDNS(nil)}
	w.IntranetDNS = newDNS(w.PublicDNS)
	if err := w.makeNames(); err != nil {
		return nil, err
	}
	o := &Outside{CA: ca, world: w, plain: newHandedListener(), secure: newHandedListener()}
	pages := site(new(Sink))
	for _, l := range []net.Listener{o.plain, tls.NewListener(o.secure, ca.serverConfig())} {
		o.over.Go(func() { http.Serve(l, pages) }) // ends with its listener
	}
	return o, nil
}

// Answers reports whether a host has an address, and whether the port is open. Echo requests have port 0.
func (o *Outside) Answers(network string, dst netip.AddrPort) (alive, open bool) {
	a := dst.Addr().String()
	alive = slices.Contains([]string{IntranetIPv4, IntranetIPv6}, a)
	for _, addrs := range sites() {
		alive = alive || slices.Contains(addrs, a)
	}
	switch port := dst.Port(); network {
	case "tcp":
		open = port == 80 || port == 443 || port == EchoPort
	case "udp":
		open = port == 53 || port == EchoPort
	case "icmp":
		open = true
	}
	return alive, alive && open
}

// Serve serves one flow to an address for which Answers is true. It returns when the flow is over.
func (o *Outside) Serve(network string, dst netip.AddrPort, c net.Conn) {
	switch {
	case network == "tcp" && dst.Port() == 80:
		o.plain.hand(c)
	case network == "tcp" && dst.Port() == 443:
		o.secure.hand(c)
	case network == "udp" && dst.Port() == 53:
		o.answer(dst.Addr(), c)
	case network == "tcp":
		io.Copy(c, c)
	default:
		buf := make([]byte, 1<<16)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			if _, err := c.Write(buf[:n]); err != nil {
				return
			}
		}
	}
}

// answer serves the questions of one UDP flow.
func (o *Outside) answer(server netip.Addr, c net.Conn) {
	d := o.world.PublicDNS
	if s := server.String(); s == IntranetIPv4 || s == IntranetIPv6 {
		d = o.world.IntranetDNS
	}
	buf := make([]byte, 1<<16)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		q := new(dns.Msg)
		if q.Unpack(buf[:n]) == nil {
			d.ServeDNS(flowWriter{c}, q)
		}
	}
}

// Close ends the services.
func (o *Outside) Close() error {
	err := errors.Join(o.plain.Close(), o.secure.Close())
	o.over.Wait()
	return err
}

// flowWriter writes DNS answers to a flow.
type flowWriter struct{ net.Conn }

func (w flowWriter) WriteMsg(m *dns.Msg) error {
	b, err := m.Pack()
	if err == nil {
		_, err = w.Write(b)
	}
	return err
}

func (flowWriter) TsigStatus() error   { return nil }
func (flowWriter) TsigTimersOnly(bool) {}
func (flowWriter) Hijack()             {}

// handedListener is a net.Listener that gets its connections from calls of hand.
type handedListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newHandedListener() *handedListener {
	return &handedListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// hand passes a connection to the server and waits until the server has closed it.
func (l *handedListener) hand(c net.Conn) {
	over := make(chan struct{})
	select {
	case l.conns <- &handedConn{Conn: c, over: over}:
		<-over
	case <-l.closed:
		c.Close()
	}
}

func (l *handedListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *handedListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *handedListener) Addr() net.Addr { return &net.TCPAddr{} }

// handedConn is a connection that reports when the server has closed it.
type handedConn struct {
	net.Conn
	once sync.Once
	over chan struct{}
}

func (c *handedConn) Close() error {
	c.once.Do(func() { close(c.over) })
	return c.Conn.Close()
}
