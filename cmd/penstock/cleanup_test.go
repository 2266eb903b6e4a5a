package main

import "testing"

func TestAskedFor(t *testing.T) {
	tests := []struct {
		name     string
		result   string
		lockdown bool
		want     bool
	}{
		{"a stop that worked", "success", false, true},
		{"a stop that worked, in lockdown", "success", true, true},
		{"a stop that took too long", "timeout", false, true},
		{"a stop that took too long leaves lockdown", "timeout", true, false},
		{"a kill", "signal", false, false},
		{"a watchdog's bite", "watchdog", false, false},
		{"a failed start", "exit-code", true, false},
		{"no service manager", "", false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := askedFor(tt.result, tt.lockdown); got != tt.want {
				t.Errorf("got %t, want %t", got, tt.want)
			}
		})
	}
}
