package report

import (
	"penstock/cmd/internal/control"
	"penstock/policy"
)

// sender converts the program that sends a flow to the form of the control API.
func sender(s *policy.Sender) control.Sender {
	p := s.Program()
	if p == nil {
		return control.Sender{}
	}
	return control.Sender{
		Program: p.Path, Replaced: p.Deleted, Shared: p.Several, Unit: p.Unit, UserUnit: p.UserUnit, Container: p.Container, UID: &p.UID,
	}
}

// senderOf returns the program in the facts about a flow, which may be made up.
func senderOf(f policy.Flow) control.Sender {
	c := sender(f.Sender)
	if f.Sender.Program() == nil {
		c = control.Sender{Program: f.Process, Unit: f.Unit, UserUnit: f.UserUnit, Container: f.Container}
		if f.HasUID {
			c.UID = &f.UID
		}
	}
	return c
}
