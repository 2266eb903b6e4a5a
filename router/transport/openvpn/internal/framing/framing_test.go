package framing

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	tests := []struct {
		name, algorithm string
		want            Kind
		refused         bool
	}{
		{"comp-lzo", "no", Byte, false},
		{"compress", "", Swap, false},
		{"compress", "stub", Swap, false},
		{"compress", "stub-v2", V2, false},
		{"compress", "migrate", None, false},
		{"comp-lzo", "", Byte, true},
		{"comp-lzo", "yes", Byte, true},
		{"comp-lzo", "adaptive", Byte, true},
		{"compress", "lzo", Byte, true},
		{"compress", "lz4", Swap, true},
		{"compress", "lz4-v2", V2, true},
	}
	for _, tt := range tests {
		var args []string
		if tt.algorithm != "" {
			args = []string{tt.algorithm}
		}
		got, err := Parse(tt.name, args)
		if got != tt.want || errors.Is(err, ErrCompression) != tt.refused {
			t.Errorf("%s %s: got %d, %v; want %d, refused %v", tt.name, tt.algorithm, got, err, tt.want, tt.refused)
		}
	}
}

func TestParseRefusesUnknownAlgorithms(t *testing.T) {
	for _, line := range [][2]string{{"comp-lzo", "stub-v2"}, {"compress", "snappy"}, {"compress", "no"}} {
		if _, err := Parse(line[0], line[1:]); err == nil || errors.Is(err, ErrCompression) {
			t.Errorf("%s: got %v, want an error that names the algorithm", line, err)
		}
	}
}

func TestWrongNamesTheMend(t *testing.T) {
	tests := []struct {
		kind        Kind
		plain, want string
		is          error
	}{
		{None, "\xfaE", `add that line to the profile`, ErrMark},
		{None, "\xfb*", `as "compress" does`, ErrMark},
		{None, "\x66E", "compresses", ErrCompression},
		{None, "?", "not framed as agreed", ErrMark},
		{Byte, "E", "remove that line", ErrMark},
		{Byte, "\x66E", "compresses", ErrCompression},
		{Swap, "\x69E", "compresses", ErrCompression},
		{Swap, "\xfaE", `as "comp-lzo no" does`, ErrMark},
		{V2, "\x50\x01E", "compresses", ErrCompression},
		{Byte, "", "remove that line", ErrMark},
	}
	for _, tt := range tests {
		if err := tt.kind.Wrong([]byte(tt.plain)); !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("kind %d, %q: got %v, want %v with %q", tt.kind, tt.plain, err, tt.is, tt.want)
		}
	}
}

// What the reference puts on the wire.
func TestFrame(t *testing.T) {
	tests := []struct {
		name        string
		kind        Kind
		plain, want string
	}{
		{"none", None, "Eabc", "Eabc"},
		{"comp-lzo no", Byte, "Eabc", "\xfaEabc"},
		{"stub", Swap, "Eabc", "\xfbabcE"},
		{"stub, one byte", Swap, "E", "\xfbE"},
		{"stub-v2", V2, "Eabc", "Eabc"},
		{"stub-v2, a packet that looks marked", V2, "\x50abc", "\x50\x00\x50abc"},
		{"nothing", Byte, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := append(make([]byte, Front, Front+len(tt.plain)+Back), tt.plain...)
			framed, start := tt.kind.Frame(b, Front)
			if got := string(framed[start:]); got != tt.want {
				t.Fatalf("framed: got %q, want %q", got, tt.want)
			}
			plain, err := tt.kind.Open(framed[start:])
			if err != nil || string(plain) != tt.plain {
				t.Errorf("opened: got %q, %v; want %q", plain, err, tt.plain)
			}
			if len(plain) > 0 && plain[0] == 'E' && !bytes.Equal(framed[start+tt.kind.Shift():][:len(plain)], plain) {
				t.Errorf("Shift: the packet does not start at %d", tt.kind.Shift())
			}
		})
	}
}

func TestOpenRefusesWhatIsCompressed(t *testing.T) {
	tests := []struct {
		name string
		kind Kind
		data string
		want error
	}{
		{"LZO", Byte, "\x66abc", ErrCompression},
		{"LZ4", Swap, "\x69abc", ErrCompression},
		{"no mark", Byte, "Eabc", ErrMark},
		{"the other mark", Swap, "\xfaEabc", ErrMark},
		{"LZ4, second version", V2, "\x50\x01abc", ErrCompression},
		{"a mark that is cut off", V2, "\x50", ErrMark},
		{"a mark and nothing", Swap, "\xfb", ErrMark},
	}
	for _, tt := range tests {
		if got, err := tt.kind.Open([]byte(tt.data)); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %q, %v; want %v", tt.name, got, err, tt.want)
		}
	}
}
