//go:build unix

package config

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestAFileOfAnotherUserIsNotTrusted gives each file that a configuration is read from away: whoever owns it could change
// it at any time.
func TestAFileOfAnotherUserIsNotTrusted(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file away")
	}
	const config = `
include: peers.d/*.yaml
listen: {wireguard: {address: 10.78.0.1/24, private_key: {file: gateway.key}}}
transports:
  corp:   {wireguard: {config: corp.conf}}
  legacy: {openvpn: {config: legacy.ovpn, username: me, password: {file: pass}}}
rules: [{name: rest, do: direct}]
`
	for _, name := range []string{"config.yaml", "peers.d/ana.yaml", "gateway.key", "corp.conf", "legacy.ovpn", "pass"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := write(t, dir, "config.yaml", config)
			write(t, dir, "peers.d/ana.yaml", "peers: {name: ana, public_key: QKLNDTphfWCUSf/SIXuO7CqhJDEhDFRw6cQ7RxUHPVo=, allowed_ips: 10.78.0.2/32}\n")
			write(t, dir, "gateway.key", "2Bo5n4y4CRcCcX2HMRSL1fBDMhgT1Z4x0AMkYmZ9DGA=\n")
			write(t, dir, "corp.conf", profileText)
			write(t, dir, "legacy.ovpn", "client\n")
			write(t, dir, "pass", "secret\n")
			load1(t, path) // all is well before
			if err := os.Chown(filepath.Join(dir, name), 65534, 65534); err != nil {
				t.Fatal(err)
			}
			_, err := Load(path)
			if err == nil || !strings.Contains(err.Error(), "belongs to user 65534") || !strings.Contains(err.Error(), "chown 0 "+filepath.Join(dir, name)) {
				t.Errorf("got %v, want a refusal that names the file and the mend", err)
			}
		})
	}
}

func TestAFileThatIsGivenBackLooksChanged(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file away")
	}
	dir, path := folder(t)
	if err := os.Chown(filepath.Join(dir, "peers.d/ben.yaml"), 65534, 65534); err != nil {
		t.Fatal(err)
	}
	c, err := LoadServing(path, nil)
	if err != nil || peersOf(c) != "ana@10.78.0.2" {
		t.Fatalf("got %v, %v; want ana, and ben left out", c, err)
	}
	if err := os.Chown(filepath.Join(dir, "peers.d/ben.yaml"), 0, 0); err != nil {
		t.Fatal(err)
	}
	if _, changed := c.Look(); !changed {
		t.Error("ben's file has an owner that is trusted now, and does not look changed")
	}
}

func TestAProfileOfTheShortFormIsPrivateToo(t *testing.T) {
	dir := t.TempDir()
	profile := write(t, dir, "hq.conf", profileText+"AllowedIPs = 0.0.0.0/0\n")
	if err := os.Chmod(profile, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := Load(write(t, dir, "laptop.yaml", "profile: hq.conf\n"))
	if err == nil || !strings.Contains(err.Error(), "laptop.yaml:1:10: profile: mode 0644") {
		t.Errorf("got %v, want a refusal at the profile's line", err)
	}
}

func TestAPipeWithoutAWriterDoesNotHoldUpAStart(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"config.yaml", "gateway.key"} {
		if err := syscall.Mkfifo(filepath.Join(dir, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	withKey := write(t, dir, "with-key.yaml", "listen: {wireguard: {address: 10.78.0.1/24, private_key: {file: gateway.key}}}\nrules: [{name: rest, do: direct}]\n")
	for path, want := range map[string]string{filepath.Join(dir, "config.yaml"): "the file is empty", withKey: "gateway.key is empty"} {
		done := make(chan error, 1)
		go func() {
			_, err := Load(path)
			done <- err
		}()
		select {
		case err := <-done:
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want that %s", path, err, want)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("%s: Load still waits", path)
		}
	}
}
