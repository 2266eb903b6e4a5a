package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"penstock/e2e/netlab"
)

// pageBlock returns the block of a page of docs with a mark, such as "yaml family".
func pageBlock(t *testing.T, page, mark string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "docs", page))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "```"+mark+"\n")
	block, _, closed := strings.Cut(rest, "```")
	if !ok || !closed {
		t.Fatalf("docs/%s has no block %q", page, mark)
	}
	return block
}

// follow runs each line of a block as root, against one penstock. Only explain may say that something is blocked.
func (p *penstock) follow(t *testing.T, dir, commands string) {
	t.Helper()
	for line := range strings.Lines(commands) {
		line = strings.TrimPrefix(strings.TrimSpace(line), "sudo ")
		r := run(t, p.host, "env", "PATH="+filepath.Dir(built("penstock"))+":"+os.Getenv("PATH"), "PENSTOCK_SOCKET="+p.socket,
			"sh", "-c", `cd "$0" && `+line, dir)
		if r.code != 0 && !(strings.HasPrefix(line, "penstock explain ") && r.code == exitBlocked) {
			t.Errorf("%s: %s", line, r)
		}
	}
}

// laptop [pen0 -> penstock <- the commands of docs/laptop.md] === WireGuard ===> [penstock <- those of the other pages] gateway
func TestThePagesForTasksAreTrue(t *testing.T) {
	t.Parallel()
	w := newWorld(t).up(t)
	t.Run("laptop", func(t *testing.T) {
		attempt{"", "curl http://" + netlab.GamblingSite + "/", "", []int{noSuchName}}.on(t, w.Laptop)
		w.laptop.follow(t, w.dir, pageBlock(t, "laptop.md", "sh laptop"))
	})
	for _, name := range []string{"family", "intranet"} {
		t.Run(name, func(t *testing.T) {
			own := strings.NewReplacer("9.9.9.9", "203.0.113.53", "10.20.0.53", "10.20.0.10", "listen_port: 51820", "listen_port: 51821",
				"metrics: {listen: \"127.0.0.1:9477\"}", "").Replace(pageBlock(t, name+".md", "yaml "+name))
			w.write(t, name+".yaml", own+"state_dir: "+w.path(name)+"\n")
			w.edit(t, name+".yaml", "peers.d", name+".d")
			for _, dir := range []string{name, name + ".d"} {
				if err := os.Mkdir(w.path(dir), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			p := start(t, w.Gateway, w.path(name+".yaml"))
			p.follow(t, w.dir, pageBlock(t, name+".md", "sh "+name))
			if name == "family" {
				w.edit(t, "family.yaml", "state_dir:", pageBlock(t, "family.md", "yaml family-tests")+"state_dir:")
				p.must(t, "reload", "--kill-denied")
			}
		})
	}
}
