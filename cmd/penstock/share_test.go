//go:build unix

package main

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"penstock/cmd/internal/config"
)

// TestAGatewayWithoutRightsReadsWhatRootWrites has folders of other users and groups, in which root adds a peer.
func TestAGatewayWithoutRightsReadsWhatRootWrites(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a folder away")
	}
	for _, row := range []struct {
		name     string
		uid, gid int
		wantUID  uint32
		wantMode os.FileMode
	}{
		{"root's folder", 0, 0, 0, 0o600},
		{"a folder of the service's group", 0, 977, 0, 0o640},
		{"the service's folder", 977, 977, 0, 0o640},
		{"the service's folder in root's group", 977, 0, 977, 0o600},
	} {
		t.Run(row.name, func(t *testing.T) {
			gateway := newGateway(t)
			dir := filepath.Join(filepath.Dir(gateway), "peers.d")
			if err := os.Mkdir(dir, 0o750); err != nil {
				t.Fatal(err)
			}
			if err := os.Chown(dir, row.uid, row.gid); err != nil {
				t.Fatal(err)
			}
			out := filepath.Join(t.TempDir(), "ana.conf")
			code, _, stderr := command(t, "peer", "add", "ana", "-c", gateway, "-o", out)
			info, err := os.Stat(filepath.Join(dir, "ana.yaml"))
			if row.wantUID != 0 { // root does not trust a file of the service's
				if code == exitOK || err == nil {
					t.Errorf("got exit code %d and %v, want a refusal: %s", code, err, stderr)
				}
				return
			}
			if code != exitOK || err != nil {
				t.Fatalf("got exit code %d, %v: %s", code, err, stderr)
			}
			owner := info.Sys().(*syscall.Stat_t)
			if owner.Uid != row.wantUID || int(owner.Gid) != row.gid || info.Mode().Perm() != row.wantMode {
				t.Errorf("got %d:%d %v, want %d:%d %v", owner.Uid, owner.Gid, info.Mode().Perm(), row.wantUID, row.gid, row.wantMode)
			}
			if _, err := config.Load(gateway); err != nil {
				t.Errorf("root does not trust it: %v", err)
			}
			if info, err := os.Stat(out); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("the client's file has mode %v, %v, want 0600", info.Mode(), err)
			}
		})
	}
}
