package e2e

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"penstock/e2e/netlab"
)

// laptop: wireguard-go, six downloads === WireGuard ===> [penstock, restarted] gateway --- intranet
//
// A stock client notices after 15 s that its session is lost. The gateway must not wait for that.
func TestStockClientsHardlyNoticeARestart(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		sentence string
		limits   string // of the laptop
		others   int    // peers that never call; with more than 100 the gateway keeps them out of WireGuard's device
		end      func(t *testing.T, p *penstock)
		isReset  bool // the flows end before the gateway does
	}{
		{"by SIGTERM", "", 0, func(t *testing.T, p *penstock) { p.stop(t, syscall.SIGTERM) }, true},
		{"by SIGTERM, with a rate that is used up", "rate: 4Mbit, ", 0, func(t *testing.T, p *penstock) { p.stop(t, syscall.SIGTERM) }, true},
		{"by SIGKILL", "", 0, func(t *testing.T, p *penstock) { p.kill(t) }, false},
		{"by SIGKILL, with many peers", "", 1000, func(t *testing.T, p *penstock) { p.kill(t) }, false},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			w := newWorld(t)
			w.edit(t, "gateway.yaml", "include:", "state_dir: state\ninclude:")
			w.edit(t, "gateway.yaml", "{name: laptop, ", "{name: laptop, "+row.limits)
			w.addIdlePeers(t, row.others)
			w.gateway = start(t, w.Gateway, w.path("gateway.yaml"))
			stock(t, w.Laptop, w.path("corp.conf"), "10.20.0.0/24")
			serve(t, w.Intranet, netlab.IntranetIPv4+":5001", func(c *net.TCPConn) {
				for {
					if _, err := c.Write(make([]byte, 16<<10)); err != nil {
						return
					}
				}
			})
			var downloads [6]net.Conn
			for i := range downloads {
				downloads[i] = dial(t, w.Laptop, "tcp", netlab.IntranetIPv4+":5001")
				within(t, downloads[i])
				if _, err := io.ReadFull(downloads[i], make([]byte, 64<<10)); err != nil {
					t.Fatal(err)
				}
			}
			eventually(t, "the gateway remembers where the laptop is", func() error {
				_, err := os.Stat(w.path("state/sessions.json"))
				return err
			})
			row.end(t, w.gateway)
			if row.isReset {
				for i, c := range downloads {
					within(t, c)
					if _, err := io.Copy(io.Discard, c); !errors.Is(err, syscall.ECONNRESET) {
						t.Errorf("download %d: got %v, want it reset while the gateway could still tell", i, err)
					}
				}
			}
			ended := time.Now()
			w.gateway.start(t)
			w.untilCarrying(t)
			took := time.Since(ended)
			t.Logf("carrying again after %v", took)
			if took > 12*time.Second {
				t.Errorf("carrying again after %v: a stock client needs 15 s without help", took)
			}
		})
	}
}

// addIdlePeers writes a file with peers that never call. Nobody has their keys.
func (w *world) addIdlePeers(t *testing.T, n int) {
	t.Helper()
	if n == 0 {
		return
	}
	text := "peers:\n"
	for i := range n {
		key := sha256.Sum256([]byte{byte(i >> 8), byte(i)})
		text += fmt.Sprintf("  - {name: idle%d, public_key: %q, allowed_ips: [172.30.%d.%d/32]}\n", i, base64.StdEncoding.EncodeToString(key[:]), i>>8, i&255)
	}
	if err := os.MkdirAll(w.path("peers.d"), 0o700); err != nil {
		t.Fatal(err)
	}
	w.write(t, "peers.d/idle.yaml", text)
}
