package resolver

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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

// Bus is the way to systemd-resolved: D-Bus's system bus, to which it connects when first used. The zero value is ready.
type Bus struct {
	notify atomic.Pointer[chan<- struct{}] // gets a value when systemd-resolved starts or stops; nil: nobody listens

	mu   sync.Mutex // guards below
	conn *dbus.Conn
}

// errAbsent is the error of settings for a systemd-resolved that is stopped.
var errAbsent = errors.New("systemd-resolved does not run, so no name resolves for programs that ask it: start it with systemctl start systemd-resolved")

// dnsAddress is D-Bus type (iay).
type dnsAddress struct {
	Family  int32
	Address []byte
}

// dnsDomain is D-Bus type (sb). A domain that is only routed is not searched.
type dnsDomain struct {
	Name        string
	RoutingOnly bool
}

// linkDomain is D-Bus type (isb): a domain of the interface with the index, or of none (0).
type linkDomain struct {
	Index       int32
	Name        string
	RoutingOnly bool
}

// linkAddress is D-Bus type (iiay): a server of the interface with the index, or of none (0).
type linkAddress struct {
	Index   int32
	Family  int32
	Address []byte
}

func (b *Bus) connect() (*dbus.Conn, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conn != nil && b.conn.Connected() {
		return b.conn, nil
	}
	conn, err := dbus.SystemBusPrivate()
	if err != nil {
		return nil, fmt.Errorf("connect to the system bus: %w", err)
	}
	late := time.AfterFunc(resolvedTimeout, func() { conn.Close() }) // a bus that hangs counts as missing
	err = conn.Auth(nil)
	if err == nil {
		err = conn.Hello()
	}
	if err == nil {
		b.subscribe(conn)
	}
	if late.Stop(); err != nil {
		return nil, errors.Join(fmt.Errorf("connect to the system bus: %w", err), conn.Close())
	}
	b.conn = conn
	return conn, nil
}

// subscribe passes on when systemd-resolved starts or stops. Without the signals the next look finds out.
func (b *Bus) subscribe(conn *dbus.Conn) {
	err := conn.AddMatchSignal(dbus.WithMatchSender("org.freedesktop.DBus"), dbus.WithMatchInterface("org.freedesktop.DBus"),
		dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, resolvedName))
	if err != nil {
		return
	}
	signals := make(chan *dbus.Signal, 8)
	conn.Signal(signals)
	go b.pass(signals)
}

// pass ends with the connection, which closes the channel.
func (b *Bus) pass(signals <-chan *dbus.Signal) {
	for range signals {
		c := b.notify.Load()
		if c == nil {
			continue
		}
		select {
		case *c <- struct{}{}:
		default: // there is a value already
		}
	}
}

// Notify sends a value to c, which should have a buffer, whenever systemd-resolved starts or stops; nil ends that.
func (b *Bus) Notify(c chan<- struct{}) {
	if c == nil {
		b.notify.Store(nil)
		return
	}
	b.notify.Store(&c)
}

// Close ends the connection. A later use connects again.
func (b *Bus) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conn != nil {
		b.conn.Close()
		b.conn = nil
	}
}

// Available reports whether systemd-resolved runs. It is never started for us.
func (b *Bus) Available() bool {
	conn, err := b.connect()
	if err != nil {
		return false
	}
	var owned bool
	err = await(conn.BusObject().Go("org.freedesktop.DBus.NameHasOwner", 0, nil, resolvedName)).Store(&owned)
	return err == nil && owned
}

const (
	comesLook  = 100 * time.Millisecond
	comesLimit = 3 * time.Second
)

// Comes is Available for a host whose programs ask systemd-resolved. It waits up to 3 s: at boot, or while it is restarted, the name
// has no owner for a moment.
func (b *Bus) Comes() bool {
	for end := time.Now().Add(comesLimit); ; time.Sleep(comesLook) {
		if b.Available() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

func (b *Bus) call(method string, args ...any) *dbus.Call {
	conn, err := b.connect()
	if err != nil {
		return &dbus.Call{Err: err}
	}
	return await(conn.Object(resolvedName, resolvedPath).Go(resolvedManager+"."+method, dbus.FlagNoAutoStart, nil, args...))
}

// await waits for the answer, but not for ever, because undoing must end.
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
func (b *Bus) property(path dbus.ObjectPath, iface, name string, value any) error {
	conn, err := b.connect()
	if err != nil {
		return err
	}
	const get = "org.freedesktop.DBus.Properties.Get"
	return await(conn.Object(resolvedName, path).Go(get, dbus.FlagNoAutoStart, nil, iface, name)).Store(value)
}

// properties reads all properties of one interface of the object.
func (b *Bus) properties(path dbus.ObjectPath, iface string) (all map[string]dbus.Variant, err error) {
	conn, err := b.connect()
	if err != nil {
		return nil, err
	}
	const get = "org.freedesktop.DBus.Properties.GetAll"
	err = await(conn.Object(resolvedName, path).Go(get, dbus.FlagNoAutoStart, nil, iface)).Store(&all)
	return all, err
}

// store stores one property into value. The library panics on one that is missing.
func store(all map[string]dbus.Variant, name string, value any) error {
	v, ok := all[name]
	if !ok {
		return fmt.Errorf("property %s is missing", name)
	}
	return v.Store(value)
}

// upstreams returns the servers that systemd-resolved knows, except those of one interface.
func (b *Bus) upstreams(except int) ([]netip.Addr, error) {
	var servers []linkAddress
	if err := b.property(resolvedPath, resolvedManager, "DNS", &servers); err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, s := range servers {
		if addr, ok := netip.AddrFromSlice(s.Address); ok && int(s.Index) != except {
			out = append(out, onLink(addr, int(s.Index)))
		}
	}
	return out, nil
}

// search returns the search domains of all interfaces but one. It leaves out those that are only routed.
func (b *Bus) search(except int) ([]string, error) {
	var domains []linkDomain
	if err := b.property(resolvedPath, resolvedManager, "Domains", &domains); err != nil {
		return nil, err
	}
	var out []string
	for _, d := range domains {
		if int(d.Index) != except && !d.RoutingOnly && !slices.Contains(out, d.Name) {
			out = append(out, d.Name)
		}
	}
	return out, nil
}

// onLink adds the interface to an address that means something only on it, such as a server from a router advertisement.
func onLink(addr netip.Addr, index int) netip.Addr {
	if !addr.Is6() || !addr.IsLinkLocalUnicast() {
		return addr
	}
	i, err := net.InterfaceByIndex(index)
	if err != nil {
		return addr
	}
	return addr.WithZone(i.Name)
}

// Link gives our interface servers that answer for every name. Its fields go into a journal.
type Link struct {
	Name    string       `json:"name"`
	Index   int          `json:"index"`
	DNS     []netip.Addr `json:"dns"`
	Domains []string     `json:"domains,omitempty"` // searched; with a ~ in front only routed

	path dbus.ObjectPath // of the interface in systemd-resolved, once asked for
}

// linkIface is the D-Bus interface of one interface's settings.
const linkIface = resolvedName + ".Link"

// plain are the settings of an interface that may be on by default for the host, and that our server cannot meet: it
// speaks plain DNS on this machine, and a filter's answers cannot be signed.
var plain = [...]struct{ property, method string }{
	{"DNSOverTLS", "SetLinkDNSOverTLS"},
	{"DNSSEC", "SetLinkDNSSEC"},
}

const off = "no"

// Present reports whether systemd-resolved has the settings. It is asked every second, so it asks for all in one call.
func (l *Link) Present(b *Bus) (bool, error) {
	if l.path == "" {
		if err := b.call("GetLink", int32(l.Index)).Store(&l.path); err != nil {
			return false, fmt.Errorf("ask systemd-resolved: %w", err)
		}
	}
	all, err := b.properties(l.path, linkIface)
	if err != nil {
		return false, fmt.Errorf("ask systemd-resolved: %w", err)
	}
	var dns []dnsAddress
	var domains []dnsDomain
	if err := errors.Join(store(all, "DNS", &dns), store(all, "Domains", &domains)); err != nil {
		return false, fmt.Errorf("ask systemd-resolved: %w", err)
	}
	for _, setting := range plain {
		if value, ok := all[setting.property].Value().(string); ok && value != off {
			return false, nil // a systemd-resolved that is too old for the setting cannot have it on
		}
	}
	same := slices.EqualFunc(dns, l.addresses(), func(a, b dnsAddress) bool {
		return a.Family == b.Family && slices.Equal(a.Address, b.Address)
	})
	return same && slices.Equal(domains, l.domains()), nil
}

func (l *Link) addresses() []dnsAddress {
	var out []dnsAddress
	for _, a := range l.DNS {
		family := int32(unix.AF_INET6)
		if a.Is4() {
			family = unix.AF_INET
		}
		out = append(out, dnsAddress{family, a.AsSlice()})
	}
	return out
}

// domains are the root, so that every name is asked here, and the search domains. The search domains of other interfaces
// stay with them: systemd-resolved searches all.
func (l *Link) domains() []dnsDomain {
	out := []dnsDomain{{Name: ".", RoutingOnly: true}}
	for _, d := range l.Domains {
		name, routed := strings.CutPrefix(d, "~")
		if name = strings.TrimSuffix(name, "."); name != "" {
			out = append(out, dnsDomain{Name: name, RoutingOnly: routed})
		}
	}
	return out
}

// Set makes the settings.
func (l *Link) Set(b *Bus) error {
	index := int32(l.Index)
	for _, setting := range plain {
		err := b.call(setting.method, index, off).Err
		if isAbsent(err) {
			return errAbsent
		}
		if err != nil && !isFailure(err, "org.freedesktop.DBus.Error.UnknownMethod") {
			return fmt.Errorf("systemd-resolved: %s: %w", setting.method, err)
		}
	}
	for _, call := range []struct {
		method string
		arg    any
	}{
		{"SetLinkDNS", l.addresses()},
		{"SetLinkDomains", l.domains()},
		{"SetLinkDefaultRoute", true},
	} {
		if err := b.call(call.method, index, call.arg).Err; err != nil {
			return fmt.Errorf("systemd-resolved: %s: %w", call.method, err)
		}
	}
	// Earlier answers must not be used any more. A systemd-resolved without this method has a short cache.
	_ = b.call("FlushCaches").Err
	return nil
}

// Revert removes the settings. There are none if the interface or systemd-resolved is gone. Without the system bus, as when
// the host shuts down, there is nobody to ask, and they go with the interface.
func (l *Link) Revert(b *Bus) error {
	err := b.call("RevertLink", int32(l.Index)).Err
	var failed dbus.Error
	if !errors.As(err, &failed) || isFailure(err, resolvedName+".NoSuchLink", "org.freedesktop.DBus.Error.ServiceUnknown",
		"org.freedesktop.DBus.Error.NameHasNoOwner", "org.freedesktop.DBus.Error.NoReply", "org.freedesktop.DBus.Error.Disconnected") {
		return nil
	}
	return fmt.Errorf("systemd-resolved: RevertLink: %w", err)
}

// isAbsent reports whether err says that nobody has systemd-resolved's name on the bus.
func isAbsent(err error) bool {
	return isFailure(err, "org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner")
}

// isFailure reports whether err is one of D-Bus's named errors.
func isFailure(err error, names ...string) bool {
	var failed dbus.Error
	return errors.As(err, &failed) && slices.Contains(names, failed.Name)
}
