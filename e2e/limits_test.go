package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"penstock/e2e/netlab"
)

// source is a server in the intranet that sends to whoever connects until they leave, and counts what they send.
const source = netlab.IntranetIPv4 + ":5001"

// serveSource serves source.
func serveSource(t *testing.T, w *world) {
	t.Helper()
	l, err := w.Intranet.Listen(t.Context(), "tcp", source)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				go io.Copy(io.Discard, c)
				b := make([]byte, 64<<10)
				for err := error(nil); err == nil; _, err = c.Write(b) {
				}
			}()
		}
	}()
}

// drain reads from source until it has size bytes, or the flow ends, and returns how much it was and how long it took.
func drain(t *testing.T, h *netlab.Host, size int64) (int64, time.Duration, error) {
	t.Helper()
	c := dial(t, h, "tcp", source)
	defer c.Close()
	began := time.Now()
	if err := c.SetDeadline(began.Add(patience)); err != nil {
		t.Fatal(err)
	}
	n, err := io.CopyN(io.Discard, c, size)
	return n, time.Since(began), err
}

// newLimitedWorld is a gateway with two peers, of which one has limits, and wireguard-go at both.
//
//	laptop: wireguard-go, with limits \
//	access: wireguard-go, without      === WireGuard ===> [penstock] gateway --- intranet: source
func newLimitedWorld(t *testing.T, limits string) *world {
	t.Helper()
	w := newWorld(t)
	key, public := keyPair(t)
	w.edit(t, "gateway.yaml", "include:", "state_dir: .\ninclude:")
	w.edit(t, "gateway.yaml", "peers:\n  - {name: laptop, ", "peers:\n  - {name: free, public_key: "+public+", allowed_ips: 10.99.0.3/32, groups: [staff]}\n"+
		"  - {name: laptop, "+limits+", ")
	w.edit(t, "gateway.yaml", "metrics: {", "metrics: {peers: true, ")
	w.write(t, "free.conf", strings.NewReplacer(w.fill.Replace("PrivateKey = LAPTOP_KEY"), "PrivateKey = "+key,
		"Address = 10.99.0.2/32, fd99::2/128", "Address = 10.99.0.3/32").Replace(w.read(t, "corp.conf")))
	w.gateway = start(t, w.Gateway, w.path("gateway.yaml"))
	stock(t, w.Laptop, w.path("corp.conf"), "10.99.0.0/24", "10.20.0.0/24", "203.0.113.0/24")
	stock(t, w.Access, w.path("free.conf"), "10.99.0.0/24", "10.20.0.0/24")
	serveSource(t, w)
	return w
}

func TestARateLimitsItsPeerAndNoOther(t *testing.T) {
	t.Parallel()
	w := newLimitedWorld(t, "rate: {up: 4Mbit, down: 8Mbit}")
	perSecond := func(n int64, took time.Duration) float64 { return float64(n) / took.Seconds() * 8 / 1e6 }

	t.Run("down", func(t *testing.T) {
		slow := make(chan float64, 1)
		go func() {
			n, took, err := drain(t, w.Laptop, 3<<20)
			if err != nil {
				t.Error(err)
			}
			slow <- perSecond(n, took)
		}()
		n, took, err := drain(t, w.Access, 30<<20)
		if err != nil {
			t.Fatal(err)
		}
		limited, free := <-slow, perSecond(n, took)
		t.Logf("limited %.1f Mbit/s, free %.1f Mbit/s", limited, free)
		if limited < 2 || limited > 9 { // a busy machine may not reach it
			t.Errorf("the limited peer got %.1f Mbit/s, want about 8", limited)
		}
		if free < 2*limited {
			t.Errorf("the other peer got %.1f Mbit/s beside it, want several times as much", free)
		}
	})
	t.Run("up", func(t *testing.T) {
		c := dial(t, w.Laptop, "tcp", source)
		defer c.Close()
		go io.Copy(io.Discard, c)
		began, n := time.Now(), int64(0)
		for b := make([]byte, 32<<10); n < 3<<20; n += int64(len(b)) {
			within(t, c)
			if _, err := c.Write(b); err != nil {
				t.Fatal(err)
			}
		}
		var got int64 // what is still in buffers has not crossed
		for _, f := range w.gateway.flows(t) {
			got = max(got, f.TxBytes)
		}
		if rate := perSecond(got, time.Since(began)); rate > 5 || got == 0 {
			t.Errorf("the limited peer sent %d bytes at %.1f Mbit/s, want at most about 4", got, rate)
		}
	})
	if out := w.gateway.must(t, "peer", "show", "laptop"); !strings.Contains(out, "4Mbit up, 8Mbit down") {
		t.Errorf("peer show: got\n%s", out)
	}
	t.Run("a reload lifts the limit, and sets one anew", func(t *testing.T) {
		w.edit(t, "gateway.yaml", "rate: {up: 4Mbit, down: 8Mbit}, ", "")
		w.gateway.must(t, "reload")
		n, took, err := drain(t, w.Laptop, 10<<20)
		if rate := perSecond(n, took); err != nil || rate < 12 {
			t.Errorf("without a limit: got %.1f Mbit/s, %v", rate, err)
		}
		w.edit(t, "gateway.yaml", "rules:\n", "group_limits: {staff: {rate: 8Mbit}}\nrules:\n")
		w.gateway.must(t, "reload")
		if n, took, err = drain(t, w.Laptop, 2<<20); err != nil || perSecond(n, took) > 9 {
			t.Errorf("with its group's: got %.1f Mbit/s, %v", perSecond(n, took), err)
		}
	})
}

// limitedPeer is what the tests read of a peer's limits.
type limitedPeer struct {
	Name  string
	Quota struct {
		LimitBytes, UsedBytes int64
		Spent                 bool
	}
}

func (w *world) quotaOf(t *testing.T, name string) (p limitedPeer) {
	t.Helper()
	var answer struct{ Peers []limitedPeer }
	w.gateway.ask(t, &answer, "peer", "show", name)
	if len(answer.Peers) == 1 {
		p = answer.Peers[0]
	}
	return p
}

// shakeHands makes the laptop's wireguard-go begin a session with a gateway that has restarted. By itself it would wait for 15 s.
func (w *world) shakeHands(t *testing.T) {
	t.Helper()
	stripped := run(t, w.Laptop, program(t, "wg-quick"), "strip", w.path("corp.conf"))
	w.write(t, "laptop.bare", stripped.stdout)
	if r := run(t, w.Laptop, program(t, "wg"), "setconf", "wg0", w.path("laptop.bare")); stripped.code != 0 || r.code != 0 {
		t.Fatalf("wg-quick strip: %s\nwg setconf: %s", stripped, r)
	}
}

func TestAQuotaEndsAndIsRemembered(t *testing.T) {
	t.Parallel()
	w := newLimitedWorld(t, "quota: 1MiB")
	const megabyte = 1 << 20
	refused := func(t *testing.T) {
		t.Helper()
		eventually(t, "the laptop is refused", func() error {
			c, err := w.Laptop.DialContext(t.Context(), "tcp", source)
			if err == nil {
				c.Close()
				return errors.New("it connects")
			}
			if !errors.Is(err, syscall.ECONNREFUSED) {
				return err
			}
			return nil
		})
	}
	works := func(t *testing.T) {
		t.Helper()
		eventually(t, "the laptop connects", func() error {
			c, err := w.Laptop.DialContext(t.Context(), "tcp", source)
			if err != nil {
				return err
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(time.Second))
			_, err = io.ReadFull(c, make([]byte, 1000))
			return err
		})
	}

	t.Run("a download ends with it", func(t *testing.T) {
		n, _, err := drain(t, w.Laptop, 500*megabyte)
		var timeout net.Error
		if err == nil || errors.As(err, &timeout) && timeout.Timeout() || n < megabyte/2 {
			t.Fatalf("got %d bytes, %v; want the flow to be ended after about 1 MiB", n, err)
		}
		if q := w.quotaOf(t, "laptop").Quota; !q.Spent || q.LimitBytes != megabyte || q.UsedBytes < megabyte {
			t.Errorf("peer show: got %+v", q)
		}
	})
	t.Run("new flows are refused, and everything says why", func(t *testing.T) {
		const why = "quota: the peer has used up its quota of this month"
		refused(t)
		if f := w.gateway.denied(t, source); f.Reason != why || f.Rule != "intranet" || f.Peer != "laptop" {
			t.Errorf("flows --denied: got %+v", f)
		}
		if r := w.gateway.cli(t, "explain", "--from", "laptop", source); r.code != 6 || !strings.Contains(r.stdout, "the peer has used up its quota of this month") {
			t.Errorf("explain: %s", r)
		}
		for _, line := range []string{`msg="flow refused" reason="` + why + `" peer=laptop`, `msg="a peer has used up its quota" peer=laptop`} {
			said := strings.NewReplacer(`"msg":"`, `msg="`, `","reason":"`, `" reason="`, `","peer":"laptop"`, `" peer=laptop`).Replace(w.gateway.said.String())
			if !strings.Contains(said, line) {
				t.Errorf("the log has no %s:\n%s", line, w.gateway.said.String())
			}
		}
		if out := w.gateway.cli(t, "status").stdout; !strings.Contains(out, "1 of them over their quotas") {
			t.Errorf("status: got\n%s", out)
		}
		if out := w.gateway.must(t, "peer", "list"); !strings.Contains(out, "of 1.0 MiB, blocked") {
			t.Errorf("peer list: got\n%s", out)
		}
		for metric, least := range map[string]float64{
			`penstock_peers_over_quota`: 1, `penstock_peer_quota_used_bytes{peer="laptop"}`: megabyte, `penstock_peer_quota_limit_bytes{peer="laptop"}`: megabyte,
		} {
			if n := w.metric(t, w.Gateway, metric); n < least {
				t.Errorf("%s is %v, want at least %v", metric, n, least)
			}
		}
	})
	t.Run("a page says why, too", func(t *testing.T) {
		run(t, w.Laptop, program(t, "dig"), "+short", "@"+gatewayInner4, netlab.PublicSite)
		attempt{"", "curl --resolve public.example:80:203.0.113.10 http://public.example/", "Your quota is used up", nil}.on(t, w.Laptop)
	})
	t.Run("DNS still answers, and the other peer is as before", func(t *testing.T) {
		if r := run(t, w.Laptop, program(t, "dig"), "+short", "@"+gatewayInner4, netlab.PublicSite); !strings.Contains(r.stdout, publicIPv4) {
			t.Errorf("dig: %s", r)
		}
		if _, _, err := drain(t, w.Access, 2*megabyte); err != nil {
			t.Error(err)
		}
	})
	t.Run("a crash and a restart change nothing", func(t *testing.T) {
		eventually(t, "what was used is written down", func() error {
			text, err := os.ReadFile(w.path("quota.json"))
			if err == nil && !strings.Contains(string(text), `"months"`) {
				err = fmt.Errorf("it is %s", text)
			}
			return err
		})
		w.gateway.kill(t)
		w.gateway.start(t)
		w.shakeHands(t)
		refused(t)
		w.gateway.stop(t, os.Interrupt)
		w.gateway.start(t)
		w.shakeHands(t)
		refused(t)
	})
	t.Run("a reset lets the peer go on", func(t *testing.T) {
		w.gateway.must(t, "peer", "quota", "reset", "laptop")
		works(t)
		if r := w.gateway.cli(t, "peer", "quota", "reset", "free"); r.code != 1 || !strings.Contains(r.stderr, `no peer "free" with a quota`) {
			t.Errorf("reset of a peer without: %s", r)
		}
	})
	t.Run("a file that cannot be used is set aside", func(t *testing.T) {
		w.gateway.stop(t, os.Interrupt)
		w.write(t, "quota.json", `{"version":1,"mon`)
		w.gateway.start(t)
		w.shakeHands(t)
		works(t)
		if r := w.gateway.cli(t, "status"); r.code != 4 || !strings.Contains(r.stdout, "degraded: what peers have used of their quotas is lost: ") {
			t.Errorf("status: %s", r)
		}
		if said := w.gateway.said.String(); strings.Count(said, "what peers have used of their quotas is lost, and counts from 0") != 1 {
			t.Errorf("the log says it not once:\n%s", said)
		}
		if aside, _ := filepath.Glob(w.path("quota.json.damaged-*")); len(aside) != 1 {
			t.Errorf("got %q set aside", aside)
		}
	})
}
