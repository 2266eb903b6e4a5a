package text

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestSplit(t *testing.T) {
	tests := []struct {
		line string
		want []string
	}{
		{"", nil},
		{"  a\tb  ", []string{"a", "b"}},
		{"a # b", []string{"a"}},
		{"a;b ;c", []string{"a;b"}},
		{`a "b c" 'd "e'`, []string{"a", "b c", `d "e`}},
		{`a\ b "c\"d" 'e\f'`, []string{"a b", `c"d`, `e\f`}},
		{`a ""`, []string{"a", ""}},
	}
	for _, tt := range tests {
		if got, err := Split(tt.line); err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%q: got %q, %v; want %q", tt.line, got, err, tt.want)
		}
	}
	for _, line := range []string{`a "b`, `a 'b`, `a\`} {
		if got, err := Split(line); err == nil {
			t.Errorf("%q: got %q, want an error", line, got)
		}
	}
}

func TestSeconds(t *testing.T) {
	tests := []struct {
		text string
		want time.Duration
	}{
		{"0", 0},
		{"90", 90 * time.Second},
		{"2000000000", MaxSeconds * time.Second},
	}
	for _, tt := range tests {
		if got, err := Seconds(tt.text); err != nil || got != tt.want {
			t.Errorf("%q: got %v, %v; want %v", tt.text, got, err, tt.want)
		}
	}
	for _, bad := range []string{"", "-1", "4000000000", "soon"} {
		if got, err := Seconds(bad); err == nil {
			t.Errorf("%q: got %v, want an error", bad, got)
		}
	}
}

func TestMTU(t *testing.T) {
	for text, ok := range map[string]bool{"576": true, "9000": true, "575": false, "9001": false, "x": false, "": false} {
		if got, err := MTU(text); (err == nil) != ok {
			t.Errorf("%q: got %d, %v; want good %v", text, got, err, ok)
		}
	}
}

func TestServer(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.53": "10.0.0.53:53", "10.0.0.53:5353": "10.0.0.53:5353", "fd00::53": "[fd00::53]:53", "[fd00::53]": "[fd00::53]:53",
		"[fd00::53]:853": "[fd00::53]:853", "resolver.example": "", "10.0.0.53:": "", "[]": "", "": "",
	} {
		if got, err := Server(in); (err == nil) != (want != "") || err == nil && got.String() != want {
			t.Errorf("%q: got %v, %v, want %q", in, got, err, want)
		}
	}
}

func TestPrintable(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"plain text stays", "account closed", "account closed"},
		{"line ends and escapes are spaces", "a\nb\x1b[2J\x7f", "a b [2J "},
		{"broken UTF-8 is a question mark", "a\xffb", "a?b"},
		{"long text is cut", strings.Repeat("x", 1000), strings.Repeat("x", 256)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Printable(tt.text); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestSecretDoesNotPrint(t *testing.T) {
	s := Secret("geheim")
	if got := fmt.Sprintf("%v %s %+v %#v", s, s, s, s); strings.Contains(got, "geheim") {
		t.Errorf("got %s", got)
	}
}
