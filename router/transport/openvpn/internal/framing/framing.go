// Package framing marks data packets as not compressed, for servers that once compressed and still expect the mark
// (stub compression).
//
// It does not compress, and refuses what is compressed: compression before encryption leaks plaintext (VORACLE).
package framing

import (
	"errors"
	"fmt"
)

// Kind is how packets are marked.
type Kind uint8

// Kinds of framing (reference: comp.c, compstub.c).
const (
	None Kind = iota
	Byte      // a byte in front (comp-lzo no)
	Swap      // a byte in front, and the first byte of the packet behind it (compress, compress stub)
	V2        // only what could be taken for a mark has one (compress stub-v2)
)

const (
	markByte = 0xfa
	markSwap = 0xfb
	markV2   = 0x50

	packedLZO = 0x66
	packedLZ4 = 0x69

	// Front is how many bytes Frame needs in front of a packet, at most.
	Front = 2
	// Back is how many bytes it needs behind a packet, at most.
	Back = 1
)

// Errors of Parse and Open.
var (
	ErrCompression = errors.New("compression is not supported because it weakens encryption (VORACLE)")
	ErrMark        = errors.New("the data packet is not framed as agreed")
)

// Parse reads a comp-lzo or compress option, of a profile or of a server. If the option names an algorithm, the error is
// ErrCompression, and the kind is how packets look that are not compressed.
func Parse(name string, args []string) (Kind, error) {
	algorithm := ""
	if len(args) > 0 {
		algorithm = args[0]
	}
	switch name + " " + algorithm {
	case "comp-lzo no":
		return Byte, nil
	case "compress migrate": // speaks of the server's own past
		return None, nil
	case "compress ", "compress stub":
		return Swap, nil
	case "compress stub-v2":
		return V2, nil
	case "comp-lzo ", "comp-lzo yes", "comp-lzo adaptive", "compress lzo":
		return Byte, fmt.Errorf("LZO: %w", ErrCompression)
	case "compress lz4":
		return Swap, fmt.Errorf("LZ4: %w", ErrCompression)
	case "compress lz4-v2":
		return V2, fmt.Errorf("LZ4: %w", ErrCompression)
	}
	return None, fmt.Errorf("unknown algorithm %q", algorithm)
}

// Frame marks the packet at b[start:]. It returns where the marked packet starts, and b with its new end. b must have
// Front bytes before start, and capacity for Back bytes more.
func (k Kind) Frame(b []byte, start int) ([]byte, int) {
	switch {
	case len(b) == start:
	case k == Byte:
		start--
		b[start] = markByte
	case k == Swap:
		b = append(b, b[start])
		b[start] = markSwap
	case k == V2 && b[start] == markV2:
		start -= 2
		b[start], b[start+1] = markV2, 0
	}
	return b, start
}

// Shift is how far into a marked packet an IP packet starts.
func (k Kind) Shift() int {
	if k == Byte {
		return 1
	}
	return 0
}

// Open returns the packet inside a marked one, in its memory.
func (k Kind) Open(b []byte) ([]byte, error) {
	switch {
	case k == None || len(b) == 0 || k == V2 && b[0] != markV2:
		return b, nil
	case k == Byte && b[0] == markByte:
		return b[1:], nil
	case k == Swap && b[0] == markSwap && len(b) > 1:
		last := len(b) - 1
		b[0] = b[last]
		return b[:last], nil
	case k == V2 && len(b) > 1 && b[1] == 0:
		return b[2:], nil
	}
	return nil, k.Wrong(b)
}

// LooksCompressed reports whether a packet begins with the mark of one that is compressed.
func LooksCompressed(b []byte) bool { return len(b) > 0 && (b[0] == packedLZO || b[0] == packedLZ4) }

// Wrong says what is wrong with a packet that does not read as k, and what would mend it. The error is ErrCompression or
// ErrMark.
func (k Kind) Wrong(b []byte) error {
	var first byte
	if len(b) > 0 {
		first = b[0]
	}
	switch {
	case LooksCompressed(b), k == V2 && first == markV2 && len(b) > 1:
		return fmt.Errorf("the server compresses its packets: %w; remove compress or comp-lzo from the server's file", ErrCompression)
	case k != Byte && first == markByte:
		return fmt.Errorf(`%w: the server marks its packets as "comp-lzo no" does; add that line to the profile`, ErrMark)
	case k != Swap && first == markSwap:
		return fmt.Errorf(`%w: the server marks its packets as "compress" does; add that line to the profile`, ErrMark)
	case k != None:
		return fmt.Errorf("%w: the server does not mark its packets as the profile's compress or comp-lzo line says; remove that line", ErrMark)
	}
	return ErrMark
}
