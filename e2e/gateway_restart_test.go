package e2e

import (
	"errors"
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
		end      func(t *testing.T, p *penstock)
		isReset  bool // the flows end before the gateway does
	}{
		{"by SIGTERM", "", func(t *testing.T, p *penstock) { p.stop(t, syscall.SIGTERM) }, true},
		{"by SIGTERM, with a rate that is used up", "rate: 4Mbit, ", func(t *testing.T, p *penstock) { p.stop(t, syscall.SIGTERM) }, true},
		{"by SIGKILL", "", func(t *testing.T, p *penstock) { p.kill(t) }, false},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			w := newWorld(t)
			w.edit(t, "gateway.yaml", "include:", "state_dir: state\ninclude:")
			w.edit(t, "gateway.yaml", "{name: laptop, ", "{name: laptop, "+row.limits)
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
