package config

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
)

// startNumber is what a desktop adds to the name of a unit at each start.
var startNumber = regexp.MustCompile(`^(app-.+)(?:-[0-9]+(\.scope)|@[^.]*(\.service))$`)

// program checks the conditions of a match on the program that sends a flow.
func (k ruleChecker) program(path string, m Match) {
	if k.Programs == "off" && len(m.UID)+len(m.Process)+len(m.Unit)+len(m.Container) > 0 {
		k.fault(path, "write programs: rules, or remove the condition", "the rule asks for the program, and programs: off looks none up")
	}
	for i, value := range m.Process {
		if !filepath.IsAbs(value) {
			k.fault(fmt.Sprintf("%s.process[%d]", path, i), "write the whole path, for example /usr/bin/curl", "the program is %q", value)
		}
	}
	for i, value := range m.Unit {
		k.unit(fmt.Sprintf("%s.unit[%d]", path, i), value, true)
	}
	for i, value := range m.Container {
		k.container(fmt.Sprintf("%s.container[%d]", path, i), value)
	}
}

// unit checks the name of a unit, or a pattern for some.
func (k ruleChecker) unit(at, value string, pattern bool) {
	name := k.managed(at, "unit", value)
	isUnit := strings.HasSuffix(name, ".service") || strings.HasSuffix(name, ".scope")
	switch stable := startNumber.ReplaceAllString(name, "$1$2$3"); {
	case strings.Contains(name, "/"):
	case name == "" || strings.HasSuffix(name, ".slice"):
		k.fault(at, "write a service or scope, for example cups.service", "the unit is %q", value)
	case !pattern && strings.Contains(name, "*"):
		k.fault(at, "write one unit, for example cups.service", "the unit is %q", value)
	case pattern && strings.HasSuffix(name, "*"):
	case !isUnit:
		k.fault(at, "write "+name+".service or "+name+".scope, or an asterisk for what you do not know", "the unit is %q", value)
	case stable != name:
		k.fault(at, "write "+strings.TrimSuffix(value, name)+stable, "the unit is %q, with what changes at each start", value)
	}
}

// container checks the ID or name of a container, or a pattern for some.
func (k ruleChecker) container(at, value string) {
	if name := k.managed(at, "container", value); name == "" {
		k.fault(at, "write an ID or name, as docker ps or machinectl shows it", "the container is %q", value)
	}
}

// managed returns a name without the manager in front.
func (k ruleChecker) managed(at, what, value string) string {
	manager, name, ok := strings.Cut(value, "/")
	if !ok {
		return value
	}
	if manager != "system" && manager != "user" || strings.Contains(name, "/") {
		k.fault(at, "write its name alone, or with system/ or user/ in front", "the %s is %q", what, value)
		return "/"
	}
	return name
}

// sender checks the program that a test is about.
func (k ruleChecker) sender(path string, t Test) {
	if t.From != "" && t.Process+t.Unit+t.Container != "" {
		k.fault(path, "remove from, or process, unit and container", "the programs of peers are not known")
	}
	if t.Process != "" && !filepath.IsAbs(t.Process) {
		k.fault(path+".process", "write the whole path, for example /usr/bin/curl", "the program is %q", t.Process)
	}
	if t.Unit != "" {
		k.unit(path+".unit", t.Unit, false)
	}
	if t.Container != "" {
		k.container(path+".container", t.Container)
	}
}
