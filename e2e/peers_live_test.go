package e2e

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"penstock/e2e/netlab"
)

// livePeer is what the tests read of a peer.
type livePeer struct {
	Name          string    `json:"name"`
	State         string    `json:"state"`
	Endpoint      string    `json:"endpoint"`
	LastHandshake time.Time `json:"lastHandshake"`
	RxBytes       int64     `json:"rxBytes"`
	TxBytes       int64     `json:"txBytes"`
}

// peers lists the peers of the gateway.
func (p *penstock) peers(t *testing.T) []livePeer {
	t.Helper()
	var answer struct{ Peers []livePeer }
	p.ask(t, &answer, "peer", "list")
	return answer.Peers
}

// untilPeers waits until the gateway has these peers, each with its state: "laptop active".
func (w *world) untilPeers(t *testing.T, want ...string) {
	t.Helper()
	eventually(t, "the gateway has the peers "+strings.Join(want, ", "), func() error {
		var got []string
		for _, p := range w.gateway.peers(t) {
			got = append(got, p.Name+" "+p.State)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			return fmt.Errorf("it has %q", got)
		}
		return nil
	})
}

// laptop [pen0 -> penstock] === WireGuard ===> [penstock] gateway --- intranet
//
//	^ peers.d, written by hand; nobody runs penstock reload
func TestTheFolderOfPeersIsLive(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := os.Mkdir(w.path("peers.d"), 0o700); err != nil {
		t.Fatal(err)
	}
	entry := regexp.MustCompile(`  - \{name: laptop, .*\}\n`).FindString(w.read(t, "gateway.yaml"))
	w.edit(t, "gateway.yaml", "peers:\n"+entry, "")
	w.edit(t, "gateway.yaml", "metrics: {", "metrics: {peers: true, ")
	_, key := keyPair(t)
	ben := fmt.Sprintf("peers: [{name: ben, public_key: %q, allowed_ips: 10.99.0.9/32}]\n", key)
	w.watch(t)
	w.gateway = start(t, w.Gateway, w.path("gateway.yaml")) // the rule intranet is for a group that nobody is in
	w.untilPeers(t)
	w.write(t, "peers.d/laptop.yaml", "peers:\n"+entry)
	w.untilPeers(t, "laptop idle")
	w.laptop = start(t, w.Laptop, w.path("laptop.yaml"))
	w.connected(t)
	l, err := w.Intranet.Listen(t.Context(), "tcp", netlab.IntranetIPv4+":5001")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	flows := holdFlows(t, w, l)
	works := func(t *testing.T) {
		t.Helper()
		if _, err := fmt.Fprint(flows.server, "still"); err != nil {
			t.Error(err)
		}
		within(t, flows.client)
		if b := make([]byte, 5); func() bool { n, _ := flows.client.Read(b); return n != 5 }() {
			t.Error("the laptop's flow does not go on")
		}
	}

	t.Run("a peer with a session is shown with it", func(t *testing.T) {
		w.untilPeers(t, "laptop active")
		p := w.gateway.peers(t)[0]
		if p.LastHandshake.IsZero() || p.RxBytes == 0 || p.TxBytes == 0 || p.Endpoint == "" {
			t.Errorf("got %+v, want its handshake, endpoint and bytes", p)
		}
		if out := w.gateway.must(t, "peer", "show", "laptop"); !regexp.MustCompile(`(?m)^state +active$`).MatchString(out) {
			t.Errorf("peer show: got\n%s", out)
		}
		if n := w.metric(t, w.Gateway, `penstock_peers{state="active"}`); n != 1 {
			t.Errorf("metrics: got %v active peers, want 1", n)
		}
		if n := w.metric(t, w.Gateway, `penstock_peer_received_bytes_total{peer="laptop"}`); n == 0 {
			t.Error("metrics: got no bytes from the laptop")
		}
		if n := w.metric(t, w.Gateway, `penstock_peer_last_handshake_timestamp_seconds{peer="laptop"}`); n == 0 {
			t.Error("metrics: got no handshake of the laptop")
		}
	})
	t.Run("half a file costs nobody who was there before", func(t *testing.T) {
		w.write(t, "peers.d/ben.yaml", ben)
		w.untilPeers(t, "ben idle", "laptop active")
		w.write(t, "peers.d/laptop.yaml", "peers:\n"+entry[:40])
		eventually(t, "status names the file", func() error {
			r := w.gateway.cli(t, "status")
			if r.code != 4 || !strings.Contains(r.stdout, "the file of peers "+w.path("peers.d/laptop.yaml")+" has a fault: an earlier version is in force: ") {
				return fmt.Errorf("status: %s", r)
			}
			return nil
		})
		if n := w.metric(t, w.Gateway, "penstock_peers_bad_files"); n != 1 {
			t.Errorf("metrics: got %v bad files, want 1", n)
		}
		if said := w.gateway.said.String(); !strings.Contains(said, "the file of peers "+w.path("peers.d/laptop.yaml")+" has a fault") {
			t.Errorf("the log does not name the file:\n%s", said)
		}
		works(t)
		if err := os.Remove(w.path("peers.d/ben.yaml")); err != nil {
			t.Fatal(err)
		}
		w.untilPeers(t, "laptop active")
		w.gateway.must(t, "peer", "add", "cleo", "-o", w.path("cleo.conf"))
		w.untilPeers(t, "cleo idle", "laptop active")
		w.gateway.must(t, "reload")
		works(t)
		if r := w.gateway.cli(t, "check", "-c", w.path("gateway.yaml")); r.code != 5 {
			t.Errorf("check: %s; want exit code 5", r)
		}
		w.write(t, "peers.d/laptop.yaml", "peers:\n"+entry)
		eventually(t, "the file is good again", func() error {
			if r := w.gateway.cli(t, "status"); r.code != 0 {
				return fmt.Errorf("status: %s", r)
			}
			return nil
		})
		works(t)
	})
	t.Run("half a rule elsewhere stops nobody who changes peers", func(t *testing.T) {
		good := w.read(t, "gateway.yaml")
		w.write(t, "gateway.yaml", good+"rulse: [")
		w.write(t, "peers.d/ben.yaml", ben)
		w.untilPeers(t, "ben idle", "cleo idle", "laptop active")
		w.write(t, "gateway.yaml", good)
		works(t)
	})
	t.Run("who expires is out", func(t *testing.T) {
		end := time.Now().Add(15 * time.Second) // time enough to read the file on a busy machine
		w.write(t, "peers.d/laptop.yaml", "peers:\n"+strings.Replace(entry, "name: laptop", "expires: \""+end.UTC().Format(time.RFC3339)+"\", name: laptop", 1))
		works(t)
		time.Sleep(time.Until(end))
		w.untilPeers(t, "ben idle", "cleo idle", "laptop expired")
		eventually(t, "the flows of the laptop have ended", func() error {
			for _, f := range w.gateway.flows(t) {
				if f.Peer == "laptop" || strings.HasPrefix(f.Src, laptopInner4+":") {
					return fmt.Errorf("one is left: %+v", f)
				}
			}
			return nil
		})
		if said := w.gateway.said.String(); !strings.Contains(said, "who may connect has changed, because peers have expired") {
			t.Error("it was let go when its file was read, and not when it expired")
		}
		w.laptop.cli(t, "reconnect")
		if err := w.carriesOnce(time.Second); err == nil {
			t.Error("the laptop reaches the intranet after it has expired")
		}
		if out := w.gateway.cli(t, "status").stdout; !strings.Contains(out, "\npeers 0 active in the last 3 minutes, 2 idle, 0 disabled, 1 expired\n") {
			t.Errorf("status: got\n%s", out)
		}
	})
	t.Run("with more time it is in again, until its file is gone", func(t *testing.T) {
		w.write(t, "peers.d/laptop.yaml", "peers:\n"+entry)
		w.laptop.cli(t, "reconnect")
		w.untilCarrying(t)
		flows := holdFlows(t, w, l)
		if err := os.Remove(w.path("peers.d/laptop.yaml")); err != nil {
			t.Fatal(err)
		}
		w.untilPeers(t, "ben idle", "cleo idle")
		flows.end(t, w, "laptop")
	})
	t.Run("a restart leaves out half a file and serves the others", func(t *testing.T) {
		w.write(t, "peers.d/laptop.yaml", "peers:\n"+entry)
		w.write(t, "peers.d/cleo.yaml", w.read(t, "peers.d/cleo.yaml")[:30])
		w.gateway.kill(t)
		w.gateway.start(t)
		if out := w.gateway.cli(t, "status").stdout; !strings.Contains(out, "cleo.yaml has a fault: its peers are left out: ") {
			t.Errorf("status: got\n%s", out)
		}
		w.laptop.cli(t, "reconnect")
		w.untilCarrying(t)
	})
	w.nothingInClear(t)
}
