package hostnet

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

const (
	resolvedName    = "org.freedesktop.resolve1"
	resolvedPath    = "/org/freedesktop/resolve1"
	resolvedManager = resolvedName + ".Manager"
	resolvedTimeout = 5 * time.Second // systemd-resolved answers at once or hangs
)

// resolvedBus talks to systemd-resolved over the system bus, connecting when first asked.
type resolvedBus struct {
	mu   sync.Mutex // guards conn
	conn *dbus.Conn
}

// dnsAddress is D-Bus type (iay).
type dnsAddress struct {
	Family  int32
	Address []byte
}

// dnsDomain is D-Bus type (sb): a routing-only domain is not searched.
type dnsDomain struct {
	Name        string
	RoutingOnly bool
}

// linkAddress is D-Bus type (iiay): a server of one link, or of none (0).
type linkAddress struct {
	Index   int32
	Family  int32
	Address []byte
}

func (b *resolvedBus) connect() (*dbus.Conn, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conn != nil && b.conn.Connected() {
		return b.conn, nil
	}
	conn, err := dbus.SystemBusPrivate()
	if err != nil {
		return nil, fmt.Errorf("connect to the system bus: %w", err)
	}
	late := time.AfterFunc(resolvedTimeout, func() { conn.Close() }) // a bus that hangs is none
	err = conn.Auth(nil)
	if err == nil {
		err = conn.Hello()
	}
	if late.Stop(); err != nil {
		return nil, errors.Join(fmt.Errorf("connect to the system bus: %w", err), conn.Close())
	}
	b.conn = conn
	return conn, nil
}

func (b *resolvedBus) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conn != nil {
		b.conn.Close()
		b.conn = nil
	}
}

// available reports whether resolved runs. It is never started for us.
func (b *resolvedBus) available() bool {
	conn, err := b.connect()
	if err != nil {
		return false
	}
	var owned bool
	err = await(conn.BusObject().Go("org.freedesktop.DBus.NameHasOwner", 0, nil, resolvedName)).Store(&owned)
	return err == nil && owned
}

func (b *resolvedBus) call(method string, args ...any) *dbus.Call {
	conn, err := b.connect()
	if err != nil {
		return &dbus.Call{Err: err}
	}
	return await(conn.Object(resolvedName, resolvedPath).Go(resolvedManager+"."+method, dbus.FlagNoAutoStart, nil, args...))
}

// await waits for the answer, but not for ever: undo must end.
func await(call *dbus.Call) *dbus.Call {
	timeout := time.NewTimer(resolvedTimeout)
	defer timeout.Stop()
	select {
	case <-call.Done:
		return call
	case <-timeout.C:
		return &dbus.Call{Err: fmt.Errorf("no answer to %s in %s", call.Method, resolvedTimeout)}
	}
}

// property reads one property of the object into value.
func (b *resolvedBus) property(path dbus.ObjectPath, iface, name string, value any) error {
	conn, err := b.connect()
	if err != nil {
		return err
	}
	const get = "org.freedesktop.DBus.Properties.Get"
	return await(conn.Object(resolvedName, path).Go(get, dbus.FlagNoAutoStart, nil, iface, name)).Store(value)
}

// upstreams returns the servers resolved knows, but for those of the link with the index.
func (b *resolvedBus) upstreams(except int) ([]netip.Addr, error) {
	var servers []linkAddress
	if err := b.property(resolvedPath, resolvedManager, "DNS", &servers); err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, s := range servers {
		if addr, ok := netip.AddrFromSlice(s.Address); ok && int(s.Index) != except {
			out = append(out, addr)
		}
	}
	return out, nil
}

// resolvedLink gives the TUN's link DNS servers that answer for every name.
type resolvedLink struct {
	Name    string       `json:"name"`
	Index   int          `json:"index"`
	DNS     []netip.Addr `json:"dns"`
	Domains []string     `json:"domains,omitempty"`
}

// resolvedKey is the link.
type resolvedKey struct {
	name  string
	index int
}

func (r *resolvedLink) stage() stage { return stageResolver }
func (r *resolvedLink) key() any     { return resolvedKey{r.Name, r.Index} }
func (r *resolvedLink) entry() entry { return entry{Resolved: r} }

func (r *resolvedLink) String() string {
	return fmt.Sprintf("systemd-resolved settings of %s", r.Name)
}

func (r *resolvedLink) present(v *view) (bool, error) {
	var path dbus.ObjectPath
	if err := v.resolved.call("GetLink", int32(r.Index)).Store(&path); err != nil {
		return false, fmt.Errorf("ask systemd-resolved: %w", err)
	}
	var dns []dnsAddress
	var domains []dnsDomain
	const link = resolvedName + ".Link"
	if err := errors.Join(v.resolved.property(path, link, "DNS", &dns), v.resolved.property(path, link, "Domains", &domains)); err != nil {
		return false, fmt.Errorf("ask systemd-resolved: %w", err)
	}
	same := slices.EqualFunc(dns, r.addresses(), func(a, b dnsAddress) bool {
		return a.Family == b.Family && slices.Equal(a.Address, b.Address)
	})
	return same && slices.Equal(domains, r.domains()), nil
}

func (r *resolvedLink) addresses() []dnsAddress {
	var out []dnsAddress
	for _, a := range r.DNS {
		family := int32(unix.AF_INET6)
		if a.Is4() {
			family = unix.AF_INET
		}
		out = append(out, dnsAddress{family, a.AsSlice()})
	}
	return out
}

func (r *resolvedLink) domains() []dnsDomain {
	out := []dnsDomain{{Name: ".", RoutingOnly: true}}
	for _, d := range r.Domains {
		out = append(out, dnsDomain{Name: d})
	}
	return out
}

func (r *resolvedLink) make(k *kernel) error {
	index := int32(r.Index)
	for _, call := range []struct {
		method string
		arg    any
	}{
		{"SetLinkDNS", r.addresses()},
		{"SetLinkDomains", r.domains()},
		{"SetLinkDefaultRoute", true},
	} {
		if err := k.resolved.call(call.method, index, call.arg).Err; err != nil {
			return fmt.Errorf("systemd-resolved: %s: %w", call.method, err)
		}
	}
	// Answers from before must not be given any more. A resolved too old for it has a short cache.
	_ = k.resolved.call("FlushCaches").Err
	return nil
}

// undo has nothing to do when the link is gone: its settings went with it.
func (r *resolvedLink) undo(k *kernel) error {
	link, err := k.nl.LinkByIndex(r.Index)
	if notFound(err) || (err == nil && link.Attrs().Name != r.Name) {
		return nil
	}
	if err := k.resolved.call("RevertLink", int32(r.Index)).Err; err != nil {
		var failed dbus.Error
		if errors.As(err, &failed) && (failed.Name == resolvedName+".NoSuchLink" || failed.Name == "org.freedesktop.DBus.Error.ServiceUnknown") {
			return nil
		}
		return fmt.Errorf("systemd-resolved: RevertLink: %w", err)
	}
	return nil
}

// stubInUse reports whether the resolver file sends programs to resolved's stub.
func stubInUse(path string) bool {
	raw, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(nameservers(raw), func(a netip.Addr) bool {
		return a == netip.AddrFrom4([4]byte{127, 0, 0, 53}) || a == netip.AddrFrom4([4]byte{127, 0, 0, 54})
	})
}
