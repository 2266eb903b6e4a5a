package sniff

import "bytes"

// chunks skips a chunked body (RFC 9112 7.1) and its trailers. It is strict: servers read a bare line feed or carriage
// return in different ways.
type chunks struct {
	at     chunkPart
	left   uint64            // bytes of chunk data still to skip
	digits int               // digits of the chunk size so far
	line   int               // bytes of extensions or trailers so far
	name   [len("Host")]byte // the beginning of a trailer's name
	named  int               // bytes of that name
}

// chunkPart is the part of the body that the next byte belongs to.
type chunkPart uint8

const (
	chunkSize chunkPart = iota
	chunkExtension
	chunkSizeLF
	chunkData
	chunkDataCR
	chunkDataLF
	trailerStart
	trailerName
	trailerLine
	trailerLF
	chunksLF // the last byte
	chunksOver
	chunksBroken
)

// pass returns how many bytes at the start of b belong to the body. Afterwards c.at is chunksOver if the body has ended, and
// chunksBroken if it is malformed.
func (c *chunks) pass(b []byte) int {
	i := 0
	for i < len(b) && c.at < chunksOver {
		if c.at == chunkData {
			n := min(c.left, uint64(len(b)-i))
			c.left -= n
			i += int(n)
			if c.left == 0 {
				c.at = chunkDataCR
			}
			continue
		}
		c.at = c.next(b[i])
		i++
	}
	return i
}

func (c *chunks) next(b byte) chunkPart {
	switch c.at {
	case chunkSize:
		return c.sizeByte(b)
	case chunkExtension, trailerLine:
		c.line++
		switch {
		case c.line > MaxBytes, b < ' ' && b != '\t' && b != '\r', b == 0x7f:
			return chunksBroken
		case b == '\r' && c.at == chunkExtension:
			return chunkSizeLF
		case b == '\r':
			return trailerLF
		}
		return c.at
	case trailerStart:
		if b == '\r' {
			return chunksLF
		}
		c.named = 0
		return c.nameByte(b)
	case trailerName:
		return c.nameByte(b)
	case chunkDataCR:
		if b == '\r' {
			return chunkDataLF
		}
		return chunksBroken
	}
	if b != '\n' {
		return chunksBroken
	}
	switch c.at {
	case chunkSizeLF:
		last := c.left == 0
		c.digits, c.line = 0, 0
		if last {
			return trailerStart
		}
		return chunkData
	case chunkDataLF:
		return chunkSize
	case trailerLF:
		return trailerStart
	}
	return chunksOver
}

// nameByte takes the next byte of a trailer's name. Servers without trailers would take another line for a request (Puma before 6.3.1), and
// those of http_parser go by a Host field among them.
func (c *chunks) nameByte(b byte) chunkPart {
	c.line++
	switch {
	case b == ':' && c.named > 0 && !(c.named == len(c.name) && bytes.EqualFold(c.name[:], []byte("Host"))):
		return trailerLine
	case c.line > MaxBytes || tokenLen([]byte{b}) == 0:
		return chunksBroken
	}
	if c.named < len(c.name) {
		c.name[c.named] = b
	}
	c.named++
	return trailerName
}

func (c *chunks) sizeByte(b byte) chunkPart {
	switch {
	case isHex(b) && c.digits < 15:
		c.digits++
		c.left = c.left<<4 | uint64(hexValue(b))
		return chunkSize
	case c.digits == 0:
		return chunksBroken
	case b == ';':
		return chunkExtension
	case b == '\r':
		return chunkSizeLF
	}
	return chunksBroken
}

func hexValue(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c | 0x20 - 'a' + 10
}
