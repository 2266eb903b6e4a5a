package textfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf16"
	"unicode/utf8"
)

// utf16Of writes text as an editor that saves in UTF-16 does, without a byte order mark.
func utf16Of(order binary.AppendByteOrder, text string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(text)) {
		b = order.AppendUint16(b, u)
	}
	return b
}

func utf32Of(order binary.AppendByteOrder, text string) []byte {
	var b []byte
	for _, r := range text {
		b = order.AppendUint32(b, uint32(r))
	}
	return b
}

func TestDecode(t *testing.T) {
	const text = "[Interface]\n# Büro \U0001f600\n"
	crlf := strings.ReplaceAll(text, "\n", "\r\n")
	tests := []struct {
		name, want string
		data       []byte
	}{
		{"UTF-8 stays as it is", text, []byte(text)},
		{"a byte order mark is not text", text, []byte("\ufeff" + text)},
		{"only the first mark is one", "\ufeffx", []byte("\ufeff\ufeffx")},
		{"lines of Windows", text, []byte(crlf)},
		{"lines of the old Macintosh", text, []byte(strings.ReplaceAll(text, "\n", "\r"))},
		{"ends of every kind are one line each", "a\n\nb\n\nc\nd", []byte("a\r\rb\n\rc\r\nd")},
		{"the last line may lack its end", "a\nb", []byte("a\r\nb")},
		{"UTF-16 of Windows", text, append([]byte("\xff\xfe"), utf16Of(binary.LittleEndian, crlf)...)},
		{"UTF-16 of a network", text, append([]byte("\xfe\xff"), utf16Of(binary.BigEndian, crlf)...)},
		{"UTF-16 without its mark", text, utf16Of(binary.LittleEndian, crlf)},
		{"UTF-16 of a network without its mark", text, utf16Of(binary.BigEndian, text)},
		{"UTF-32", text, append([]byte("\xff\xfe\x00\x00"), utf32Of(binary.LittleEndian, text)...)},
		{"UTF-32 of a network", text, append([]byte("\x00\x00\xfe\xff"), utf32Of(binary.BigEndian, text)...)},
		{"UTF-32 without its mark", text, utf32Of(binary.LittleEndian, text)},
		{"half a character at the end", "a\ufffd", []byte("\xff\xfea\x00b")},
		{"half a pair at the end", "a\ufffd", []byte("\xff\xfea\x00\x00\xd8")},
		{"half a pair before a character", "\ufffdb", []byte("\xff\xfe\x00\xd8b\x00")},
		{"the second half alone", "\ufffdb", []byte("\xff\xfe\x00\xdcb\x00")},
		{"no character of UTF-32", "\ufffd", []byte("\xff\xfe\x00\x00\xff\xff\xff\xff")},
		{"a letter with the highest bit set is no character of UTF-32", "\ufffd", []byte("\xff\xfe\x00\x00a\x00\x00\x80")},
		{"other bytes are not touched", "caf\xe9\x00", []byte("caf\xe9\x00")},
		{"nothing", "", nil},
		{"a mark alone", "", []byte("\xff\xfe")},
		{"one byte", "x", []byte("x")},
	}
	for _, tt := range tests {
		before := bytes.Clone(tt.data)
		if got := string(Decode(tt.data)); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
		if !bytes.Equal(tt.data, before) {
			t.Errorf("%s: the data was changed", tt.name)
		}
		for how, r := range map[string]io.Reader{
			"byte by byte":            iotest.OneByteReader(bytes.NewReader(tt.data)),
			"with data and its error": iotest.DataErrReader(bytes.NewReader(tt.data)),
		} {
			if got, err := io.ReadAll(NewReader(r)); err != nil || string(got) != tt.want {
				t.Errorf("%s, read %s: got %q, %v; want %q", tt.name, how, got, err, tt.want)
			}
		}
	}
}

func TestAnErrorOfTheReaderIsReturned(t *testing.T) {
	gone := errors.New("disk gone")
	for _, head := range []string{"", "abc\r", "\xff\xfea\x00", "\xff\xfea"} {
		_, err := io.ReadAll(NewReader(io.MultiReader(strings.NewReader(head), iotest.ErrReader(gone))))
		if !errors.Is(err, gone) {
			t.Errorf("after %q: got %v, want %v", head, err, gone)
		}
	}
}

func TestALongFileIsDecodedWhole(t *testing.T) {
	text := strings.Repeat("line of a list\n", 100_000)
	data := append([]byte("\xff\xfe"), utf16Of(binary.LittleEndian, strings.ReplaceAll(text, "\n", "\r\n"))...)
	if got := string(Decode(data)); got != text {
		t.Errorf("got %d bytes, want %d", len(got), len(text))
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{"", "a\r\nb\r", "\xff\xfea\x00\r\x00\n\x00", "\x00\x00\xfe\xff\x00\x00\x00a", "\xff\xfe\x00\xd8", "\xfe\xff\xdc\x00"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		before := bytes.Clone(data)
		text := Decode(data)
		if !bytes.Equal(data, before) {
			t.Fatal("the data was changed")
		}
		if bytes.IndexByte(text, '\r') >= 0 {
			t.Errorf("%q: got %q, with a carriage return", data, text)
		}
		if utf8.Valid(data) && !utf8.Valid(text) {
			t.Errorf("%q: got %q, which is not UTF-8", data, text)
		}
		slow, err := io.ReadAll(NewReader(iotest.OneByteReader(bytes.NewReader(data))))
		if err != nil || !bytes.Equal(slow, text) {
			t.Errorf("%q: got %q, %v byte by byte and %q at once", data, slow, err, text)
		}
	})
}
