package resolvedtest

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// The D-Bus types of systemd-resolved, written down once more: (iay), (sb), (iiay) and (isb).
type (
	// Server is a DNS server of an interface.
	Server struct {
		Family  int32
		Address []byte
	}
	// Domain is a domain of an interface.
	Domain struct {
		Name        string
		RoutingOnly bool
	}
	linkServer struct {
		Index   int32
		Family  int32
		Address []byte
	}
	linkDomain struct {
		Index       int32
		Name        string
		RoutingOnly bool
	}
)

const (
	resolvedName    = "org.freedesktop.resolve1"
	resolvedPath    = "/org/freedesktop/resolve1"
	resolvedManager = resolvedName + ".Manager"
)

// Resolved is the part of systemd-resolved that we use. The host's default is TLS and signatures for every interface.
type Resolved struct {
	conn  *dbus.Conn
	mu    sync.Mutex // guards below
	state State
	calls []string
}

// State are the settings of one interface.
type State struct {
	DNS     []Server
	Domains []Domain
	Route   bool // the default route for names
	TLS     string
	DNSSEC  string
}

// State returns the settings.
func (f *Resolved) State() State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state
}

// Calls returns the names of the methods that were called.
func (f *Resolved) Calls() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

// Change changes the settings behind our back.
func (f *Resolved) Change(how func(*State)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	how(&f.state)
}

func defaults() State { return State{TLS: "yes", DNSSEC: "yes"} }

// SetLinkDNS is org.freedesktop.resolve1.Manager.SetLinkDNS.
func (f *Resolved) SetLinkDNS(_ int32, dns []Server) *dbus.Error {
	return f.do("SetLinkDNS", func() { f.state.DNS = dns })
}

// SetLinkDomains is org.freedesktop.resolve1.Manager.SetLinkDomains.
func (f *Resolved) SetLinkDomains(_ int32, domains []Domain) *dbus.Error {
	return f.do("SetLinkDomains", func() { f.state.Domains = domains })
}

// SetLinkDefaultRoute is org.freedesktop.resolve1.Manager.SetLinkDefaultRoute.
func (f *Resolved) SetLinkDefaultRoute(_ int32, on bool) *dbus.Error {
	return f.do("SetLinkDefaultRoute", func() { f.state.Route = on })
}

// SetLinkDNSOverTLS is org.freedesktop.resolve1.Manager.SetLinkDNSOverTLS.
func (f *Resolved) SetLinkDNSOverTLS(_ int32, mode string) *dbus.Error {
	return f.do("SetLinkDNSOverTLS", func() { f.state.TLS = mode })
}

// SetLinkDNSSEC is org.freedesktop.resolve1.Manager.SetLinkDNSSEC.
func (f *Resolved) SetLinkDNSSEC(_ int32, mode string) *dbus.Error {
	return f.do("SetLinkDNSSEC", func() { f.state.DNSSEC = mode })
}

// RevertLink is org.freedesktop.resolve1.Manager.RevertLink.
func (f *Resolved) RevertLink(int32) *dbus.Error {
	return f.do("RevertLink", func() { f.state = defaults() })
}

// FlushCaches is org.freedesktop.resolve1.Manager.FlushCaches.
func (f *Resolved) FlushCaches() *dbus.Error { return f.do("FlushCaches", func() {}) }

// GetLink is org.freedesktop.resolve1.Manager.GetLink.
func (f *Resolved) GetLink(index int32) (dbus.ObjectPath, *dbus.Error) {
	return dbus.ObjectPath(resolvedPath + "/link/_3" + fmt.Sprint(index)), nil
}

func (f *Resolved) do(call string, what func()) *dbus.Error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, call)
	what()
	return nil
}

// GetAll is org.freedesktop.DBus.Properties.GetAll.
func (f *Resolved) GetAll(iface string) (map[string]dbus.Variant, *dbus.Error) {
	all := make(map[string]dbus.Variant)
	for _, name := range []string{"DNS", "Domains", "DNSOverTLS", "DNSSEC"} {
		if v, err := f.Get(iface, name); err == nil {
			all[name] = v
		}
	}
	return all, nil
}

// Get is org.freedesktop.DBus.Properties.Get.
func (f *Resolved) Get(iface, name string) (dbus.Variant, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch iface + "." + name {
	case resolvedManager + ".DNS":
		return dbus.MakeVariant([]linkServer{
			{2, unix.AF_INET, []byte{192, 168, 1, 1}},
			{3, unix.AF_INET, []byte{10, 77, 0, 1}},
			{0, unix.AF_INET6, netip.MustParseAddr("2001:db8::53").AsSlice()},
			{1, unix.AF_INET6, netip.MustParseAddr("fe80::53").AsSlice()}, // lo is number 1 in every namespace
		}), nil
	case resolvedManager + ".Domains":
		return dbus.MakeVariant([]linkDomain{{2, "home.example", false}, {2, "routed.example", true}, {3, "corp.example", false}}), nil
	case resolvedName + ".Link.DNS":
		return dbus.MakeVariant(f.state.DNS), nil
	case resolvedName + ".Link.Domains":
		return dbus.MakeVariant(f.state.Domains), nil
	case resolvedName + ".Link.DNSOverTLS":
		return dbus.MakeVariant(f.state.TLS), nil
	case resolvedName + ".Link.DNSSEC":
		return dbus.MakeVariant(f.state.DNSSEC), nil
	}
	return dbus.Variant{}, dbus.MakeFailedError(fmt.Errorf("no property %s.%s", iface, name))
}

// withoutTLS are the methods of an old systemd-resolved.
type withoutTLS interface {
	SetLinkDNS(int32, []Server) *dbus.Error
	SetLinkDomains(int32, []Domain) *dbus.Error
	SetLinkDefaultRoute(int32, bool) *dbus.Error
	SetLinkDNSSEC(int32, string) *dbus.Error
	RevertLink(int32) *dbus.Error
	GetLink(int32) (dbus.ObjectPath, *dbus.Error)
}

// oldResolved is systemd-resolved before version 239: links have no setting for TLS.
type oldResolved struct{ *Resolved }

// Get is org.freedesktop.DBus.Properties.Get.
func (o oldResolved) Get(iface, name string) (dbus.Variant, *dbus.Error) {
	if name == "DNSOverTLS" {
		return dbus.Variant{}, dbus.MakeFailedError(fmt.Errorf("no property %s.%s", iface, name))
	}
	return o.Resolved.Get(iface, name)
}

// GetAll is org.freedesktop.DBus.Properties.GetAll.
func (o oldResolved) GetAll(iface string) (map[string]dbus.Variant, *dbus.Error) {
	all, err := o.Resolved.GetAll(iface)
	delete(all, "DNSOverTLS")
	return all, err
}

// Start runs a system bus for the test, with systemd-resolved on it; old means one from before version 239.
func Start(t *testing.T, old bool) *Resolved {
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
	f := &Resolved{conn: conn, state: defaults()}
	var exported, properties any = f, f
	if old {
		exported = struct{ withoutTLS }{f}
		properties = oldResolved{f}
	}
	must(t, conn.Export(exported, resolvedPath, resolvedManager))
	must(t, conn.ExportSubtree(properties, resolvedPath, "org.freedesktop.DBus.Properties"))
	f.Restart(t)
	return f
}

// Stop gives up the name on the bus, as when the service stops, and forgets the settings.
func (f *Resolved) Stop(t *testing.T) {
	t.Helper()
	_, err := f.conn.ReleaseName(resolvedName)
	must(t, err)
	f.Change(func(s *State) { *s = defaults() })
}

// Restart takes the name on the bus.
func (f *Resolved) Restart(t *testing.T) {
	t.Helper()
	reply, err := f.conn.RequestName(resolvedName, 0)
	must(t, err)
	if reply != dbus.RequestNameReplyPrimaryOwner {
		t.Fatalf("own %s: got %v", resolvedName, reply)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
