package blocklist

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

func TestFindNamesListAndLine(t *testing.T) {
	source := func(name, text string) Source {
		return Source{Options: Options{List: name}, Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil }}
	}
	lists := []Source{
		source("plain", "# head\nother.example\nx.example \n"),
		source("adblock", "! head\n||example.net^\n@@||www.x.example^\n||www.x.example^$important\n/^www\\.x/\n"),
		source("hosts", "0.0.0.0 a.example www.x.example\n0.0.0.0 192.0.2.7\n0.0.0.0 x.example\n"),
		{Options: Options{List: "lost"}, Open: func() (io.ReadCloser, error) { return nil, io.ErrUnexpectedEOF }},
	}
	got, err := Find("www.x.example", lists...)
	if !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), "list lost") {
		t.Errorf("got error %v, want one for list lost", err)
	}
	want := []Hit{
		{"plain", 3, "x.example", false},
		{"adblock", 3, "@@||www.x.example^", true},
		{"adblock", 4, "||www.x.example^$important", false},
		{"adblock", 5, `/^www\.x/`, false},
		{"hosts", 1, "0.0.0.0 a.example www.x.example", false},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got, _ := Find("192.0.2.7", lists[:3]...); len(got) != 1 || got[0].Line != 2 {
		t.Errorf("got %+v, want line 2 of hosts", got)
	}
}
