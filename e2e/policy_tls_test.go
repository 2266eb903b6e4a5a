package e2e

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"penstock/e2e/netlab"
)

// recordHandshake is the type of the record in which a server begins its answer (RFC 8446, 5.1).
const recordHandshake = 22

// heard is a connection that knows whether a TLS server has answered.
type heard struct {
	net.Conn
	answered bool
}

func (c *heard) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && !c.answered {
		c.answered = b[0] == recordHandshake
	}
	return n, err
}

// bent is a connection that sends the first thing written, a hello, in another form.
type bent struct {
	net.Conn
	send func(net.Conn, []byte) error
	done bool
}

func (c *bent) Write(b []byte) (int, error) {
	if c.done {
		return c.Conn.Write(b)
	}
	c.done = true
	return len(b), c.send(c.Conn, b)
}

// inSegments sends a hello in pieces of so many bytes.
func inSegments(size int, pause time.Duration) func(net.Conn, []byte) error {
	return func(c net.Conn, b []byte) error {
		for len(b) > 0 {
			n := min(size, len(b))
			if _, err := c.Write(b[:n]); err != nil {
				return err
			}
			b = b[n:]
			time.Sleep(pause)
		}
		return nil
	}
}

// inRecords cuts a hello of one record into records of so many bytes.
func inRecords(size int, then func(net.Conn, []byte) error) func(net.Conn, []byte) error {
	return func(c net.Conn, b []byte) error {
		var out []byte
		for part := range chunks(b[5:], size) {
			out = append(out, recordHandshake, 3, 1)
			out = binary.BigEndian.AppendUint16(out, uint16(len(part)))
			out = append(out, part...)
		}
		return then(c, out)
	}
}

func chunks(b []byte, size int) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(b) > 0 {
			n := min(size, len(b))
			if !yield(b[:n]) {
				return
			}
			b = b[n:]
		}
	}
}

// stalling sends a hello with a pause after its first bytes, or before it.
func stalling(first int, pause time.Duration) func(net.Conn, []byte) error {
	return func(c net.Conn, b []byte) error {
		if _, err := c.Write(b[:first]); err != nil {
			return err
		}
		time.Sleep(pause)
		_, err := c.Write(b[first:])
		return err
	}
}

// padded puts so many bytes of padding (RFC 7685) before all other extensions of a hello of one record.
func padded(size int) func(net.Conn, []byte) error {
	return func(c net.Conn, b []byte) error {
		body := b[9:]                                     // behind the headers of record and handshake
		at := 2 + 32                                      // version, random
		at += 1 + int(body[at])                           // session
		at += 2 + int(binary.BigEndian.Uint16(body[at:])) // suites
		at += 1 + int(body[at])                           // compression
		extensions := body[at+2:]
		hello := append([]byte{}, body[:at]...)
		hello = binary.BigEndian.AppendUint16(hello, uint16(len(extensions)+4+size))
		hello = binary.BigEndian.AppendUint16(hello, 21)
		hello = binary.BigEndian.AppendUint16(hello, uint16(size))
		hello = append(append(hello, make([]byte, size)...), extensions...)
		message := append([]byte{1, byte(len(hello) >> 16), byte(len(hello) >> 8), byte(len(hello))}, hello...)
		return inRecords(16000, func(c net.Conn, b []byte) error { _, err := c.Write(b); return err })(c, append(make([]byte, 5), message...))
	}
}

// tlsTo shakes hands under a name. It got through if a server answered.
func tlsTo(address, name string, send func(net.Conn, []byte) error) func(*testing.T, *tryer) (bool, error) {
	return tlsWith(address, &tls.Config{ServerName: name, InsecureSkipVerify: name == ""}, send)
}

func tlsWith(address string, config *tls.Config, send func(net.Conn, []byte) error) func(*testing.T, *tryer) (bool, error) {
	return func(t *testing.T, c *tryer) (bool, error) {
		conn, err := c.dial(t, "tcp", address)
		if err != nil {
			return false, err
		}
		ears := &heard{Conn: conn}
		var wire net.Conn = ears
		if send != nil {
			wire = &bent{Conn: ears, send: send}
		}
		config := config.Clone()
		config.RootCAs = c.CA.Pool()
		err = tls.Client(wire, config).HandshakeContext(t.Context())
		return ears.answered, err
	}
}

// encrypted is a client that hides inner behind outer by Encrypted Client Hello (RFC 9849).
func encrypted(inner, outer string) *tls.Config {
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		panic(err) // the system has no randomness
	}
	var c []byte
	c = append(c, 1)                                  // id
	c = binary.BigEndian.AppendUint16(c, 0x20)        // X25519
	c = binary.BigEndian.AppendUint16(c, 32)          // of its key
	c = append(c, key.PublicKey().Bytes()...)         //
	c = append(c, 0, 4, 0, 1, 0, 1, 64)               // HKDF-SHA256 with AES-128-GCM; longest name
	c = append(append(c, byte(len(outer))), outer...) //
	c = append(c, 0, 0)                               // no extensions
	list := binary.BigEndian.AppendUint16(nil, uint16(len(c)+4))
	list = append(list, 0xfe, 0x0d)
	list = binary.BigEndian.AppendUint16(list, uint16(len(c)))
	return &tls.Config{ServerName: inner, EncryptedClientHelloConfigList: append(list, c...), MinVersion: tls.VersionTLS13}
}

func greaseECH() *tls.Config { return encrypted("inner.example", netlab.NewsSite) }

func waysInTLS() []way {
	const site, site6, other, strict = gamblingIPv4 + ":443", "[" + gamblingIPv6 + "]:443", publicIPv4 + ":443", adultIPv4 + ":443"
	name := netlab.GamblingSite
	long := &tls.Config{ServerName: name}
	for i := range 60 {
		long.NextProtos = append(long.NextProtos, fmt.Sprintf("%d%s", i, strings.Repeat("p", 200)))
	}
	long.NextProtos = append(long.NextProtos, "http/1.1")
	return []way{
		{"TLS to the address, the name in SNI", tlsTo(site, name, nil), false},
		{"TLS to another site's address", tlsTo(other, name, nil), false},
		{"TLS over IPv6", tlsTo(site6, name, nil), false},
		{"TLS to a name below it", tlsTo(site, "www."+name, nil), false},
		{"SNI in upper case", tlsTo(site, "CASINO.EXAMPLE", nil), false},
		{"SNI of a name in Unicode", tlsTo(site, "xn--glcksspiel-feb.example", nil), false},
		{"TLS 1.2", tlsWith(site, &tls.Config{ServerName: name, MaxVersion: tls.VersionTLS12}, nil), false},
		{"a hello without a post-quantum key", tlsWith(site, &tls.Config{ServerName: name, CurvePreferences: []tls.CurveID{tls.X25519}}, nil), false},
		{"a hello of 12 KiB", tlsWith(site, long, nil), false},
		{"a hello in segments of one byte", tlsTo(site, name, inSegments(1, 200*time.Microsecond)), false},
		{"a hello in segments cut in the name", tlsTo(site, name, inSegments(60, 5*time.Millisecond)), false},
		{"a hello in records of 16 bytes", tlsTo(site, name, inRecords(16, inSegments(1<<20, 0))), false},
		{"a hello in records of one byte", tlsTo(site, name, inRecords(1, inSegments(1<<20, 0))), false},
		{"a hello in records and segments that do not fit", tlsTo(site, name, inRecords(50, inSegments(37, time.Millisecond))), false},
		{"a hello that stalls after its first byte", tlsTo(site, name, stalling(1, 700*time.Millisecond)), false},
		{"a hello that stalls in the middle", tlsTo(site, name, stalling(100, 700*time.Millisecond)), false},
		{"a hello that waits until the budget is over", tlsTo(other, name, stalling(0, 700*time.Millisecond)), false},
		{"a name behind 15 KiB of padding", tlsTo(site, name, padded(15<<10)), false},
		{"a name behind 20 KiB of padding", tlsTo(site, name, padded(20<<10)), false},
		{"no name, where that is refused", tlsTo(strict, "", nil), false},
		{"ECH behind an innocent name, where no name is refused", tlsWith(strict, encrypted(netlab.AdultSite, netlab.PublicSite), nil), false},
		{"ECH whose outer name is the blocked one", tlsWith(site, encrypted(netlab.PublicSite, name), nil), false},
		{"no name and a late hello, where that is refused", tlsTo(strict, "", stalling(0, 700*time.Millisecond)), false},
		{"DNS over HTTPS to a resolver known by name", tlsTo(other, "dns.google", nil), false},
		{"DNS over HTTPS to a resolver known by address", tlsTo(knownResolver4+":443", "", nil), false},
		{"DNS over HTTPS to such an address over IPv6", tlsTo("["+knownResolver6+"]:443", "", nil), false},
		{"DNS over HTTPS to such an address under another name", tlsTo(knownResolver4+":443", netlab.PublicSite, nil), false},
		{"DNS over TLS", overPort853(netlab.ResolverIPv4), false},
		{"DNS over TLS over IPv6", overPort853(netlab.ResolverIPv6), false},
	}
}

// overPort853 hears the resolver of the lab that listens there.
func overPort853(addr string) func(*testing.T, *tryer) (bool, error) {
	return func(t *testing.T, c *tryer) (bool, error) {
		conn, err := c.dial(t, "tcp", net.JoinHostPort(addr, "853"))
		if err != nil {
			return false, err
		}
		b, err := io.ReadAll(conn)
		return bytes.Equal(b, []byte("resolver\n")), err
	}
}
