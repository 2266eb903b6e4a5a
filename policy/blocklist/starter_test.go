package blocklist

import "testing"

func TestStarterListsAreSane(t *testing.T) {
	b := NewBuilder()
	for _, c := range StarterCategories() {
		r, ok := Starter(c)
		if !ok {
			t.Fatalf("%s: no starter list", c)
		}
		report, err := b.Add(c, r, Options{List: c})
		if err != nil {
			t.Error(err)
		}
		if len(report.Skipped) > 0 {
			t.Errorf("%s: skipped %v", c, report.Skipped)
		}
	}
	s, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]string{"www.x.bet": "gambling", "pornhub.com": "adult", "t.co": "social", "a.b.doubleclick.net": "ads", "dns.google": "doh"} {
		got := s.Lookup(host)
		var names []string
		for i := range got.Bits() {
			names = append(names, s.Categories()[i])
		}
		if len(names) != 1 || names[0] != want {
			t.Errorf("%s: got %v, want %s", host, names, want)
		}
		if w := s.LookupWire(wireName(host)); w != got {
			t.Errorf("%s: wire %b, text %b", host, w, got)
		}
	}
}
