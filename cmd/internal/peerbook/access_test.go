package peerbook

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"penstock/cmd/internal/config"
)

// running is a gateway that is handed its files.
type running struct {
	dir     string
	current *config.Config
}

func (r *running) Config() *config.Config { return r.current }

func (r *running) Read(context.Context) (err error) {
	r.current, err = r.current.ReloadPeers()
	return err
}

// gateway returns a running gateway with ana, whose file penstock wrote, eve, whose file somebody has edited, and bob, who stands in
// the main file.
func gateway(t *testing.T) *running {
	t.Helper()
	r := &running{dir: t.TempDir()}
	for name, text := range map[string]string{
		"gateway.key": "2Bo5n4y4CRcCcX2HMRSL1fBDMhgT1Z4x0AMkYmZ9DGA=\n",
		"gateway.yaml": `include: peers.d/*.yaml
listen: {wireguard: {address: 10.78.0.1/24, private_key: {file: gateway.key}, endpoint: "gw.example:51820"}}
state_dir: .
peers: [{name: bob, public_key: "QKLNDTphfWCUSf/SIXuO7CqhJDEhDFRw6cQ7RxUHPVo=", allowed_ips: 10.78.0.3/32}]
rules: {name: rest, do: direct}
`,
		"peers.d/ana.yaml": "peers:\n  - name: \"ana\"\n    public_key: xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\n    allowed_ips: [\"10.78.0.2/32\"]\n",
		"peers.d/eve.yaml": "peers: [{name: eve, public_key: yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=, allowed_ips: 10.78.0.4/32}]\n",
	} {
		path := filepath.Join(r.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if r.current, err = config.Load(filepath.Join(r.dir, "gateway.yaml")); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *running) state(name string) string {
	for _, p := range r.current.Peers.All() {
		if p.Name == name {
			return p.State(time.Now())
		}
	}
	return "unknown"
}

func TestTheAccessOfAPeerChangesWhileTheGatewayRuns(t *testing.T) {
	r := gateway(t)
	past, later, never := time.Now().Add(-time.Minute), time.Now().Add(time.Hour).UTC().Truncate(time.Second), time.Time{}
	for _, step := range []struct {
		name string
		to   Access
		want string // state
		err  string
	}{
		{"a peer is disabled", Access{Disabled: true}, "disabled", ""},
		{"it is disabled already", Access{Disabled: true}, "disabled", ""},
		{"it is enabled until a time", Access{Expires: &later}, "", ""},
		{"a time that is over", Access{Expires: &past}, "", "expired at"},
		{"it is enabled for good", Access{Expires: &never}, "", ""},
	} {
		err := SetAccess(t.Context(), r, "ana", step.to)
		if (err == nil) != (step.err == "") || err != nil && !strings.Contains(err.Error(), step.err) {
			t.Errorf("%s: got %v, want %q", step.name, err, step.err)
		}
		if got := r.state("ana"); got != step.want {
			t.Errorf("%s: got state %q, want %q", step.name, got, step.want)
		}
	}
	text, err := os.ReadFile(filepath.Join(r.dir, "peers.d", "ana.yaml"))
	if err != nil || strings.Contains(string(text), "expires") || strings.Contains(string(text), "disabled") {
		t.Errorf("got %q, %v; want the file as it was", text, err)
	}
	for name, want := range map[string]string{"eve": "edited by hand", "bob": "change it there", "zoe": `no peer "zoe"`} {
		if err := SetAccess(t.Context(), r, name, Access{Disabled: true}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", name, err, want)
		}
	}
	if err := SetAccess(t.Context(), r, "ana", Access{Expires: &later}); err != nil || r.state("ana") != "" {
		t.Fatal(err)
	}
	for _, p := range r.current.Peers.All() {
		if p.Name == "ana" && !p.Expires.Equal(later) {
			t.Errorf("got %v, want %v", p.Expires, later)
		}
	}
}
