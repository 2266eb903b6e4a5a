package e2e

import (
	"crypto/aes"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"penstock/e2e/netlab"
)

// quicVersion is how Initial packets of a version are protected (RFC 9001, 5.2; RFC 9369, 3.3).
type quicVersion struct {
	number    uint32
	firstByte byte
	salt      string
	label     string
}

func quic1() quicVersion {
	return quicVersion{1, 0xc3, "38762cf7f55934b34d179ae6a4c80cadccbb7f0a", "quic "}
}

func quic2() quicVersion {
	return quicVersion{0x6b3343cf, 0xd3, "0dede3def700a6db819381be6e269dcbf9bd2ed9", "quicv2 "}
}

// initial is an Initial packet with these frames, padded to the size that is asked of a datagram.
func (v quicVersion) initial(t *testing.T, number byte, frames []byte) []byte {
	t.Helper()
	id := []byte{8, 7, 6, 5, 4, 3, 2, 1}
	salt, err := hex.DecodeString(v.salt)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := hkdf.Extract(sha256.New, id, salt)
	if err != nil {
		t.Fatal(err)
	}
	secret = expand(t, secret, "client in", 32)
	key, iv, mask := expand(t, secret, v.label+"key", 16), expand(t, secret, v.label+"iv", 12), expand(t, secret, v.label+"hp", 16)
	iv[11] ^= number
	const overhead = 4 + 16 // packet number and tag
	head := binary.BigEndian.AppendUint32([]byte{v.firstByte}, v.number)
	head = append(append(head, byte(len(id))), id...)
	head = append(head, 0, 0) // no source id, no token
	rest := max(quicInitialSize-len(head)-2, len(frames)+overhead)
	head = binary.BigEndian.AppendUint16(head, 0x4000|uint16(rest))
	head = append(head, 0, 0, 0, number)
	sealed := seal(t, key, iv, append(frames, make([]byte, rest-overhead-len(frames))...), head)
	datagram := append(slices.Clone(head), sealed...)
	block, err := aes.NewCipher(mask)
	if err != nil {
		t.Fatal(err)
	}
	hide := make([]byte, 16)
	block.Encrypt(hide, sealed[:16])
	datagram[0] ^= hide[0] & 0x0f
	for i := range 4 {
		datagram[len(head)-4+i] ^= hide[1+i]
	}
	return datagram
}

// crypto is a CRYPTO frame with a part of a hello.
func crypto(hello []byte, from, to int) []byte {
	f := binary.BigEndian.AppendUint16([]byte{6}, 0x4000|uint16(from))
	f = binary.BigEndian.AppendUint16(f, 0x4000|uint16(to-from))
	return append(f, hello[from:to]...)
}

// quicHello is a client's hello, with a post-quantum key unless it is to be small.
func quicHello(t *testing.T, name string, small bool) []byte {
	t.Helper()
	config := &tls.Config{ServerName: name, NextProtos: []string{"h3"}, MinVersion: tls.VersionTLS13}
	if small {
		config.CurvePreferences = []tls.CurveID{tls.X25519}
	}
	client := tls.QUICClient(&tls.QUICConfig{TLSConfig: config})
	client.SetTransportParameters(nil)
	if err := client.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	hello := client.NextEvent()
	if hello.Kind != tls.QUICWriteData {
		t.Fatalf("got event %v, want a ClientHello", hello.Kind)
	}
	return slices.Clone(hello.Data)
}

// quicTo sends datagrams to a site that answers each.
func quicTo(address string, datagrams func(*testing.T) [][]byte) func(*testing.T, *tryer) (bool, error) {
	return func(t *testing.T, c *tryer) (bool, error) {
		conn, err := c.dial(t, "udp", address)
		if err != nil {
			return false, err
		}
		for _, d := range datagrams(t) {
			if _, err := conn.Write(d); err != nil {
				return false, err
			}
		}
		within(t, conn)
		buf := make([]byte, 100)
		n, err := conn.Read(buf)
		return strings.HasPrefix(string(buf[:n]), "got "), err
	}
}

func waysInQUIC() []way {
	const site, site6, other = gamblingIPv4 + ":443", "[" + gamblingIPv6 + "]:443", newsIPv4 + ":443"
	whole := func(v quicVersion, name string) func(*testing.T) [][]byte {
		return func(t *testing.T) [][]byte {
			hello := quicHello(t, name, true)
			return [][]byte{v.initial(t, 0, crypto(hello, 0, len(hello)))}
		}
	}
	// cut cuts a large hello in the name and hands its frames to several datagrams.
	cut := func(v quicVersion, order ...int) func(*testing.T) [][]byte {
		return func(t *testing.T) [][]byte {
			hello := quicHello(t, netlab.GamblingSite, false)
			inName := strings.Index(string(hello), "casino") + 3
			frames := [][]byte{crypto(hello, 0, inName), crypto(hello, inName, len(hello)/2), crypto(hello, len(hello)/2, len(hello))}
			if inName > len(hello)/2 {
				frames = [][]byte{crypto(hello, 0, len(hello)/2), crypto(hello, len(hello)/2, inName), crypto(hello, inName, len(hello))}
			}
			var out [][]byte
			for i, at := range order {
				out = append(out, v.initial(t, byte(i), frames[at]))
			}
			return out
		}
	}
	return []way{
		{"QUIC to the address, the name in its hello", quicTo(site, whole(quic1(), netlab.GamblingSite)), false},
		{"QUIC to another site's address", quicTo(other, whole(quic1(), netlab.GamblingSite)), false},
		{"QUIC over IPv6", quicTo(site6, whole(quic1(), netlab.GamblingSite)), false},
		{"QUIC version 2", quicTo(site, whole(quic2(), netlab.GamblingSite)), false},
		{"QUIC with a name in upper case", quicTo(site, whole(quic1(), "Casino.Example")), false},
		{"a QUIC hello over three datagrams, cut in the name", quicTo(site, cut(quic1(), 0, 1, 2)), false},
		{"a QUIC hello over datagrams in another order", quicTo(site, cut(quic1(), 2, 0, 1)), false},
		{"a QUIC version 2 hello over datagrams in another order", quicTo(site, cut(quic2(), 1, 2, 0)), false},
		{"QUIC frames out of order in one datagram", quicTo(site, func(t *testing.T) [][]byte {
			hello := quicHello(t, netlab.GamblingSite, true)
			at := strings.Index(string(hello), "casino") + 3
			return [][]byte{quic1().initial(t, 0, append(crypto(hello, at, len(hello)), crypto(hello, 0, at)...))}
		}), false},
		{"QUIC in a datagram that is sent in fragments", quicTo(site, func(t *testing.T) [][]byte {
			return [][]byte{append(whole(quic1(), netlab.GamblingSite)(t)[0], make([]byte, 3000)...)}
		}), false},
		{"DNS over HTTP/3 to a resolver known by address", quicTo(knownResolver4+":443", whole(quic1(), netlab.PublicSite)), false},
		{"DNS over HTTP/3 to a resolver known by name", quicTo(other, whole(quic1(), "dns.google")), false},
		{"DNS over QUIC", quicTo(netlab.ResolverIPv4+":853", whole(quic1(), "resolver.example")), false},
	}
}
