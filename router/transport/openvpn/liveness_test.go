package openvpn

import (
	"testing"
	"time"

	"penstock/router/transport/openvpn/internal/push"
	"penstock/router/transport/openvpn/profile"
)

func TestLivenessTakesTheServersTimes(t *testing.T) {
	s := time.Second
	tests := []struct {
		name          string
		profile       profile.Timers
		pushed        push.Options
		ping, restart time.Duration
	}{
		{"defaults", profile.Timers{}, push.Options{}, 10 * s, 60 * s},
		{"the profile's", profile.Timers{Ping: 5 * s, PingRestart: 20 * s}, push.Options{}, 5 * s, 20 * s},
		{"the server's", profile.Timers{Ping: 5 * s, PingRestart: 20 * s}, push.Options{Ping: 3 * s, PingRestart: 12 * s}, 3 * s, 12 * s},
		{"some of each", profile.Timers{PingRestart: 20 * s}, push.Options{Ping: 3 * s}, 3 * s, 20 * s},
	}
	for _, tt := range tests {
		if l := newLiveness(&tt.pushed, tt.profile); l.ping != tt.ping || l.restart != tt.restart {
			t.Errorf("%s: got %v and %v, want %v and %v", tt.name, l.ping, l.restart, tt.ping, tt.restart)
		}
	}
}

func TestLiveness(t *testing.T) {
	start := time.Now()
	at := func(seconds float64) time.Time { return start.Add(time.Duration(seconds * float64(time.Second))) }
	l := liveness{ping: 10 * time.Second, restart: 60 * time.Second}
	steps := []struct {
		name              string
		now, heard, spoke float64
		refused           bool
		want              due
	}{
		{"nothing is due at first", 1, 0, 0, false, due{next: at(10)}},
		{"a ping is due when nothing was sent", 10, 0, 0, false, due{ping: true, next: at(20)}},
		{"a ping that could not be sent is not tried again at once", 10.1, 0, 0, false, due{next: at(20)}},
		{"data counts as a ping", 20, 0, 15, false, due{next: at(25)}},
		{"a closed port is probed at once", 21, 0, 15, true, due{probe: true, next: at(22)}},
		{"and once a second", 22, 0, 15, false, due{probe: true, next: at(23)}},
		{"until the server is heard", 22.5, 22.4, 15, false, due{next: at(25)}},
		{"a port that stays closed is given up after 5 s", 30, 22.4, 29, true, due{probe: true, next: at(31)}},
		{"not before", 35, 22.4, 29, false, due{probe: true, next: at(36)}},
		{"but then", 35.1, 22.4, 29, false, due{dead: true, next: at(36)}},
	}
	for _, step := range steps {
		if got := l.check(at(step.now), at(step.heard), at(step.spoke), step.refused); got != step.want {
			t.Errorf("%s: got %+v, want %+v", step.name, got, step.want)
		}
	}
	l = liveness{ping: 10 * time.Second, restart: 60 * time.Second}
	if got := l.check(at(59.9), at(0), at(59), false); got.dead || got.next != at(60) {
		t.Errorf("just before ping-restart: got %+v", got)
	}
	if got := l.check(at(60), at(0), at(59), false); !got.dead {
		t.Errorf("silence for ping-restart: got %+v, want dead", got)
	}
}
