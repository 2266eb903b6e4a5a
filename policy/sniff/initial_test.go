package sniff

import (
	"bytes"
	"crypto/aes"
	"encoding/binary"
	"encoding/hex"
	"testing"
)

// sealed is an Initial packet as a client writes it (RFC 9001 5.3 and 5.4).
type sealed struct {
	version uint32
	keyed   []byte // connection ID that the keys derive from
	dcid    []byte
	token   []byte
	number  uint64
	size    int // bytes of the packet number, 4 if 0
	payload []byte
}

func (s sealed) packet(t testing.TB) []byte {
	t.Helper()
	if s.version == 0 {
		s.version = version1
	}
	if s.keyed == nil {
		s.keyed = s.dcid
	}
	if s.size == 0 {
		s.size = 4
	}
	keys, err := newInitialKeys(s.version, s.keyed)
	if err != nil {
		t.Fatalf("derive keys: %v", err)
	}
	kind := byte(0)
	if s.version == version2 {
		kind = 1
	}
	b := []byte{0xc0 | kind<<4 | byte(s.size-1)}
	b = binary.BigEndian.AppendUint32(b, s.version)
	b = append(b, byte(len(s.dcid)))
	b = append(b, s.dcid...)
	b = append(b, 0) // no source connection ID
	b = append(b, varint2(len(s.token))...)
	if len(s.token) == 0 {
		b = append(b[:len(b)-2], 0) // as the vectors have it
	}
	b = append(b, s.token...)
	b = append(b, varint2(s.size+len(s.payload)+16)...)
	at := len(b)
	b = append(b, binary.BigEndian.AppendUint32(nil, uint32(s.number))[4-s.size:]...)
	nonce := keys.nonce(s.number)
	b = keys.aead.Seal(b, nonce[:], s.payload, b)
	var mask [aes.BlockSize]byte
	keys.header.Encrypt(mask[:], b[at+4:at+20])
	b[0] ^= mask[0] & 0x0f
	for i := range s.size {
		b[at+i] ^= mask[1+i]
	}
	return b
}

// varint2 is a variable-length integer in 2 bytes.
func varint2(n int) []byte { return []byte{0x40 | byte(n>>8), byte(n)} }

// cryptoFrame is a CRYPTO frame with the bytes of hello from offset to end.
func cryptoFrame(hello []byte, offset, end int) []byte {
	b := append([]byte{frameCrypto}, varint2(offset)...)
	b = append(b, varint2(end-offset)...)
	return append(b, hello[offset:end]...)
}

// padded fills a payload up to what makes a datagram of 1200 bytes.
func padded(payload []byte) []byte {
	return append(payload, make([]byte, max(0, 1162-len(payload)))...)
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatalf("decode %q: %v", s, err)
	}
	return b
}

// The hello of RFC 9001 A.2, in a CRYPTO frame, as both RFCs protect it.
const vectorFrame = "060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e868" +
	"04fe3a47f06a2b69484c00000413011302010000c000000010000e00000b6578" +
	"616d706c652e636f6dff01000100000a00080006001d00170018001000070005" +
	"04616c706e000500050100000000003300260024001d00209370b2c9caa47fba" +
	"baf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b000302030400" +
	"0d0010000e0403050306030203080408050806002d00020101001c0002400100" +
	"3900320408ffffffffffffffff05048000ffff07048000ffff08011001048000" +
	"75300901100f088394c8f03e51570806048000ffff"

func TestPublishedVectors(t *testing.T) {
	for _, tt := range []struct {
		name    string
		version uint32
		iv      string
		start   string // of the protected packet
		end     string // of the protected packet, with the tag over all of it
	}{
		{"RFC 9001 A.2", version1, "fa044b2f42a3fd3b46fb255c",
			"c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11",
			"7e78bfe706ca4cf5e9c5453e9f7cfd2b8b4c8d169a44e55c88d4a9a7f9474241e221af44860018ab0856972e194cd934"},
		{"RFC 9369 A.2", version2, "91f73e2351d8fa91660e909f",
			"d76b3343cf088394c8f03e5157080000449ea0c95e82ffe67b6abcdb4298b485",
			"9a37ddec600545473cfb5a05e08d0b209973b2172b4d21fb69745a262ccde96ba18b2faa745b6fe189cf772a9f84cbfc"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dcid := unhex(t, "8394c8f03e515708")
			keys, err := newInitialKeys(tt.version, dcid)
			if err != nil {
				t.Fatalf("derive keys: %v", err)
			}
			if got := hex.EncodeToString(keys.iv[:]); got != tt.iv {
				t.Errorf("got iv %s, want %s", got, tt.iv)
			}
			packet := sealed{version: tt.version, dcid: dcid, number: 2, payload: padded(unhex(t, vectorFrame))}.packet(t)
			if len(packet) != 1200 || !bytes.HasPrefix(packet, unhex(t, tt.start)) || !bytes.HasSuffix(packet, unhex(t, tt.end)) {
				t.Fatalf("got a packet of %d bytes %x...%x, want %s...%s", len(packet), packet[:32], packet[len(packet)-48:], tt.start, tt.end)
			}
			var in Initials
			want := Result{Status: Found, Protocol: QUIC, Host: hostOf(t, "example.com")}
			if got := in.Datagram(packet); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

// The vectors of draft-ietf-quic-tls-29 A.1 and -23 A.1, of the same connection ID as in RFC 9001.
func TestKeysOfDrafts(t *testing.T) {
	for version, want := range map[uint32]string{0xff00001d: "6b26114b9cba2b63a9e8dd4f", 0xff000017: "8681359410a70bb9c92f0420"} {
		keys, err := newInitialKeys(version, unhex(t, "8394c8f03e515708"))
		if got := hex.EncodeToString(keys.iv[:]); err != nil || got != want {
			t.Errorf("version %#x: got iv %s, %v; want %s", version, got, err, want)
		}
	}
}

func TestPacketNumbersAreCompletedFromThoseSeen(t *testing.T) {
	for _, tt := range []struct {
		name      string
		sent      uint64
		bits      int
		due, want uint64
	}{
		{"the first as it is", 0, 8, 0, 0},
		{"the example of RFC 9000 A.3", 0x9b32, 16, 0xa82f30eb, 0xa82f9b32},
		{"a window ahead", 0x00, 8, 201, 256},
		{"a window behind", 0xff, 8, 257, 255},
		{"none below zero", 0xff, 8, 1, 255},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := fullNumber(tt.sent, tt.bits, tt.due); got != tt.want {
				t.Errorf("got %#x, want %#x", got, tt.want)
			}
		})
	}
}
