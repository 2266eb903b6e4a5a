package setup

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"penstock/cmd/internal/config"
)

const (
	key     = "2Bo5n4y4CRcCcX2HMRSL1fBDMhgT1Z4x0AMkYmZ9DGA="
	wgQuick = "[Interface]\nPrivateKey = " + key + "\nAddress = 10.9.0.2/32\nDNS = 10.0.0.53\n" +
		"[Peer]\nPublicKey = QKLNDTphfWCUSf/SIXuO7CqhJDEhDFRw6cQ7RxUHPVo=\nAllowedIPs = 0.0.0.0/0, ::/0\nEndpoint = vpn.example:51820\n"
)

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil { // as a browser leaves a download
		t.Fatal(err)
	}
	return path
}

// good is a check that finds nothing.
func good(context.Context, *config.Config) (Found, error) { return Found{}, nil }

func host() Host { return Host{Key: func() string { return key }} }

func notOnWindows(t *testing.T) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("a copy of a configuration has the paths of Unix")
	}
}

// plan makes a plan, or returns what is wrong.
func plan(t *testing.T, a *Answers) (*Plan, error) {
	t.Helper()
	notOnWindows(t)
	if missing := a.Missing(); len(missing) > 0 {
		t.Fatalf("%q are missing", missing)
	}
	p, _, err := New(t.Context(), a, host(), good)
	return p, err
}

func TestALaptop(t *testing.T) {
	dir := t.TempDir()
	a := &Answers{Purpose: Laptop, File: filepath.Join(dir, "etc", "config.yaml"),
		Profile: write(t, filepath.Join(dir, "hq.conf"), wgQuick)}
	kids := write(t, filepath.Join(dir, "kids.txt"), "a.example\n")
	if err := errors.Join(a.SetBlock([]string{"gambling", "kids"}), a.AddList("kids="+kids), a.SetIntranet([]string{"corp.example"})); err != nil {
		t.Fatal(err)
	}
	p, err := plan(t, a)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "etc")); err == nil {
		t.Error("a plan has written something")
	}
	if _, err := p.Write(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(a.Profile); err != nil { // the original can go
		t.Fatal(err)
	}
	c, err := config.Load(a.File)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"gambling", "kids"}, c.Block); diff != "" || c.Categories["kids"].Lists[0].File != kids {
		t.Errorf("block (-want +got):\n%s, lists %+v", diff, c.Categories)
	}
	for name, mode := range map[string]os.FileMode{"config.yaml": 0o600, "hq.conf": 0o600, "penstock.schema.json": 0o644, ".": os.ModeDir | 0o700} {
		if info, err := os.Stat(filepath.Join(dir, "etc", name)); err != nil || info.Mode() != mode {
			t.Errorf("%s: got mode %v, %v, want %v", name, info.Mode(), err, mode)
		}
	}
	if first, _, _ := strings.Cut(p.Text, "\n"); first != "# yaml-language-server: $schema=penstock.schema.json" {
		t.Errorf("the first line is %q", first)
	}
	for _, s := range optionalSections() { // they are comments now, and must be good when they are none
		if _, err := config.Parse(a.File, []byte(strings.Replace(p.Text, "# "+s.text, s.text, 1))); err != nil {
			t.Errorf("with %s: %v", s.text, err)
		}
	}
}

func TestAGateway(t *testing.T) {
	for _, row := range []struct {
		name, networks, endpoint, port string
		own                            string
		want                           []string // in the text
	}{
		{"one network", "10.20.0.0/16", "vpn.corp.example", "", "10.20.0.10/16", []string{
			"listen_port: 51820", `"vpn.corp.example:51820"`, `"10.99.0.1/24", "fd99::1/64"`, "http://10.20.0.11\"", "http://192.168.1.1\"",
		}},
		{"a port that a router maps", "10.20.0.0/16", "198.51.100.1:443", "51820", "", []string{"listen_port: 51820", `"198.51.100.1:443"`}},
		{"an address of IPv6", "fd20::/48", "2001:db8::1", "4500", "", []string{"listen_port: 4500", `"[2001:db8::1]:4500"`, "http://[fd20::a]\""}},
		{"all of 10 and fd00", "10.0.0.0/8, fd00::/8, 192.168.0.0/16", "vpn.example", "", "", []string{`["172.29.99.1/24"]`, "http://172.16.0.1\""}},
		{"a host", "10.20.0.7/32", "vpn.example", "", "", []string{"http://10.20.0.7\""}},
	} {
		t.Run(row.name, func(t *testing.T) {
			notOnWindows(t)
			a := &Answers{Purpose: Gateway, File: filepath.Join(t.TempDir(), "config.yaml")}
			err := errors.Join(a.SetNetworks(several(row.networks)), a.SetEndpoint(row.endpoint), a.SetDNS([]string{"9.9.9.9"}),
				a.SetBlock([]string{"malware"}))
			if row.port != "" {
				err = errors.Join(err, a.SetPort(row.port))
			}
			if err != nil {
				t.Fatal(err)
			}
			h := host()
			if row.own != "" {
				h.Own = []netip.Prefix{netip.MustParsePrefix(row.own)}
			}
			p, _, err := New(t.Context(), a, h, good)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range row.want {
				if !strings.Contains(p.Text, want) {
					t.Errorf("got no %s in\n%s", want, p.Text)
				}
			}
			if _, err := p.Write(); err != nil {
				t.Fatal(err)
			}
			if c, err := config.Load(a.File); err != nil || c.Rules[0].Name != "no-malware" {
				t.Errorf("got %v", err)
			}
			if info, err := os.Stat(filepath.Join(filepath.Dir(a.File), "peers.d")); err != nil || !info.IsDir() {
				t.Errorf("the folder of peers: %v", err)
			}
		})
	}
}

func TestTheFilesOfAnOpenVPNProfileComeAlong(t *testing.T) {
	notOnWindows(t)
	dir := t.TempDir()
	far := write(t, filepath.Join(dir, "far.txt"), "ana\nhunter2\n")
	write(t, filepath.Join(dir, "down", "pki", "login.txt"), "ana\nhunter2\n")
	a := &Answers{Purpose: Laptop, File: filepath.Join(dir, "etc", "config.yaml"),
		Profile: write(t, filepath.Join(dir, "down", "hq.ovpn"), "client\nremote vpn.example\nauth-user-pass pki/login.txt\naskpass "+far+"\n")}
	p, warnings, err := New(t.Context(), a, host(), good)
	if err != nil {
		t.Fatal(err)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], "far.txt, which stays where it is") {
		t.Errorf("got the warnings %q", warnings)
	}
	if _, err := p.Write(); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "etc", "pki", "login.txt")); err != nil || string(text) != "ana\nhunter2\n" {
		t.Errorf("got %q, %v", text, err)
	}
}

func TestWhatCannotBeCopiedIsRefused(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "login.txt"), "ana\nhunter2\n")
	for _, row := range []struct{ name, text, want string }{
		{"config.yaml", wgQuick, "config.yaml, which is for another file: rename"},
		{"penstock.schema.json", wgQuick, "penstock.schema.json, which is for another file: rename"},
		{"hq.ovpn", "client\nremote vpn.example\nauth-user-pass ../login.txt\n", "names ../login.txt by a relative path: write " + dir + "/login.txt there"},
	} {
		a := &Answers{Purpose: Laptop, File: filepath.Join(dir, "etc", "config.yaml"), Profile: write(t, filepath.Join(dir, "down", row.name), row.text)}
		if _, err := plan(t, a); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want %s", row.name, err, row.want)
		}
	}
}

func TestNothingIsReplaced(t *testing.T) {
	dir := t.TempDir()
	etc := filepath.Join(dir, "etc")
	a := &Answers{Purpose: Laptop, File: filepath.Join(etc, "config.yaml"),
		Profile: write(t, filepath.Join(dir, "hq.conf"), wgQuick)}
	other := write(t, filepath.Join(etc, "hq.conf"), "another")
	if err := os.Chmod(other, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := plan(t, a); err == nil || !strings.Contains(err.Error(), "hq.conf already, and it is not a copy of") {
		t.Errorf("another profile of the same name: got %v", err)
	}
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	p, err := plan(t, a)
	if err != nil {
		t.Fatal(err)
	}
	write(t, a.File, "mine") // after the plan was made
	if _, err := p.Write(); err == nil || !strings.Contains(err.Error(), "there is a configuration "+a.File+" already") {
		t.Errorf("got %v", err)
	}
	if text, err := os.ReadFile(a.File); err != nil || string(text) != "mine" {
		t.Errorf("got %q, %v", text, err)
	}
	if left, err := os.ReadDir(etc); err != nil || len(left) != 1 {
		t.Errorf("got %v, %v, want the configuration alone", left, err)
	}
}

// TestAFailureLeavesNothing writes one file twice: the second time fails, after folders and files have been made.
func TestAFailureLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	a := &Answers{Purpose: Laptop, File: filepath.Join(dir, "new", "deep", "config.yaml"),
		Profile: write(t, filepath.Join(dir, "hq.conf"), wgQuick)}
	p, err := plan(t, a)
	if err != nil {
		t.Fatal(err)
	}
	p.beside = append(p.beside, part{path: p.beside[0].path, text: "twice", mode: 0o600})
	if _, err := p.Write(); err == nil {
		t.Fatal("got no error")
	}
	if _, err := os.Stat(filepath.Join(dir, "new")); err == nil {
		t.Error("something is left")
	}
}

func TestFaultsHaveThePlaceInTheOriginal(t *testing.T) {
	dir := t.TempDir()
	a := &Answers{Purpose: Laptop, File: filepath.Join(dir, "etc", "config.yaml"), Profile: filepath.Join(dir, "hq.conf")}
	for text, want := range map[string]string{
		strings.Replace(wgQuick, "DNS", "DSN", 1):            a.Profile + ":4: [Interface] has no such field",
		strings.Replace(wgQuick, "DNS = 10.0.0.53\n", "", 1): a.Profile + " has no line DNS = ADDRESS",
		"profile: other.conf\n":                              "is a configuration of penstock already",
		"hello\n":                                            "is a file of an unknown kind: name a wg-quick or .ovpn file",
		strings.Repeat("# a comment\n", config.MaxFile/12+1): "is larger than",
	} {
		write(t, a.Profile, text)
		_, err := plan(t, a)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "penstock-init-") {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if _, err := os.Stat(filepath.Dir(a.File)); err == nil {
		t.Error("something was written")
	}
}

func TestQuestions(t *testing.T) {
	dir := t.TempDir()
	hq := write(t, filepath.Join(dir, "hq.conf"), wgQuick)
	never := func(string) bool { return false }
	ask := func(a *Answers, lines ...string) (string, error) {
		var out strings.Builder
		err := a.Ask(Questions{bufio.NewReader(strings.NewReader(strings.Join(lines, "\n"))), &out}, never)
		return out.String(), err
	}
	t.Run("a laptop, with wrong answers between", func(t *testing.T) {
		a := &Answers{}
		out, err := ask(a, "desktop", "", "", "/nowhere", hq, "gamblin, kids adult", "gambling", "",
			"https://lists.example/kids.txt", "http://x", "corp.example", "")
		want := &Answers{Purpose: Laptop, Profile: hq, Block: []string{"kids", "adult", "gambling"},
			Lists: map[string][]string{"kids": {"https://lists.example/kids.txt"}}, Intranet: []string{"corp.example"}}
		if diff := cmp.Diff(want, a); err != nil || diff != "" {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
		for _, want := range []string{
			`"desktop" is neither`, "write the path", "there is no file /nowhere", "did you mean gambling?", "write a path or https", "is a name, for example",
		} {
			if !strings.Contains(out, want) {
				t.Errorf("got no %q in\n%s", want, out)
			}
		}
	})
	t.Run("a gateway", func(t *testing.T) {
		a := &Answers{DNS: []netip.Addr{netip.MustParseAddr("9.9.9.9")}}
		out, err := ask(a, "gate", "10.20.0.0", "0.0.0.0/0", "10.20.0.1/16 fd20::/64", "vpn/x", "vpn.example", "99999", "4500", "", "", "none", "")
		want := &Answers{Purpose: Gateway, Networks: []netip.Prefix{netip.MustParsePrefix("10.20.0.0/16"), netip.MustParsePrefix("fd20::/64")},
			Endpoint: "vpn.example", Port: 4500, DNS: a.DNS}
		sameNetwork, sameAddr := func(a, b netip.Prefix) bool { return a == b }, func(a, b netip.Addr) bool { return a == b }
		if diff := cmp.Diff(want, a, cmp.Comparer(sameNetwork), cmp.Comparer(sameAddr)); err != nil || diff != "" {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
		for _, want := range []string{"with its prefix length", "which is everything", `the endpoint is "vpn/x"`, `the port is "99999"`, "[9.9.9.9]"} {
			if !strings.Contains(out, want) {
				t.Errorf("got no %q in\n%s", want, out)
			}
		}
	})
	t.Run("nobody is there any more", func(t *testing.T) {
		if _, err := ask(&Answers{}, "laptop", ""); !errors.Is(err, errNoAnswer) {
			t.Errorf("got %v", err)
		}
	})
}

func TestNameServers(t *testing.T) {
	file := write(t, filepath.Join(t.TempDir(), "resolv.conf"), "# nameserver 1.1.1.1\nnameserver 127.0.0.53\n"+
		"nameserver 10.0.0.53\nsearch a\nnameserver fe80::1%eth0\nnameserver ::1\nnameserver 10.0.0.53\nnameserver 9.9.9.9\n")
	if got, want := fmt.Sprint(NameServers("/nowhere", file)), "[10.0.0.53 9.9.9.9]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestTheFilesOfDeployAreEmbedded holds the copies of the units, which go:embed finds beside the code only, to those of deploy.
func TestTheFilesOfDeployAreEmbedded(t *testing.T) {
	for name, embedded := range map[string]string{"penstock.service": mainUnit, "penstock-lockdown.service": lockdownUnit, "penstock.sysusers.conf": sysusers} {
		path := filepath.Join("..", "..", "..", "deploy", name)
		if text, err := os.ReadFile(path); err != nil || string(text) != embedded {
			t.Errorf("%s is not the copy in cmd/internal/setup (%v): cp deploy/%s cmd/internal/setup/", path, err, name)
		}
	}
}

func TestAService(t *testing.T) {
	notOnWindows(t)
	root := t.TempDir()
	var ran []string
	s := Service{Program: "/opt/penstock", Config: "/srv/vpn/config.yaml", Root: root, Run: func(_ context.Context, name string, args ...string) error {
		ran = append(ran, name+" "+strings.Join(args, " "))
		return nil
	}}
	if s.Available() {
		t.Error("systemd is said to run")
	}
	if err := os.MkdirAll(root+"/run/systemd/system", 0o755); err != nil {
		t.Fatal(err)
	}
	if !s.Available() {
		t.Error("systemd is said not to run")
	}
	made, err := s.Start(t.Context())
	if err != nil || len(made) != 3 {
		t.Fatalf("got %q, %v, want three files", made, err)
	}
	for _, unit := range made[1:] {
		text, err := os.ReadFile(unit)
		if err != nil || strings.Contains(string(text), unitConfig) || strings.Contains(string(text), "="+unitProgram) ||
			!strings.Contains(string(text), "ExecStart=/opt/penstock ") {
			t.Errorf("%s: %v\n%s", unit, err, text)
		}
	}
	want := []string{"systemd-sysusers ", "systemctl daemon-reload", "systemctl enable penstock.service penstock-lockdown.service",
		"systemctl start penstock.service"}
	if diff := cmp.Diff(want, ran); diff != "" {
		t.Errorf("commands (-want +got):\n%s", diff)
	}
	ran = nil
	if made, err = s.Start(t.Context()); err != nil || len(made) != 0 || len(ran) != 3 {
		t.Errorf("where the unit is installed: got %q %q, %v, want that it is only started", made, ran, err)
	}
	s.Config = "/etc/other.yaml"
	if _, err = s.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "runs another configuration than /etc/other.yaml") {
		t.Errorf("where the unit runs another configuration: got %v", err)
	}
}
