package daemon

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"penstock/cmd/internal/config"
	"penstock/policy"
	"penstock/router/ondemand"
	"penstock/router/pathmon"
	"penstock/router/transport"
	"penstock/stack/link"
)

// laptop is a daemon with one transport that never connects, on a network that the test makes up.
func laptop(t *testing.T, onDemand string) *Daemon {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("corp.conf", `[Interface]
PrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=
Address = 10.8.0.2/32
[Peer]
PublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=
Endpoint = 192.0.2.1:51820
AllowedIPs = 0.0.0.0/0
`)
	path := write("config.yaml", `
listen: {tun: {routes: manual, dns: manual}}
transports: {corp: {wireguard: {config: corp.conf}}}
dns: {upstreams: [{address: 10.0.0.53, via: corp}]}
`+onDemand+`
rules:
  - {name: files, match: {domain: files.example}, do: {via: corp, trusted: direct}}
  - {name: rest, do: {via: corp}}
`)
	cfg, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	programs, tun := link.Pipe(1500)
	t.Cleanup(func() { programs.Close() })
	d := &Daemon{
		opts: Options{TUN: tun, Direct: nowhere{}, Log: slog.New(slog.DiscardHandler)}, log: slog.New(slog.DiscardHandler), started: time.Now(), cfg: cfg, recent: newRecent(),
	}
	var c closers
	if err := d.build(t.Context(), &c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.close(); err != nil {
			t.Error(err)
		}
	})
	d.onDemand = d.newOnDemand()
	return d
}

// nowhere is a network that leads nowhere.
type nowhere struct{ plainDialer }

func (nowhere) DialContext(context.Context, string, string) (net.Conn, error) {
	return nil, os.ErrDeadlineExceeded
}

func TestOnDemandNotes(t *testing.T) {
	home := pathmon.Path{Interface: "wlan0", Gateway: netip.MustParseAddr("192.168.1.1"), Source: netip.MustParseAddr("192.168.1.10")}
	office := pathmon.Path{Interface: "eth0", Gateway: netip.MustParseAddr("10.0.0.1"), Source: netip.MustParseAddr("10.0.0.10")}
	d := laptop(t, `on_demand: [{if: {interface: eth0}, then: filter_only}]`)
	o := d.onDemand
	files := policy.Flow{
		Network: policy.TCP, Dst: netip.MustParseAddrPort("192.0.2.7:443"),
		Names: []policy.Name{{Host: "files.example", From: policy.FromSNI}}, Sniffed: true,
	}
	other := files
	other.Names = []policy.Name{{Host: "other.example", From: policy.FromSNI}}
	egress := func(f policy.Flow) string { return d.rules.decide(f).Egress }
	want := func(what, wantFiles, wantOther string) {
		t.Helper()
		if got := egress(files); got != wantFiles {
			t.Errorf("%s: files go %q, want %q", what, got, wantFiles)
		}
		if got := egress(other); got != wantOther {
			t.Errorf("%s: the rest goes %q, want %q", what, got, wantOther)
		}
	}
	decide := func() { o.decide(t.Context(), o.standing()) }

	want("before anything is known", "corp", "corp")
	o.changed(home, true)
	decide()
	want("at home", "corp", "corp")
	if got := o.words(); got != "" {
		t.Errorf("at home: got %q in the status, want nothing", got)
	}
	o.changed(office, true)
	want("in the office, before it is looked at", "corp", "corp")
	decide()
	want("in the office", "direct", "corp")
	if got := o.words(); got != ", on demand: filter_only" {
		t.Errorf("in the office: got %q in the status", got)
	}
	o.changing(true)
	want("as soon as the path may be another one", "corp", "corp")
	decide()
	want("while that is not clear", "corp", "corp")
	o.changing(false)
	decide()
	want("when it was the old one after all", "direct", "corp")
	o.override(0)
	want("after the user's word", "corp", "corp")
	decide()
	want("while the user's word counts", "corp", "corp")
	o.changed(office, true)
	decide()
	want("on the next network", "direct", "corp")
	n := o.standing()
	o.changed(home, true)
	o.decide(t.Context(), n)
	want("when the answer is about a network that was left", "corp", "corp")
	o.changed(pathmon.Path{}, false)
	want("without a network", "corp", "corp")
}

func TestOnDemandActs(t *testing.T) {
	d := laptop(t, `on_demand: [{then: connect}]`)
	tun := d.egress.tunnels["corp"]
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	states := make(chan transport.State, 100)
	tun.changed = func(h transport.Health) { states <- h.State }
	go func() { defer close(done); _ = tun.Run(ctx) }()
	await := func(want transport.State) {
		t.Helper()
		for {
			select {
			case got := <-states:
				if got == want {
					return
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("the transport did not become %s", want)
			}
		}
	}
	await(transport.Connecting)
	d.onDemand.act(ondemand.Disconnect)
	await(transport.Down)
	d.onDemand.act(ondemand.Ignore)
	if got := tun.Health().State; got != transport.Down {
		t.Errorf("ignore: got %s, want it to stay down", got)
	}
	d.onDemand.act(ondemand.Connect)
	await(transport.Connecting)
	cancel()
	<-done
}
