package hostnet

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"penstock/router/hostnet/internal/hosttest"
)

func TestOriginalsFollowTheOwnerOfALink(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	managed := filepath.Join(h.Dir, "managed")
	hosttest.Must(t, os.WriteFile(managed, []byte("search home.example\nnameserver 192.168.1.1\n"), 0o644))
	hosttest.Must(t, os.Remove(h.ResolvConf()))
	hosttest.Must(t, os.Symlink("managed", h.ResolvConf()))
	host, err := Open(config(h))
	hosttest.Must(t, err)
	defer host.Close()
	hosttest.Must(t, host.Apply(t.Context(), everything()))

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
	hosttest.Must(t, os.WriteFile(managed, []byte("domain corp.example\nnameserver 10.0.0.53\n"), 0o644)) // another network
	want("10.0.0.53", "corp.example")
	hosttest.Must(t, os.Remove(managed))
	want("192.168.1.1", "home.example")
}
