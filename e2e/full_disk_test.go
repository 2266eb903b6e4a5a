package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// laptop [chatter, penstock whose disk is full at its first start] -- access (captures) === WireGuard ===> [penstock] gateway
func TestAFullDiskAtTheFirstStart(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		sentence, options string
		state             string // the folder of the state file
		fill              string
	}{
		{"no block is free", "size=64k", "/run/disk", "head -c 128k /dev/zero > filler"},
		{"no inode is free", "nr_inodes=99", "/run/disk", "i=0; while : > filler$i; do i=$((i+1)); done"},
		{"no inode is free for the folder of the state", "nr_inodes=99", "/run/disk/state", "i=0; while : > filler$i; do i=$((i+1)); done"},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "rules:", "always_on: {lockdown: true}\nrules:")
			w.edit(t, "laptop.yaml", w.path("host.json"), row.state+"/host.json")
			const mount = "mkdir /run/disk && mount -t tmpfs -o %s none /run/disk && cd /run/disk && (%s) 2>&1"
			if r := run(t, w.Laptop, "sh", "-c", fmt.Sprintf(mount, row.options, row.fill)); !strings.Contains(r.stdout, "No space left") && !strings.Contains(r.stdout, "no space left") {
				t.Fatalf("got %s, want a full disk", r)
			}
			t.Cleanup(func() { run(t, w.Laptop, built("penstock"), "lockdown", "off", "-c", w.path("laptop.yaml")) })
			w.watch(t)
			var stop func()
			for i := range 2 { // as a service manager would
				r := run(t, w.Laptop, built("penstock"), "--socket", w.path("bad.sock"), "run", "-c", w.path("laptop.yaml"))
				if r.code != 1 || strings.Count(r.stderr, "penstock: ") != 1 || !strings.Contains(r.stderr, "no space left on device: make room there") {
					t.Errorf("start %d: got %s, want exit code 1 and one line", i+1, r)
				}
				if r := run(t, w.Laptop, built("penstock"), "lockdown", "-c", w.path("laptop.yaml")); !strings.HasPrefix(r.stdout, "on: ") {
					t.Errorf("start %d: lockdown: got %s, want on", i+1, r)
				}
				if i == 0 {
					stop = chatter(t, w)
				}
			}
			if r := run(t, w.Laptop, "sh", "-c", "rm /run/disk/filler*"); r.code != 0 {
				t.Fatal(r)
			}
			w.gateway = start(t, w.Gateway, w.path("gateway.yaml"))
			w.laptop = start(t, w.Laptop, w.path("laptop.yaml"))
			w.connected(t)
			w.untilCarrying(t)
			stop()
			w.nothingInClear(t)
		})
	}
}
