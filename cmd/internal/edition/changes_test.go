package edition

import (
	"testing"

	"penstock/cmd/internal/config"
)

// TestWhatASiteShowsNeedsNoRestart changes listen.enrol of a gateway of a fleet, and of one alone.
func TestWhatASiteShowsNeedsNoRestart(t *testing.T) {
	with := func(fleet *config.Fleet, e config.EnrolListen) *config.Config {
		return &config.Config{Fleet: fleet, Listen: config.Listen{Enrol: &e}}
	}
	site := func(generation string) *config.Fleet { return &config.Fleet{Folder: "/f", Bundle: "/f/" + generation} }
	tests := []struct {
		name      string
		old, next *config.Config
		restart   bool
	}{
		{"another key of a site",
			with(site("1"), config.EnrolListen{URL: "https://a", PrivateKey: config.Secret{File: "/f/1/secrets/a"}}),
			with(site("2"), config.EnrolListen{URL: "https://a", PrivateKey: config.Secret{File: "/f/2/secrets/b"}}), false},
		{"a certificate of a site",
			with(site("1"), config.EnrolListen{URL: "https://a"}), with(site("2"), config.EnrolListen{URL: "https://a", Certificate: "/f/2/a.crt"}), false},
		{"another address of a site",
			with(site("1"), config.EnrolListen{Address: ":1"}), with(site("2"), config.EnrolListen{Address: ":2"}), true},
		{"a page that a site did not have", &config.Config{Fleet: site("1")}, with(site("2"), config.EnrolListen{}), true},
		{"another key of one gateway",
			with(nil, config.EnrolListen{PrivateKey: config.Secret{File: "/a"}}), with(nil, config.EnrolListen{PrivateKey: config.Secret{File: "/b"}}), true},
		{"the same elsewhere in the file", with(nil, config.EnrolListen{Pos: config.Position{Line: 1}}), with(nil, config.EnrolListen{Pos: config.Position{Line: 2}}), false},
	}
	for _, tt := range tests {
		if _, restart := Changes(tt.old, tt.next); len(restart) > 0 != tt.restart {
			t.Errorf("%s: got that these need a restart: %v, want %v", tt.name, restart, tt.restart)
		}
	}
}
