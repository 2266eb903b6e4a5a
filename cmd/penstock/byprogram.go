package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"penstock/cmd/internal/control"
)

// programSums is what each program on this machine did.
type programSums struct {
	APIVersion string       `json:"apiVersion"`
	Programs   []programSum `json:"programs"`
}

type programSum struct {
	control.Sender
	Flows   int      `json:"flows"`
	Blocked int      `json:"blocked"` // of those, and of questions
	TxBytes uint64   `json:"txBytes"`
	RxBytes uint64   `json:"rxBytes"`
	Names   []string `json:"names,omitempty"` // of hosts, those of most flows first

	names map[string]int
}

// topNames is how many names of hosts a sum has.
const topNames = 3

// sumPrograms asks for the flows that a query selects, and sums them up by program. Flows of peers are left out.
func sumPrograms(ctx context.Context, client *control.Client, query control.FlowQuery) (programSums, error) {
	query.Recent = true
	answer, err := client.Flows(ctx, query)
	if err == nil && !query.Denied { // refused questions are not among the others
		var denied control.Flows
		query.Denied = true
		denied, err = client.Flows(ctx, query)
		answer.Flows = append(answer.Flows, slices.DeleteFunc(denied.Flows, func(f control.Flow) bool { return f.Proto != "dns" })...)
	}
	if err != nil {
		return programSums{}, err
	}
	return sumFlows(answer.Flows), nil
}

func sumFlows(flows []control.Flow) programSums {
	sums := make(map[string]*programSum)
	for _, f := range flows {
		if f.Peer != "" {
			continue
		}
		uid := "-"
		if f.UID != nil {
			uid = strconv.FormatUint(uint64(*f.UID), 10)
		}
		key := strings.Join([]string{f.Program, f.Unit, strconv.FormatBool(f.UserUnit), f.Container, uid}, "\x00")
		s := sums[key]
		if s == nil {
			s = &programSum{Sender: f.Sender, names: make(map[string]int)}
			sums[key] = s
		}
		s.add(f)
	}
	list := programSums{APIVersion: control.APIVersion, Programs: []programSum{}}
	for _, key := range slices.Sorted(maps.Keys(sums)) {
		s := sums[key]
		s.Names = slices.SortedFunc(maps.Keys(s.names), func(a, b string) int {
			return cmp.Or(cmp.Compare(s.names[b], s.names[a]), cmp.Compare(a, b))
		})
		s.Names = s.Names[:min(len(s.Names), topNames)]
		list.Programs = append(list.Programs, *s)
	}
	slices.SortStableFunc(list.Programs, func(a, b programSum) int {
		return cmp.Or(cmp.Compare(b.TxBytes+b.RxBytes, a.TxBytes+a.RxBytes), cmp.Compare(b.Flows, a.Flows))
	})
	return list
}

func (s *programSum) add(f control.Flow) {
	if f.Proto != "dns" {
		s.Flows++
	}
	if f.Verdict == "block" || f.Verdict == "drop" {
		s.Blocked++
	}
	s.TxBytes += f.TxBytes
	s.RxBytes += f.RxBytes
	s.Replaced, s.Shared = s.Replaced || f.Replaced, s.Shared || f.Shared
	if f.Host != "" {
		s.names[f.Host]++
	}
}

func programRows(sums programSums) [][]string {
	rows := [][]string{{"PROGRAM", "UNIT", "UID", "FLOWS", "BLOCKED", "TX", "RX", "NAMES"}}
	for _, s := range sums.Programs {
		uid := ""
		if s.UID != nil {
			uid = strconv.FormatUint(uint64(*s.UID), 10)
		}
		rows = append(rows, []string{orDash(programText(s.Sender)), orDash(unitText(s.Sender)), orDash(uid), strconv.Itoa(s.Flows), strconv.Itoa(s.Blocked),
			bytesText(s.TxBytes), bytesText(s.RxBytes), strings.Join(s.Names, ", ")})
	}
	return rows
}

// programText is the path of a program, and what is special about it.
func programText(s control.Sender) string {
	text := s.Program
	if s.Replaced {
		text += " (replaced)"
	}
	if s.Shared {
		text += " and others"
	}
	return text
}

// unitText is the unit and the container of a program.
func unitText(s control.Sender) string {
	text := s.Unit
	if s.Container != "" {
		text = strings.TrimSpace(text + " in " + s.Container)
	}
	return text
}

// senderText is all that is known of a program, in one line.
func senderText(s control.Sender) string {
	var parts []string
	add := func(label, value string) {
		if value != "" {
			parts = append(parts, label+value)
		}
	}
	add("", programText(s))
	if s.UserUnit {
		add("user's unit ", s.Unit)
	} else {
		add("unit ", s.Unit)
	}
	add("container ", s.Container)
	if s.UID != nil {
		add("uid ", fmt.Sprint(*s.UID))
	}
	return strings.Join(parts, ", ")
}
