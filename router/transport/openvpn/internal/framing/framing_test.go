package framing

import (
	"bytes"
	"errors"
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
		{"comp-lzo", "", None, true},
		{"comp-lzo", "yes", None, true},
		{"comp-lzo", "adaptive", None, true},
		{"compress", "lzo", None, true},
		{"compress", "lz4-v2", None, true},
		{"comp-lzo", "stub-v2", None, true},
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
	}{
		{"LZO", Byte, "\x66abc"},
		{"LZ4", Swap, "\x69abc"},
		{"no mark", Byte, "Eabc"},
		{"the other mark", Swap, "\xfaEabc"},
		{"LZ4, second version", V2, "\x50\x01abc"},
		{"a mark that is cut off", V2, "\x50"},
		{"a mark and nothing", Swap, "\xfb"},
	}
	for _, tt := range tests {
		if got, err := tt.kind.Open([]byte(tt.data)); !errors.Is(err, ErrMark) {
			t.Errorf("%s: got %q, %v; want %v", tt.name, got, err, ErrMark)
		}
	}
}
