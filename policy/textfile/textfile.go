// Package textfile turns the bytes of a file into text, whatever editor or shell wrote the file: UTF-8 with lines that
// end in \n.
//
// It understands byte order marks, UTF-16 and UTF-32 with and without one, and lines that end in \r\n or in \r alone. It does
// not know what the text means, and leaves bytes that are not UTF-8 as they are.
package textfile

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"slices"
	"unicode/utf16"
	"unicode/utf8"
)

// Decode returns the text in data. It returns data itself if there is nothing to change, and otherwise a new slice.
func Decode(data []byte) []byte {
	u, mark := detect(data)
	if u.size == 1 && mark == 0 && bytes.IndexByte(data, '\r') < 0 {
		return data
	}
	text, _ := io.ReadAll(NewReader(bytes.NewReader(data))) // a bytes.Reader cannot fail
	return text
}

// NewReader returns a reader of the text in what r reads. It may read ahead.
func NewReader(r io.Reader) io.Reader {
	br := bufio.NewReader(r)
	sample, _ := br.Peek(sampleSize) // a shorter sample decides too; Read returns the error
	u, mark := detect(sample)
	_, _ = br.Discard(mark) // it was peeked
	if u.size == 1 {
		return &lines{from: br}
	}
	return &lines{from: &wide{from: br, unit: u}}
}

// unit is how a file writes a character, or half of one in UTF-16.
type unit struct {
	size  int // bytes: 1, 2 or 4
	order binary.ByteOrder
}

// sampleSize is how many bytes decide what a file is written in.
const sampleSize = 8

// detect returns how a file is written, and the length of its byte order mark. Without a mark, a file is UTF-16 or UTF-32 if
// its first characters are ASCII in it: in UTF-8 every second byte of a text is not zero.
func detect(data []byte) (u unit, mark int) {
	little, big := binary.ByteOrder(binary.LittleEndian), binary.ByteOrder(binary.BigEndian)
	for _, b := range []struct {
		mark string
		unit
	}{
		{"\xff\xfe\x00\x00", unit{4, little}}, // before that of UTF-16, which is its beginning
		{"\x00\x00\xfe\xff", unit{4, big}},
		{"\xff\xfe", unit{2, little}},
		{"\xfe\xff", unit{2, big}},
		{"\xef\xbb\xbf", unit{1, nil}},
	} {
		if bytes.HasPrefix(data, []byte(b.mark)) {
			return b.unit, len(b.mark)
		}
	}
	for _, u := range []unit{{4, little}, {4, big}, {2, little}, {2, big}} {
		if u.startsWithASCII(data) {
			return u, 0
		}
	}
	return unit{1, nil}, 0
}

// startsWithASCII reports whether the first two characters of a file are ASCII if it is written in these units.
func (u unit) startsWithASCII(data []byte) bool {
	if len(data) < 2*u.size {
		return false
	}
	first, second := u.value(data), u.value(data[u.size:])
	return 0 < first && first < utf8.RuneSelf && 0 < second && second < utf8.RuneSelf
}

// value returns the first unit of data.
func (u unit) value(data []byte) uint32 {
	if u.size == 2 {
		return uint32(u.order.Uint16(data))
	}
	return u.order.Uint32(data)
}

// wide reads UTF-16 or UTF-32 as UTF-8. What is no character becomes U+FFFD.
type wide struct {
	from    io.Reader
	unit    unit
	pending rune   // the first half of a pair; 0: none
	text    []byte // not read yet
	err     error  // after text
}

func (w *wide) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(w.text) == 0 {
		if w.err != nil {
			return 0, w.err
		}
		w.fill()
	}
	n := copy(p, w.text)
	w.text = w.text[n:]
	return n, nil
}

// fill reads the next units into text.
func (w *wide) fill() {
	var raw [2048]byte
	n, err := io.ReadFull(w.from, raw[:])
	whole := n - n%w.unit.size
	w.text = w.text[:0]
	for b := range slices.Chunk(raw[:whole], w.unit.size) {
		w.character(w.unit.value(b))
	}
	if err == nil {
		return
	}
	if w.pending != 0 || whole < n { // the file ends within a character
		w.text = utf8.AppendRune(w.text, utf8.RuneError)
		w.pending = 0
	}
	if w.err = err; err == io.ErrUnexpectedEOF {
		w.err = io.EOF
	}
}

// character appends the character that a unit ends.
func (w *wide) character(v uint32) {
	r := rune(v) // negative from 1<<31 on, and so no character
	switch {
	case w.unit.size == 4:
	case w.pending != 0:
		first := w.pending
		w.pending = 0
		if both := utf16.DecodeRune(first, r); both != utf8.RuneError {
			w.text = utf8.AppendRune(w.text, both)
			return
		}
		w.text = utf8.AppendRune(w.text, utf8.RuneError)
		w.character(v)
		return
	case 0xd800 <= r && r < 0xdc00:
		w.pending = r
		return
	}
	w.text = utf8.AppendRune(w.text, r)
}

// lines ends lines with \n where they end with \r\n or \r.
type lines struct {
	from     io.Reader
	returned bool // the last byte read was \r
}

func (l *lines) Read(p []byte) (int, error) {
	for {
		n, err := l.from.Read(p)
		if kept := l.end(p[:n]); kept > 0 || err != nil || len(p) == 0 {
			return kept, err
		}
	}
}

// end changes the ends of lines in p, and returns how many bytes are left.
func (l *lines) end(p []byte) int {
	if len(p) == 0 {
		return 0
	}
	if !l.returned && bytes.IndexByte(p, '\r') < 0 {
		return len(p)
	}
	kept := 0
	for _, c := range p {
		switch {
		case c == '\n' && l.returned: // \r was the end of this line
			l.returned = false
			continue
		case c == '\r':
			l.returned = true
			c = '\n'
		default:
			l.returned = false
		}
		p[kept] = c
		kept++
	}
	return kept
}
