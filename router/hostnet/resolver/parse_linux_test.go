package resolver

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/godbus/dbus/v5"
)

func TestNameservers(t *testing.T) {
	content := "# a comment\n; nameserver 1.1.1.1\nnameserver 192.0.2.1\nnameserver\tfe80::1%eth0 # trailing\nnameserver not-an-address\nnameserver\noptions edns0\nnameserver ::ffff:192.0.2.2"
	want := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fe80::1%eth0"), netip.MustParseAddr("192.0.2.2")}
	if got := nameservers([]byte(content)); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestSearchDomains(t *testing.T) {
	tests := []struct {
		name, file string
		want       []string
	}{
		{"none", "nameserver 192.168.1.1\n", nil},
		{"several on a line", "search a.example b.example\n", []string{"a.example", "b.example"}},
		{"the last line counts", "domain a.example\nsearch b.example\n", []string{"b.example"}},
		{"a comment is none", "# search a.example\n", nil},
		{"an empty line is none", "search\n", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := searchDomains([]byte(tt.file)); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestJoinDomains(t *testing.T) {
	tests := []struct {
		name          string
		first, second []string
		want          []string
	}{
		{"ours come before those of the LAN", []string{"corp.example"}, []string{"home.example"}, []string{"corp.example", "home.example"}},
		{"each once, whatever its letters and dot", []string{"corp.example"}, []string{"Corp.Example.", "home.example"}, []string{"corp.example", "home.example"}},
		{"what is only routed is not searched", []string{"~lab.example", "corp.example", "~."}, nil, []string{"corp.example"}},
		{"the root completes nothing", nil, []string{"."}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := joinDomains(tt.first, tt.second); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestAMissingPropertyIsAnError(t *testing.T) {
	var text string
	if err := store(nil, "DNS", &text); err == nil {
		t.Error("got no error")
	}
	all := map[string]dbus.Variant{"DNS": dbus.MakeVariant("here")}
	if err := store(all, "DNS", &text); err != nil || text != "here" {
		t.Errorf("got %q, %v; want the property", text, err)
	}
}

func FuzzNameservers(f *testing.F) {
	f.Add([]byte("nameserver 192.0.2.1\noptions edns0\n"))
	f.Add([]byte("nameserver fe80::1%eth0\r\nnameserver"))
	f.Fuzz(func(t *testing.T, content []byte) {
		for _, a := range nameservers(content) {
			if !a.IsValid() || a.Is4In6() {
				t.Errorf("got %v, want plain addresses", a)
			}
		}
		ours := (&File{Content: content, dns: nameservers(content)}).render()
		if !isOurs(ours) {
			t.Errorf("%q is not known again as ours", ours)
		}
	})
}
