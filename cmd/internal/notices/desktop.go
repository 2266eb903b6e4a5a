package notices

import (
	"context"
	"errors"
	"fmt"
	"html"
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"penstock/cmd/internal/show"
)

const (
	service   = "org.freedesktop.Notifications"
	object    = "/org/freedesktop/Notifications"
	ourName   = "org.penstock.Notices" // whoever has it is the one that tells
	callFor   = 10 * time.Second
	why       = "why"
	mostLines = 12 // of a body: desktops cut longer ones
)

// ErrRunsAlready says that another process of the session tells the user.
var ErrRunsAlready = errors.New("another penstock notices runs in this session")

// desktop is the notification service of a session. Its specification: "Desktop Notifications Specification" 1.2, freedesktop.org.
type desktop struct {
	conn            *dbus.Conn
	signals         chan *dbus.Signal
	actions, markup bool // what it can do
}

// connect connects to the session bus at an address.
func connect(ctx context.Context, address string) (*desktop, error) {
	conn, err := dbus.Dial(address, dbus.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("session bus %s: %w", address, err)
	}
	d := &desktop{conn: conn, signals: make(chan *dbus.Signal, 16)}
	if err := d.open(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return d, nil
}

func (d *desktop) open(ctx context.Context) error {
	late := time.AfterFunc(callFor, func() { d.conn.Close() }) // a bus that hangs counts as missing
	defer late.Stop()
	if err := d.conn.Auth(nil); err != nil {
		return fmt.Errorf("session bus: %w", err)
	}
	if err := d.conn.Hello(); err != nil {
		return fmt.Errorf("session bus: %w", err)
	}
	reply, err := d.conn.RequestName(ourName, dbus.NameFlagDoNotQueue)
	switch {
	case err != nil:
		return fmt.Errorf("session bus: %w", err)
	case reply != dbus.RequestNameReplyPrimaryOwner:
		return ErrRunsAlready
	}
	var can []string
	if err := d.conn.Object(service, object).CallWithContext(ctx, service+".GetCapabilities", 0).Store(&can); err != nil {
		return fmt.Errorf("this desktop shows no notices: %w", err)
	}
	d.actions, d.markup = slices.Contains(can, "actions"), slices.Contains(can, "body-markup")
	d.conn.Signal(d.signals)
	return d.conn.AddMatchSignalContext(ctx, dbus.WithMatchInterface(service), dbus.WithMatchObjectPath(object))
}

func (d *desktop) close() { d.conn.Close() }

// tell shows a notice and returns its number. If replaces is not 0, it takes the place of that one.
func (d *desktop) tell(ctx context.Context, n notice, replaces uint32, action bool) (id uint32, err error) {
	ctx, cancel := context.WithTimeout(ctx, callFor)
	defer cancel()
	lines := strings.Split(strings.TrimRight(n.body, "\n"), "\n")
	if len(lines) > mostLines {
		lines = append(lines[:mostLines-1], "…")
	}
	for i, l := range lines { // names come from strangers
		lines[i] = show.Printable(l)
	}
	body := strings.Join(lines, "\n")
	if d.markup {
		body = html.EscapeString(body)
	}
	actions := []string{}
	if action && d.actions {
		actions = []string{why, "Why?"}
	}
	hints := map[string]dbus.Variant{"desktop-entry": dbus.MakeVariant("penstock-notices"), "category": dbus.MakeVariant("network")}
	call := d.conn.Object(service, object).CallWithContext(ctx, service+".Notify", 0,
		"penstock", replaces, "network-vpn", show.Printable(n.title), body, actions, hints, int32(-1))
	if err := call.Store(&id); err != nil {
		return 0, fmt.Errorf("show a notice: %w", err)
	}
	return id, nil
}

// asksWhy returns the number of the notice whose "Why?" was chosen.
func asksWhy(s *dbus.Signal) (id uint32, ok bool) {
	if s.Name != service+".ActionInvoked" || len(s.Body) != 2 || s.Body[1] != why {
		return 0, false
	}
	id, ok = s.Body[0].(uint32)
	return id, ok
}
