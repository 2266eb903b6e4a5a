package report

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
)

// withFolder adds a folder of peers to the world: gus, whose time is over, and a file that is half written.
func withFolder(t *testing.T, w *world) {
	t.Helper()
	if err := os.Mkdir(filepath.Join(w.dir, "peers.d"), 0o700); err != nil {
		t.Fatal(err)
	}
	const gus = "peers: [{name: gus, public_key: SKLNDTphfWCUSf/SIXuO7CqhJDEhDFRw6cQ7RxUHPVo=, allowed_ips: 10.99.0.5/32, expires: \"2020-01-31T10:00:00Z\"}]\n"
	w.write(t, "peers.d/gus.yaml", gus)
	w.write(t, "peers.d/half.yaml", "peers:\n  - name: ha\n    publ")
	w.write(t, "p.yaml", "include: peers.d/*.yaml\n"+strings.ReplaceAll(strings.Replace(text, ourKey, "RKLNDTphfWCUSf/SIXuO7CqhJDEhDFRw6cQ7RxUHPVo=", 1), "UPSTREAM", w.resolver.Addr.String()))
	cfg, err := config.LoadServing(filepath.Join(w.dir, "p.yaml"), nil)
	if err != nil {
		t.Fatal(err)
	}
	e, err := w.live.Compile(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.live.Use(e)
}

func TestPeersAreCounted(t *testing.T) {
	w := newWorld(t, text)
	withFolder(t, w)
	file := filepath.Join(w.dir, "peers.d", "half.yaml")
	st, err := w.status.Status(t.Context())
	if err != nil || st.Peers == nil {
		t.Fatalf("got %+v, %v; want a status with peers", st, err)
	}
	if got := *st.Peers; got.Active != 0 || got.Idle != 2 || got.Disabled != 1 || got.Expired != 1 {
		t.Errorf("got %+v, want two idle, one disabled, one expired", got)
	}
	if bad := st.Peers.Bad; len(bad) != 1 || bad[0].File != file || bad[0].Kept || !strings.HasPrefix(bad[0].Error, "its peers are left out: "+file+":") {
		t.Errorf("got bad files %+v, want %s", bad, file)
	}
	if !st.Degraded || !strings.HasPrefix(st.Verdict, "degraded: files of peers with faults: 1; ") {
		t.Errorf("got %q, degraded %v; want the bad file first", st.Verdict, st.Degraded)
	}
}

func TestMetricsKnowPeers(t *testing.T) {
	w := newWorld(t, text)
	withFolder(t, w)
	const few = `# HELP penstock_peers Peers of the gateway by state: active is a handshake within the last three minutes.
# TYPE penstock_peers gauge
penstock_peers{state="active"} 0
penstock_peers{state="disabled"} 1
penstock_peers{state="expired"} 1
penstock_peers{state="idle"} 2
# HELP penstock_peers_bad_files Files of peers that have faults, so that their peers are as they were before, or left out.
# TYPE penstock_peers_bad_files gauge
penstock_peers_bad_files 1
# HELP penstock_peers_over_quota Peers that have used up their quotas of this month.
# TYPE penstock_peers_over_quota gauge
penstock_peers_over_quota 0
# HELP penstock_rate_dropped_bytes_total Bytes that were dropped because they were above the rates of peers; up is from peers.
# TYPE penstock_rate_dropped_bytes_total counter
penstock_rate_dropped_bytes_total{direction="down"} 0
penstock_rate_dropped_bytes_total{direction="up"} 0
`
	const each = `# HELP penstock_peer_quota_limit_bytes A peer's quota of a month. Needs metrics.peers.
# TYPE penstock_peer_quota_limit_bytes gauge
penstock_peer_quota_limit_bytes{peer="ana"} 3.221225472e+09
# HELP penstock_peer_received_bytes_total Bytes received from a peer. Needs metrics.peers.
# TYPE penstock_peer_received_bytes_total counter
penstock_peer_received_bytes_total{peer="ana"} 0
penstock_peer_received_bytes_total{peer="bob"} 0
penstock_peer_received_bytes_total{peer="eve"} 0
penstock_peer_received_bytes_total{peer="gus"} 0
`
	const compat = `# HELP wireguard_latest_handshake_seconds When a peer's last handshake was, in Unix time; 0 if there was none. Needs metrics.compat.
# TYPE wireguard_latest_handshake_seconds gauge
wireguard_latest_handshake_seconds{allowed_ips="ANA_IPS",friendly_name="ana",interface="penstock",public_key="ANA_KEY"} 0
wireguard_latest_handshake_seconds{allowed_ips="BOB_IPS",friendly_name="bob",interface="penstock",public_key="BOB_KEY"} 0
wireguard_latest_handshake_seconds{allowed_ips="EVE_IPS",friendly_name="eve",interface="penstock",public_key="EVE_KEY"} 0
wireguard_latest_handshake_seconds{allowed_ips="GUS_IPS",friendly_name="gus",interface="penstock",public_key="GUS_KEY"} 0
`
	var fill []string
	for _, p := range w.live.Config().Peers.All() {
		var ips []string
		for _, a := range p.AllowedIPs {
			ips = append(ips, a.String())
		}
		fill = append(fill, strings.ToUpper(p.Name)+"_IPS", strings.Join(ips, ","), strings.ToUpper(p.Name)+"_KEY", p.PublicKey)
	}
	theirs := strings.NewReplacer(fill...).Replace(compat)
	sent := strings.NewReplacer("latest_handshake_seconds", "sent_bytes_total", "gauge", "counter",
		"When a peer's last handshake was, in Unix time; 0 if there was none.", "Bytes sent to a peer.").Replace(theirs)
	names := []string{"penstock_peers_over_quota", "penstock_rate_dropped_bytes_total", "penstock_peer_quota_limit_bytes", "penstock_peers", "penstock_peers_bad_files",
		"penstock_peer_received_bytes_total", "wireguard_latest_handshake_seconds", "wireguard_sent_bytes_total"}
	for _, row := range []struct {
		each config.Metrics
		want string
	}{{config.Metrics{}, few}, {config.Metrics{Peers: true}, few + each}, {config.Metrics{Peers: true, Compat: "wireguard"}, few + each + theirs + sent}} {
		c := NewCollector(func() *Process { return w.status }, row.each)
		if err := testutil.CollectAndCompare(c, strings.NewReader(row.want), names...); err != nil {
			t.Errorf("%+v: %v", row.each, err)
		}
		problems, err := testutil.CollectAndLint(c)
		if err != nil || len(problems) > 0 {
			t.Errorf("got problems %v, %v", problems, err)
		}
	}
	var starting *Process
	c := NewCollector(func() *Process { return starting }, config.Metrics{Peers: true, Compat: "wireguard"})
	if n := testutil.CollectAndCount(c, names...); n != 0 {
		t.Errorf("before there is a process: got %d series of peers", n)
	}
	if n := testutil.CollectAndCount(c, "penstock_state"); n == 0 {
		t.Error("before there is a process: got no state")
	}
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(c); err != nil {
		t.Error(err)
	}
}

func TestAPeerIsShownWhole(t *testing.T) {
	w := newWorld(t, text)
	withFolder(t, w)
	list, err := w.peers.Peers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	states := make(map[string]control.PeerStatus)
	for _, p := range list {
		states[p.Name] = p
	}
	for name, want := range map[string]string{"ana": "idle", "bob": "idle", "eve": "disabled", "gus": "expired"} {
		if p := states[name]; p.State != want || p.PublicKey == "" || p.Position == "" {
			t.Errorf("got %+v, want %s %s with its key and where it is written", p, name, want)
		}
	}
	ana, bob := states["ana"], states["bob"]
	if ana.Rate == nil || *ana.Rate != (control.PeerRate{Up: 2_000_000}) || bob.Rate != nil || bob.Quota != nil {
		t.Errorf("got the limits of ana %+v, and of bob %+v %+v", ana.Rate, bob.Rate, bob.Quota)
	}
	if q := ana.Quota; q == nil || q.LimitBytes != 3<<30 || q.Over != "1Mbit" || q.Spent || q.Ends.IsZero() {
		t.Errorf("got the quota of ana %+v", q)
	}
	if states["gus"].Expires.Year() != 2020 {
		t.Errorf("got %v as the end of gus's access", states["gus"].Expires)
	}
}

// Peers that only use the proxy have no gateway: nothing may need one.
func TestPeersWithoutAGateway(t *testing.T) {
	alone := text[:strings.Index(text, "  wireguard:")] + "  proxy: {}\nstate_dir: .\npeers: [{name: ben, proxy_password: {file: our.key}}]\n" + text[strings.Index(text, "transports:"):]
	w := newWorld(t, strings.Replace(alone, "group: [staff]", "peer: [ben]", 1))
	st, err := w.status.Status(t.Context())
	if err != nil || st.Peers == nil || st.Peers.Idle != 1 {
		t.Errorf("status: got %+v, %v; want a peer", st.Peers, err)
	}
	if list, err := w.peers.Peers(t.Context()); err != nil || len(list) != 1 || list[0].Name != "ben" {
		t.Errorf("got %+v, %v; want ben", list, err)
	}
	if err := w.peers.PeerQuotaReset(t.Context(), "ben"); err == nil || !strings.Contains(err.Error(), "nobody has a quota") {
		t.Errorf("reset of a quota: got %v", err)
	}
	if err := w.peers.SignOut(t.Context(), "ben"); err == nil || !strings.Contains(err.Error(), "nobody has signed in") {
		t.Errorf("sign-out: got %v", err)
	}
	c := NewCollector(func() *Process { return w.status }, config.Metrics{Peers: true, Compat: "wireguard"})
	if n := testutil.CollectAndCount(c, "penstock_rate_dropped_bytes_total", "penstock_peers_over_quota"); n != 3 {
		t.Errorf("got %d series, want three", n)
	}
	if n := testutil.CollectAndCount(c, "wireguard_sent_bytes_total"); n != 0 {
		t.Errorf("got %d series of WireGuard, want none", n)
	}
}
