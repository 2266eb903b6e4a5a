package gateway

import (
	"bytes"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/gateway/meter"
	"penstock/cmd/internal/gateway/quota"
	"penstock/router/transport/wireguard"
)

// hole is a stack that swallows what is written to it.
type hole struct{ meter.Device }

func (hole) Wake()                                   {}
func (hole) Write(bufs [][]byte, _ int) (int, error) { return len(bufs), nil }

// quotas is a limiter without a gateway, with its own clock.
type quotas struct {
	*limiter
	key     wireguard.PrivateKey
	clock   time.Time
	blocked []string // by the last call of OverQuota
	said    bytes.Buffer
}

func newQuotas(t *testing.T, file string) *quotas {
	t.Helper()
	q := &quotas{key: wireguard.GeneratePrivateKey(), clock: time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)}
	plan := planned(t, q.key)
	plan.listen.QuotaFile = file
	q.limiter = newLimiter(meter.New(hole{}), Config{
		Plan: plan, Log: slog.New(slog.NewTextHandler(&q.said, nil)),
		OverQuota: func(peers map[string]bool) { q.blocked = slices.Sorted(maps.Keys(peers)) },
	})
	q.now = func() time.Time { return q.clock }
	return q
}

// use puts peers in force, as Gateway.Use does.
func (q *quotas) use(t *testing.T, peers ...config.Peer) {
	t.Helper()
	p := planned(t, q.key, peers...)
	q.limiter.use(p, p.peers)
}

// send sends so many bytes from an address.
func (q *quotas) send(addr string, size int) {
	for ; size > 0; size -= 1000 {
		p := make([]byte, min(size, 1000))
		p[0] = 0x45
		copy(p[12:], netip.MustParseAddr(addr).AsSlice())
		q.meter.Write([][]byte{p}, 0)
	}
	q.settle()
}

func limitedPeer(t *testing.T, name, addr string, quota int64, over config.Over) config.Peer {
	t.Helper()
	p := config.Peer{
		Name: name, PublicKey: wireguard.GeneratePrivateKey().Public().String(),
		AllowedIPs: []netip.Prefix{netip.MustParsePrefix(addr + "/32")},
	}
	if quota > 0 {
		p.Quota = &config.Quota{Monthly: config.Size(quota), Over: over}
	}
	return p
}

func (q *quotas) want(t *testing.T, what string, p config.Peer, used uint64, blocked ...string) {
	t.Helper()
	if got := q.usage()[p.PublicKey]; got.Used != used {
		t.Errorf("%s: %s has used %d, want %d", what, p.Name, got.Used, used)
	}
	if !slices.Equal(q.blocked, blocked) {
		t.Errorf("%s: %q are blocked, want %q", what, q.blocked, blocked)
	}
}

func TestAQuotaFollowsItsPeer(t *testing.T) {
	file := filepath.Join(t.TempDir(), "quota.json")
	q := newQuotas(t, file)
	ana, bob := limitedPeer(t, "ana", "10.99.0.2", 5000, 0), limitedPeer(t, "bob", "10.99.0.3", 5000, 0)
	q.use(t, ana, bob)
	q.send("10.99.0.2", 4999)
	q.want(t, "below", ana, 4999)
	q.send("10.99.0.2", 30)
	q.want(t, "above", ana, 5029, "ana")
	q.use(t, ana, bob) // a reload of something else
	if n := strings.Count(q.said.String(), "has used up its quota"); n != 1 {
		t.Errorf("the log says %d times that the quota is used up, want once:\n%s", n, &q.said)
	}
	q.send("10.99.0.3", 6000)
	q.want(t, "both above", bob, 6000, "ana", "bob")

	renamed := ana
	renamed.Name, renamed.AllowedIPs = "anna", []netip.Prefix{netip.MustParsePrefix("10.99.0.9/32")}
	q.use(t, renamed)
	q.want(t, "bob is gone, and ana has another name and address", renamed, 5029, "anna")
	bob.Quota = &config.Quota{Monthly: 7000}
	q.use(t, renamed, bob)
	q.want(t, "bob is back and may use more", bob, 6000, "anna")
	q.send("10.99.0.3", 1000)
	q.want(t, "that is used up too", bob, 7000, "anna", "bob")
	bob.Quota = nil
	q.use(t, renamed, bob)
	q.send("10.99.0.3", 1000)
	q.want(t, "without a quota", bob, 0, "anna")
	bob.Quota = &config.Quota{Monthly: 7500}
	q.use(t, renamed, bob)
	q.want(t, "what it sent meanwhile does not count", bob, 7000, "anna")
	if err := q.save(); err != nil {
		t.Fatal(err)
	}

	again := newQuotas(t, file)
	again.key = q.key
	again.use(t, renamed, bob)
	again.want(t, "after a restart", bob, 7000, "anna")
	if err := again.reset("anna"); err != nil {
		t.Fatal(err)
	}
	again.want(t, "after a reset", renamed, 0)
	third := newQuotas(t, file)
	third.use(t, renamed)
	third.want(t, "after a reset and a crash", renamed, 0)
	if err := third.reset("carl"); err == nil || !strings.Contains(err.Error(), `no peer "carl" with a quota`) {
		t.Errorf("reset of nobody: got %v", err)
	}
}

func TestAMonthBeginsAnewAndAClockThatGoesBackForgetsNothing(t *testing.T) {
	q := newQuotas(t, filepath.Join(t.TempDir(), "quota.json"))
	ana := limitedPeer(t, "ana", "10.99.0.2", 5000, 0)
	q.use(t, ana)
	q.send("10.99.0.2", 5000)
	q.want(t, "November", ana, 5000, "ana")
	if ends := q.usage()[ana.PublicKey].Ends; !ends.Equal(time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("the month ends %v", ends)
	}
	november := q.clock
	q.clock = time.Date(2026, 12, 1, 3, 0, 0, 0, time.FixedZone("", 4*3600)) // still November in UTC
	q.settle()
	q.want(t, "November, west of here", ana, 5000, "ana")
	q.clock = time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	q.settle()
	q.want(t, "December", ana, 0)
	q.send("10.99.0.2", 6000)
	q.clock = november
	q.settle()
	q.want(t, "back in November", ana, 5000, "ana")
	q.clock = time.Unix(0, 0)
	q.settle()
	q.want(t, "back in 1970", ana, 5000, "ana")
	q.clock = time.Date(2026, 12, 2, 0, 0, 0, 0, time.UTC)
	q.settle()
	q.want(t, "December again", ana, 6000, "ana")
}

func TestOverItsQuotaAPeerIsSlowedDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuotas(t, filepath.Join(t.TempDir(), "quota.json"))
		ana := limitedPeer(t, "ana", "10.99.0.2", 50_000, config.Over(64_000))
		ana.Rate.Down = 100_000_000
		q.use(t, ana)
		q.send("10.99.0.2", 60_000)
		q.want(t, "above", ana, 60_000)
		time.Sleep(time.Minute)
		q.send("10.99.0.2", 100_000) // nobody lets out what waits
		if u := q.usage()[ana.PublicKey]; !u.Over || u.Used < 70_000 || u.Used > 80_000 || u.Dropped == 0 {
			t.Errorf("got %+v, want what 64 kbit/s let through at once, and the rest dropped", u)
		}
		q.clock = q.clock.AddDate(0, 1, 0)
		q.settle()
		q.send("10.99.0.2", 40_000)
		if u := q.usage()[ana.PublicKey]; u.Over || u.Used != 40_000 {
			t.Errorf("in the next month: got %+v", u)
		}
	})
}

func TestTroubleWithTheFileIsTold(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "quota.json")
	if err := os.WriteFile(file, []byte("?"), 0o600); err != nil {
		t.Fatal(err)
	}
	q := newQuotas(t, file)
	ana := limitedPeer(t, "ana", "10.99.0.2", 5000, 0)
	q.use(t, limitedPeer(t, "bob", "10.99.0.3", 0, 0))
	if q.trouble() != "" || q.said.Len() > 0 {
		t.Errorf("nobody has a quota: got %q and the log %s", q.trouble(), &q.said)
	}
	q.use(t, ana)
	const lost = "what peers have used of their quotas is lost"
	if got := q.trouble(); !strings.HasPrefix(got, lost) {
		t.Errorf("a damaged file: got %q", got)
	}
	if n := strings.Count(q.said.String(), "level=ERROR"); n != 1 {
		t.Errorf("a damaged file: the log has %d errors, want one:\n%s", n, &q.said)
	}
	q.clock = q.clock.AddDate(0, 1, 0)
	if q.settle(); q.trouble() != "" {
		t.Errorf("a month later: got %q", q.trouble())
	}

	if err := q.save(); err != nil {
		t.Fatal(err)
	}
	q = newQuotas(t, filepath.Join(file, "below a file"))
	q.use(t, ana)
	q.said.Reset()
	q.send("10.99.0.2", 6000)
	for range 3 {
		if err := q.save(); err == nil {
			t.Error("save: got no error")
		}
	}
	if n := strings.Count(q.said.String(), "level=ERROR"); n != 1 {
		t.Errorf("a file that cannot be written: the log has %d errors, want one:\n%s", n, &q.said)
	}
	q.want(t, "it counts on", ana, 6000, "ana")
	if got := q.trouble(); !strings.HasPrefix(got, "a restart will forget what peers have used of their quotas: ") {
		t.Errorf("a file that cannot be written: got %q", got)
	}
	if err := q.reset("ana"); err == nil || !strings.Contains(err.Error(), "a restart will forget that") {
		t.Errorf("reset: got %v", err)
	}
}

// TestQuotasAreKeptWhileADiskHangs: a reload, the status and the end of a quota wait for no disk.
func TestQuotasAreKeptWhileADiskHangs(t *testing.T) {
	q := newQuotas(t, filepath.Join(t.TempDir(), "quotas.json"))
	ana := limitedPeer(t, "ana", "10.77.0.2", 10_000, 0)
	q.use(t, ana)
	q.send("10.77.0.2", 5_000)
	hangs, goOn := make(chan bool), make(chan error)
	q.write = func(string, []byte) error {
		hangs <- true
		return <-goOn
	}
	saved := make(chan error)
	go func() { saved <- q.save() }()
	<-hangs
	if !q.mu.TryLock() {
		t.Fatal("the limits are locked while the file is written")
	}
	q.mu.Unlock()
	q.send("10.77.0.2", 6_000)
	q.want(t, "while the disk hangs", ana, 11_000, "ana")
	goOn <- errors.New("no disk")
	if err := <-saved; err == nil {
		t.Error("a file that was not written is no error")
	}
	q.write = quota.Write
	if err := q.save(); err != nil || q.trouble() != "" {
		t.Errorf("when the disk works again: got %v, %q", err, q.trouble())
	}
	again := newQuotas(t, q.file)
	again.key = q.key
	again.use(t, ana)
	again.want(t, "after a restart", ana, 11_000, "ana")
}

func TestWhoComesByProxyHasLimitsToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "quota.json")
		q := newQuotas(t, file)
		ana := limitedPeer(t, "ana", "10.99.0.2", 5000, 0)
		printer := config.Peer{Name: "printer", Quota: &config.Quota{Monthly: 100_000}, Rate: config.Rates{Up: 80_000}}
		late := config.Peer{Name: "late", Quota: printer.Quota, Expires: q.clock}
		q.use(t, ana, printer, late)
		q.send("10.99.0.2", 4000)
		q.spend(ana.ID(), Down, 1000)
		q.settle()
		q.want(t, "in the tunnel and beside it", ana, 5000, "ana")
		if wait := q.spend(printer.ID(), Down, 50_000); wait != 0 {
			t.Errorf("down, where there is no limit: waits %v", wait)
		}
		time.Sleep(time.Minute)
		q.spend(printer.ID(), Up, 36_384) // 20,000 more than may pass at once
		if wait := q.spend(printer.ID(), Up, 0); wait != 2*time.Second {
			t.Errorf("up: waits %v, want 2s", wait)
		}
		time.Sleep(2 * time.Second)
		if wait := q.spend(printer.ID(), Up, 0); wait != 0 {
			t.Errorf("later: waits %v", wait)
		}
		for _, id := range []string{late.ID(), "", "name nobody"} {
			if wait := q.spend(id, Up, 1e9); wait != 0 {
				t.Errorf("%q, who has no limits or may not connect: waits %v", id, wait)
			}
		}
		if used := q.usage()[printer.ID()].Used; used != 86_384 {
			t.Errorf("the printer has used %d", used)
		}
		q.settle()
		if err := q.save(); err != nil {
			t.Fatal(err)
		}
		again := newQuotas(t, file)
		again.use(t, printer)
		again.spend(printer.ID(), Up, 20_000)
		again.settle()
		if used := again.usage()[printer.ID()].Used; used != 106_384 || !slices.Equal(again.blocked, []string{"printer"}) {
			t.Errorf("after a restart: the printer has used %d, and %q are blocked", used, again.blocked)
		}
	})
}
