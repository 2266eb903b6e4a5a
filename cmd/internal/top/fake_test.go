package top

import (
	"context"
	"fmt"
	"time"

	tea "charm.land/bubbletea/v2"

	"penstock/cmd/internal/control"
)

// start is when the penstock of these tests answers for the first time.
var start = time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)

// laptop is what a laptop answers n seconds after start.
func laptop(n int) snapshot {
	at := start.Add(time.Duration(n) * time.Second)
	moved := uint64(n)
	return snapshot{
		at: at, mayChange: true,
		status: control.Status{
			State: "connected", Verdict: "connected via corp, received 0.4s ago, filter on", Started: start.Add(-time.Hour), Version: "v0.1.0",
			Flows: control.FlowCounts{Active: 3, Forwarded: 1200, Denied: 31 + moved},
			Transports: []control.TransportStatus{
				{Name: "corp", Kind: "wireguard", State: "connected", RxBytes: 5<<20 + moved*300000, TxBytes: 1<<20 + moved*20000},
				{Name: "legacy", Kind: "openvpn", State: "blocked", Reason: "auth_failed", Error: "the server refused the password"},
			},
		},
		samples: []control.Sample{
			{Time: start.Add(-90 * time.Second), RxBytes: 0, Denied: 0},
			{Time: start.Add(-60 * time.Second), RxBytes: 1 << 20, Denied: 9},
			{Time: start.Add(-30 * time.Second), RxBytes: 6 << 20, Denied: 9},
			{Time: at, RxBytes: 8<<20 + moved*300000, Denied: 12 + moved},
		},
		flows: []control.Flow{
			{ID: "3", Proto: "tcp", Src: "10.77.0.1:4000", Dst: "10.20.0.10:443", Host: "intranet.corp.example", HostSource: "sni", Verdict: "via", Via: "corp", Rule: "intranet",
				RxBytes: 2048, TxBytes: 700, Sender: control.Sender{Program: "/usr/bin/curl"}, Start: start.Add(-100 * time.Second)},
			{ID: "4", Proto: "tcp", Src: "10.77.0.1:4001", Dst: "[2001:db8::9]:8443", Host: "a.very.long.name.of.a.download.server.example", HostSource: "sni", Verdict: "direct", Rule: "rest",
				RxBytes: 30<<20 + moved*250000, TxBytes: 9000, Start: start.Add(-50 * time.Second)},
			{ID: "5", Proto: "icmp", Src: "10.77.0.1:0", Dst: "10.20.0.10:0", Verdict: "via", Via: "corp", Rule: "intranet", TxBytes: 64, Start: start.Add(-5 * time.Second)},
			{ID: "6", Proto: "udp", Src: "10.77.0.1:4002", Dst: "10.77.0.2:53", Verdict: "dns", Rule: "dns", Start: start.Add(-time.Second)},
			{ID: "7", Proto: "udp", Src: "10.77.0.1:4003", Dst: "10.77.0.2:53", Verdict: "dns", Rule: "dns", Start: start.Add(-2 * time.Second), End: start},
			{ID: "8", Proto: "tcp", Src: "10.77.0.1:4004", Dst: "203.0.113.20:443", Host: "casino.example", HostSource: "sni", Names: []control.Name{{Host: "casino.example", Source: "sni"}},
				Verdict: "block", Rule: "no-gambling", Category: "gambling", Start: start.Add(-2 * time.Second), End: start.Add(-2 * time.Second)},
		},
		denied: []control.Flow{
			{ID: "q1", Proto: "dns", Src: "10.77.0.1:4005", Host: "x.bet", Verdict: "block", Rule: "no-gambling", Category: "gambling", Start: start.Add(-9 * time.Second), End: start.Add(-9 * time.Second)},
			{ID: "8", Proto: "tcp", Src: "10.77.0.1:4004", Dst: "203.0.113.20:443", Host: "casino.example", Verdict: "block", Rule: "no-gambling", Category: "gambling", Start: start.Add(-2 * time.Second), End: start.Add(-2 * time.Second)},
			{ID: "9", Proto: "tcp", Src: "10.77.0.1:4006", Dst: "192.168.1.1:80", Verdict: "drop", Rule: "no-private", Start: start.Add(-time.Second), End: start.Add(-time.Second)},
		},
		rules: []control.RuleStatus{
			{Name: "no-gambling", Position: "laptop.yaml:7:5", Match: "category gambling", Do: "block", Hits: 31, LastHit: start.Add(-2 * time.Second)},
			{Name: "rest", Position: "laptop.yaml:9:5", Do: "via corp"},
		},
	}
}

// gateway is what a gateway answers.
func gateway(n int) snapshot {
	s := laptop(n)
	s.status.Peers = &control.PeerCounts{Active: 1, Idle: 1}
	s.peers = []control.PeerStatus{
		{Name: "ben", Addresses: []string{"10.99.0.3/32"}, State: "idle", PublicKey: "KEY"},
		{Name: "ana", Addresses: []string{"10.99.0.2/32"}, Groups: []string{"staff"}, State: "active", Endpoint: "192.0.2.7:4711", LastHandshake: start.Add(-time.Minute),
			RxBytes: uint64(n) * 1000, TxBytes: uint64(n) * 90000},
	}
	return s
}

// session is a model and what its user does.
type session struct{ *model }

// open starts a view of a size. Nobody answers it but the test.
func open(width, height int) session {
	s := session{newModel(Config{Every: time.Second}, &poller{ctx: context.Background(), config: Config{
		Dial: func(context.Context) (*control.Client, error) { return nil, control.ErrNotRunning },
	}})}
	s.Update(tea.WindowSizeMsg{Width: width, Height: height})
	return s
}

// sees gives the model answers to what it asks now.
func (s session) sees(answers ...snapshot) session {
	for _, a := range answers {
		a.question = s.question()
		s.Update(a)
	}
	return s
}

// press presses keys, by their names or characters, and returns what the last one led to.
func (s session) press(keys ...string) (cmd tea.Cmd) {
	special := map[string]rune{"enter": tea.KeyEnter, "esc": tea.KeyEscape, "tab": tea.KeyTab, "up": tea.KeyUp, "down": tea.KeyDown, "end": tea.KeyEnd,
		"home": tea.KeyHome, "backspace": tea.KeyBackspace, "pgdown": tea.KeyPgDown}
	for _, k := range keys {
		press := tea.KeyPressMsg{Code: special[k]}
		if press.Code == 0 {
			press = tea.KeyPressMsg{Code: []rune(k)[0], Text: k}
		}
		_, cmd = s.Update(press)
	}
	return cmd
}

// many returns so many live flows.
func many(n int) []control.Flow {
	list := make([]control.Flow, n)
	for i := range list {
		list[i] = control.Flow{ID: fmt.Sprint(i), Proto: "tcp", Src: "10.77.0.1:4000", Dst: "203.0.113.9:443", Host: fmt.Sprintf("host%d.example", i), Verdict: "direct", Rule: "rest", Start: start}
	}
	return list
}
