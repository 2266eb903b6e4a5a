package hostnet

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestOriginalsFollowTheOwnerOfALink(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	h := newTestHost(t)
	managed := filepath.Join(h.dir, "managed")
	must(t, os.WriteFile(managed, []byte("search home.example\nnameserver 192.168.1.1\n"), 0o644))
	must(t, os.Remove(h.resolvConf()))
	must(t, os.Symlink("managed", h.resolvConf()))
	host, err := Open(h.config())
	must(t, err)
	defer host.Close()
	must(t, host.Apply(t.Context(), everything()))

	want := func(server, domain string) {
		t.Helper()
		servers, err := host.OriginalResolvers(t.Context())
		if err != nil || !slices.Equal(servers, []netip.Addr{netip.MustParseAddr(server)}) {
			t.Errorf("servers: got %v %v, want %s", servers, err, server)
		}
		domains, err := host.OriginalSearchDomains(t.Context())
		if err != nil || !slices.Equal(domains, []string{domain}) {
			t.Errorf("domains: got %v %v, want %s", domains, err, domain)
		}
	}
	want("192.168.1.1", "home.example")
	must(t, os.WriteFile(managed, []byte("domain corp.example\nnameserver 10.0.0.53\n"), 0o644)) // another network
	want("10.0.0.53", "corp.example")
	must(t, os.Remove(managed))
	want("192.168.1.1", "home.example")
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
