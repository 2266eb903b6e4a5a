package sniff

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"testing"

	"golang.org/x/crypto/cryptobyte"
)

// clientHello captures the hello that crypto/tls sends, in one or more records.
func clientHello(t testing.TB, config *tls.Config) []byte {
	t.Helper()
	client, server := net.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = tls.Client(client, config).HandshakeContext(ctx) // fails when the test has read enough
	}()
	t.Cleanup(func() {
		cancel()
		_, _ = client.Close(), server.Close()
		<-done
	})
	header := make([]byte, recordHeader)
	if _, err := io.ReadFull(server, header); err != nil {
		t.Fatalf("read record header: %v", err)
	}
	body := make([]byte, binary.BigEndian.Uint16(header[3:]))
	if _, err := io.ReadFull(server, body); err != nil {
		t.Fatalf("read record: %v", err)
	}
	return append(header, body...)
}

// quicHello is the handshake message that crypto/tls sends over QUIC.
func quicHello(t testing.TB, config *tls.Config) []byte {
	t.Helper()
	config.MinVersion = tls.VersionTLS13
	conn := tls.QUICClient(&tls.QUICConfig{TLSConfig: config})
	conn.SetTransportParameters([]byte{0x04, 0x04, 0x80, 0x00, 0xff, 0xff})
	if err := conn.Start(t.Context()); err != nil {
		t.Fatalf("start QUIC client: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	for {
		switch e := conn.NextEvent(); e.Kind {
		case tls.QUICWriteData:
			return append([]byte(nil), e.Data...)
		case tls.QUICNoEvent:
			t.Fatal("QUIC client wrote no hello")
		}
	}
}

// records splits a handshake message into records of at most size bytes.
func records(message []byte, size int) []byte {
	var out []byte
	for len(message) > 0 {
		n := min(size, len(message))
		out = append(out, recordHandshake, 3, 1, byte(n>>8), byte(n))
		out = append(out, message[:n]...)
		message = message[n:]
	}
	return out
}

// extension is an extension of a test hello.
type extension struct {
	kind uint16
	data []byte
}

// helloWith returns a minimal ClientHello with these extensions.
func helloWith(t testing.TB, extensions ...extension) []byte {
	t.Helper()
	b := cryptobyte.NewBuilder(nil)
	b.AddUint8(clientHelloType)
	b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) {
		b.AddUint16(0x0303)
		b.AddBytes(make([]byte, 32))
		b.AddUint8LengthPrefixed(func(*cryptobyte.Builder) {})
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddUint16(0x1301) })
		b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddUint8(0) })
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
			for _, e := range extensions {
				b.AddUint16(e.kind)
				b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(e.data) })
			}
		})
	})
	out, err := b.Bytes()
	if err != nil {
		t.Fatalf("build hello: %v", err)
	}
	return out
}

// serverName is a server_name extension with these names, in order.
func serverName(names ...string) extension {
	b := cryptobyte.NewBuilder(nil)
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		for _, n := range names {
			b.AddUint8(nameTypeHost)
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(n)) })
		}
	})
	return extension{extServerName, b.BytesOrPanic()}
}

// echConfigs is an ECHConfigList (RFC 9849 4) for a public name, with a fresh key.
func echConfigs(t testing.TB, publicName string) []byte {
	t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatalf("generate key: %v", err)
	}
	b := cryptobyte.NewBuilder(nil)
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		b.AddUint16(extECH)
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
			b.AddUint8(7)       // config id
			b.AddUint16(0x0020) // X25519, HKDF-SHA256
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(key.PublicKey().Bytes()) })
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
				b.AddUint16(1) // HKDF-SHA256
				b.AddUint16(1) // AES-128-GCM
			})
			b.AddUint8(64) // longest name
			b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(publicName)) })
			b.AddUint16LengthPrefixed(func(*cryptobyte.Builder) {})
		})
	})
	return b.BytesOrPanic()
}

// hostOf returns the Host for a name.
func hostOf(t testing.TB, name string) Host {
	t.Helper()
	var h Host
	if kind := h.set([]byte(name)); name != "" && kind != hostName {
		t.Fatalf("host %q is read as kind %d", name, kind)
	}
	return h
}
