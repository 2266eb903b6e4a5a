package config

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWhereStateIsKept(t *testing.T) {
	dir := t.TempDir()
	const gateway = "listen: {wireguard: {address: 10.78.0.1/24, private_key: {env: STATE_TEST_KEY}}}\n"
	for _, row := range []struct{ name, text, systemd, xdg, want string }{
		{"relative to the file", "state_dir: state\n" + gateway, "/var/lib/a", "", filepath.Join(dir, "state")},
		{"the folder of the host's state", "listen: {tun: {state_file: x/host.json}}\n", "/var/lib/a", "", filepath.Join(dir, "x")},
		{"what systemd names, the first", gateway, "/var/lib/a:/var/lib/b", "/xdg", "/var/lib/a"},
		{"the user's", gateway, "", "/xdg", "/xdg/penstock/*"},
		{"the user's, without a folder", gateway, "", "", "/home/ana/.local/state/penstock/*"},
		{"not where somebody happens to stand", gateway, "", "xdg", "/home/ana/.local/state/penstock/*"}, // the XDG specification ignores it
	} {
		t.Setenv("STATE_TEST_KEY", "2Bo5n4y4CRcCcX2HMRSL1fBDMhgT1Z4x0AMkYmZ9DGA=")
		t.Setenv("HOME", "/home/ana")
		t.Setenv("STATE_DIRECTORY", row.systemd)
		t.Setenv("XDG_STATE_HOME", row.xdg)
		path := filepath.Join(dir, "config.yaml")
		if err := os.WriteFile(path, []byte(row.text+"rules: {name: rest, do: direct}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Load(path)
		if err != nil {
			t.Fatalf("%s: %v", row.name, err)
		}
		if ok, err := filepath.Match(row.want, c.StateDir); err != nil || !ok {
			t.Errorf("%s: got %s, want %s", row.name, c.StateDir, row.want)
		}
	}
}

func TestTheShortFormKeepsItsStateWithThatOfTheHost(t *testing.T) {
	t.Setenv("STATE_DIRECTORY", "")
	c := load1(t, inFolder(t, "profile: hq.conf\nhistory: {}\n"))
	if want := filepath.Dir(DefaultStateFile()); c.StateDir != want || c.History.File != filepath.Join(want, "history.db") {
		t.Errorf("got %s and %s, want both in %s", c.StateDir, c.History.File, want)
	}
}
