package e2e

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"penstock/e2e/netlab"
)

// laptop: wireguard-go, nc === WireGuard ===> [penstock] gateway === WireGuard ===> access: wireguard-go, servers on 22 and 23
//
// The laptop is staff and may use port 22 of peers. The printer, which is not, may use nothing of theirs.
func TestOnlyARuleForPeersLeadsFromOnePeerToAnother(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.edit(t, "gateway.yaml", "rules:\n", "rules:\n  - {name: colleagues, match: {group: [staff], peers: true, port: 22}, do: direct}\n")
	w.edit(t, "gateway.yaml", "metrics:", `tests:
  - {from: laptop, to: "tcp://10.99.0.3:22", expect: direct}
  - {from: laptop, to: "tcp://10.99.0.3:23", expect: block}
  - {from: laptop, to: "tcp://10.99.0.1:22", expect: block}
metrics:`)
	private, public := keyPair(t)
	if err := os.Mkdir(w.path("peers.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.write(t, "peers.d/printer.yaml", "peers: [{name: printer, public_key: \""+public+"\", allowed_ips: 10.99.0.3/32}]\n")
	conf := strings.NewReplacer("10.99.0.2/32", "10.99.0.3/32", ", fd99::2/128", "").Replace(w.read(t, "corp.conf"))
	own := conf[strings.Index(conf, "PrivateKey = "):]
	own = own[:strings.IndexByte(own, '\n')]
	w.write(t, "printer.conf", strings.Replace(conf, own, "PrivateKey = "+private, 1)+"PersistentKeepalive = 1\n")
	w.gateway = start(t, w.Gateway, w.path("gateway.yaml"))
	stock(t, w.Laptop, w.path("corp.conf"), "10.99.0.0/24")
	stock(t, w.Access, w.path("printer.conf"), "10.99.0.0/24")
	senders := make(chan string, 8)
	for h, addr := range map[*netlab.Host]string{w.Laptop: "10.99.0.2", w.Access: "10.99.0.3"} {
		for _, port := range []string{":22", ":23"} {
			serve(t, h, addr+port, func(c *net.TCPConn) {
				senders <- c.RemoteAddr().(*net.TCPAddr).IP.String()
				_, _ = io.WriteString(c, "this is "+h.Name()+"\n")
				_, _ = io.Copy(io.Discard, c)
			})
		}
	}
	w.untilPeers(t, "laptop active", "printer active")
	c := dial(t, w.Laptop, "tcp", "10.99.0.3:22")
	within(t, c)
	b := make([]byte, 64)
	if n, err := c.Read(b); string(b[:n]) != "this is access\n" {
		t.Fatalf("the port that the rule opens: got %q, %v", b[:n], err)
	}
	if from := <-senders; from != "10.99.0.1" {
		t.Errorf("the printer sees %s, want the gateway", from)
	}
	nc := program(t, "nc")
	for _, row := range []struct {
		sentence   string
		from       *netlab.Host
		peer, addr string
		port       string
	}{
		{"a port that no rule opens", w.Laptop, "laptop", "10.99.0.3", "23"},
		{"an address that no peer has", w.Laptop, "laptop", "10.99.0.77", "22"},
		{"the way back, for who is in no group", w.Access, "printer", "10.99.0.2", "22"},
	} {
		if r := run(t, row.from, nc, "-d", "-w", "2", row.addr, row.port); r.stdout != "" {
			t.Errorf("%s: got %s, want nothing", row.sentence, r)
		}
		if r := w.gateway.cli(t, "explain", "tcp://"+row.addr+":"+row.port, "--from", row.peer); r.code != exitBlocked {
			t.Errorf("explain %s: got %s, want a block", row.sentence, r)
		}
	}
	if out := w.gateway.must(t, "explain", "tcp://10.99.0.3:22", "--from", "laptop"); !strings.Contains(out, "colleagues") {
		t.Errorf("explain: got\n%s", out)
	}
	if f := w.gateway.denied(t, "10.99.0.3:23"); !strings.Contains(f.Reason, "peer") {
		t.Errorf("flows --denied: got %+v, want a block that names the peer", f)
	}
	if err := os.Remove(w.path("peers.d/printer.yaml")); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(b); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a flow to a peer that is gone: got %v, want it to end", err)
	}
}
