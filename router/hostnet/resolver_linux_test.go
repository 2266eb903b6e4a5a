package hostnet

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"penstock/router/hostnet/internal/hosttest"
	"penstock/router/hostnet/internal/resolvedtest"
	"penstock/router/hostnet/resolver"
)

func TestEveryKindOfResolverFileIsRestored(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	for name, arrange := range map[string]func(h *hosttest.Host){
		"a link, as resolvconf and NetworkManager leave one": func(h *hosttest.Host) {
			hosttest.Must(t, os.WriteFile(filepath.Join(h.Dir, "managed"), []byte("nameserver 192.168.1.1\n"), 0o644))
			hosttest.Must(t, os.Remove(h.ResolvConf()))
			hosttest.Must(t, os.Symlink("managed", h.ResolvConf()))
		},
		"a link to nothing": func(h *hosttest.Host) {
			hosttest.Must(t, os.Remove(h.ResolvConf()))
			hosttest.Must(t, os.Symlink("../nowhere", h.ResolvConf()))
		},
		"a link to itself": func(h *hosttest.Host) {
			hosttest.Must(t, os.Remove(h.ResolvConf()))
			hosttest.Must(t, os.Symlink("resolv.conf", h.ResolvConf()))
		},
		"none": func(h *hosttest.Host) { hosttest.Must(t, os.Remove(h.ResolvConf())) },
		"a file that is a mount, as in a container": func(h *hosttest.Host) {
			given := filepath.Join(t.TempDir(), "given")
			hosttest.Must(t, os.WriteFile(given, []byte("nameserver 192.168.1.1\n# no newline at the end"), 0o604))
			hosttest.Must(t, unix.Mount(given, h.ResolvConf(), "", unix.MS_BIND, ""))
			t.Cleanup(func() { hosttest.Must(t, unix.Unmount(h.ResolvConf(), 0)) })
		},
	} {
		h := hosttest.New(t)
		arrange(h)
		before := h.State(t)
		host, err := Open(config(h))
		hosttest.Must(t, err)
		if err := host.Apply(t.Context(), everything()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		content, err := os.ReadFile(h.ResolvConf())
		if err != nil || !strings.Contains(string(content), "nameserver 10.77.0.1\nsearch corp.example\n") {
			t.Errorf("%s: resolv.conf: got %q, %v; want our server and domain", name, content, err)
		}
		hosttest.Must(t, host.Close())
		hosttest.WantSame(t, name, h.State(t), before)

		killed := &hosttest.Host{Dir: h.Dir}
		if !run(t, killed, "close 1") {
			t.Fatalf("%s: the child was not killed", name)
		}
		clean(t, h)
		hosttest.WantSame(t, name+", after a kill", h.State(t), before)
		h.Close(t)
	}
}

// startResolved starts an imitation of systemd-resolved. It returns nil outside of the namespaces, in which the test runs again.
func startResolved(t *testing.T, old bool) *resolvedtest.Resolved {
	t.Helper()
	if _, err := exec.LookPath("dbus-daemon"); err != nil {
		t.Skip("dbus-daemon is not installed")
	}
	if !hosttest.InNamespaces(t) {
		return nil
	}
	return resolvedtest.Start(t, old)
}

// At boot, and while it is restarted, nobody has its name for a moment. Whoever took the file then would keep to it.
func TestResolvedIsWaitedForWhereItsStubIsInUse(t *testing.T) {
	resolved := startResolved(t, false)
	if resolved == nil {
		return
	}
	h := hosttest.New(t)
	hosttest.Must(t, os.WriteFile(h.ResolvConf(), []byte("nameserver 127.0.0.53\n"), 0o644))
	resolved.Stop(t)
	returned := make(chan struct{})
	time.AfterFunc(300*time.Millisecond, func() { resolved.Restart(t); close(returned) })
	host, err := Open(config(h))
	hosttest.Must(t, err)
	hosttest.Must(t, host.Apply(t.Context(), everything()))
	<-returned
	if n := len(resolved.State().DNS); n != 1 {
		t.Errorf("systemd-resolved has %d servers of ours, want one", n)
	}
	hosttest.Must(t, host.Close())
}

func TestResolvedIsTheResolverWhereItsStubIsInUse(t *testing.T) {
	resolved := startResolved(t, false)
	if resolved == nil {
		return
	}
	h := hosttest.New(t)
	stub := "nameserver 127.0.0.53\noptions edns0 trust-ad\n"
	hosttest.Must(t, os.WriteFile(h.ResolvConf(), []byte(stub), 0o644))
	before := h.State(t)
	host, err := Open(config(h))
	hosttest.Must(t, err)
	hosttest.Must(t, host.Apply(t.Context(), everything()))
	if content, _ := os.ReadFile(h.ResolvConf()); string(content) != stub {
		t.Errorf("resolv.conf: got %q, want it untouched", content)
	}
	set := resolved.State()
	if len(set.DNS) != 1 || !slices.Equal(set.DNS[0].Address, []byte{10, 77, 0, 1}) || !set.Route {
		t.Errorf("link DNS: got %v, default route %v; want 10.77.0.1 and true", set.DNS, set.Route)
	}
	if want := []resolvedtest.Domain{{Name: ".", RoutingOnly: true}, {Name: "corp.example"}}; !slices.Equal(set.Domains, want) {
		t.Errorf("domains: got %v, want %v", set.Domains, want)
	}
	if set.TLS != "no" || set.DNSSEC != "no" {
		t.Errorf("got DNSOverTLS %s, DNSSEC %s; want no for both, which our server cannot do", set.TLS, set.DNSSEC)
	}
	resolved.Change(func(s *resolvedtest.State) { s.DNS = nil }) // as after a restart of systemd-resolved

	servers, err := host.OriginalResolvers(t.Context())
	hosttest.Must(t, err)
	if want := []netip.Addr{netip.MustParseAddr("192.168.1.1"), netip.MustParseAddr("2001:db8::53"), netip.MustParseAddr("fe80::53%lo")}; !slices.Equal(servers, want) {
		t.Errorf("servers behind the stub: got %v, want %v", servers, want)
	}
	domains, err := host.OriginalSearchDomains(t.Context())
	if want := []string{"home.example"}; err != nil || !slices.Equal(domains, want) {
		t.Errorf("domains behind the stub: got %v, %v; want %v without ours and those that are only routed", domains, err, want)
	}

	stop := startWatch(t, host)
	hosttest.Eventually(t, "systemd-resolved has our server again", func() bool { return len(resolved.State().DNS) == 1 })
	resolved.Change(func(s *resolvedtest.State) { s.TLS = "opportunistic" })
	hosttest.Eventually(t, "TLS is switched off again", func() bool { return resolved.State().TLS == "no" })
	stop()
	hosttest.Must(t, host.Close())
	if dns, calls := resolved.State().DNS, resolved.Calls(); len(dns) != 0 || calls[len(calls)-1] != "RevertLink" {
		t.Errorf("after Close: got DNS %v, last call %v; want none, RevertLink", dns, calls)
	}
	hosttest.WantSame(t, "after Close", h.State(t), before)
}

func TestAnOldResolvedWithoutTLSIsNoFailure(t *testing.T) {
	resolved := startResolved(t, true)
	if resolved == nil {
		return
	}
	h := hosttest.New(t)
	hosttest.Must(t, os.WriteFile(h.ResolvConf(), []byte("nameserver 127.0.0.53\n"), 0o644))
	host, err := Open(config(h))
	hosttest.Must(t, err)
	s := everything()
	s.Search = []string{"corp.example", "~lab.example."}
	hosttest.Must(t, host.Apply(t.Context(), s))
	sets := len(resolved.Calls())
	want := []resolvedtest.Domain{{Name: ".", RoutingOnly: true}, {Name: "corp.example"}, {Name: "lab.example", RoutingOnly: true}}
	if got := resolved.State().Domains; !slices.Equal(got, want) {
		t.Errorf("domains: got %v, want %v", got, want)
	}
	hosttest.Must(t, host.Apply(t.Context(), s))
	if calls := resolved.Calls(); len(calls) != sets {
		t.Errorf("got calls %v, want none for settings that are in place", calls[sets:])
	}
	hosttest.Must(t, host.Close())
}

func TestTheSearchListOfTheNetworkIsKeptBehindOurs(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	managed := filepath.Join(h.Dir, "managed")
	hosttest.Must(t, os.WriteFile(managed, []byte("search home.example corp.example\nnameserver 192.168.1.1\n"), 0o644))
	hosttest.Must(t, os.Remove(h.ResolvConf()))
	hosttest.Must(t, os.Symlink("managed", h.ResolvConf()))
	host, err := Open(config(h))
	hosttest.Must(t, err)
	hosttest.Must(t, host.Apply(t.Context(), everything()))
	has := func(line string) bool {
		content, err := os.ReadFile(h.ResolvConf())
		return err == nil && strings.Contains(string(content), "\n"+line+"\n")
	}
	if !has("search corp.example home.example") {
		content, _ := os.ReadFile(h.ResolvConf())
		t.Errorf("got %q, want the transport's domain and then the network's", content)
	}
	stop := startWatch(t, host)
	hosttest.Must(t, os.WriteFile(managed, []byte("search office.example\nnameserver 10.0.0.53\n"), 0o644)) // another network
	hosttest.Eventually(t, "the search list follows the network", func() bool { return has("search corp.example office.example") })
	stop()
	hosttest.Must(t, host.Close())
}

// immutable is FS_IMMUTABLE_FL (linux/fs.h), chattr +i.
const immutable = 0x10

// setFlags sets the flags of a file, as chattr does.
func setFlags(path string, flags int) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags)
}

func TestAResolverFileThatCannotBeChangedIsAWarning(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	for name, fix := range map[string]func(t *testing.T, path string) (undo func()){
		"a mount that is read-only": func(t *testing.T, path string) func() {
			hosttest.Must(t, unix.Mount(path, path, "", unix.MS_BIND, ""))
			hosttest.Must(t, unix.Mount("", path, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
			return func() { hosttest.Must(t, unix.Unmount(path, 0)) }
		},
		"an immutable file": func(t *testing.T, path string) func() {
			if err := setFlags(path, immutable); err != nil {
				t.Logf("no immutable files here: %v", err)
				return nil
			}
			return func() { hosttest.Must(t, setFlags(path, 0)) }
		},
	} {
		h := hosttest.New(t)
		undo := fix(t, h.ResolvConf())
		if undo == nil {
			h.Close(t)
			continue
		}
		before := h.State(t)
		c := config(h)
		var warnings []string
		var mu sync.Mutex
		c.Warning = func(err error) {
			mu.Lock()
			defer mu.Unlock()
			warnings = append(warnings, err.Error())
		}
		host, err := Open(c)
		hosttest.Must(t, err)
		if err := host.Apply(t.Context(), everything()); err != nil {
			t.Errorf("%s: got %v, want a warning", name, err)
		}
		stop := startWatch(t, host)
		time.Sleep(2*repairWithin + 500*time.Millisecond) // Watch looks twice at least
		stop()
		mu.Lock()
		if len(warnings) != 1 || !strings.Contains(warnings[0], h.ResolvConf()+" stays as it is") || !strings.Contains(warnings[0], "chattr -i") {
			t.Errorf("%s: got warnings %q, want one that names the file and how to fix it", name, warnings)
		}
		t.Log(warnings)
		mu.Unlock()
		servers, err := host.OriginalResolvers(t.Context())
		if err != nil || len(servers) != 1 || servers[0] != netip.MustParseAddr("192.168.1.1") {
			t.Errorf("%s: original resolvers: got %v, %v; want 192.168.1.1", name, servers, err)
		}
		dst := netip.MustParseAddrPort("192.168.1.1:53") // what programs go on asking
		hosttest.Drain(t, h.TUN)
		hosttest.Must(t, hosttest.Send(t, dst, "", ""))
		if !hosttest.Arrives(t, h.TUN, dst) {
			t.Errorf("%s: a question to the file's server did not reach the TUN", name)
		}
		undo() // as the warning says
		hosttest.Must(t, host.repair(t.Context()))
		if servers := resolver.Named(h.ResolvConf()); len(servers) != 1 || servers[0] != everything().DNS[0] {
			t.Errorf("%s: once the file can be changed it names %v, want our server", name, servers)
		}
		hosttest.Must(t, host.Close())
		hosttest.WantSame(t, name, h.State(t), before)
		h.Close(t)
	}
}

func TestAStoppedResolvedIsToldOnceAndSetAgainAtOnce(t *testing.T) {
	resolved := startResolved(t, false)
	if resolved == nil {
		return
	}
	h := hosttest.New(t)
	hosttest.Must(t, os.WriteFile(h.ResolvConf(), []byte("nameserver 127.0.0.53\n"), 0o644))
	c := config(h)
	type report struct {
		kind string
		err  error
	}
	reports := make(chan report, 64)
	c.Repaired = func(kind string, err error) { reports <- report{kind, err} }
	host, err := Open(c)
	hosttest.Must(t, err)
	hosttest.Must(t, host.Apply(t.Context(), everything()))
	stop := startWatch(t, host)
	resolved.Stop(t)
	if r := <-reports; r.kind != "resolver" || r.err == nil || !strings.Contains(r.err.Error(), "systemctl start systemd-resolved") {
		t.Errorf("while it is stopped: got %v, want the mend", r)
	}
	for range 3 { // looks that find the same
		hosttest.Must(t, host.repair(t.Context()))
	}
	if len(reports) > 0 {
		t.Errorf("got another report %v, want one for one change", <-reports)
	}
	begun := time.Now()
	resolved.Restart(t)
	if r := <-reports; r.kind != "resolver" || r.err != nil {
		t.Errorf("once it is back: got %v, want no error", r)
	}
	t.Log("set again after", time.Since(begun))
	if got := resolved.State(); len(got.DNS) != 1 || got.TLS != "no" {
		t.Errorf("once it is back: got %+v, want our server", got)
	}
	stop()
	hosttest.Must(t, host.Close())
}

// A file that can be neither replaced nor written names only this machine, or is missing, so programs ask nobody.
func TestAFixedResolverFileThatLeadsNowhereIsTold(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	for _, row := range []struct {
		name, content string
		told          bool
	}{
		{"a server of the network", "nameserver 192.168.1.1\n", false},
		{"a stub on this machine", "nameserver 127.0.0.1\n", true},
		{"no server", "search lan\n", true},
		{"missing", "", true},
		{"a directory", "directory", true},
	} {
		h := hosttest.New(t)
		dir := filepath.Join(h.Dir, "etc")
		hosttest.Must(t, os.Mkdir(dir, 0o755))
		c := config(h)
		c.ResolvConf = filepath.Join(dir, "resolv.conf")
		if row.name == "a directory" {
			hosttest.Must(t, os.Mkdir(c.ResolvConf, 0o755))
		} else if row.content != "" {
			hosttest.Must(t, os.WriteFile(c.ResolvConf, []byte(row.content), 0o644))
		}
		hosttest.Must(t, unix.Mount(dir, dir, "", unix.MS_BIND, ""))
		hosttest.Must(t, unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
		var told, warned []error
		c.Repaired = func(_ string, err error) { told = append(told, err) }
		c.Warning = func(err error) { warned = append(warned, err) }
		host, err := Open(c)
		hosttest.Must(t, err)
		if err := host.Apply(t.Context(), everything()); err != nil {
			t.Errorf("%s: got %v, want a start all the same", row.name, err)
		}
		for range 3 {
			hosttest.Must(t, host.repair(t.Context()))
		}
		want := 0
		if row.told {
			want = 1
		}
		if len(told) != want || len(warned) != 1 {
			t.Errorf("%s: got reports %v and warnings %v, want %d and 1", row.name, told, warned, want)
		}
		hosttest.Must(t, unix.Unmount(dir, unix.MNT_DETACH))
		hosttest.Must(t, host.repair(t.Context()))
		hosttest.Must(t, host.Close())
		h.Close(t)
	}
}
