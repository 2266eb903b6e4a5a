package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"penstock/cmd/internal/control"
)

func TestFlowsOfProgramsAreSummedUp(t *testing.T) {
	root, ana := uint32(0), uint32(1000)
	browser := control.Sender{Program: "/usr/bin/browser", Unit: "app-browser.scope", UserUnit: true, UID: &ana}
	replaced := browser
	replaced.Replaced = true
	daemon := control.Sender{Program: "/usr/bin/browser", Unit: "web.service", Container: "3f2a9c0d1e5b", UID: &root}
	resolver := control.Sender{Unit: "systemd-resolved.service", UID: &root}
	flows := []control.Flow{
		{Sender: browser, Proto: "tcp", Host: "a.example", Verdict: "direct", TxBytes: 1000, RxBytes: 2000},
		{Sender: replaced, Proto: "tcp", Host: "b.example", Verdict: "via", TxBytes: 24},
		{Sender: browser, Proto: "tcp", Host: "b.example", Verdict: "block"},
		{Sender: browser, Proto: "udp", Verdict: "drop"},
		{Sender: daemon, Proto: "tcp", Host: "c.example", Verdict: "direct", RxBytes: 9999},
		{Sender: resolver, Proto: "dns", Host: "x.bet", Verdict: "block"},
		{Proto: "icmp", Verdict: "direct"},
		{Peer: "bob", Proto: "tcp", Host: "d.example", Verdict: "direct", RxBytes: 1 << 30},
	}
	want := []string{
		"PROGRAM|UNIT|UID|FLOWS|BLOCKED|TX|RX|NAMES",
		"/usr/bin/browser|web.service in 3f2a9c0d1e5b|0|1|0|0 B|9.8 KiB|c.example",
		"/usr/bin/browser (replaced)|app-browser.scope|1000|4|2|1.0 KiB|2.0 KiB|b.example, a.example",
		"-|-|-|1|0|0 B|0 B|",
		"-|systemd-resolved.service|0|0|1|0 B|0 B|x.bet",
	}
	var got []string
	for _, row := range programRows(sumFlows(flows)) {
		got = append(got, strings.Join(row, "|"))
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestFlowsShowWhyIfThereIsAReason(t *testing.T) {
	const why = "guard: the destination is this machine or a reserved address"
	rows := flowRows(control.Flows{Flows: []control.Flow{{ID: "1", Rule: "intranet", Reason: why}, {ID: "2", Sender: control.Sender{Program: "/usr/bin/browser"}}}})
	for i, want := range []string{"REASON", why, ""} {
		if got := rows[i][len(rows[0])-1]; got != want {
			t.Errorf("row %d ends with %q, want %q", i, got, want)
		}
	}
}

func TestFlowsShowProgramsIfTheyAreKnown(t *testing.T) {
	uid := uint32(1000)
	known := control.Flow{ID: "1", Start: time.Now(), Sender: control.Sender{
		Program: "/usr/bin/browser", Replaced: true, Shared: true, Unit: "app-browser.scope", UserUnit: true, Container: "box", UID: &uid}}
	if rows := flowRows(control.Flows{Flows: []control.Flow{{ID: "2"}}}); len(rows[0]) != 10 || len(rows[1]) != 10 {
		t.Errorf("no program is known: got %q", rows)
	}
	rows := flowRows(control.Flows{Flows: []control.Flow{known, {ID: "2"}}})
	if got := strings.Join(rows[1][10:], "|"); got != "/usr/bin/browser (replaced) and others|app-browser.scope in box" || len(rows[2]) != len(rows[0]) {
		t.Errorf("got %q", rows)
	}
	const want = "/usr/bin/browser (replaced) and others, user's unit app-browser.scope, container box, uid 1000"
	if got := senderText(known.Sender); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
