package main

import "testing"

func TestAskedFor(t *testing.T) {
	tests := []struct {
		name   string
		result string
		want   bool
	}{
		{"a stop that worked", "success", true},
		{"a stop that took too long", "timeout", true},
		{"a kill", "signal", false},
		{"a watchdog's bite", "watchdog", false},
		{"a failed start", "exit-code", false},
		{"no service manager", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := askedFor(tt.result); got != tt.want {
				t.Errorf("got %t, want %t", got, tt.want)
			}
		})
	}
}
