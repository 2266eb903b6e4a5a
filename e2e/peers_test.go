package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"penstock/e2e/netlab"
)

// atOnce is how soon everything of a peer that is let go must have ended, after the command returned.
const atOnce = time.Second

// heldFlows are a TCP and a UDP flow of a peer, seen from the intranet's end.
type heldFlows struct {
	server net.Conn // of the TCP flow
	client net.Conn // of the same
	udp    net.Conn // the client's socket of the UDP flow
}

// holdFlows opens a flow of each kind from the laptop to the intranet.
func holdFlows(t *testing.T, w *world, l net.Listener) heldFlows {
	t.Helper()
	f := heldFlows{client: dial(t, w.Laptop, "tcp", l.Addr().String()), udp: dial(t, w.Laptop, "udp", netlab.IntranetIPv4+":7")}
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	f.server = server
	for _, way := range [][2]net.Conn{{f.client, f.server}, {f.server, f.client}, {f.udp, f.udp}} {
		if _, err := way[0].Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		within(t, way[1])
		if n, err := io.ReadFull(way[1], make([]byte, 5)); n != 5 {
			t.Fatalf("got %d bytes, %v; want the flow to carry 5", n, err)
		}
	}
	return f
}

// end wants that the server's side of the TCP flow ends at once, and that the gateway has no flow of the peer's.
func (f heldFlows) end(t *testing.T, w *world, peer string) {
	t.Helper()
	if err := f.server.SetReadDeadline(time.Now().Add(atOnce)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.server.Read(make([]byte, 9)); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the server's end of the TCP flow lives after %v", atOnce)
	}
	for _, left := range w.gateway.flows(t) {
		if left.Peer == peer || strings.HasPrefix(left.Src, laptopInner4+":") {
			t.Errorf("a flow of %s is left: %+v", peer, left)
		}
	}
}

// goOn wants that the TCP flow still carries.
func (f heldFlows) goOn(t *testing.T) {
	t.Helper()
	if _, err := fmt.Fprint(f.server, "still"); err != nil {
		t.Error(err)
	}
	within(t, f.client)
	if n, err := io.ReadFull(f.client, make([]byte, 5)); n != 5 {
		t.Errorf("got %d bytes, %v; want the flow to go on", n, err)
	}
}

// laptop [pen0 -> penstock] === WireGuard ===> [penstock <- penstock peer, reload] gateway --- intranet
func TestAPeerThatIsLetGoIsGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := os.Mkdir(w.path("peers.d"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, desk := keyPair(t)
	_, stranger := keyPair(t)
	w.edit(t, "gateway.yaml", "name: laptop, public_key: "+w.fill.Replace("LAPTOP_PUBLIC")+", allowed_ips: [10.99.0.2/32, \"fd99::2/128\"]",
		"name: desk, public_key: "+desk+", allowed_ips: [10.99.0.99/32]")
	w.watch(t)
	w.gateway = start(t, w.Gateway, w.path("gateway.yaml"))
	if err := os.Remove(w.path("corp.conf")); err != nil {
		t.Fatal(err)
	}
	w.gateway.must(t, "peer", "add", "laptop", "--group", "staff", "-o", w.path("corp.conf"))
	laptop := w.read(t, "peers.d/laptop.yaml")
	// changed writes the peer's file with one thing in it changed.
	changed := func(t *testing.T, old, new string) {
		t.Helper()
		w.edit(t, "peers.d/laptop.yaml", old, new)
		w.gateway.must(t, "reload")
	}
	key := regexp.MustCompile(`public_key: .*`).FindString(laptop)
	w.laptop = start(t, w.Laptop, w.path("laptop.yaml"))
	w.connected(t)
	l, err := w.Intranet.Listen(t.Context(), "tcp", netlab.IntranetIPv4+":5001")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	for _, row := range []struct {
		sentence string
		letGo    func(t *testing.T)
	}{
		{"by disabled: true and a reload", func(t *testing.T) { changed(t, "public_key:", "disabled: true\n    public_key:") }},
		{"by peer disable", func(t *testing.T) { w.gateway.must(t, "peer", "disable", "laptop") }},
		{"by the call of the console", func(t *testing.T) {
			out := w.Gateway.Command(t.Context(), program(t, "curl"), "-sS", "--fail-with-body", "--unix-socket", w.gateway.socket, "-d", `{"name": "laptop", "disabled": true}`, "http://penstock/v1/peers/access")
			if said, err := out.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, said)
			}
			if text := w.read(t, "peers.d/laptop.yaml"); !strings.Contains(text, "disabled: true") {
				t.Errorf("got the file %q, want the peer disabled", text)
			}
		}},
		{"by another address for its key", func(t *testing.T) { changed(t, laptopInner4+"/32", "10.99.0.77/32") }},
		{"by another key for its address", func(t *testing.T) { changed(t, key, "public_key: "+stranger) }},
		{"by another peer with its address", func(t *testing.T) {
			w.edit(t, "peers.d/laptop.yaml", "laptop", "other")
			changed(t, key, "public_key: "+stranger)
		}},
		{"by a group that may not", func(t *testing.T) { changed(t, "staff", "guests") }},
		{"by a reload without it", func(t *testing.T) {
			if err := os.Remove(w.path("peers.d/laptop.yaml")); err != nil {
				t.Fatal(err)
			}
			w.gateway.must(t, "reload")
		}},
		{"by peer rm", func(t *testing.T) { w.gateway.must(t, "peer", "rm", "laptop") }},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			w.write(t, "peers.d/laptop.yaml", laptop)
			w.gateway.must(t, "reload")
			w.laptop.must(t, "reconnect")
			w.untilCarrying(t)
			flows := holdFlows(t, w, l)
			row.letGo(t)
			flows.end(t, w, "laptop")
		})
	}
	t.Run("by a rule that no longer opens its present group", func(t *testing.T) {
		const one, two = "group: [staff]", "group: [staff, guests]"
		w.write(t, "peers.d/laptop.yaml", laptop)
		w.gateway.must(t, "reload")
		w.laptop.must(t, "reconnect")
		w.untilCarrying(t)
		flows := holdFlows(t, w, l)
		// The rule opens the group that the peer moves to, in the same reload: the flows stay.
		w.edit(t, "gateway.yaml", one, two)
		w.edit(t, "peers.d/laptop.yaml", "staff", "guests")
		w.gateway.must(t, "reload", "--kill-denied")
		flows.goOn(t)
		w.edit(t, "gateway.yaml", two, one)
		w.gateway.must(t, "reload", "--kill-denied")
		flows.end(t, w, "laptop")
	})
	t.Run("by a reload that gives its destination to another peer", func(t *testing.T) {
		w.write(t, "peers.d/laptop.yaml", laptop)
		w.gateway.must(t, "reload")
		w.laptop.must(t, "reconnect")
		w.untilCarrying(t)
		flows := holdFlows(t, w, l)
		w.edit(t, "gateway.yaml", "[10.99.0.99/32]", "[10.99.0.99/32, "+netlab.IntranetIPv4+"/32]")
		w.gateway.must(t, "reload", "--kill-denied")
		flows.end(t, w, "laptop")
		w.edit(t, "gateway.yaml", ", "+netlab.IntranetIPv4+"/32]", "]")
	})
	t.Run("the address rests before another peer gets it", func(t *testing.T) {
		w.gateway.must(t, "peer", "add", "ben", "-o", w.path("ben.conf"))
		if text := w.read(t, "ben.conf"); strings.Contains(text, "10.99.0.2/") || !strings.Contains(text, "Address = 10.99.0.") {
			t.Errorf("peer add after peer rm: got\n%s\nwant an address that nobody had", text)
		}
	})
	t.Run("who stays is not disturbed", func(t *testing.T) {
		w.write(t, "peers.d/laptop.yaml", laptop)
		w.gateway.must(t, "reload")
		w.laptop.must(t, "reconnect")
		w.untilCarrying(t)
		flows := holdFlows(t, w, l)
		w.gateway.must(t, "peer", "rm", "ben")
		flows.goOn(t)
	})
	w.nothingInClear(t)
}
