package pathmon

import (
	"fmt"

	"github.com/godbus/dbus/v5"
)

// logind is a subscription to logind's PrepareForSleep signal.
type logind struct {
	conn    *dbus.Conn
	prepare chan bool
	done    chan struct{}
}

// listenLogind subscribes on the system bus.
func listenLogind() (logind, error) {
	conn, err := dbus.ConnectSystemBus()
	if err != nil {
		return logind{}, fmt.Errorf("pathmon: system bus: %w", err)
	}
	err = conn.AddMatchSignal(
		dbus.WithMatchSender("org.freedesktop.login1"),
		dbus.WithMatchObjectPath("/org/freedesktop/login1"),
		dbus.WithMatchInterface("org.freedesktop.login1.Manager"),
		dbus.WithMatchMember("PrepareForSleep"),
	)
	if err != nil {
		conn.Close()
		return logind{}, fmt.Errorf("pathmon: subscribe to logind: %w", err)
	}
	l := logind{conn: conn, prepare: make(chan bool), done: make(chan struct{})}
	signals := make(chan *dbus.Signal, 8)
	conn.Signal(signals)
	go l.pass(signals)
	return l, nil
}

// pass forwards signals until the connection ends, which closes the channel.
func (l logind) pass(signals <-chan *dbus.Signal) {
	defer close(l.prepare)
	for s := range signals {
		if len(s.Body) != 1 || s.Name != "org.freedesktop.login1.Manager.PrepareForSleep" {
			continue
		}
		if sleeping, ok := s.Body[0].(bool); ok {
			select {
			case l.prepare <- sleeping:
			case <-l.done:
				return
			}
		}
	}
}

// close ends the connection and waits for pass.
func (l logind) close() {
	close(l.done)
	l.conn.Close()
	for range l.prepare {
	}
}
