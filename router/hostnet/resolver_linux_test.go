package hostnet

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

func TestEveryKindOfResolverFileIsRestored(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	for name, arrange := range map[string]func(h *testHost){
		"a link, as resolvconf and NetworkManager leave one": func(h *testHost) {
			must(t, os.WriteFile(filepath.Join(h.dir, "managed"), []byte("nameserver 192.168.1.1\n"), 0o644))
			must(t, os.Remove(h.resolvConf()))
			must(t, os.Symlink("managed", h.resolvConf()))
		},
		"a link to nothing": func(h *testHost) {
			must(t, os.Remove(h.resolvConf()))
			must(t, os.Symlink("../nowhere", h.resolvConf()))
		},
		"none": func(h *testHost) { must(t, os.Remove(h.resolvConf())) },
		"a file that is a mount, as in a container": func(h *testHost) {
			given := filepath.Join(t.TempDir(), "given")
			must(t, os.WriteFile(given, []byte("nameserver 192.168.1.1\n# no newline at the end"), 0o604))
			must(t, unix.Mount(given, h.resolvConf(), "", unix.MS_BIND, ""))
			t.Cleanup(func() { must(t, unix.Unmount(h.resolvConf(), 0)) })
		},
	} {
		h := newTestHost(t)
		arrange(h)
		before := h.state(t)
		host, err := Open(h.config())
		must(t, err)
		if err := host.Apply(t.Context(), everything()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		content, err := os.ReadFile(h.resolvConf())
		if err != nil || !strings.Contains(string(content), "nameserver 10.77.0.1\nsearch corp.example\n") {
			t.Errorf("%s: resolv.conf: got %q, %v; want our server and domain", name, content, err)
		}
		must(t, host.Close())
		wantSame(t, name, h.state(t), before)

		killed := &testHost{dir: h.dir}
		if !killed.run(t, "close 1") {
			t.Fatalf("%s: the child was not killed", name)
		}
		must(t, Cleanup(h.stateFile(), nil))
		wantSame(t, name+", after a kill", h.state(t), before)
		h.remove(t)
	}
}

func TestNameservers(t *testing.T) {
	content := "# a comment\n; nameserver 1.1.1.1\nnameserver 192.0.2.1\nnameserver\tfe80::1%eth0 # trailing\nnameserver not-an-address\nnameserver\noptions edns0\nnameserver ::ffff:192.0.2.2"
	want := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fe80::1%eth0"), netip.MustParseAddr("192.0.2.2")}
	if got := nameservers([]byte(content)); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// fakeResolved is systemd-resolved as far as we use it.
type fakeResolved struct {
	mu      sync.Mutex // guards below
	dns     []dnsAddress
	domains []dnsDomain
	route   bool
	calls   []string
}

func (f *fakeResolved) SetLinkDNS(_ int32, dns []dnsAddress) *dbus.Error {
	return f.do("SetLinkDNS", func() { f.dns = dns })
}

func (f *fakeResolved) SetLinkDomains(_ int32, domains []dnsDomain) *dbus.Error {
	return f.do("SetLinkDomains", func() { f.domains = domains })
}

func (f *fakeResolved) SetLinkDefaultRoute(_ int32, on bool) *dbus.Error {
	return f.do("SetLinkDefaultRoute", func() { f.route = on })
}

func (f *fakeResolved) RevertLink(int32) *dbus.Error {
	return f.do("RevertLink", func() { f.dns, f.domains, f.route = nil, nil, false })
}

func (f *fakeResolved) FlushCaches() *dbus.Error { return f.do("FlushCaches", func() {}) }

func (f *fakeResolved) GetLink(index int32) (dbus.ObjectPath, *dbus.Error) {
	return dbus.ObjectPath(resolvedPath + "/link/_3" + fmt.Sprint(index)), nil
}

func (f *fakeResolved) do(call string, what func()) *dbus.Error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, call)
	what()
	return nil
}

// Get is org.freedesktop.DBus.Properties.Get.
func (f *fakeResolved) Get(iface, name string) (dbus.Variant, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch iface + "." + name {
	case resolvedManager + ".DNS":
		return dbus.MakeVariant([]linkAddress{
			{2, unix.AF_INET, []byte{192, 168, 1, 1}},
			{3, unix.AF_INET, []byte{10, 77, 0, 1}},
			{0, unix.AF_INET6, netip.MustParseAddr("2001:db8::53").AsSlice()},
		}), nil
	case resolvedName + ".Link.DNS":
		return dbus.MakeVariant(f.dns), nil
	case resolvedName + ".Link.Domains":
		return dbus.MakeVariant(f.domains), nil
	}
	return dbus.Variant{}, dbus.MakeFailedError(fmt.Errorf("no property %s.%s", iface, name))
}

// startResolved runs a system bus of our own with a resolved on it.
func startResolved(t *testing.T) *fakeResolved {
	t.Helper()
	dir := t.TempDir()
	address := "unix:path=" + filepath.Join(dir, "bus")
	conf := filepath.Join(dir, "bus.conf")
	must(t, os.WriteFile(conf, []byte(`<busconfig><type>system</type><listen>`+address+`</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>`), 0o600))
	cmd := exec.CommandContext(t.Context(), "dbus-daemon", "--config-file="+conf, "--nofork", "--nopidfile", "--print-address=1")
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if _, err := out.Read(make([]byte, 256)); err != nil { // it listens once it has printed
		t.Fatal(err)
	}
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
	conn, err := dbus.ConnectSystemBus()
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	f := &fakeResolved{}
	must(t, conn.Export(f, resolvedPath, resolvedManager))
	must(t, conn.ExportSubtree(f, resolvedPath, "org.freedesktop.DBus.Properties"))
	reply, err := conn.RequestName(resolvedName, 0)
	must(t, err)
	if reply != dbus.RequestNameReplyPrimaryOwner {
		t.Fatalf("own %s: got %v", resolvedName, reply)
	}
	return f
}

func TestResolvedIsTheResolverWhereItsStubIsInUse(t *testing.T) {
	if _, err := exec.LookPath("dbus-daemon"); err != nil {
		t.Skip("dbus-daemon is not installed")
	}
	if !inNamespaces(t) {
		return
	}
	resolved := startResolved(t)
	h := newTestHost(t)
	stub := "nameserver 127.0.0.53\noptions edns0 trust-ad\n"
	must(t, os.WriteFile(h.resolvConf(), []byte(stub), 0o644))
	before := h.state(t)
	host, err := Open(h.config())
	must(t, err)
	must(t, host.Apply(t.Context(), everything()))
	if content, _ := os.ReadFile(h.resolvConf()); string(content) != stub {
		t.Errorf("resolv.conf: got %q, want it untouched", content)
	}
	resolved.mu.Lock()
	if len(resolved.dns) != 1 || !slices.Equal(resolved.dns[0].Address, []byte{10, 77, 0, 1}) || !resolved.route {
		t.Errorf("link DNS: got %v, default route %v; want 10.77.0.1 and true", resolved.dns, resolved.route)
	}
	if want := []dnsDomain{{".", true}, {"corp.example", false}}; !slices.Equal(resolved.domains, want) {
		t.Errorf("domains: got %v, want %v", resolved.domains, want)
	}
	resolved.dns = nil // as after a restart of resolved
	resolved.mu.Unlock()

	servers, err := host.OriginalResolvers(t.Context())
	must(t, err)
	if want := []netip.Addr{netip.MustParseAddr("192.168.1.1"), netip.MustParseAddr("2001:db8::53")}; !slices.Equal(servers, want) {
		t.Errorf("servers behind the stub: got %v, want %v", servers, want)
	}

	stop := startWatch(t, host)
	eventually(t, "resolved is told again", func() bool {
		resolved.mu.Lock()
		defer resolved.mu.Unlock()
		return len(resolved.dns) == 1
	})
	stop()
	must(t, host.Close())
	resolved.mu.Lock()
	defer resolved.mu.Unlock()
	if len(resolved.dns) != 0 || resolved.calls[len(resolved.calls)-1] != "RevertLink" {
		t.Errorf("after Close: got DNS %v, last call %v; want none, RevertLink", resolved.dns, resolved.calls)
	}
	wantSame(t, "after Close", h.state(t), before)
}
